//! Links and network namespaces: what taskgate asks of netlink and of the files below `/proc` and `/run/netns`.
//!
//! Nothing here knows BPF, or a configuration.

pub mod eni;
pub mod filter;
pub mod link;
pub mod namespace_watch;
pub mod netlink;
pub mod netns;
pub mod rights;
pub mod rtnl;
pub mod sys;
pub mod sysctl;
pub mod tags;
pub mod watch;

use std::{fs, io};

/// Where the kernel says which boot this is.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This boot: what the kernel numbers, links and namespaces, means nothing in another one.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}
