//! The links that are open once the gates are off.

use taskgate_bpf::other_gates::is_gated;
use tracing::{info, warn};

/// Says of each link that has lost its gate whether anything is filtered there still.
pub(super) fn log(links: &[String]) {
    let (still, open): (Vec<_>, Vec<_>) = links.iter().partition(|link| is_gated(link));
    let listed = |links: &[&String]| {
        let names: Vec<_> = links.iter().map(|link| format!("`{link}`")).collect();
        names.join(", ")
    };
    if !still.is_empty() {
        info!(
            "gates are off on {}, which another taskgate still filters",
            listed(&still)
        );
    }
    if !open.is_empty() {
        warn!("gates are off: nothing is filtered any more on {}", listed(&open));
    }
    if links.is_empty() {
        info!("gates are off: what taskgate made is taken away");
    }
}
