//! Loads programs of a few instructions and makes the maps that they use. Only for benchmarks.

use std::{
    ffi::c_int,
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::{BPF_MAP_TYPE_ARRAY, address, bpf, create_array, set_first};

const BPF_PROG_LOAD: c_int = 5;
const BPF_MAP_TYPE_PROG_ARRAY: u32 = 3;

/// The kind of a program, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ProgramKind {
    /// A tc program, as in gates.
    Classifier = 3,
    /// An XDP program, which runs before a socket buffer is allocated.
    Xdp = 6,
}

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    instructions: u32,
    first: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Loads a program from its instructions, each in the kernel's encoding.
pub fn load_instructions(kind: ProgramKind, instructions: &[[u8; 8]]) -> io::Result<OwnedFd> {
    // As words, for the alignment that the kernel expects.
    let words: Vec<u64> = instructions.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect();
    let mut attr = Load {
        kind: kind as u32,
        instructions: words.len() as u32,
        first: address(&words[..]),
        license: address(c"GPL"),
        ..Load::default()
    };
    // SAFETY: the kernel only reads the given number of instructions, and the licence up to its zero byte.
    let program = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(program as c_int) })
}

/// An array with one value of 8 bytes.
pub fn counter() -> io::Result<OwnedFd> {
    create_array(BPF_MAP_TYPE_ARRAY, 8, None)
}

/// An array for tail calls, with one program. The kernel empties it once no process has it open.
pub fn program_array(first: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let array = create_array(BPF_MAP_TYPE_PROG_ARRAY, 4, None)?;
    set_first(std::os::fd::AsFd::as_fd(&array), first)?;
    Ok(array)
}
