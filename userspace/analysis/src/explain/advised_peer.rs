//! The peer of a suggested rule.

use std::net::IpAddr;

use taskgate_model::{GroupIndex, PrefixListIndex};

/// The peer of a rule to add.
#[derive(Clone, Copy)]
pub(super) enum AdvisedPeer {
    /// A group of the peer's ENI.
    Group(GroupIndex),
    /// A prefix list that contains the peer's address.
    List(PrefixListIndex),
    /// The peer's address only.
    Address(IpAddr),
}

/// The CIDR of one address.
pub(super) fn host_cidr(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}
