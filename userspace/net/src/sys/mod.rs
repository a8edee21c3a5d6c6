//! System calls that no library wraps, and all the unsafe code of this crate.
#![expect(unsafe_code, reason = "system calls and the C library's structures")]

mod ethtool;
mod rights;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use tokio::io::{Interest, unix::AsyncFd};

pub use ethtool::{VlanSwitch, fill_checksums, turn_vlan_switch, vlan_switch};

pub(crate) use rights::{peer_groups, take_rights};

/// The cookie of a socket's network namespace, which is unique until reboot; `None` before Linux 5.14, which does not
/// expose it.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `cookie`, and the length to `length`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(Some(cookie)),
        error if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        error => Err(error),
    }
}

/// Registers a file with the current tokio runtime.
pub fn register(file: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is the same open file until it is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(file, interest) }?)
}
