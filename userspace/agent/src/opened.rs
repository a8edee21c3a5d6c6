//! Reports which links are open after their gates were detached.

use taskgate_bpf::{gate::TakenOff, other_gates::is_gated};
use tracing::{info, warn};

/// Logs for the links that lost their gates whether another taskgate still filters them.
pub(super) fn log(
    TakenOff {
        here,
        elsewhere,
        failed,
    }: &TakenOff,
) {
    let (still, open): (Vec<_>, Vec<_>) = here.iter().partition(|link| is_gated(link));
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
    if *elsewhere != 0 {
        warn!("gates are off: nothing is filtered any more on {elsewhere} links in other network namespaces");
    }
    if here.is_empty() && *elsewhere == 0 && failed.is_empty() {
        info!("gates are off: what taskgate made is taken away");
    }
}
