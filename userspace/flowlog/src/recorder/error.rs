//! Errors of the recorder.

use thiserror::Error;

use crate::{collector::CollectError, journal::JournalError, sink::SinkError};

/// An error with flow records. The gates do not depend on records.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The tables can't be read, or entries that are over can't be removed.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// The last counts of removed ENIs were not read before their slots were reassigned.
    #[error("the last packets of ENIs that are gone may be recorded for those that have their links")]
    Snapshot(#[source] CollectError),
    /// The journal can't be written.
    #[error(
        "the journal of flow records is not written: a taskgate that is killed now leaves records twice, or leaves some out"
    )]
    Journal(#[source] JournalError),
    /// The existing journal can't be used.
    #[error("flow records begin anew")]
    BeginAnew(#[source] JournalError),
    /// The tables had entries, and there was no journal of what was reported of them.
    #[error(
        "{packets} packets in {flows} flows came before there was a journal of their records, and are in none from now on"
    )]
    Unknown {
        /// Directions of entries.
        flows: u64,
        /// Their packets.
        packets: u64,
    },
    /// Lines or records were given up.
    #[error("flow records are lost")]
    Lost(#[source] SinkError),
    /// Lines can't be written for now, and are kept.
    #[error("flow records wait for their destination, which is tried again and again")]
    Waiting(#[source] SinkError),
    /// A sink can't be opened or started.
    #[error(transparent)]
    Sink(#[from] SinkError),
}
