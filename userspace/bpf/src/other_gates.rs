//! Gates of other instances on a link: each instance has a separate gate, and a packet passes a link only if all of its gates allow
//! it.

use aya::programs::{SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use taskgate_ebpf::abi::program;
use taskgate_net::filter;

/// Whether a link of the calling thread's network namespace has a gate of any instance on both sides. To be called after this
/// instance's gate was detached.
pub fn is_gated(link: &str) -> bool {
    let is_gate = |name: &str| matches!(name, program::FROM_TASK | program::TO_TASK | program::DROP_ALL);
    [TcAttachType::Ingress, TcAttachType::Egress].into_iter().all(|side| {
        let by_tcx = SchedClassifier::query_tcx(link, side).is_ok_and(|(_, programs)| {
            programs
                .iter()
                .any(|program| program.name_as_str().is_some_and(is_gate))
        });
        let filters = || filter::names(if_nametoindex(link)?, side == TcAttachType::Ingress);
        by_tcx || filters().is_ok_and(|names| names.iter().any(|name| is_gate(name)))
    })
}
