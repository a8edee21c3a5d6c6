//! Answers to clients about single tasks: the task, or the reason why nothing was done with it.

use taskgate_api::{ProblemDetails, Task};

use super::{GatedTask, TaskError};
use crate::{
    apply::Daemon,
    control::TaskCall,
    error::{RunningError, chain},
    refusal::{problems_at, refusal},
};

/// Carries out a call and answers it. An error means that the link guard has ended.
pub(crate) async fn answer(daemon: &mut Daemon, call: TaskCall) -> Result<(), RunningError> {
    let (done, answer) = match call {
        TaskCall::Add(new, answer) => (daemon.add_task(&new).await, answer),
        TaskCall::Remove(task, answer) => (daemon.remove_task(&task).await, answer),
        TaskCall::Isolate(task, undo, answer) => (daemon.isolate_task(&task, undo).await, answer),
    };
    match done {
        // The client may have disconnected.
        Ok(gated) => {
            let _told = answer.send(Ok(task(gated)));
        }
        Err(TaskError::Running(error)) => return Err(error),
        Err(error) => {
            tracing::warn!("{}", chain(&error));
            let _told = answer.send(Err(problem(&error)));
        }
    }
    Ok(())
}

fn task(gated: GatedTask) -> Task {
    let (link, ifindex) = gated.link.map(|link| (link.name, link.ifindex)).unzip();
    Task {
        task: gated.name,
        eni: gated.eni,
        addresses: gated.addresses.iter().map(ToString::to_string).collect(),
        link,
        ifindex,
        namespace: gated.namespace,
        added: gated.added,
        isolated: gated.isolated,
    }
}

fn problem(error: &TaskError) -> ProblemDetails {
    let (status, title) = match error {
        TaskError::Configured { .. } => (409, "the task is a configured one"),
        TaskError::Different { .. } => (409, "there is another task of that name"),
        TaskError::Unknown { .. } => (404, "there is no such task"),
        TaskError::Invalid(_) => (422, "the task is refused"),
        TaskError::Namespace { .. } | TaskError::Attach(_) | TaskError::NotGated { .. } => {
            (422, "the task cannot be gated")
        }
        TaskError::Refused(refused) => return refusal(refused),
        TaskError::State(_) | TaskError::Running(_) => (500, "the task cannot be kept"),
    };
    let errors = match error {
        TaskError::Invalid(problems) => problems_at(&problems.errors),
        _ => Vec::new(),
    };
    ProblemDetails {
        title: title.to_owned(),
        status,
        detail: match errors.len() {
            0 => chain(error),
            1 => String::from("1 error"),
            many => format!("{many} errors"),
        },
        errors,
    }
}
