//! Errors that keep a window open.

use std::io;

use thiserror::Error;

/// Why a window could not be closed. Nothing is lost by it: closed again, the window has what the first attempt read.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The kernel does not know of the new window.
    #[error("cannot begin capture window {number}")]
    SetWindow {
        /// The new window's number.
        number: u32,
        /// The kernel's error.
        source: io::Error,
    },
    /// The kernel's clock can't be read.
    #[error("cannot read the kernel's clock")]
    Clock(#[source] io::Error),
    /// A table can't be read.
    #[error("cannot read the {table}")]
    Read {
        /// Which.
        table: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Entries can't be removed.
    #[error("cannot remove what is over from the {table}")]
    Remove {
        /// Which table.
        table: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Old fragments stay, and take the room of new ones.
    #[error("cannot forget old fragments")]
    Fragments(#[source] io::Error),
    /// A slot's use of the tables can't be read.
    #[error("cannot read the table use of slot {slot}")]
    Usage {
        /// Which slot.
        slot: u16,
        /// The kernel's error.
        source: io::Error,
    },
}
