//! An entry of either table.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use taskgate_ebpf::abi::tables::KeyTag;
use taskgate_tables::{ConnState, DenialState, FlowId, FlowKey};

use crate::{baseline::Sample, unlogged::Unlogged};

/// An entry of either table.
pub(super) struct Entry {
    pub(super) id: FlowId,
    pub(super) key: FlowKey,
    pub(super) slot: u16,
    pub(super) protocol: u8,
    /// The drop reason's number, if the entry is a denied flow.
    pub(super) denied: Option<u8>,
    /// The flow gets no record, see [`Unlogged`].
    pub(super) unlogged: bool,
    pub(super) sample: Sample,
    /// Of a tracked connection: the rule's number, and the lower half of the generation's number.
    pub(super) admitted: Option<(u32, u16)>,
    /// When the last packet came, in ticks.
    pub(super) last: u32,
}

impl Entry {
    pub(super) fn conn(id: FlowId, key: FlowKey, state: &ConnState, unlogged: &Unlogged) -> Self {
        Self {
            id,
            key,
            slot: state.slot,
            protocol: key.conn_protocol(),
            denied: None,
            unlogged: unlogged.covers(&key, state),
            sample: state.into(),
            admitted: Some((state.rule, state.generation)),
            last: state.last,
        }
    }

    pub(super) fn denial(id: FlowId, key: FlowKey, state: &DenialState) -> Self {
        let (slot, protocol, direction, reason) = key.denial_parts();
        Self {
            id,
            key,
            slot,
            protocol,
            denied: Some(reason),
            // Denials are always logged.
            unlogged: false,
            sample: Sample::of_denial(state, direction),
            admitted: None,
            last: state.last,
        }
    }
}

/// The last state of an entry that was removed between two windows, for the journal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LastState {
    id: FlowId,
    local: IpAddr,
    remote: IpAddr,
    ports: (u16, u16),
    slot: u16,
    protocol: u8,
    denied: Option<u8>,
    unlogged: bool,
    sample: Sample,
    admitted: Option<(u32, u16)>,
    last: u32,
}

impl From<&Entry> for LastState {
    fn from(entry: &Entry) -> Self {
        Self {
            id: entry.id,
            local: entry.key.local(),
            remote: entry.key.remote(),
            ports: entry.key.ports(),
            slot: entry.slot,
            protocol: entry.protocol,
            denied: entry.denied,
            unlogged: entry.unlogged,
            sample: entry.sample,
            admitted: entry.admitted,
            last: entry.last,
        }
    }
}

impl From<LastState> for Entry {
    fn from(last: LastState) -> Self {
        let ports = u32::from(last.ports.0) << 16 | u32::from(last.ports.1);
        Self {
            id: last.id,
            // The key's tag is not restored: records do not name the link, and the tag's other parts are in the fields below.
            key: FlowKey::new(last.local, last.remote, ports, KeyTag::default()),
            slot: last.slot,
            protocol: last.protocol,
            denied: last.denied,
            unlogged: last.unlogged,
            sample: last.sample,
            admitted: last.admitted,
            last: last.last,
        }
    }
}
