//! Links and network namespaces: what taskgate asks of netlink and of the files below `/proc` and `/run/netns`.
//!
//! Nothing here knows BPF, or a configuration.

pub mod eni;
pub mod filter;
pub mod link;
pub mod namespace_watch;
pub mod netlink;
pub mod netns;
pub mod rtnl;
pub mod sys;
pub mod sysctl;
pub mod tags;
pub mod watch;
