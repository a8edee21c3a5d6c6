//! The validated configuration: security groups, rules, prefix lists, ENIs, settings and flow logs.
//!
//! Sources build a [`Model`]; the compiler, `explain` and the flow logs read it. A model is completely checked: references
//! are indexes, host bits of CIDRs are cleared, names are unique, limits hold. It is independent of the kernel.

mod eni;
mod exempt;
mod family;
mod group;
mod location;
mod members;
pub mod near;
mod peer;
mod protocol_names;
mod record_field;
mod record_format;
mod rule;
mod settings;

pub use eni::{Binding, EcsFields, Eni, Vlan};
pub use exempt::Exempt;
pub use family::Family;
pub use group::{Dialect, GroupId, SecurityGroup};
pub use location::Location;
pub use members::{Peerings, common_groups};
pub use peer::{GroupIndex, Peer, PrefixList, PrefixListIndex};
pub use protocol_names::{misleading_protocol, protocol_name, protocol_number, protocol_text};
pub use record_field::RecordField;
pub use record_format::{FormatError, RecordFormat};
pub use rule::{Direction, IcmpMatch, Ports, Protocol, Rule};
pub use settings::{
    AddressList, Attach, ConnectionLimits, DenialLimits, Destination, Floor, FlowLog, IcmpErrors, LogFile, LogFolder,
    OnRuleRemoval, Rotate, Settings, Timeouts, Traffic, Uplink, UplinkMode,
};

use std::net::{IpAddr, SocketAddr};

/// A whole configuration, validated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Model {
    /// The account of ENIs without one: twelve digits.
    pub account: String,
    /// Every known group; [`GroupIndex`] is a position in here.
    pub groups: Vec<SecurityGroup>,
    /// Every known prefix list; [`PrefixListIndex`] is a position in here.
    pub prefix_lists: Vec<PrefixList>,
    /// Every known ENI, gated here or not. Those bound to this host are in the order of their names.
    pub enis: Vec<Eni>,
    /// The link to the wire, if configured.
    pub uplink: Option<Uplink>,
    /// The settings of the host.
    pub settings: Settings,
    /// The flow logs; never empty.
    pub flow_logs: Vec<FlowLog>,
    /// The additional address for metrics, besides the socket: on the loopback interface.
    pub metrics: Option<SocketAddr>,
    /// Addresses of the VPCs and subnets in the configuration that AWS reserves: base+2 of each VPC CIDR (the resolver)
    /// and base+1 of each subnet (the router). Sorted, no duplicates.
    pub reserved: Vec<IpAddr>,
}

impl Model {
    /// The group at `index`.
    pub fn group(&self, index: GroupIndex) -> &SecurityGroup {
        &self.groups[index.0]
    }

    /// The prefix list at `index`.
    pub fn prefix_list(&self, index: PrefixListIndex) -> &PrefixList {
        &self.prefix_lists[index.0]
    }

    /// The ENIs that are gated on this host, in the order of [`Model::enis`].
    pub fn gated(&self) -> impl Iterator<Item = &Eni> {
        self.enis.iter().filter(|eni| eni.binding.is_some())
    }
}
