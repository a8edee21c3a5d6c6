//! The far side of a rule that is advised.

use std::net::IpAddr;

use taskgate_model::{GroupIndex, PrefixListIndex};

/// The far side of a rule to add.
#[derive(Clone, Copy)]
pub(super) enum AdvisedPeer {
    /// A group that the far ENI has.
    Group(GroupIndex),
    /// A prefix list that holds the far address.
    List(PrefixListIndex),
    /// The far address alone.
    Address(IpAddr),
}

/// The CIDR of one address.
pub(super) fn host_cidr(address: IpAddr) -> String {
    let length = if address.is_ipv4() { 32 } else { 128 };
    format!("{address}/{length}")
}
