//! Errors of the journal.

use std::{
    io,
    path::{Path, PathBuf},
};

use thiserror::Error;

/// Why a journal can't be used.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The file can't be used.
    #[error("cannot {operation} `{}`", path.display())]
    Io {
        /// The operation, such as `read`.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The contents can't be encoded or written.
    #[error("cannot write `{}`", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// The format's error.
        #[source]
        cause: postcard::Error,
    },
    /// The file is not a valid journal of these tables.
    #[error("`{}` is not used: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: Refusal,
    },
}

impl JournalError {
    pub(super) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        Self::Io {
            operation,
            path,
            source,
        }
    }
}

/// Why a journal is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The file is no journal.
    #[error("it is no journal of flow records")]
    Foreign,
    /// Another version of taskgate wrote it.
    #[error("its format is {found}, and this taskgate has format {known}")]
    Format {
        /// The file's format.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The machine was rebooted since the journal was written.
    #[error("it is of an earlier start of this machine")]
    Boot,
    /// The journal's identity is not that of the present tables.
    #[error("it is about other tables")]
    Tables,
    /// A checksum or a length does not match.
    #[error("it is damaged")]
    Damaged,
}
