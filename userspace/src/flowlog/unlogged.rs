//! What leaves no record (`settings.unlogged`).

use std::{collections::HashSet, net::IpAddr};

use taskgate_ebpf::conntrack::UDP;

use crate::{dataplane::flow::FlowKey, model::Exempt};

/// The flows that leave no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlogged {
    peers: HashSet<IpAddr>,
    dhcp: bool,
}

impl Unlogged {
    /// The flows to and from these services: [`crate::model::Model::unlogged`].
    pub fn new(services: Exempt) -> Self {
        Self {
            peers: services.addresses.into_iter().collect(),
            dhcp: services.dhcp,
        }
    }

    /// Whether a flow leaves no record: its peer is on the list, or it is DHCP.
    pub(super) fn covers(&self, key: &FlowKey, protocol: u8) -> bool {
        self.dhcp && protocol == UDP && is_dhcp(key) || self.peers.contains(&key.remote())
    }
}

/// DHCP by its pair of ports, whichever end the task is: 67 and 68, for IPv6 547 and 546.
fn is_dhcp(key: &FlowKey) -> bool {
    let pair = match key {
        FlowKey::V4(_) => (67, 68),
        FlowKey::V6(_) => (546, 547),
    };
    let (local, remote) = key.ports();
    (local.min(remote), local.max(remote)) == pair
}
