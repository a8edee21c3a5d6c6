//! Answers to clients about a running taskgate, read from the kernel where the kernel knows.

use std::collections::HashMap;

use nix::sys::utsname::uname;
use taskgate_api::{Applied, ApplyOutcome, DaemonStatus, GateSide, Losses, NotGated, TaskState, TaskStatus};
use taskgate_bpf::gate::{AttachKind, Gate};
use taskgate_config::Problem;
use taskgate_net::link::name_of;
use tokio::time::Instant;
use tracing::error;

use super::{
    RunOptions,
    apply::{Daemon, TaskUsage},
    drift::{Drift, Seen, SeenTask},
    error::{AttachError, chain},
    guard::Counts,
    refusal::problems_at,
    reloads::Reloads,
};

/// The answer of `GET /v1/status`, after an inspection of the kernel. `began`: the start time of this process.
pub(super) fn status(
    options: &RunOptions,
    daemon: &mut Daemon,
    reloads: &Reloads,
    (drift, seen): (&Drift, &Seen),
    began: Instant,
) -> DaemonStatus {
    let usage = daemon.usage().unwrap_or_else(|error| {
        error!("cannot read what tasks use of the tables: {error}");
        Vec::new()
    });
    let by_eni: HashMap<&str, &TaskUsage> = usage.iter().map(|task| (task.eni.as_str(), task)).collect();
    let mut tasks: Vec<TaskStatus> = seen.tasks.iter().filter_map(|seen| task(seen, &by_eni)).collect();
    for task in &mut tasks {
        task.added = daemon.tasks.added(&task.task).is_some();
        task.isolated = daemon.tasks.is_isolated(&task.task);
    }
    let failed = tasks.iter().filter(|task| task.state == TaskState::Failed);
    let mut not_gated: Vec<_> = failed.map(|task| still_failed(&task.task)).collect();
    not_gated.extend(daemon.tasks.left_out().map(|(task, why)| NotGated {
        task: Some(task.to_owned()),
        message: format!("added task `{task}` does not fit the configuration, and passes nothing: {why}"),
    }));
    let last_apply = reloads.last();
    let is_refused = last_apply.result == ApplyOutcome::Refused;
    let destinations = daemon.destinations();
    let are_written = destinations.iter().all(|destination| destination.failure.is_none());
    DaemonStatus {
        healthy: drift.is_none() && not_gated.is_empty() && !is_refused && are_written,
        instance: options.instance.clone(),
        running: true,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        pid: Some(std::process::id()),
        uptime: Some(began.elapsed().as_secs()),
        kernel: kernel(),
        config: Some(reloads.followed().display().to_string()),
        generation: daemon.generation(),
        attach: attach(daemon.gates().hook()).to_owned(),
        tables: daemon.table_fills(&usage),
        losses: usage.iter().fold(Losses::default(), |sum, task| Losses {
            passed: sum.passed + task.losses.passed,
            denied: sum.denied + task.losses.denied,
        }),
        destinations,
        tasks,
        drift: drift.deviations(),
        not_gated,
        last_apply: Some(last_apply),
    }
}

fn task(seen: &SeenTask, usage: &HashMap<&str, &TaskUsage>) -> Option<TaskStatus> {
    let held = &seen.held;
    let eni = held.eni.clone()?;
    let usage = usage.get(eni.as_str());
    let link = held.gate.as_ref().map(Gate::link);
    let faces_task = link.is_some_and(|link| held.vlan.is_none() && link.faces_task());
    let sides = match &seen.inspection {
        Some(Ok(inspection)) => &inspection.sides[..],
        _ => &[],
    };
    Some(TaskStatus {
        task: held.task.clone()?,
        eni,
        added: false,
        isolated: false,
        slot: usage.map(|usage| usage.slot),
        state: held.state,
        // The link may have been renamed.
        link: link.map(|link| name_of(link.ifindex).unwrap_or_else(|_| link.name.clone())),
        ifindex: link.map(|link| link.ifindex),
        vlan: held.vlan,
        gates: sides
            .iter()
            .map(|(ingress, program)| GateSide {
                // Packets that a task sends are received by the host's end of its veth pair.
                direction: if *ingress == faces_task { "egress" } else { "ingress" }.to_owned(),
                attach: held
                    .gate
                    .as_ref()
                    .map(|gate| attach(gate.hook()).to_owned())
                    .unwrap_or_default(),
                program: program.name.clone(),
                program_id: program.id,
                tag: program.tag_text(),
            })
            .collect(),
        tables: usage.map(|usage| usage.fills).unwrap_or_default(),
        losses: usage.map(|usage| usage.losses).unwrap_or_default(),
    })
}

fn attach(kind: AttachKind) -> &'static str {
    match kind {
        AttachKind::Tcx => "tcx",
        AttachKind::Clsact => "clsact",
    }
}

/// A task that is still not gated because of an error that was logged when it occurred.
fn still_failed(task: &str) -> NotGated {
    NotGated {
        task: Some(task.to_owned()),
        message: format!("task `{task}` is not gated because of an error, see the log: it is tried again"),
    }
}

/// The kernel's release.
pub(super) fn kernel() -> String {
    uname().map_or_else(
        |_| String::new(),
        |names| names.release().to_string_lossy().into_owned(),
    )
}

/// The answer of `POST /v1/apply` once a configuration is in force.
pub(super) fn applied(generation: u64, counts: &Counts, wrong: &[AttachError], warnings: &[Problem]) -> Applied {
    let not_gated = |error: &AttachError| NotGated {
        task: error.task().map(str::to_owned),
        message: chain(error),
    };
    let is_told = |task: &&String| wrong.iter().any(|error| error.task() == Some(task));
    let others = counts
        .failed
        .iter()
        .filter(|task| !is_told(task))
        .map(|task| still_failed(task));
    Applied {
        config: String::new(),
        generation,
        tasks: counts.tasks,
        gated: counts.gated,
        not_gated: wrong.iter().map(not_gated).chain(others).collect(),
        warnings: problems_at(warnings),
    }
}
