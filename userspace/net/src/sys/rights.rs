//! The rights of a single thread. The C library's calls change those of all threads of a process.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// The most groups that a process can have.
const GROUPS: usize = 65_536;

/// The supplementary groups of the process at the other end of a Unix socket.
pub(crate) fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; GROUPS];
    let mut length = size_of_val(&*groups) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `groups`, and the length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    groups.truncate(length as usize / size_of::<u32>());
    groups.shrink_to_fit();
    Ok(groups)
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// `struct __user_cap_data_struct`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Capabilities {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// `_LINUX_CAPABILITY_VERSION_3`, of two sets of 32.
const VERSION: u32 = 0x2008_0522;

/// Makes the calling thread open files as this user and groups, without any effective capability.
pub(crate) fn take_rights(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    // SAFETY: the kernel reads `groups.len()` numbers.
    let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    done(result)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setfsgid(gid);
    setfsuid(uid);
    // Both calls return the previous id and no error: a second call shows whether the first one worked.
    if (setfsuid(uid), setfsgid(gid)) != (uid, gid) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut header = CapabilityHeader {
        version: VERSION,
        pid: 0,
    };
    let mut sets = [Capabilities::default(); 2];
    // SAFETY: the kernel reads and writes one header and two sets.
    done(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) })?;
    for set in &mut sets {
        set.effective = 0;
    }
    // SAFETY: the kernel reads the same.
    done(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) })
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}
