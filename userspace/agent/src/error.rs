//! Why `taskgate run` ends, or a reload is refused: an error type for each phase.

use std::{error::Error, fmt, io};

use taskgate_bpf::{gate::GateError, load::LoadError, pins::PinError};
use taskgate_compiler::CompileError;
use taskgate_config::Problems;
use taskgate_flowlog::RecordError;
use taskgate_net::{eni::EniError, link::LinkError, netlink::NetlinkError};

use super::state::StateError;

/// Why `taskgate run` ends, or a reload is refused, by the phase that failed. A reload goes through
/// [`RunError::Configuration`] and [`RunError::Attach`] again.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing is gated yet.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The configuration is refused; the one in force, if there is one, stays.
    #[error(transparent)]
    Configuration(#[from] ConfigurationError),
    /// A link cannot be gated, or a task's ENI cannot be created.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Gates are up, and can no longer be maintained.
    #[error(transparent)]
    Running(#[from] RunningError),
}

/// Why `taskgate run` fails before its gates are up.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another run holds the instance.
    #[error("taskgate `{instance}` already runs, with pid {pid}: end that one first, or name another `--instance`")]
    Taken {
        /// The instance.
        instance: String,
        /// The pid of the other process, from its lock file.
        pid: String,
    },
    /// The instance's lock cannot be taken.
    #[error("cannot {operation} `{path}`")]
    Lock {
        /// The operation that failed, in the words of the message.
        operation: &'static str,
        /// The lock file.
        path: String,
        /// The underlying error.
        #[source]
        cause: io::Error,
    },
    /// Gates of an earlier run are attached, and this taskgate cannot take their connections over.
    #[error(
        "an earlier run left gates that go on judging, and their tracked connections cannot be taken over: {why}. Start the \
         taskgate that made them, or this one with `--drop-connections`: the gates stay, connections that no rule allows by \
         itself are cut"
    )]
    Left {
        /// Why they cannot be taken over.
        why: String,
    },
    /// Not everything could be removed.
    #[error("{things} things could not be taken away, see the errors above")]
    Kept {
        /// The number of links and gates that remain.
        things: usize,
    },
    /// The state of an earlier run cannot be read, or that of this one cannot be saved.
    #[error(transparent)]
    State(#[from] StateError),
    /// The pins in bpffs cannot be created or read.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The process cannot get a resource that it needs.
    #[error("cannot set up {object}")]
    Process {
        /// The resource that is missing.
        object: &'static str,
        /// The underlying error.
        #[source]
        cause: io::Error,
    },
    /// The kernel program cannot be loaded, or its maps cannot be opened.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Links cannot be listed or monitored over netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Flow records cannot be collected or written.
    #[error(transparent)]
    Records(#[from] RecordError),
}

impl StartError {
    /// A [`StartError::Process`] about the object that cannot be set up.
    pub fn without(object: &'static str) -> impl Fn(io::Error) -> Self {
        move |cause| Self::Process { object, cause }
    }
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The configuration is not valid.
    #[error("the configuration is not valid\n{0}")]
    Invalid(#[from] Problems),
    /// The configuration cannot be compiled, or does not fit into the image.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The state for the next process cannot be saved.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its files cannot be opened with the rights of the user who named the folder.
    #[error("cannot read `{folder}` with the rights of who named it")]
    Rights {
        /// The folder of these files.
        folder: String,
        /// The underlying error.
        #[source]
        cause: io::Error,
    },
    /// The kernel is too old for the configured kind of attachment.
    #[error(
        "`settings.attach` is `tcx`, which Linux has from 6.6 on, and this kernel has not: write `auto` or `clsact`"
    )]
    Tcx,
}

/// Why a link cannot be gated, or a task has no ENI or lacks its addresses.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A task's device cannot carry a gate.
    #[error("task `{task}` cannot be gated{left}")]
    Device {
        /// The task.
        task: String,
        /// The state of its link.
        left: LinkLeft,
        /// The underlying error.
        #[source]
        cause: LinkError,
    },
    /// A task's link has no gate.
    #[error("task `{task}` is not gated{left}")]
    Gate {
        /// The task.
        task: String,
        /// The state of its link.
        left: LinkLeft,
        /// The underlying error.
        #[source]
        cause: GateError,
    },
    /// An ENI cannot be created.
    #[error("task `{task}` has no ENI")]
    Eni {
        /// The task.
        task: String,
        /// The underlying error.
        #[source]
        cause: EniError,
    },
    /// An existing ENI cannot be given its new addresses.
    #[error("task `{task}` does not have the addresses that it should have")]
    Addresses {
        /// The task.
        task: String,
        /// The underlying error.
        #[source]
        cause: EniError,
    },
    /// The uplink cannot be used.
    #[error("uplink `{device}` cannot be used")]
    Uplink {
        /// The link.
        device: String,
        /// The underlying error.
        #[source]
        cause: LinkError,
    },
    /// The trunk has no gate.
    #[error("trunk `{device}` is not gated")]
    Trunk {
        /// The link.
        device: String,
        /// The underlying error.
        #[source]
        cause: GateError,
    },
}

impl AttachError {
    /// The task that the error is about.
    pub(super) fn task(&self) -> Option<&str> {
        match self {
            Self::Device { task, .. }
            | Self::Gate { task, .. }
            | Self::Eni { task, .. }
            | Self::Addresses { task, .. } => Some(task),
            Self::Uplink { .. } | Self::Trunk { .. } => None,
        }
    }
}

/// Why a run ends after its gates were up.
#[derive(Debug, thiserror::Error)]
pub enum RunningError {
    /// The thread `link-guard` is gone.
    #[error("links are no longer guarded: the thread `link-guard` ended")]
    Guard,
    /// Links can no longer be monitored over netlink.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Some tasks were not gated at the end.
    #[error("not gated to the end, see the errors above: {}", .tasks.join(", "))]
    NotGated {
        /// The names of these tasks.
        tasks: Vec<String>,
    },
}

/// The state of a link that cannot be gated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLeft {
    /// It is closed: it passes nothing.
    Closed,
    /// It is open: it passes everything.
    Open,
    /// It was not changed.
    NotTouched,
    /// It no longer exists.
    Gone,
}

impl fmt::Display for LinkLeft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => ", and passes nothing",
            Self::Open => ", and its link is open: nothing filters it",
            Self::NotTouched | Self::Gone => "",
        })
    }
}

impl RunError {
    /// The error with its causes in one line (the problems of a configuration have a line each).
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with its causes in one line (the problems of a configuration have a line each).
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}
