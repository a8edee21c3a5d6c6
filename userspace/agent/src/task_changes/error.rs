//! Why a task is not added, removed or isolated.

use taskgate_config::Problems;
use taskgate_net::eni::EniError;

use crate::{
    error::{AttachError, RunError, RunningError},
    state::StateError,
};

/// Why a task is not added, removed or isolated. Nothing is changed then, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TaskError {
    /// A file of the configuration names it.
    #[error("task `{task}` stands in the configuration, at {place}: change it there, and have it read again")]
    Configured {
        /// The task.
        task: String,
        /// Where.
        place: String,
    },
    /// A task of the name was added before, as another one.
    #[error("a task named `{task}` was added before, as another one: remove that one first")]
    Different {
        /// The task.
        task: String,
    },
    /// There is none.
    #[error("there is no task named `{task}`")]
    Unknown {
        /// The task.
        task: String,
    },
    /// It does not fit the configuration.
    #[error("the task is not valid\n{0}")]
    Invalid(#[from] Problems),
    /// Its network namespace cannot be had.
    #[error("task `{task}` has no network namespace")]
    Namespace {
        /// The task.
        task: String,
        /// Why not.
        #[source]
        cause: EniError,
    },
    /// Its gate does not stand.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Its link went before its gate stood.
    #[error("task `{task}` is not gated: its link went, or was not there in time")]
    NotGated {
        /// The task.
        task: String,
    },
    /// It cannot be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The configuration with it cannot be brought into force.
    #[error(transparent)]
    Refused(RunError),
    /// Gates are up, and cannot be held: taskgate ends.
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
