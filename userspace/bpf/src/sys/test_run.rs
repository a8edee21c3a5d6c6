//! Runs programs on the caller's packets. Only for tests and benchmarks.

use std::{io, os::fd::BorrowedFd};

use super::run::{TestRunResult, run};

/// A packet for [`test_run`], with the metadata that the kernel lets a test set.
#[derive(Clone, Copy, Debug, Default)]
pub struct TestPacket<'a> {
    /// The frame, from the Ethernet header on: at least 14 bytes.
    pub frame: &'a [u8],
    /// The link that it is on: one that exists here, or 0.
    pub ifindex: u32,
    /// The first link that received it, or 0: one that exists here, or not (Linux 5.10 on).
    pub came_by: u32,
    /// Segments in a GSO packet, or 0.
    pub gso_segs: u32,
    /// Bytes of payload in each segment, or 0.
    pub gso_size: u32,
}

/// Runs a tc program `repeat` times on a packet, outside of any link.
pub fn test_run(program: BorrowedFd<'_>, packet: &TestPacket<'_>, repeat: u32) -> io::Result<TestRunResult> {
    // The kernel's `struct __sk_buff`.
    let mut context = [0_u8; 192];
    for (offset, value) in [
        (36, packet.came_by),
        (40, packet.ifindex),
        (164, packet.gso_segs),
        (176, packet.gso_size),
    ] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    run(program, packet.frame, &context, repeat)
}

/// Runs an XDP program on a frame that a link received: Linux 5.14 on.
pub fn test_run_prefilter(
    program: BorrowedFd<'_>,
    frame: &[u8],
    ifindex: u32,
    repeat: u32,
) -> io::Result<TestRunResult> {
    // The kernel's `struct xdp_md`.
    let mut context = [0_u8; 24];
    for (offset, value) in [(4, frame.len() as u32), (12, ifindex)] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    run(program, frame, &context, repeat)
}
