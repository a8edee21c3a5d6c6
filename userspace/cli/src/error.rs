//! How a command can fail, and the exit status that scripts see.

use std::{io, process::ExitCode};

use taskgate_agent::{ConfigurationError, RunError, RunningError, StartError};
use taskgate_analysis::explain::QuestionError;
use taskgate_compiler::CompileError;
use taskgate_config::Problems;

use super::{client::ClientError, flows::input::InputError};

/// The exit statuses. They are stable, since scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Success.
    Ok = 0,
    /// Any failure that has no separate status.
    Failure = 1,
    /// The question or the command line makes no sense.
    Usage = 2,
    /// The configuration is invalid.
    Invalid = 3,
    /// Neither a daemon runs nor is a gate attached.
    NotRunning = 4,
    /// Something that the command names does not exist.
    NotFound = 5,
    /// The command worked, but something that it reports is not in order.
    Unhealthy = 6,
    /// The answer is no, and the caller asked for a status that says so.
    No = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// How a command can fail.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is refused.
    #[error(transparent)]
    Invalid(#[from] Problems),
    /// The configuration does not fit into the image.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The question has no answer.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The call to a running taskgate failed.
    #[error(transparent)]
    ControlClient(#[from] ClientError),
    /// Stored records cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The daemon ended with an error.
    #[error("{}", .0.chain())]
    Daemon(RunError),
    /// The answer could not be written.
    #[error("cannot write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl From<RunError> for Error {
    /// A configuration that the daemon refused is a refused configuration.
    fn from(error: RunError) -> Self {
        match error {
            RunError::Configuration(ConfigurationError::Invalid(problems)) => Self::Invalid(problems),
            RunError::Configuration(ConfigurationError::Compile(error)) => Self::Compile(error),
            error => Self::Daemon(error),
        }
    }
}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        Self::Daemon(error.into())
    }
}

impl Error {
    /// The status to exit with.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Invalid(_) | Self::Compile(_) => Exit::Invalid,
            Self::Question(QuestionError::NotFound(_)) => Exit::NotFound,
            Self::Question(QuestionError::Senseless(_)) => Exit::Usage,
            Self::Daemon(RunError::Running(RunningError::NotGated { .. }))
            | Self::ControlClient(ClientError::Silent { .. }) => Exit::Unhealthy,
            Self::ControlClient(ClientError::NotRunning { .. }) => Exit::NotRunning,
            Self::ControlClient(ClientError::Refused(problem)) => match problem.status {
                404 => Exit::NotFound,
                422 => Exit::Invalid,
                400 => Exit::Usage,
                _ => Exit::Failure,
            },
            Self::Input(InputError::Read { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => Exit::NotFound,
            Self::ControlClient(_) | Self::Daemon(_) | Self::Input(_) | Self::Output(_) => Exit::Failure,
        }
    }
}
