//! Descriptive fields of ENIs, for flow records only: zone and region, and the ECS task behind an ENI.

use std::collections::HashMap;

use taskgate_model::Eni;

use super::super::problem::{Diagnostics, Location};
use super::super::raw::{EcsTask, Network, Object as _};
use super::super::value;
use super::placed::Placed;

/// Adds the fields of subnets and ECS tasks to ENIs.
pub(super) fn describe(placed: &mut [Placed], networks: &[Network], ecs: &[EcsTask], report: &mut Diagnostics) {
    let subnets: HashMap<&str, &Network> = networks.iter().map(|network| (network.id.as_str(), network)).collect();
    let tasks = by_interface(ecs, report);
    for Placed { eni, location, .. } in placed {
        if let Some(subnet) = eni.subnet.as_deref().and_then(|id| subnets.get(id)) {
            let zone = &subnet.zone;
            eni.az_id = eni.az_id.take().or_else(|| zone.az_id.clone());
            eni.region = eni.region.take().or_else(|| zone.region.clone());
        }
        if let Some(task) = tasks.get(eni.id.as_str()) {
            join(eni, task, *location, report);
        }
        let ecs = std::mem::take(&mut eni.ecs).completed();
        eni.region = eni
            .region
            .take()
            .or_else(|| value::region_of_arn(ecs.task_arn.as_deref()?));
        eni.ecs = ecs;
    }
}

/// The ECS tasks by ENI: on AWS each has its own ENI.
fn by_interface<'t>(tasks: &'t [EcsTask], report: &mut Diagnostics) -> HashMap<&'t str, &'t EcsTask> {
    let mut by_interface: HashMap<&str, &EcsTask> = HashMap::new();
    for task in tasks {
        if let Some(first) = by_interface.insert(&task.eni, task) {
            let message = format!(
                "ENI `{}` of {} is also that of {} at {}",
                task.eni,
                task.title(),
                first.title(),
                report.place(first.location)
            );
            report.error(task.location, message, "keep the one that has it");
        }
    }
    by_interface
}

/// Joins a native task with its ECS task: fields that both have must agree.
fn join(eni: &mut Eni, task: &EcsTask, location: Location, report: &mut Diagnostics) {
    let mut known = task.fields.clone();
    let own = eni.ecs.fields_mut().into_iter();
    for ((key, own), (_, known)) in own.zip(known.fields_mut()) {
        if let (Some(own), Some(known)) = (&*own, &*known)
            && own != known
        {
            let message = format!(
                "`ecs.{key}` of `{}` is `{own}`, and `{known}` in {} at {}",
                eni.task.as_deref().unwrap_or(&eni.id),
                task.title(),
                report.place(task.location)
            );
            report.error(location, message, "leave it out: it is taken from there");
        }
        *own = own.take().or_else(|| known.take());
    }
}
