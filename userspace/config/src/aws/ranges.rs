//! Ranges of addresses: `PrefixLists` and `Entries`, and the addresses that AWS reserves in `Vpcs` and `Subnets`.

use std::path::Path;

use ipnet::IpNet;

use super::super::distinct::Distinct;
use super::super::node::Node;
use super::super::object::{Object, text};
use super::super::problem::{Diagnostics, Location};
use super::super::raw::{Network, RawPrefixList};
use super::super::value;
use super::groups::cidr_at;
use super::zones::zone;
use super::{AS_PRINTED, id, word};

/// Reads one prefix list: its head, and from `describe-prefix-lists` its CIDRs too.
pub(super) fn read_list(list: &Object<'_>, report: &mut Diagnostics) -> Option<RawPrefixList> {
    let id = id(list, "PrefixListId", report)?;
    let before = report.errors();
    let name = list.value("PrefixListName", report, word);
    let max_entries = list.number("MaxEntries", 0..=u32::MAX, report);
    let entries = list.get("Cidrs").map(|_| {
        let mut cidrs = Distinct::default();
        for node in list.items("Cidrs", report).iter().filter(|node| !node.is_absent()) {
            let net = text(node, "Cidrs", report).map(value::cidr);
            if let Some(net) = net.and_then(|net| report.take(node.location, net)) {
                cidrs.add(net);
            }
        }
        cidrs.into_items()
    });
    Some(RawPrefixList {
        id,
        name,
        max_entries,
        entries,
        location: list.location,
        partial: report.errors() > before,
    })
}

/// The entries of a prefix list that is identified by the file's name.
#[derive(Debug)]
pub(in super::super) struct Entries {
    id: String,
    cidrs: Distinct<IpNet>,
    location: Location,
    partial: bool,
}

impl Entries {
    /// An empty collection of entries. `None` if the file's name does not identify the list.
    pub(super) fn begin(location: Location, report: &mut Diagnostics) -> Option<Self> {
        let stem = Path::new(report.file_name(location))
            .file_stem()
            .map(|stem| stem.to_string_lossy().into_owned());
        let Ok(id) = value::id(&stem.unwrap_or_default(), "pl-") else {
            let hint = "name the file after the list: `pl-….json`";
            report.error(location, "`Entries` does not say which prefix list it belongs to", hint);
            report.objects_lost = true;
            return None;
        };
        Some(Self {
            id,
            cidrs: Distinct::default(),
            location,
            partial: false,
        })
    }

    /// Reads one entry.
    pub(super) fn add(&mut self, item: &Node<'_>, report: &mut Diagnostics) {
        let before = report.errors();
        if let Some(entry) = Object::of_aws(item, "an entry", report)
            && let Some(net) = entry.required_value("Cidr", AS_PRINTED, report, value::cidr)
        {
            self.cidrs.add(net);
        }
        self.partial |= report.errors() > before;
    }

    /// The list with these entries.
    pub(in super::super) fn finish(self) -> RawPrefixList {
        RawPrefixList {
            id: self.id,
            name: None,
            max_entries: None,
            entries: Some(self.cidrs.into_items()),
            location: self.location,
            partial: self.partial,
        }
    }
}

/// The difference between VPCs and subnets.
pub(super) struct Kind {
    id: &'static str,
    /// Lists of further CIDRs: the list's key, the CIDR's key, and the key of its state.
    further: &'static [(&'static str, &'static str, &'static str)],
    /// The offset of the address that AWS reserves in each CIDR.
    reserved: u8,
}

const V6: (&str, &str, &str) = ("Ipv6CidrBlockAssociationSet", "Ipv6CidrBlock", "Ipv6CidrBlockState");

/// A VPC: the resolver is at base + 2 of each of its CIDRs.
pub(super) const VPC: Kind = Kind {
    id: "VpcId",
    further: &[("CidrBlockAssociationSet", "CidrBlock", "CidrBlockState"), V6],
    reserved: 2,
};

/// A subnet: the router is at base + 1 of each of its CIDRs.
pub(super) const SUBNET: Kind = Kind {
    id: "SubnetId",
    further: &[V6],
    reserved: 1,
};

/// Reads one VPC or subnet.
pub(super) fn read_network(network: &Object<'_>, kind: &Kind, report: &mut Diagnostics) -> Option<Network> {
    let id = id(network, kind.id, report)?;
    let vpc = network.value("VpcId", report, word);
    let mut cidrs = Distinct::default();
    let mut add = |object: &Object<'_>, key: &str, report: &mut Diagnostics| {
        if let Some(node) = object.get(key)
            && let Some(net) = cidr_at(node, key, report)
        {
            cidrs.add(net);
        }
    };
    add(network, "CidrBlock", report);
    for (list, key, state) in kind.further {
        for node in network.items(list, report) {
            if let Some(block) = Object::of_aws(node, "a CIDR block", report)
                && in_use(&block, state, report)
            {
                add(&block, key, report);
            }
        }
    }
    Some(Network {
        id,
        vpc,
        cidrs: cidrs.into_items(),
        zone: zone(network, report),
        reserved: kind.reserved,
        location: network.location,
    })
}

/// Whether a CIDR block is still associated: a removed one stays in the list for a while.
fn in_use(block: &Object<'_>, state: &str, report: &mut Diagnostics) -> bool {
    let state = block
        .get(state)
        .and_then(|node| Object::of_aws(node, "a state", report));
    let word = state.and_then(|state| state.text("State", report));
    !matches!(word, Some("disassociated" | "failed"))
}
