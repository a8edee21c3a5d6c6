//! `Vpcs` and `Subnets`: which addresses AWS keeps for itself.

use super::super::object::Object;
use super::super::problem::Report;
use super::super::raw::Network;
use super::groups::cidr_at;
use super::id;

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
pub(super) fn read(network: &Object<'_>, kind: &Kind, report: &mut Report) -> Option<Network> {
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
