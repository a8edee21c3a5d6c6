//! Errors of sinks.

use std::{
    error::Error as _,
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// An error of a sink.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The reader closed the stream.
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
        /// The operation, such as `open`.
        operation: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The configured folder does not exist.
    #[error("there is no folder `{}`: make it, it is looked for again and again", path.display())]
    NoFolder {
        /// The folder.
        path: PathBuf,
    },
    /// The path is not a regular file.
    #[error("`{}` is no regular file: move it away, or name another path", path.display())]
    NoFile {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the file's lock.
    #[error("another process writes flow records to `{}`: give each its own file", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// The reader took nothing for the whole patience while taskgate was ending.
    #[error("nobody reads {sink}: the last {bytes} bytes of flow records are left to the next run")]
    Stuck {
        /// The sink's name.
        sink: String,
        /// The bytes that were not written.
        bytes: usize,
    },
    /// The sink still failed when taskgate ended.
    #[error("{sink} cannot be written: the last {bytes} bytes of flow records are left to the next run")]
    Left {
        /// The sink's name.
        sink: String,
        /// The bytes that were not written.
        bytes: usize,
    },
    /// Records were given up because too many waited.
    #[error(
        "{packets} packets of a flow log to {sink} are in no record of it, as too many records wait: SKIPDATA says whose"
    )]
    Lost {
        /// The sink's name.
        sink: String,
        /// The packets in these records.
        packets: u64,
    },
    /// Lines for a destination that no flow log has any more were given up.
    #[error(
        "{bytes} bytes of flow records for {sink} are given up: it is no flow log's any more, and cannot be written"
    )]
    GivenUp {
        /// The sink's name.
        sink: String,
        /// The bytes that were not written.
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

    /// The message with those of its causes.
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

    /// Whether the error is temporary: records are kept and retried.
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
