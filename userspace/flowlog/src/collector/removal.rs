//! Removal of entries: the kernel stops finding them, their last counts are reported, then their places are freed.

use std::collections::HashMap;

use taskgate_ebpf::conntrack::{idle, timeout_of};
use taskgate_tables::{FlowId, FlowTables, TrackedConn};

use super::{CONNS, CollectError, Collector, DENIALS, Entry, LastState, Note};

/// Entries that were over when they were read.
#[derive(Default)]
pub(super) struct Over {
    pub(super) conns: Vec<FlowId>,
    pub(super) denials: Vec<FlowId>,
}

/// Entries that the kernel no longer finds and that still hold their places, with their slots.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    conns: HashMap<FlowId, u16>,
    denials: HashMap<FlowId, u16>,
}

impl Frozen {
    /// The number of frozen entries of each slot.
    pub(super) fn by_slot(&self) -> HashMap<u16, u64> {
        let mut sums = HashMap::new();
        for slot in self.conns.values().chain(self.denials.values()) {
            *sums.entry(*slot).or_default() += 1;
        }
        sums
    }

    /// Whether an entry is frozen.
    pub(super) fn contains(&self, id: FlowId, denied: bool) -> bool {
        let there = if denied { &self.denials } else { &self.conns };
        there.contains_key(&id)
    }
}

impl Collector {
    /// Freezes connections that are over, between two windows, to make room for new ones. Call it once a window's
    /// records are written, and every few seconds while the tables are nearly full. To be followed by [`Collector::free`].
    ///
    /// `unreported`: also connections with counts that no window has reported yet. They go into the records of the open window.
    pub fn gc(&mut self, tables: &mut dyn FlowTables, unreported: bool) -> Result<(), CollectError> {
        let now = self.clock.read(tables)?;
        let mut over = Vec::new();
        tables
            .conns(&mut |conn| {
                if (unreported || self.conns.all_reported(conn.id, &(&conn.state).into()))
                    && self.conn_is_over(conn, now)
                {
                    over.push(conn.id);
                }
            })
            .map_err(|source| CollectError::Read { table: CONNS, source })?;
        self.freeze_conns(tables, &over)?;
        tables.forget_fragments(&self.timeouts).map_err(CollectError::Fragments)
    }

    /// Freezes denied flows that have been silent for a quarter of a second, between two windows, to make room for new ones. Counts
    /// that no window has reported yet go into the records of the open window. To be followed by [`Collector::free`].
    pub fn free_denials(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        let now = self.clock.read(tables)?;
        let least = tables.ticks_per_second() / 4;
        let mut silent = Vec::new();
        tables
            .denials(&mut |id, _, state| {
                if idle(now, state.last, least) {
                    silent.push(id);
                }
            })
            .map_err(|source| CollectError::Read { table: DENIALS, source })?;
        self.freeze_denials(tables, &silent)
    }

    /// Forgets first fragments whose datagrams were not completed within a second: fragments of a datagram arrive within milliseconds.
    pub fn free_fragments(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        let second = tables.ticks_per_second();
        let timeouts = self.timeouts.map(|timeout| timeout.min(second));
        tables.forget_fragments(&timeouts).map_err(CollectError::Fragments)
    }

    /// Frees the places of frozen entries. The journal must have their last states first, see [`Note`].
    pub fn free(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        // Freeing is tried once: a failure is reported, and the next process finds the entry.
        let Frozen { conns, denials } = std::mem::take(&mut self.frozen);
        let mut result = Ok(());
        for id in conns.into_keys() {
            self.conns.forget(id);
            let freed = tables.free_conn(id);
            result = result.and(freed.map_err(|source| CollectError::Remove { table: CONNS, source }));
        }
        for id in denials.into_keys() {
            self.denials.forget(id);
            let freed = tables.free_denial(id);
            result = result.and(freed.map_err(|source| CollectError::Remove { table: DENIALS, source }));
        }
        result
    }

    /// Freezes connections that were over when they were read, except those that a packet has renewed since. Packets
    /// counted since the reading are recorded too.
    pub(super) fn freeze_conns(&mut self, tables: &mut dyn FlowTables, ids: &[FlowId]) -> Result<(), CollectError> {
        if ids.is_empty() {
            return Ok(());
        }
        let failed = |source| CollectError::Remove { table: CONNS, source };
        tables.mark_conns(ids).map_err(failed)?;
        let now = self.clock.read(tables)?;
        for id in ids {
            let Some(conn) = tables.marked_conn(*id) else {
                continue;
            };
            // A packet that looked the entry up before the mark may have renewed it; its program run has ended by now.
            if !self.conn_is_over(&conn, now) {
                tables.keep_conn(*id);
                continue;
            }
            if let Some((key, state)) = tables.freeze_conn(*id).map_err(failed)? {
                self.finish(&Entry::conn(*id, key, &state, &self.unlogged));
            }
        }
        Ok(())
    }

    /// Freezes denied flows, except those that a packet has hit since they were marked. Packets counted since the reading are
    /// recorded too.
    pub(super) fn freeze_denials(&mut self, tables: &mut dyn FlowTables, ids: &[FlowId]) -> Result<(), CollectError> {
        if ids.is_empty() {
            return Ok(());
        }
        let failed = |source| CollectError::Remove { table: DENIALS, source };
        tables.mark_denials(ids).map_err(failed)?;
        for id in ids {
            if let Some((key, state)) = tables.freeze_denial(*id).map_err(failed)? {
                self.finish(&Entry::denial(*id, key, &state));
            }
        }
        Ok(())
    }

    /// Reports a frozen entry for the last time, and notes its last state if the journal lacks it.
    pub(super) fn finish(&mut self, entry: &Entry) {
        self.report(entry, true);
        let (baselines, frozen) = if entry.denied.is_none() {
            (&self.conns, &mut self.frozen.conns)
        } else {
            (&self.denials, &mut self.frozen.denials)
        };
        if !baselines.is_saved(entry.id) {
            self.notes.push(Note::Removed(LastState::from(entry)));
        }
        frozen.insert(entry.id, entry.slot);
    }

    /// Whether a connection can be removed: outdated, of a retired slot, or idle past its time-out.
    pub(super) fn conn_is_over(&self, conn: &TrackedConn, now: u32) -> bool {
        let state = &conn.state;
        let timeout = self.timeouts[timeout_of(conn.key.conn_protocol(), state.state) as usize];
        conn.outdated || self.registry.is_retired(state.slot) || idle(now, state.last, timeout)
    }
}
