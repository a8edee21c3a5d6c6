//! Added, removed and changed ENIs: gated ones here, and ones elsewhere that rules refer to.

use std::collections::{HashMap, HashSet};

use taskgate_model::{Binding, EcsFields, Eni, Model, Vlan};

use taskgate_api::{ObjectChange, ObjectKind};

use super::object::{Named, Object, Value};
use crate::display;

/// Compares the ENIs that are gated here, or the others.
pub(super) fn compare(before: &Model, after: &Model, kind: ObjectKind) -> Vec<ObjectChange> {
    let gated = kind == ObjectKind::Task;
    let of = |model| enis(model, gated);
    let old: HashMap<&str, &Eni> = of(before).map(|eni| (&*eni.id, eni)).collect();
    // Then equal positions mean equal groups, so unchanged ENIs need no text.
    let same_groups = before.account == after.account
        && before.groups.len() == after.groups.len()
        && before.groups.iter().zip(&after.groups).all(|(was, is)| was.id == is.id);
    let mut changes = Vec::new();
    for eni in of(after) {
        let was = old.get(&*eni.id).copied();
        if same_groups && was == Some(eni) {
            continue;
        }
        let was = was.map(|was| object(before, was));
        changes.extend(named(eni, kind).change(was, Some(object(after, eni))));
    }
    let new: HashSet<&str> = of(after).map(|eni| &*eni.id).collect();
    for eni in of(before).filter(|eni| !new.contains(&*eni.id)) {
        changes.extend(named(eni, kind).change(Some(object(before, eni)), None));
    }
    changes
}

fn enis(model: &Model, gated: bool) -> impl Iterator<Item = &Eni> {
    model.enis.iter().filter(move |eni| eni.binding.is_some() == gated)
}

fn named(eni: &Eni, kind: ObjectKind) -> Named {
    Named {
        kind,
        id: eni.id.clone(),
        name: eni.task.clone(),
    }
}

fn object(model: &Model, eni: &Eni) -> Object {
    let Eni {
        id: _,
        task,
        account,
        addresses,
        groups,
        groups_known,
        gate_known,
        binding,
        source_dest_check,
        vpc,
        subnet,
        az_id,
        region,
        ecs,
    } = eni;
    let groups = groups.iter().map(|&group| {
        let text = display::group_name(model, group).to_owned();
        Value::with_key(model.group(group).id.clone(), text)
    });
    Object::default()
        .list(
            "addresses",
            addresses.iter().map(|address| Value::new(address.to_string())),
        )
        .list("groups", groups)
        .field("on", binding.as_ref().map(bound))
        .field("name", task.as_deref())
        .unusual("source-dest-check", !source_dest_check, "false")
        .field(
            "account",
            account.as_deref().filter(|account| *account != model.account),
        )
        .field("vpc", vpc.as_deref())
        .field("subnet", subnet.as_deref())
        .field("az-id", az_id.as_deref())
        .field("region", region.as_deref())
        .unusual("groups-known", !groups_known, "false")
        .unusual("gate-known", !gate_known, "false")
        .list("ecs", ecs_fields(ecs).into_iter().map(Value::new))
}

/// The binding of an ENI, as in the files.
fn bound(binding: &Binding) -> String {
    match binding {
        Binding::Device(device) => format!("device {device}"),
        Binding::Namespace(namespace) => format!("namespace {namespace}"),
        Binding::Vlan(Vlan { id, mac }) => {
            let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
            format!("vlan {id}, mac {mac}")
        }
    }
}

fn ecs_fields(ecs: &EcsFields) -> Vec<String> {
    let EcsFields {
        cluster_name,
        cluster_arn,
        service_name,
        task_arn,
        task_id,
        task_definition_arn,
        container_instance_arn,
        container_instance_id,
        container_id,
        second_container_id,
    } = ecs;
    let fields = [
        ("cluster-name", cluster_name),
        ("cluster-arn", cluster_arn),
        ("service-name", service_name),
        ("task-arn", task_arn),
        ("task-id", task_id),
        ("task-definition-arn", task_definition_arn),
        ("container-instance-arn", container_instance_arn),
        ("container-instance-id", container_instance_id),
        ("container-id", container_id),
        ("second-container-id", second_container_id),
    ];
    let set = fields
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.as_ref()?)));
    set.map(|(name, value)| format!("{name} {value}")).collect()
}
