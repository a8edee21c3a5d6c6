//! Traffic without flow records (`settings.unlogged`).
//!
//! An address proves nothing: any sender can forge an address of the list, and any two peers can use the ports of DHCP.
//! So only connections that the task opened and that needed no rule go unrecorded.

use std::{collections::HashSet, net::IpAddr};

use taskgate_ebpf::{
    abi::{
        Address,
        tables::{RULE_EXEMPT, state},
    },
    wire::{UDP, dhcp},
};
use taskgate_model::Exempt;
use taskgate_tables::{ConnState, FlowKey};

/// The flows that leave no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unlogged {
    peers: HashSet<IpAddr>,
    dhcp: bool,
}

impl Unlogged {
    /// The flows to and from these services: [`taskgate_model::Model::unlogged`].
    pub fn new(services: Exempt) -> Self {
        Self {
            peers: services.addresses.into_iter().collect(),
            dhcp: services.dhcp,
        }
    }

    /// Whether a tracked connection leaves no record: the task opened it, no rule was needed for that, and its peer is on
    /// the list, or it is DHCP.
    pub(super) fn covers(&self, key: &FlowKey, state: &ConnState) -> bool {
        state.rule == RULE_EXEMPT
            && state.state & state::INGRESS == 0
            && (self.dhcp && is_dhcp(key) || self.peers.contains(&key.remote()))
    }
}

/// Whether this is a task's exchange with its DHCP servers, recognised by the ports and by the broadcast or multicast address that
/// the client sends to. The servers' own addresses are not known.
fn is_dhcp(key: &FlowKey) -> bool {
    let (servers, ports) = match key {
        FlowKey::V4(_) => (Address::BROADCAST, (dhcp::CLIENT, dhcp::SERVER)),
        FlowKey::V6(_) => (Address::ALL_DHCP_SERVERS, (dhcp::CLIENT_V6, dhcp::SERVER_V6)),
    };
    key.conn_protocol() == UDP && Address::from(key.remote()) == servers && key.ports() == ports
}
