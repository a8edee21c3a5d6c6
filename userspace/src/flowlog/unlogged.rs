//! What leaves no record (`settings.unlogged`).

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use taskgate_ebpf::conntrack::UDP;

use crate::{dataplane::flow::FlowKey, model::AddressList};

/// What AWS names: its DNS server, Windows licence activation, instance metadata, time (facts: flow logs, section 7).
/// The task metadata of ECS, 169.254.170.2, is not among them.
const AWS_V4: [Ipv4Addr; 5] = [
    Ipv4Addr::new(169, 254, 169, 253),
    Ipv4Addr::new(169, 254, 169, 250),
    Ipv4Addr::new(169, 254, 169, 251),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 169, 123),
];

/// The same services over IPv6, of which AWS's text says nothing.
const AWS_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x123),
];

/// The flows that leave no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlogged {
    peers: HashSet<IpAddr>,
    dhcp: bool,
}

impl Unlogged {
    /// `setting` is [`crate::model::Settings::unlogged`], `reserved` is [`crate::model::Model::reserved`]: the resolver
    /// of each VPC and the router of each subnet, which belong to AWS's list.
    pub fn new(setting: &AddressList, reserved: &[IpAddr]) -> Self {
        match setting {
            AddressList::Aws => Self {
                peers: AWS_V4
                    .into_iter()
                    .map(IpAddr::from)
                    .chain(AWS_V6.into_iter().map(IpAddr::from))
                    .chain(reserved.iter().copied())
                    .collect(),
                dhcp: true,
            },
            AddressList::None => Self::default(),
            AddressList::List(peers) => Self {
                peers: peers.iter().copied().collect(),
                dhcp: false,
            },
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
