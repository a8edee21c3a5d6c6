//! Group membership of addresses, as seen by the rules of one gate.
//!
//! The address ranges of VPCs may overlap, so an address can occur in several VPCs with different groups. AWS resolves a
//! reference to a group within the rule's VPC and its peered VPCs, no two of which overlap. Here:
//!
//! 1. Among the ENIs with the address those of the gate's own VPC count; if there are none, those of VPCs that are peered
//!    with it; if there are none of those either, all.
//! 2. Packets delivered on this host go to the ENI that is bound here, whatever the VPC: it counts as well.
//! 3. Where several count, the address has the groups that all of them have: a rule never covers an address that may be
//!    someone else's.
//!
//! An ENI without a VPC counts in every VPC. A gate without a VPC has no nearer ENIs than others.

use std::collections::HashSet;
use std::net::IpAddr;

use super::{Eni, GroupIndex, Model, Peer};

/// The pairs of VPCs with a rule in one that refers to a group in the other.
#[derive(Clone, Debug, Default)]
pub struct Peerings<'a>(HashSet<(&'a str, &'a str)>);

impl<'a> Peerings<'a> {
    /// The peerings in a model. A rule over a peering connection that is not active refers to no group.
    pub fn new(model: &'a Model) -> Self {
        let mut pairs = HashSet::new();
        for group in &model.groups {
            let Some(own) = &group.vpc else { continue };
            for rule in group.ingress.iter().chain(&group.egress) {
                if let Peer::Group(named) = rule.peer
                    && let Some(other) = &model.group(named).vpc
                    && own != other
                {
                    pairs.insert((own.as_str(), other.as_str()));
                    pairs.insert((other.as_str(), own.as_str()));
                }
            }
        }
        Self(pairs)
    }

    /// The distance from a gate to an ENI: 0 in its VPC, 1 in a peered one, 2 anywhere else.
    fn distance(&self, gate: &Eni, eni: &Eni) -> u8 {
        match (&gate.vpc, &eni.vpc) {
            (Some(own), Some(other)) if own == other => 0,
            (Some(own), Some(other)) if self.0.contains(&(own, other)) => 1,
            (Some(_), None) => 0,
            _ => 2,
        }
    }

    /// The ENIs that count for a gate, among all ENIs with one address.
    pub fn counted<'e>(&self, gate: &Eni, enis: &[&'e Eni]) -> Vec<&'e Eni> {
        let nearest = enis.iter().map(|eni| self.distance(gate, eni)).min();
        let bound_here = |eni: &Eni| gate.binding.is_some() && eni.binding.is_some();
        enis.iter()
            .copied()
            .filter(|eni| Some(self.distance(gate, eni)) == nearest || bound_here(eni))
            .collect()
    }
}

/// The groups that all of these ENIs have.
pub fn common_groups(enis: &[&Eni]) -> Vec<GroupIndex> {
    let Some((first, rest)) = enis.split_first() else {
        return Vec::new();
    };
    let groups = first.groups.iter().copied();
    groups
        .filter(|group| rest.iter().all(|eni| eni.groups.contains(group)))
        .collect()
}

impl Model {
    /// The ENIs that have `address`: more than one where VPCs overlap.
    pub fn enis_by_address(&self, address: IpAddr) -> impl Iterator<Item = &Eni> {
        self.enis.iter().filter(move |eni| eni.addresses.contains(&address))
    }

    /// Whether rules of `gate` that refer to `group` cover `address`.
    pub fn is_member(&self, gate: &Eni, address: IpAddr, group: GroupIndex) -> bool {
        let enis: Vec<&Eni> = self.enis_by_address(address).collect();
        match enis[..] {
            [] => false,
            [only] => only.groups.contains(&group),
            _ => common_groups(&Peerings::new(self).counted(gate, &enis)).contains(&group),
        }
    }
}
