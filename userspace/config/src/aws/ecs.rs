//! `tasks` of `aws ecs describe-tasks`: the ECS fields of flow records for the task behind an ENI.

use taskgate_model::EcsFields;

use super::super::object::Object;
use super::super::problem::Diagnostics;
use super::super::raw::EcsTask;
use super::{id, word};

/// Reads one task; `None` if it has no ENI.
pub(super) fn read(task: &Object<'_>, report: &mut Diagnostics) -> Option<EcsTask> {
    let before = report.errors();
    let arn = id(task, "taskArn", report)?;
    let eni = interface(task, report)?;
    let mut containers = task.items("containers", report).iter().filter_map(|node| {
        let container = Object::of_aws(node, "a container", report)?;
        container.value("runtimeId", report, word)
    });
    let (container_id, second_container_id) = (containers.next(), containers.next());
    let group = task.value("group", report, word);
    let fields = EcsFields {
        cluster_arn: task.value("clusterArn", report, word),
        service_name: group.and_then(|group| group.strip_prefix("service:").map(str::to_owned)),
        task_arn: Some(arn.clone()),
        task_definition_arn: task.value("taskDefinitionArn", report, word),
        container_instance_arn: task.value("containerInstanceArn", report, word),
        container_id,
        second_container_id,
        ..EcsFields::default()
    };
    Some(EcsTask {
        arn,
        eni,
        fields: fields.completed(),
        location: task.location,
        partial: report.errors() > before,
    })
}

/// The id of the ENI that is attached to a task.
fn interface(task: &Object<'_>, report: &mut Diagnostics) -> Option<String> {
    for node in task.items("attachments", report) {
        let Some(attachment) = Object::of_aws(node, "an attachment", report) else {
            continue;
        };
        for node in attachment.items("details", report) {
            let Some(detail) = Object::of_aws(node, "a detail", report) else {
                continue;
            };
            if detail.text("name", report) == Some("networkInterfaceId") {
                return detail.value("value", report, word);
            }
        }
    }
    None
}
