//! Why a task is not added, removed or isolated.

use taskgate_config::Problems;
use taskgate_net::eni::EniError;

use crate::{
    error::{AttachError, RunError, RunningError},
    state::StateError,
};

/// Why a task is not added, removed or isolated. Nothing is changed then, unless a variant says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// The task is named in a file of the configuration.
    #[error("task `{task}` stands in the configuration, at {place}: change it there, and have it read again")]
    Configured {
        /// The task.
        task: String,
        /// The place in the files.
        place: String,
    },
    /// A different task with this name was added before.
    #[error("a task named `{task}` was added before, as another one: remove that one first")]
    Different {
        /// The task.
        task: String,
    },
    /// No task has this name.
    #[error("there is no task named `{task}`")]
    Unknown {
        /// The task.
        task: String,
    },
    /// The task does not fit the configuration.
    #[error("the task is not valid\n{0}")]
    Invalid(#[from] Problems),
    /// Its network namespace cannot be found or named.
    #[error("task `{task}` has no network namespace")]
    Namespace {
        /// The task.
        task: String,
        /// The underlying error.
        #[source]
        cause: EniError,
    },
    /// Its gate cannot be attached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Its link went before its gate was attached, or was not there in time.
    #[error("task `{task}` is not gated: its link went, or was not there in time")]
    NotGated {
        /// The task.
        task: String,
    },
    /// The list of tasks cannot be saved.
    #[error(transparent)]
    State(#[from] StateError),
    /// The configuration cannot be brought into force with this change.
    #[error(transparent)]
    Refused(RunError),
    /// Gates are up, and can no longer be maintained: taskgate ends.
    #[error(transparent)]
    Running(RunningError),
}

impl From<RunError> for TaskError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Running(error) => Self::Running(error),
            refused => Self::Refused(refused),
        }
    }
}
