//! Ranges of addresses: `PrefixLists` and `Entries`, and what AWS keeps for itself in `Vpcs` and `Subnets`.

use std::path::Path;

use super::super::node::Node;
use super::super::object::{Object, items};
use super::super::problem::Report;
use super::super::raw::{Network, RawPrefixList};
use super::super::value;
use super::groups::cidr_at;
use super::{AS_PRINTED, id};

/// Reads one list's head.
pub(super) fn read_list(list: &Object<'_>, report: &mut Report) -> Option<RawPrefixList> {
    let id = id(list, "PrefixListId", report)?;
    let before = report.errors();
    Some(RawPrefixList {
        id,
        name: list.text("PrefixListName", report).map(str::to_owned),
        max_entries: list.number("MaxEntries", 0..=u32::MAX, report),
        entries: None,
        spot: list.spot,
        partial: report.errors() > before,
    })
}

/// Reads `Entries`: the list that they belong to stands only in the file's name.
pub(super) fn read_entries(node: &Node, report: &mut Report) -> Option<RawPrefixList> {
    let before = report.errors();
    let stem = Path::new(report.file_name(node.spot))
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let Ok(id) = value::id(&stem.unwrap_or_default(), "pl-") else {
        let hint = "name the file after the list: `pl-….json`";
        report.error(
            node.spot,
            "`Entries` does not say which prefix list it belongs to",
            hint,
        );
        report.objects_lost = true;
        return None;
    };
    let mut entries = Vec::new();
    for item in items(node, "Entries", report) {
        let Some(entry) = Object::of(item, "an entry", report) else {
            continue;
        };
        if entry.required("Cidr", AS_PRINTED, report).is_none() {
            continue;
        }
        if let Some(net) = entry.value("Cidr", report, value::cidr)
            && !entries.contains(&net)
        {
            entries.push(net);
        }
    }
    let partial = report.errors() > before;
    Some(RawPrefixList {
        id,
        name: None,
        max_entries: None,
        entries: Some(entries),
        spot: node.spot,
        partial,
    })
}

/// What tells a VPC from a subnet.
pub(super) struct Kind {
    id: &'static str,
    /// Lists of further CIDRs: the list's key, the CIDR's key, and the key of its state.
    further: &'static [(&'static str, &'static str, &'static str)],
    /// Which address of each CIDR AWS keeps.
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
pub(super) fn read_network(network: &Object<'_>, kind: &Kind, report: &mut Report) -> Option<Network> {
    let id = id(network, kind.id, report)?;
    let mut cidrs = Vec::new();
    let mut add = |object: &Object<'_>, key: &str, report: &mut Report| {
        if let Some(node) = object.get(key)
            && let Some(net) = cidr_at(node, key, report)
            && !cidrs.contains(&net)
        {
            cidrs.push(net);
        }
    };
    add(network, "CidrBlock", report);
    for (list, key, state) in kind.further {
        for node in network.items(list, report) {
            if let Some(block) = Object::of(node, "a CIDR block", report)
                && in_use(&block, state, report)
            {
                add(&block, key, report);
            }
        }
    }
    Some(Network {
        id,
        cidrs,
        reserved: kind.reserved,
        spot: network.spot,
    })
}

/// A block that was taken away stays in the list for a while.
fn in_use(block: &Object<'_>, state: &str, report: &mut Report) -> bool {
    let state = block.get(state).and_then(|node| Object::of(node, "a state", report));
    let word = state.and_then(|state| state.text("State", report));
    !matches!(word, Some("disassociated" | "failed"))
}
