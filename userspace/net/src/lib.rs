//! Links and network namespaces, by netlink and by the files below `/proc` and `/run/netns`.
//!
//! This crate depends neither on BPF nor on a configuration.

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

/// The file with the id of the present boot.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The id of the present boot. The kernel's numbers of links and namespaces are only valid within a boot.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}
