//! Calls that the control socket's thread passes to the agent.

use taskgate_api::{Applied, DaemonStatus, ProblemDetails, Task};
use tokio::sync::oneshot;

use crate::{live::LiveView, metrics::Sample, reading::Folder, tasks::NewTask};

/// Takes the agent's answer. Dropped without one, the client is told that the agent ends.
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
    /// By name. The answer is the task as it was.
    Remove(String, Answer<TaskAnswer>),
    /// By name; `true` undoes it.
    Isolate(String, bool, Answer<TaskAnswer>),
}

/// The task, or the reason why nothing was done.
pub(crate) type TaskAnswer = Result<Task, ProblemDetails>;
