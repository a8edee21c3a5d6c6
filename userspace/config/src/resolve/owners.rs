//! Ownership of addresses. Within one VPC an address belongs to one ENI; the ranges of different VPCs may overlap.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use taskgate_model::{Eni, GroupIndex, Model, Peer, Peerings, common_groups};

use super::super::problem::{Diagnostics, Location};
use super::placed::{Placed, sorted};

/// The most VPCs that can have one address.
const MOST_VPCS: usize = 64;

/// Within one VPC, or if one of the ENIs has no VPC, an address belongs to one ENI: if two have it with the same groups, the
/// gated one keeps it, or else the first one; with different groups a packet's owner would be ambiguous. Two gated ENIs
/// never share an address, whatever their VPCs: on this host both would be reached under it.
pub(super) fn settle(placed: &mut Vec<Placed>, report: &mut Diagnostics) {
    let mut first: HashMap<IpAddr, usize> = HashMap::new();
    let mut further: HashMap<IpAddr, Vec<usize>> = HashMap::new();
    let mut lost: Vec<(usize, IpAddr)> = Vec::new();
    for (position, second) in placed.iter().enumerate() {
        for address in &second.eni.addresses {
            let Some(&owner) = first.get(address) else {
                first.insert(*address, position);
                continue;
            };
            let others = further.get(address).map(Vec::as_slice).unwrap_or_default();
            let meant = |other: &&Placed| {
                other.eni.binding.is_some() && second.eni.binding.is_some() || same_vpc(&other.eni, &second.eni)
            };
            let mut owners = [owner]
                .iter()
                .chain(others)
                .map(|&owner| &placed[owner])
                .collect::<Vec<_>>();
            if owners.len() == MOST_VPCS {
                let message = format!("address `{address}` stands in more than {MOST_VPCS} VPCs");
                report.error(second.location, message, "leave out the VPCs that no task here needs");
                continue;
            }
            owners.retain(meant);
            // Of several comparable owners, the one that differs is reported.
            let differs = owners.iter().find(|owner| !agree(owner, second));
            match differs.or(owners.first()) {
                Some(owner) if agree(owner, second) => lost.push((position, *address)),
                Some(owner) => refuse(*address, owner, second, report),
                None => further.entry(*address).or_default().push(position),
            }
        }
    }
    for (position, address) in lost {
        placed[position].eni.addresses.retain(|own| *own != address);
    }
    placed.retain(|placed| !placed.member || !placed.eni.addresses.is_empty());
}

/// Whether two ENIs are, or may be, in one VPC.
fn same_vpc(a: &Eni, b: &Eni) -> bool {
    a.vpc.is_none() || b.vpc.is_none() || a.vpc == b.vpc
}

/// Whether two ENIs may share an address because both would be treated alike.
fn agree(first: &Placed, second: &Placed) -> bool {
    let (a, b) = (&first.eni, &second.eni);
    (a.binding.is_none() || b.binding.is_none()) && sorted(&a.groups) == sorted(&b.groups)
}

fn refuse(address: IpAddr, first: &Placed, second: &Placed, report: &mut Diagnostics) {
    let (a, b) = (&first.eni, &second.eni);
    let place = report.place(first.location);
    let message = format!(
        "address `{address}` of {} is also that of {} at {place}",
        second.title(),
        first.title()
    );
    if a.binding.is_some() && b.binding.is_some() {
        report.error(second.location, message, "give each gated task addresses of its own");
        return;
    }
    let hint = match (&a.task, &b.vpc) {
        (Some(task), Some(vpc)) if a.vpc.is_none() => format!(
            "if task `{task}` is that ENI, write `eni: {}` in the task; if it is not in `{vpc}`, write the `eni` that it is, \
             or leave out the interfaces of `{vpc}`",
            b.id
        ),
        (Some(task), _) if !second.member => format!("if task `{task}` is that ENI, write `eni: {}` in the task", b.id),
        _ => String::from("an address belongs to one ENI of a VPC: take it away from the other"),
    };
    report.error(second.location, format!("{message}, with different groups"), hint);
}

/// Warns about ENIs that rules of a gated task do not cover although they have the referenced group, because other VPCs have
/// their address too.
pub(super) fn warn_of_overlaps(model: &Model, locations: &[Location], report: &mut Diagnostics) {
    let overlaps = overlaps(model);
    if overlaps.is_empty() || report.errors() > 0 {
        return;
    }
    let peerings = Peerings::new(model);
    let mut told: HashSet<(&[GroupIndex], Option<&str>)> = HashSet::new();
    for (gate, location) in model
        .enis
        .iter()
        .zip(locations)
        .filter(|(eni, _)| eni.binding.is_some())
    {
        if !told.insert((&gate.groups, gate.vpc.as_deref())) {
            continue;
        }
        let referred = referred(model, gate);
        let mut left_out: Vec<(IpAddr, &[&Eni])> = Vec::new();
        for (address, enis) in &overlaps {
            let counted = peerings.counted(gate, enis);
            let common: HashSet<GroupIndex> = common_groups(&counted).into_iter().collect();
            let groups = counted.iter().flat_map(|eni| &eni.groups);
            if groups
                .copied()
                .any(|group| referred.contains(&group) && !common.contains(&group))
            {
                left_out.push((*address, enis));
            }
        }
        let Some((address, enis)) = left_out.first() else {
            continue;
        };
        let names = enis.iter().map(|eni| {
            let vpc = eni.vpc.as_deref().unwrap_or("no VPC");
            format!("`{}` in `{vpc}`", eni.display_name())
        });
        let names: Vec<String> = names.take(3).collect();
        let count = match left_out.len() {
            1 => format!("`{address}`"),
            more => format!("{more} addresses, `{address}` first,"),
        };
        let message = format!(
            "rules of task `{}` that refer to groups do not cover {count} which stands in several VPCs: it is {}, and which \
             of them is reached from the task is not known",
            gate.display_name(),
            names.join(" and "),
        );
        let hint = "leave out the interfaces of the VPC that the task does not talk to";
        report.warn(*location, message, hint);
    }
}

/// The addresses of several ENIs with different groups.
fn overlaps(model: &Model) -> BTreeMap<IpAddr, Vec<&Eni>> {
    let mut first: HashMap<IpAddr, &Eni> = HashMap::new();
    let mut shared: BTreeMap<IpAddr, Vec<&Eni>> = BTreeMap::new();
    for eni in &model.enis {
        for address in &eni.addresses {
            if let Some(owner) = first.get(address) {
                shared.entry(*address).or_insert_with(|| vec![owner]).push(eni);
            } else {
                first.insert(*address, eni);
            }
        }
    }
    shared.retain(|_, enis| enis.iter().any(|eni| sorted(&eni.groups) != sorted(&enis[0].groups)));
    shared
}

/// The groups that rules of a gate refer to.
fn referred(model: &Model, gate: &Eni) -> HashSet<GroupIndex> {
    let groups = gate.groups.iter().map(|group| model.group(*group));
    let rules = groups.flat_map(|group| group.ingress.iter().chain(&group.egress));
    let peers = rules.filter_map(|rule| match rule.peer {
        Peer::Group(group) => Some(group),
        _ => None,
    });
    peers.collect()
}
