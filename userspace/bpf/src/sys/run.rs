//! Runs programs outside of any link (BPF_PROG_TEST_RUN).

use std::{io, os::fd::BorrowedFd};

use super::{BPF_PROG_TEST_RUN, address, bpf, number};

/// The result of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestRunResult {
    /// The program's return value.
    pub returned: u32,
    /// The mean duration of a run in nanoseconds.
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

/// Runs a tc program that does not read its packet, and returns its result.
pub fn call(program: BorrowedFd<'_>) -> io::Result<u32> {
    // The kernel wants an Ethernet header.
    run(program, &[0; 14], &[], 1).map(|result| result.returned)
}

/// Runs a program `repeat` times on a frame; `context` is its context structure, as far as user space may fill it, or empty.
pub(super) fn run(program: BorrowedFd<'_>, frame: &[u8], context: &[u8], repeat: u32) -> io::Result<TestRunResult> {
    let mut attr = TestRun {
        program: number(program),
        data_in_size: frame.len() as u32,
        data_in: address(frame),
        repeat,
        context_in_size: context.len() as u32,
        context_in: if context.is_empty() { 0 } else { address(context) },
        ..TestRun::default()
    };
    // SAFETY: the kernel reads frame and context up to the sizes given, and writes nothing but `attr`.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr) }?;
    Ok(TestRunResult {
        returned: attr.returned,
        nanoseconds: attr.duration,
    })
}
