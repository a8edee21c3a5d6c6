//! The native `tasks` and `members`.

use std::net::IpAddr;

use taskgate_model::{Binding, EcsFields, Vlan};

use super::super::distinct::Distinct;
use super::super::object::{Object, all, either, text};
use super::super::problem::Diagnostics;
use super::super::raw::{RawMember, RawTask, Reference};
use super::super::value;
use super::references;

/// The binding keys: a task has exactly one.
const BINDINGS: [&str; 3] = ["device", "namespace", "vlan"];

/// Reads one task.
pub(super) fn read(task: &Object<'_>, report: &mut Diagnostics) -> Option<RawTask> {
    const KEYS: [&str; 10] = [
        "name",
        "eni",
        "device",
        "namespace",
        "vlan",
        "mac",
        "addresses",
        "groups",
        "source-dest-check",
        "ecs",
    ];
    let before = report.errors();
    task.only(&KEYS, report);
    let name = task.required_value("name", "give it a name", report, value::task_name);
    let binding = binding(task, report);
    let eni = task.get("eni").and_then(|node| {
        let text = task.value("eni", report, |text| value::id(text, "eni-"))?;
        Some(Reference {
            text,
            location: node.location,
        })
    });
    let addresses = addresses(task, report);
    let groups = references(task, "groups", report);
    let source_dest_check = task.boolean("source-dest-check", report);
    let ecs = task.get("ecs").and_then(|node| Object::of(node, "`ecs`", report));
    let ecs = ecs.map(|object| ecs_fields(&object, report)).unwrap_or_default();
    let partial = report.errors() > before;
    Some(RawTask {
        name: name?,
        eni,
        binding,
        addresses,
        groups,
        source_dest_check,
        ecs,
        location: task.location,
        partial,
    })
}

fn binding(task: &Object<'_>, report: &mut Diagnostics) -> Option<Binding> {
    let present: Vec<&str> = BINDINGS.into_iter().filter(|key| task.get(key).is_some()).collect();
    let [key] = present[..] else {
        let message = if present.is_empty() {
            String::from("the task is bound to nothing on this host")
        } else {
            format!("the task is bound by {}", all(present.into_iter()))
        };
        report.error(
            task.location,
            message,
            format!("give it exactly one of {}", either(BINDINGS.into_iter())),
        );
        return None;
    };
    if key != "vlan"
        && let Some(entry) = task.entry("mac")
    {
        report.error(
            entry.location,
            format!("`mac` does not go with `{key}`"),
            "leave it out: only a `vlan` task has one",
        );
    }
    match key {
        "device" => task.value(key, report, value::link_name).map(Binding::Device),
        "namespace" => task.value(key, report, value::namespace_name).map(Binding::Namespace),
        _ => {
            let id = task.number(key, 1..=4094, report);
            let hint = "write the branch's MAC address as `mac`";
            let mac = task.required_value("mac", hint, report, value::mac);
            Some(Binding::Vlan(Vlan { id: id?, mac: mac? }))
        }
    }
}

/// `addresses`: at least one, no duplicates. `None` if the key is absent.
fn addresses(task: &Object<'_>, report: &mut Diagnostics) -> Option<Vec<IpAddr>> {
    let node = task.get("addresses")?;
    let before = report.errors();
    let mut addresses = Distinct::default();
    for item in task.items("addresses", report) {
        let Some(text) = text(item, "addresses", report) else {
            continue;
        };
        let Some(address) = report.take(item.location, value::own_address(text)) else {
            continue;
        };
        if !addresses.add(address) {
            let message = format!("the address `{address}` stands twice");
            report.error(item.location, message, "keep one of them");
        }
    }
    let addresses = addresses.into_items();
    if addresses.is_empty() && report.errors() == before {
        report.error(node.location, "`addresses` is empty", "write at least one address");
    }
    Some(addresses)
}

fn ecs_fields(object: &Object<'_>, report: &mut Diagnostics) -> EcsFields {
    let mut fields = EcsFields::default();
    let mut places = fields.fields_mut();
    object.only(&places.each_ref().map(|(key, _)| *key), report);
    for (key, place) in &mut places {
        **place = object.text(key, report).map(str::to_owned);
    }
    fields
}

/// Reads one member: an ENI elsewhere.
pub(super) fn read_member(member: &Object<'_>, report: &mut Diagnostics) -> Option<RawMember> {
    member.only(&["address", "groups"], report);
    let address = member.required_value("address", "write its address", report, value::own_address);
    let groups = member.required("groups", "name at least one group", report);
    let groups = groups.and_then(|_| references(member, "groups", report));
    Some(RawMember {
        address: address?,
        groups: groups?,
        location: member.location,
    })
}
