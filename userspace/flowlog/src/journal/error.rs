//! Why a journal is not written or not believed.

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
        /// What was to be done.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// It can't be put into its format, or can't be written.
    #[error("cannot write `{}`", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// The format's error.
        #[source]
        cause: postcard::Error,
    },
    /// It is not about these tables, or not to be believed.
    #[error("`{}` is not used: {why}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
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
    /// Something else is in that file.
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
    /// The machine was started since.
    #[error("it is of an earlier start of this machine")]
    Boot,
    /// It says what was reported of tables that are not these.
    #[error("it is about other tables")]
    Tables,
    /// It is not as it was written.
    #[error("it is damaged")]
    Damaged,
}
