//! The kernel's side of a running taskgate: programs, maps, links, and the ENIs that it makes.

mod btf;
pub mod early;
pub mod eni;
pub mod events;
mod filter;
pub mod flow;
pub mod gate;
pub mod link;
pub mod load;
pub mod namespace_watch;
pub mod netlink;
pub mod netns;
pub mod object;
pub mod other_gates;
pub mod raw;
mod rtnl;
mod signals;
pub mod sk_buff;
pub mod sysctl;
pub mod tables;
pub mod tags;
#[cfg(feature = "testing")]
mod test_run;
pub mod watch;
