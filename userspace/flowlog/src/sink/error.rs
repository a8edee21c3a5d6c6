//! Why lines did not reach their reader.

use std::{
    error::Error as _,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why lines did not reach their reader.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The reader is gone.
    #[error("nobody reads {sink} any more: the flow records end here")]
    Closed {
        /// The sink's name.
        sink: String,
    },
    /// They can't be written.
    #[error("cannot write flow records to {sink}")]
    Write {
        /// The sink's name.
        sink: String,
        /// The system's error.
        source: io::Error,
    },
    /// The sink can't be opened.
    #[error("cannot open {sink} for flow records")]
    Open {
        /// The sink's name.
        sink: String,
        /// The system's error.
        source: io::Error,
    },
    /// A file or folder can't be used.
    #[error("cannot {operation} `{}`", path.display())]
    Path {
        /// What was to be done.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder that flow records are to be in is not there.
    #[error("there is no folder `{}`: make it, it is looked for again and again", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// Something else is in the file's place.
    #[error("`{}` is no regular file: move it away, or name another path", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// Somebody else has the file.
    #[error("another process writes flow records to `{}`: give each its own file", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// taskgate ends, and the reader does not read.
    #[error("nobody reads {sink}: the last {bytes} bytes of flow records are left to the next run")]
    Stuck {
        /// The sink's name.
        sink: String,
        /// How much.
        bytes: usize,
    },
    /// taskgate ends, and the sink still fails.
    #[error("{sink} cannot be written: the last {bytes} bytes of flow records are left to the next run")]
    Left {
        /// The sink's name.
        sink: String,
        /// How much.
        bytes: usize,
    },
    /// There was no room for records any more.
    #[error(
        "{packets} packets of a flow log to {sink} are in no record of it, as too many records wait: SKIPDATA says whose"
    )]
    Lost {
        /// The sink's name.
        sink: String,
        /// How many.
        packets: u64,
    },
    /// A flow log has another destination, and what waited for the one before was given up.
    #[error(
        "{bytes} bytes of flow records for {sink} are given up: it is no flow log's any more, and cannot be written"
    )]
    GivenUp {
        /// The sink's name.
        sink: String,
        /// How much.
        bytes: usize,
    },
}

impl SinkError {
    pub(super) fn path(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Path {
            operation,
            path,
            source,
        }
    }

    /// It with its causes.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = self.source();
        while let Some(cause) = source {
            // Writing to a string cannot fail.
            write!(text, ": {cause}").ok();
            source = cause.source();
        }
        text
    }

    /// Whether records wait and are tried again.
    pub(crate) fn passes(&self) -> bool {
        match self {
            Self::Closed { .. } | Self::Lost { .. } | Self::GivenUp { .. } => false,
            Self::Write { .. }
            | Self::Open { .. }
            | Self::Path { .. }
            | Self::NoFolder { .. }
            | Self::NoFile { .. }
            | Self::Taken { .. }
            | Self::Stuck { .. }
            | Self::Left { .. } => true,
        }
    }
}
