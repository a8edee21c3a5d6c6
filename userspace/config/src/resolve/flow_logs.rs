//! Checks of flow logs: no two with the same destination, and all tasks exist.

use std::path::{Path, PathBuf};

use taskgate_model::{Destination, Eni, FlowLog};

use super::super::problem::{Diagnostics, Location};
use super::super::raw::RawFlowLog;

/// The flow logs without duplicates; standard output if there are none. `account`: for flow logs without one.
pub(super) fn resolve(raw: Vec<RawFlowLog>, account: &str, enis: &[Eni], report: &mut Diagnostics) -> Vec<FlowLog> {
    let mut logs: Vec<RawFlowLog> = Vec::new();
    for mut raw in raw {
        if let Destination::Folder(folder) = &mut raw.log.destination
            && folder.account.is_empty()
        {
            account.clone_into(&mut folder.account);
        }
        if logs.iter().any(|known| known.log == raw.log) {
            continue;
        }
        if let Some((place, other)) = collision(&raw.log, &logs) {
            let message = format!(
                "`{}` is written by the flow log at {} too",
                place.display(),
                report.place(other)
            );
            report.error(raw.location, message, "give each its own path");
        }
        unknown_tasks(&raw, enis, report);
        logs.push(raw);
    }
    if logs.is_empty() {
        return vec![FlowLog::default()];
    }
    logs.into_iter().map(|raw| raw.log).collect()
}

/// The path that a flow log would share with another one, and the place of the other one.
fn collision(log: &FlowLog, logs: &[RawFlowLog]) -> Option<(PathBuf, Location)> {
    logs.iter().find_map(|known| {
        let place = match (&log.destination, &known.log.destination) {
            (Destination::File(one), Destination::File(other)) if one.path == other.path => &one.path,
            (Destination::File(one), Destination::File(other)) => {
                let numbered = |of: &Path, by: &Path| {
                    let name = by.as_os_str().to_str().zip(of.as_os_str().to_str());
                    let rest = name.and_then(|(by, of)| by.strip_prefix(of)?.strip_prefix('.'));
                    rest.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
                };
                if other.rotate.is_some() && numbered(&other.path, &one.path) {
                    &one.path
                } else if one.rotate.is_some() && numbered(&one.path, &other.path) {
                    &other.path
                } else {
                    return None;
                }
            }
            (Destination::Folder(one), Destination::Folder(other)) if one.path == other.path => &one.path,
            _ => return None,
        };
        Some((place.clone(), known.location))
    })
}

fn unknown_tasks(raw: &RawFlowLog, enis: &[Eni], report: &mut Diagnostics) {
    for name in &raw.log.tasks {
        let is_named = |eni: &Eni| eni.task.as_ref().is_some_and(|task| task.to_lowercase() == *name);
        if !enis.iter().any(is_named) {
            report.warn(
                raw.location,
                format!("a flow log is for the task `{name}`, which stands in no file"),
                "correct the name, unless the task is added later",
            );
        }
    }
}
