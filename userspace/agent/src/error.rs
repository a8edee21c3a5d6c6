//! Why `taskgate run` ends, or a reload is refused.

use std::{error::Error, fmt, io};

use taskgate_bpf::{gate::GateError, load::LoadError};
use taskgate_compiler::CompileError;
use taskgate_config::Problems;
use taskgate_flowlog::{CollectError, SinkError};
use taskgate_net::{eni::EniError, link::LinkError, netlink::NetlinkError};

/// Why `taskgate run` ends, or a reload is refused.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is not valid.
    #[error("the configuration is not valid\n{0}")]
    Configuration(#[from] Problems),
    /// The configuration cannot be compiled, or does not fit.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// Another run holds the instance.
    #[error("taskgate `{instance}` already runs, with pid {pid}: end that one first, or name another `--instance`")]
    Running {
        /// The instance.
        instance: String,
        /// The other one's pid, as it wrote it down.
        pid: String,
    },
    /// The instance's lock cannot be held.
    #[error("cannot {operation} `{path}`")]
    Instance {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The process cannot be set up.
    #[error("cannot set up signals and timers")]
    Runtime(#[source] io::Error),
    /// The kernel program cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A task's device cannot carry a gate.
    #[error("task `{task}` cannot be gated{left}")]
    Device {
        /// The task.
        task: String,
        /// What became of its link.
        left: LinkLeft,
        /// Why not.
        #[source]
        cause: LinkError,
    },
    /// The uplink cannot be used.
    #[error("uplink `{device}` cannot be used")]
    Uplink {
        /// The link.
        device: String,
        /// Why not.
        #[source]
        cause: LinkError,
    },
    /// The trunk's gate does not stand.
    #[error("trunk `{device}` is not gated")]
    Trunk {
        /// The link.
        device: String,
        /// Why not.
        #[source]
        cause: GateError,
    },
    /// A gate does not stand.
    #[error("task `{task}` is not gated{left}")]
    Gate {
        /// The task.
        task: String,
        /// What became of its link.
        left: LinkLeft,
        /// Why not.
        #[source]
        cause: GateError,
    },
    /// An ENI cannot be made.
    #[error("task `{task}` has no ENI")]
    Eni {
        /// The task.
        task: String,
        /// Why not.
        #[source]
        cause: EniError,
    },
    /// An ENI that is there cannot be given its new addresses.
    #[error("task `{task}` does not have the addresses that it should have")]
    Addresses {
        /// The task.
        task: String,
        /// Why not.
        #[source]
        cause: EniError,
    },
    /// The thread that gates links is not there.
    #[error("links cannot be guarded")]
    Guard(#[source] io::Error),
    /// Some tasks were not gated to the end.
    #[error("not gated to the end, see the errors above: {}", .tasks.join(", "))]
    NotGated {
        /// Their names.
        tasks: Vec<String>,
    },
    /// The kernel's network side does not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Flow records cannot be collected.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// Flow records cannot be written.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// What became of a link that cannot be gated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLeft {
    /// It passes nothing.
    Closed,
    /// It passes everything.
    Open,
    /// It is as it was.
    NotTouched,
    /// It is not there any more.
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
    /// The error with everything that caused it, in one line (the problems of a configuration have one each).
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// The task that the error is about.
    pub(super) fn task(&self) -> Option<&str> {
        match self {
            Self::Device { task, .. }
            | Self::Gate { task, .. }
            | Self::Eni { task, .. }
            | Self::Addresses { task, .. } => Some(task),
            _ => None,
        }
    }
}

/// An error with everything that caused it, in one line (the list of problems in a configuration has its own).
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
