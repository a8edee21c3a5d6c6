//! Gates of other taskgates on a link: each instance has its own, and a link that two gate passes what both let through.

use aya::programs::{SchedClassifier, TcAttachType};
use taskgate_ebpf::abi::program;

/// Whether a link of the calling thread's network namespace still has a gate on both sides. To be asked once one's own is off.
/// Kernels before 6.6, which have no TCX, have room for one taskgate's filters on a link: there it is never so.
pub fn is_gated(link: &str) -> bool {
    let is_gate = |name: Option<&str>| matches!(name, Some(program::FROM_TASK | program::TO_TASK));
    [TcAttachType::Ingress, TcAttachType::Egress].into_iter().all(|side| {
        SchedClassifier::query_tcx(link, side)
            .is_ok_and(|(_, programs)| programs.iter().any(|program| is_gate(program.name_as_str())))
    })
}
