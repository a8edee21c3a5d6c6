//! Calls that the control socket's thread passes to the agent.

use taskgate_api::{Applied, DaemonStatus, ProblemDetails, Task};
use tokio::sync::oneshot;

use crate::{live::LiveView, metrics::Sample, reading::Folder, tasks::NewTask};

/// The channel for the agent's answer. If it is dropped without one, the client is answered that the agent is ending.
pub(crate) type Answer<T> = oneshot::Sender<T>;
/// The outcome of an apply.
pub(crate) type ApplyAnswer = Result<Applied, ProblemDetails>;

/// A call that only the agent can answer.
#[derive(Debug)]
pub(crate) enum Call {
    /// Report the status, after inspecting the kernel.
    Status(StatusCall),
    /// Hand out a view that is evaluated without the agent.
    Live(Answer<LiveView>),
    /// Switch to the configuration in a folder, or in the one that is followed.
    Apply(Option<Folder>, Answer<ApplyAnswer>),
    /// Add, remove or isolate a task.
    Task(TaskCall),
}

/// Which form of the status a call asks for.
#[derive(Debug)]
pub(crate) enum StatusCall {
    /// The status itself.
    Status(Answer<DaemonStatus>),
    /// The status with all metrics.
    Metrics(Answer<Sample>),
}

/// An operation on a single task.
#[derive(Debug)]
pub(crate) enum TaskCall {
    Add(NewTask, Answer<TaskAnswer>),
    /// By name. The answer describes the task before its removal.
    Remove(String, Answer<TaskAnswer>),
    /// By name; `true` undoes the isolation.
    Isolate(String, bool, Answer<TaskAnswer>),
}

/// The task, or the reason why nothing was done.
pub(crate) type TaskAnswer = Result<Task, ProblemDetails>;
