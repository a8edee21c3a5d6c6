//! BPF links: a program attached to a network link, held by a file descriptor.

use std::{
    ffi::c_int,
    io,
    os::fd::{BorrowedFd, FromRawFd as _, OwnedFd},
};

use super::{BPF_OBJ_GET_INFO_BY_FD, Info, address_mut, bpf, number};

const BPF_PROG_QUERY: c_int = 16;
const BPF_LINK_CREATE: c_int = 28;
const BPF_LINK_UPDATE: c_int = 29;
const BPF_LINK_DETACH: c_int = 34;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
/// Attach before all other programs, unless the request names one.
const BPF_F_BEFORE: u32 = 1 << 3;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// The kernel's information about a TCX or XDP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The BPF link's id, which no other BPF link ever gets.
    pub id: u32,
    /// The id of the link's program.
    pub program: u32,
    /// The ifindex of the network link, in the namespace where that is now; 0 once it is gone.
    pub ifindex: u32,
    /// Of a TCX link: whether it is on the side that receives.
    pub ingress: bool,
}

/// Reads the kernel's information on a TCX or XDP link.
pub fn attached(link: BorrowedFd<'_>) -> io::Result<Attached> {
    /// The kernel's `struct bpf_link_info` with the fields of a TCX link; an XDP link has the first of them.
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        ifindex: u32,
        attach_type: u32,
    }
    let mut info = LinkInfo::default();
    let mut attr = Info {
        object: number(link),
        size: size_of::<LinkInfo>() as u32,
        to: address_mut(&mut info),
    };
    // SAFETY: the kernel writes at most `size` bytes, and `info` is integers alone.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    Ok(Attached {
        id: info.id,
        program: info.program,
        ifindex: info.ifindex,
        ingress: info.attach_type == BPF_TCX_INGRESS,
    })
}

/// The first fields of the kernel's `link_create`, and those of a TCX link.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative: u32,
    pad: u32,
    revision: u64,
}

fn create(attr: &mut LinkCreate) -> io::Result<OwnedFd> {
    // SAFETY: no addresses in it.
    let link = unsafe { bpf(BPF_LINK_CREATE, attr) }?;
    // SAFETY: the kernel has just made it for us.
    Ok(unsafe { OwnedFd::from_raw_fd(link as c_int) })
}

/// Attaches an XDP program to a link: `native` in its driver, else in the kernel before anything else looks at a packet.
/// It is detached with the last handle on the returned link (Linux 5.9).
pub fn attach_xdp(program: BorrowedFd<'_>, ifindex: u32, native: bool) -> io::Result<OwnedFd> {
    create(&mut LinkCreate {
        program: number(program),
        ifindex,
        attach_type: BPF_XDP,
        flags: if native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE },
        ..LinkCreate::default()
    })
}

fn tcx(ingress: bool) -> u32 {
    if ingress { BPF_TCX_INGRESS } else { BPF_TCX_EGRESS }
}

/// Attaches a program before all others to one side of a link of this network namespace (TCX, Linux 6.6). It is detached
/// with the last handle on the returned link. The kernel waits for a grace period: 20 to 140 ms.
pub fn attach_tcx(program: BorrowedFd<'_>, ifindex: u32, ingress: bool) -> io::Result<OwnedFd> {
    create(&mut LinkCreate {
        program: number(program),
        ifindex,
        attach_type: tcx(ingress),
        flags: BPF_F_BEFORE,
        ..LinkCreate::default()
    })
}

/// Replaces a link's program, atomically and without waiting, in any network namespace.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old: u32,
    }
    let mut attr = Update {
        link: number(link),
        program: number(program),
        flags: 0,
        old: 0,
    };
    // SAFETY: no addresses in it.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// The ids of the BPF links on one side of a link of this network namespace, in the order in which they run; 0 for
/// programs without one. At most 64, which is more than the kernel allows.
pub fn tcx_links(ifindex: u32, ingress: bool) -> io::Result<Vec<u32>> {
    Ok(tcx_programs(ifindex, ingress)?.iter().map(|entry| entry.link).collect())
}

/// A program on one side of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcxEntry {
    /// Its BPF link's id; 0 if it has none.
    pub link: u32,
    /// The program's id.
    pub program: u32,
}

/// [`tcx_links`] with the programs.
pub fn tcx_programs(ifindex: u32, ingress: bool) -> io::Result<Vec<TcxEntry>> {
    const ROOM: usize = 64;
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        ifindex: u32,
        attach_type: u32,
        asked: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        pad: u32,
        program_attach_flags: u64,
        links: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    let (mut programs, mut links) = ([0_u32; ROOM], [0_u32; ROOM]);
    let mut attr = Query {
        ifindex,
        attach_type: tcx(ingress),
        programs: address_mut(&mut programs),
        count: ROOM as u32,
        links: address_mut(&mut links),
        ..Query::default()
    };
    // SAFETY: the kernel writes at most `count` numbers to each of the two arrays, which have room for as many.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let found = links.into_iter().zip(programs).take(attr.count as usize);
    Ok(found.map(|(link, program)| TcxEntry { link, program }).collect())
}

/// Detaches a BPF link, even while other processes have it open.
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut link = number(link);
    // SAFETY: the call takes only a file's number, and no address.
    unsafe { bpf(BPF_LINK_DETACH, &mut link) }.map(drop)
}
