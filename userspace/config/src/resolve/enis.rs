//! ENIs: tasks bound to this host, and all other members of groups.

use std::collections::{HashMap, HashSet};

use taskgate_model::{Binding, EcsFields, Eni, GroupIndex, SecurityGroup, Uplink, UplinkMode};

use super::super::distinct::Distinct;
use super::super::problem::{Diagnostics, Location};
use super::super::raw::{EcsTask, Network, RawEni, RawMember, RawTask, Reference};
use super::super::value::{self, derived_id};
use super::described;
use super::names::{Found, Names};
use super::owners;
use super::placed::{Placed, sorted};

/// ENIs and members that are not tasks of this host, and descriptions of ENIs.
pub(super) struct Elsewhere {
    pub(super) enis: Vec<RawEni>,
    pub(super) members: Vec<RawMember>,
    pub(super) networks: Vec<Network>,
    pub(super) ecs_tasks: Vec<EcsTask>,
}

/// All ENIs with their places; those bound to this host come first, in the order of their names.
pub(super) fn resolve(
    tasks: &[RawTask],
    elsewhere: &Elsewhere,
    uplink: Option<&Uplink>,
    names: &Names,
    known: &[SecurityGroup],
    report: &mut Diagnostics,
) -> (Vec<Eni>, Vec<Location>) {
    check_unique(tasks, report);
    let by_id: HashMap<&str, &RawEni> = elsewhere.enis.iter().map(|eni| (eni.id.as_str(), eni)).collect();
    let mut placed: Vec<Placed> = Vec::new();
    for task in tasks {
        beside_uplink(task, uplink, report);
        let aws = task.eni.as_ref().and_then(|eni| by_id.get(eni.text.as_str()).copied());
        placed.push(Placed {
            eni: gated(task, aws, names, report),
            location: task.location,
            member: false,
        });
    }
    placed.sort_by(|a, b| a.eni.task.cmp(&b.eni.task));

    let taken: HashSet<String> = placed.iter().map(|placed| placed.eni.id.clone()).collect();
    for raw in elsewhere.enis.iter().filter(|eni| !taken.contains(&eni.id)) {
        placed.push(Placed {
            eni: from_aws(raw, names, report),
            location: raw.location,
            member: false,
        });
    }
    for member in &elsewhere.members {
        placed.push(Placed {
            eni: from_member(member, names, report),
            location: member.location,
            member: true,
        });
    }
    for Placed { eni, .. } in placed.iter_mut().filter(|placed| placed.eni.vpc.is_none()) {
        eni.vpc = vpc_of(&eni.groups, known);
    }
    described::describe(&mut placed, &elsewhere.networks, &elsewhere.ecs_tasks, report);
    owners::settle(&mut placed, report);
    placed.into_iter().map(|placed| (placed.eni, placed.location)).unzip()
}

/// The VPC of an ENI without one: the VPC of its groups, if they all have the same.
fn vpc_of(groups: &[GroupIndex], known: &[SecurityGroup]) -> Option<String> {
    let mut vpcs = groups.iter().filter_map(|group| known[group.0].vpc.as_ref());
    let vpc = vpcs.next()?;
    vpcs.all(|other| other == vpc).then(|| vpc.clone())
}

/// A VLAN id requires a trunk uplink, and the uplink itself cannot be a task's device.
fn beside_uplink(task: &RawTask, uplink: Option<&Uplink>, report: &mut Diagnostics) {
    let trunk = uplink.is_some_and(|uplink| uplink.mode == UplinkMode::Trunk);
    match &task.binding {
        Some(Binding::Vlan(_)) if !trunk && !report.objects_lost => {
            let message = format!("task `{}` has a `vlan`, and there is no trunk uplink", task.name);
            report.error(
                task.location,
                message,
                "bind it by `device` or `namespace`, or add `uplink` with `mode: trunk`",
            );
        }
        Some(Binding::Device(device)) if uplink.is_some_and(|uplink| uplink.device == *device) => {
            let message = format!("device `{device}` of task `{}` is also the uplink", task.name);
            report.error(
                task.location,
                message,
                "name the host's end of the task's own link, or give it a `vlan` on a trunk",
            );
        }
        _ => {}
    }
}

/// Refuses two tasks with the same ENI, device, namespace or VLAN id.
fn check_unique(tasks: &[RawTask], report: &mut Diagnostics) {
    let mut seen: HashMap<String, (&str, Location)> = HashMap::new();
    for task in tasks {
        let eni = task
            .eni
            .as_ref()
            .map_or_else(|| derived_id("eni", &task.name), |eni| eni.text.clone());
        let binding = task.binding.as_ref().map(|binding| match binding {
            Binding::Device(name) => format!("device `{name}`"),
            Binding::Namespace(name) => format!("namespace `{name}`"),
            Binding::Vlan(vlan) => format!("VLAN `{}`", vlan.id),
        });
        for what in [Some(format!("ENI `{eni}`")), binding].into_iter().flatten() {
            if let Some((other, location)) = seen.get(&what) {
                let message = format!(
                    "{what} of task `{}` is also that of task `{other}` at {}",
                    task.name,
                    report.place(*location)
                );
                report.error(task.location, message, "give each task its own");
            } else {
                seen.insert(what, (&task.name, task.location));
            }
        }
    }
}

/// The ENI of a task: the task's fields, completed from AWS's ENI.
fn gated(task: &RawTask, aws: Option<&RawEni>, names: &Names, report: &mut Diagnostics) -> Eni {
    let find = |text: &str| names.gated_group(text);
    let groups = task.groups.as_ref().map(|groups| own_groups(groups, find, report));
    let Some(raw) = aws else {
        if !task.partial && !report.objects_lost {
            check_required(task, report);
        }
        return Eni {
            id: task
                .eni
                .as_ref()
                .map_or_else(|| derived_id("eni", &task.name), |eni| eni.text.clone()),
            task: Some(task.name.clone()),
            account: None,
            addresses: task.addresses.clone().unwrap_or_default(),
            groups: groups.unwrap_or_default(),
            groups_known: true,
            gate_known: true,
            binding: task.binding.clone(),
            source_dest_check: task.source_dest_check.unwrap_or(true),
            vpc: None,
            subnet: None,
            az_id: None,
            region: None,
            ecs: task.ecs.clone(),
        };
    };
    let aws_groups = own_groups(&raw.groups, find, report);
    if !task.partial && !raw.partial {
        agree(
            task,
            raw,
            groups.as_deref().map(|groups| (groups, aws_groups.as_slice())),
            report,
        );
    }
    Eni {
        task: Some(task.name.clone()),
        binding: task.binding.clone(),
        ecs: task.ecs.clone(),
        groups: aws_groups,
        ..aws_eni(raw)
    }
}

/// A task without an AWS description of its ENI must have all required fields itself.
fn check_required(task: &RawTask, report: &mut Diagnostics) {
    for (key, present) in [
        ("addresses", task.addresses.is_some()),
        ("groups", task.groups.is_some()),
    ] {
        if present {
            continue;
        }
        let (message, hint) = match &task.eni {
            None => (
                format!("task `{}` has no `{key}`", task.name),
                String::from("write them, at least one"),
            ),
            Some(eni) => (
                format!(
                    "task `{}` has no `{key}`, and no `NetworkInterfaces` file holds `{}`",
                    task.name, eni.text
                ),
                String::from("write them, or add the output of `aws ec2 describe-network-interfaces`"),
            ),
        };
        report.error(task.location, message, hint);
    }
}

/// Fields of a task must agree with its ENI on AWS.
fn agree(task: &RawTask, raw: &RawEni, groups: Option<(&[GroupIndex], &[GroupIndex])>, report: &mut Diagnostics) {
    let mut differ = Vec::new();
    if task
        .addresses
        .as_ref()
        .is_some_and(|own| sorted(own) != sorted(&raw.addresses))
    {
        differ.push("addresses");
    }
    if groups.is_some_and(|(own, aws)| sorted(own) != sorted(aws)) {
        differ.push("groups");
    }
    if task.source_dest_check.is_some_and(|own| own != raw.source_dest_check) {
        differ.push("source-dest-check");
    }
    if let (Some(Binding::Vlan(vlan)), Some(mac)) = (&task.binding, raw.mac)
        && vlan.mac != mac
    {
        let message = format!(
            "`mac` of task `{}` differs from that of `{}` at {}, which is `{}`",
            task.name,
            raw.id,
            report.place(raw.location),
            value::mac_text(mac)
        );
        report.error(task.location, message, "write that one, or the `eni` that the task has");
    }
    for key in differ {
        let place = report.place(raw.location);
        let message = format!(
            "`{key}` of task `{}` differs from that of `{}` at {place}",
            task.name, raw.id
        );
        report.error(
            task.location,
            message,
            "leave it out of the task: it is taken from there",
        );
    }
    for (what, none) in [("address", raw.addresses.is_empty()), ("group", raw.groups.is_empty())] {
        if none {
            let message = format!(
                "`{}` of task `{}` has no {what} at {}",
                raw.id,
                task.name,
                report.place(raw.location)
            );
            report.error(task.location, message, "a gated ENI has at least one");
        }
    }
}

/// An ENI from its AWS description, without groups.
fn aws_eni(raw: &RawEni) -> Eni {
    Eni {
        id: raw.id.clone(),
        task: None,
        account: raw.account.clone(),
        addresses: raw.addresses.clone(),
        groups: Vec::new(),
        groups_known: raw.groups_known,
        gate_known: true,
        binding: None,
        source_dest_check: raw.source_dest_check,
        vpc: raw.vpc.clone(),
        subnet: raw.subnet.clone(),
        az_id: raw.zone.az_id.clone(),
        region: raw.zone.region.clone(),
        ecs: EcsFields::default(),
    }
}

/// An ENI that is not bound here: its groups' rules may be unknown.
fn from_aws(raw: &RawEni, names: &Names, report: &mut Diagnostics) -> Eni {
    let groups = own_groups(&raw.groups, |text| names.group(text), report);
    Eni { groups, ..aws_eni(raw) }
}

fn from_member(member: &RawMember, names: &Names, report: &mut Diagnostics) -> Eni {
    Eni {
        id: derived_id("eni", &member.address.to_string()),
        task: None,
        account: None,
        addresses: vec![member.address],
        groups: own_groups(&member.groups, |text| names.group(text), report),
        groups_known: true,
        gate_known: false,
        binding: None,
        source_dest_check: true,
        vpc: None,
        subnet: None,
        az_id: None,
        region: None,
        ecs: EcsFields::default(),
    }
}

/// The groups in a task's or member's own list: all of them must be known.
fn own_groups(
    references: &[Reference],
    find: impl Fn(&str) -> Found<GroupIndex>,
    report: &mut Diagnostics,
) -> Vec<GroupIndex> {
    let mut groups = Distinct::default();
    for reference in references {
        match find(&reference.text) {
            Found::One(group) => {
                groups.add(group);
            }
            Found::Unknown(_) if report.objects_lost => {}
            Found::Unknown(fault) | Found::Ambiguous(fault) => {
                report.take::<()>(reference.location, Err(fault));
            }
        }
    }
    groups.into_items()
}
