//! What goes wrong with records.

use thiserror::Error;

use crate::{collector::CollectError, journal::JournalError, sink::SinkError};

/// What goes wrong with records. The gates do not depend on them.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The tables can't be read, or what is over can't be removed.
    #[error(transparent)]
    Collect(#[from] CollectError),
    /// What ENIs that are gone had counted was not taken down in time.
    #[error("the last packets of ENIs that are gone may be recorded for those that have their links")]
    Snapshot(#[source] CollectError),
    /// The journal is not written.
    #[error(
        "the journal of flow records is not written: a taskgate that is killed now leaves records twice, or leaves some out"
    )]
    Journal(#[source] JournalError),
    /// There is a journal, and it is not used.
    #[error("flow records begin anew")]
    BeginAnew(#[source] JournalError),
    /// There was no journal of what the tables held.
    #[error(
        "{packets} packets in {flows} flows came before there was a journal of their records, and are in none from now on"
    )]
    Unknown {
        /// Directions of entries.
        flows: u64,
        /// Their packets.
        packets: u64,
    },
    /// Lines are not written.
    #[error("flow records are lost")]
    Lost(#[source] SinkError),
    /// Lines can't be written for now.
    #[error("flow records wait for their destination, which is tried again and again")]
    Waiting(#[source] SinkError),
    /// There is no sink to be had.
    #[error(transparent)]
    Sink(#[from] SinkError),
}
