//! A program run on a packet of our own.

use std::{io, os::fd::BorrowedFd};

use super::{BPF_PROG_TEST_RUN, address, bpf, number};

/// A packet for [`test_run`], with what the kernel lets a test say about it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packet<'a> {
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

/// What a test run gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRunResult {
    /// What the program returned.
    pub returned: u32,
    /// Nanoseconds for one run, the mean of all.
    pub nanoseconds: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    returned: u32,
    data_in_size: u32,
    data_out_size: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_size: u32,
    context_out_size: u32,
    context_in: u64,
    context_out: u64,
}

/// Runs a tc program `repeat` times on a packet, outside of any link (BPF_PROG_TEST_RUN).
pub fn test_run(program: BorrowedFd<'_>, packet: &Packet<'_>, repeat: u32) -> io::Result<TestRunResult> {
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

/// Runs an XDP program likewise, on a frame that a link received: Linux 5.14 on.
pub fn test_run_early(program: BorrowedFd<'_>, frame: &[u8], ifindex: u32, repeat: u32) -> io::Result<TestRunResult> {
    // The kernel's `struct xdp_md`.
    let mut context = [0_u8; 24];
    for (offset, value) in [(4, frame.len() as u32), (12, ifindex)] {
        context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    }
    run(program, frame, &context, repeat)
}

fn run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8], repeat: u32) -> io::Result<TestRunResult> {
    let mut attr = TestRun {
        program: number(program),
        data_in_size: frame.len() as u32,
        data_in: address(frame),
        repeat,
        context_in_size: context.len() as u32,
        context_in: address(context),
        ..TestRun::default()
    };
    // SAFETY: the kernel reads frame and context up to the sizes given, and writes nothing but `attr`.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(TestRunResult {
        returned: attr.returned,
        nanoseconds: attr.duration,
    })
}
