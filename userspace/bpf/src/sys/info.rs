//! The kernel's information on programs and maps, and opening objects by id.

use std::{
    ffi::{CStr, c_int},
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::{BPF_OBJ_GET_INFO_BY_FD, Info, address_mut, bpf, number};

const BPF_PROG_GET_FD_BY_ID: c_int = 13;

/// A loaded program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProgramInfo {
    /// The program's id, unique among loaded programs.
    pub id: u32,
    /// The program's name, of which the kernel keeps 15 bytes.
    pub name: String,
    /// A hash of its instructions.
    pub tag: [u8; 8],
}

impl ProgramInfo {
    /// The tag in the format of `bpftool`.
    pub fn tag_text(&self) -> String {
        format!("{:016x}", u64::from_be_bytes(self.tag))
    }
}

impl fmt::Display for ProgramInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` (id {}, tag {})", self.name, self.id, self.tag_text())
    }
}

/// The first fields of the kernel's `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct ProgramFields {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    /// Lengths and addresses of parts that are not requested; the time and user of loading; the maps, none of which are requested.
    rest: [u64; 6],
    name: [u8; 16],
}

/// The information on an open program.
fn info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut fields = ProgramFields::default();
    let mut attr = Info {
        object: number(program),
        size: size_of::<ProgramFields>() as u32,
        to: address_mut(&mut fields),
    };
    // SAFETY: the kernel writes at most `size` bytes, and `fields` is integers alone; lengths of 0 in it ask for nothing more.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let name =
        CStr::from_bytes_until_nul(&fields.name).map_or_else(|_| String::new(), |name| name.to_string_lossy().into());
    Ok(ProgramInfo {
        id: fields.id,
        name,
        tag: fields.tag,
    })
}

/// The id of an open program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(info(program)?.id)
}

/// The information on the program with an id.
pub fn program_info(id: u32) -> io::Result<ProgramInfo> {
    info(by_id(BPF_PROG_GET_FD_BY_ID, id)?.as_fd())
}

/// Opens the BPF link with an id.
#[cfg(feature = "testing")]
pub fn link_by_id(id: u32) -> io::Result<OwnedFd> {
    const BPF_LINK_GET_FD_BY_ID: c_int = 30;
    by_id(BPF_LINK_GET_FD_BY_ID, id)
}

/// Opens an object by its id.
fn by_id(command: c_int, id: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ById {
        id: u32,
        next: u32,
        flags: u32,
    }
    let mut attr = ById { id, next: 0, flags: 0 };
    // SAFETY: no addresses in it.
    let opened = unsafe { bpf(command, &mut attr) }?;
    // SAFETY: the kernel has just opened it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(opened as c_int) })
}

/// The id of an open map.
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    /// The first fields of the kernel's `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Default)]
    struct MapFields {
        kind: u32,
        id: u32,
    }
    let mut fields = MapFields::default();
    let mut attr = Info {
        object: number(map),
        size: size_of::<MapFields>() as u32,
        to: address_mut(&mut fields),
    };
    // SAFETY: the kernel writes at most `size` bytes, and `fields` is integers alone.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(fields.id)
}
