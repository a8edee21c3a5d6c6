//! Pins: names in bpffs that keep a map or a BPF link alive.

use std::{
    ffi::{CStr, CString, c_int},
    io,
    os::{
        fd::{BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::{bpf, number};

const BPF_OBJ_PIN: c_int = 6;
const BPF_OBJ_GET: c_int = 7;

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    file: u32,
    flags: u32,
}

/// Pins a map or a link in bpffs. It exists until the pin is removed, as a file does.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    let mut attr = Object {
        path: address_of(&path),
        file: number(object),
        flags: 0,
    };
    // SAFETY: the kernel reads the path up to its zero.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// Opens a pinned object by its path in bpffs.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let mut attr = Object {
        path: address_of(&path),
        ..Object::default()
    };
    // SAFETY: the kernel reads the path up to its zero.
    let object = unsafe { bpf(BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(object as c_int) })
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn address_of(path: &CStr) -> u64 {
    path.as_ptr().expose_provenance() as u64
}
