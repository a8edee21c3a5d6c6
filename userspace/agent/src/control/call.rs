//! What the socket's thread asks of the agent.

use taskgate_api::{Applied, DaemonStatus, ProblemDetails, Task};
use tokio::sync::oneshot;

use crate::{live::LiveView, metrics::Sample, reading::Folder, tasks::NewTask};

/// Takes the agent's answer. Dropped without one, the client is told that the agent ends.
pub(crate) type Answer<T> = oneshot::Sender<T>;
/// How an apply went.
pub(crate) type ApplyAnswer = Result<Applied, ProblemDetails>;

/// A call that only the agent can answer.
#[derive(Debug)]
pub(crate) enum Call {
    /// What the kernel holds: it is looked at before the answer.
    Status(StatusCall),
    /// What can be looked at without the agent.
    Live(Answer<LiveView>),
    /// Switch to the configuration in a folder, or in the one that is followed.
    Apply(Option<Folder>, Answer<ApplyAnswer>),
    /// Add, remove or isolate a task.
    Task(TaskCall),
}

/// What is wanted of the status.
#[derive(Debug)]
pub(crate) enum StatusCall {
    /// The status itself.
    Status(Answer<DaemonStatus>),
    /// With all that is counted.
    Metrics(Answer<Sample>),
}

/// What is to be done with a task.
#[derive(Debug)]
pub(crate) enum TaskCall {
    Add(NewTask, Answer<TaskAnswer>),
    /// By name. The answer is the task as it was.
    Remove(String, Answer<TaskAnswer>),
    /// By name; `true` undoes it.
    Isolate(String, bool, Answer<TaskAnswer>),
}

/// The task, or why nothing is done.
pub(crate) type TaskAnswer = Result<Task, ProblemDetails>;
