//! Errors of the collector.

use std::io;

use thiserror::Error;

/// Reading or cleaning up the tables failed. Nothing is lost: the next close includes the counts that a failed one has read.
#[derive(Debug, Error)]
pub enum CollectError {
    /// The new window's number could not be set in the kernel.
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
        /// The table's name in messages.
        table: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Entries can't be removed.
    #[error("cannot remove what is over from the {table}")]
    Remove {
        /// The table's name in messages.
        table: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// Old fragments could not be forgotten, and take the room of new ones.
    #[error("cannot forget old fragments")]
    Fragments(#[source] io::Error),
    /// A slot's use of the tables can't be read.
    #[error("cannot read the table use of slot {slot}")]
    Usage {
        /// The slot.
        slot: u16,
        /// The kernel's error.
        source: io::Error,
    },
}
