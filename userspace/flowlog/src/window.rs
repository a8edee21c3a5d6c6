//! One capture window, closed.

use std::sync::Arc;

use super::{eni::LoggedEni, record::FlowRecord, schedule::Bounds};

/// The packets of an ENI that are missing from its records of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The ENI.
    pub eni: Arc<LoggedEni>,
    /// Passed packets that are in no record.
    pub passed: u64,
    /// Dropped packets that are in no record.
    pub denied: u64,
}

/// Entries of slots that belong to no ENI: they leave no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unattributed {
    /// Directions of entries.
    pub flows: u64,
    /// Their packets.
    pub packets: u64,
}

/// One capture window, closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The window's number in the kernel.
    pub number: u32,
    /// The window's start and end.
    pub bounds: Bounds,
    /// Whether it ended before its time, because taskgate ends or the flow logs change.
    pub last: bool,
    /// The window's records, in the order of lines, one for each flow.
    pub records: Vec<FlowRecord>,
    /// The packets that the records lack, in the order of slots.
    pub losses: Vec<Loss>,
    /// The ENIs that have had traffic up to now, in the order of their ids.
    pub active: Vec<Arc<LoggedEni>>,
    /// Retired slots that have no entry left: they may be given to other ENIs.
    pub drained: Vec<u16>,
    /// Flows that belong to no ENI.
    pub unattributed: Unattributed,
}
