//! The end of entries: what they held is reported, then the kernel no longer finds them, then their places are free.

use std::collections::HashMap;

use taskgate_ebpf::conntrack::{idle, timeout_of};
use taskgate_tables::{FlowId, FlowTables, TrackedConn};

use super::{CONNS, CollectError, Collector, DENIALS, Entry, LastState, Note};

/// Entries that are over when they are read.
#[derive(Default)]
pub(super) struct Over {
    pub(super) conns: Vec<FlowId>,
    pub(super) denials: Vec<FlowId>,
}

/// Entries that are out of the kernel's reach and hold their places, with their slots.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    conns: HashMap<FlowId, u16>,
    denials: HashMap<FlowId, u16>,
}

impl Frozen {
    /// How many there are of each slot.
    pub(super) fn by_slot(&self) -> HashMap<u16, u64> {
        let mut sums = HashMap::new();
        for slot in self.conns.values().chain(self.denials.values()) {
            *sums.entry(*slot).or_default() += 1;
        }
        sums
    }

    /// Whether an entry is one of them.
    pub(super) fn contains(&self, id: FlowId, denied: bool) -> bool {
        let there = if denied { &self.denials } else { &self.conns };
        there.contains_key(&id)
    }
}

impl Collector {
    /// Takes out what is over by now, between two closings: room for new connections. Call it once a window's
    /// records are written, and every few seconds where the tables are nearly full. To be followed by [`Collector::free`].
    ///
    /// `unreported`: also what holds something that no window has reported yet. It goes into the records of the window that
    /// runs.
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

    /// Takes out denied flows that have been silent for a quarter of a second, between two closings: room for new ones. What
    /// no window has reported yet goes into the records of the one that runs. To be followed by [`Collector::free`].
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

    /// Forgets first fragments whose datagrams have not become whole within a second: the parts of one follow each other
    /// in milliseconds.
    pub fn free_fragments(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        let second = tables.ticks_per_second();
        let timeouts = self.timeouts.map(|timeout| timeout.min(second));
        tables.forget_fragments(&timeouts).map_err(CollectError::Fragments)
    }

    /// Gives the places of entries away that were reported to the last packet: once the journal has that, see [`Note`].
    pub fn free(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        // One that can't be freed is not tried for ever: it is reported, and the next process finds it.
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

    /// Takes out connections that were over when they were read, but for those that a packet has come for since. What came
    /// since they were read is recorded too.
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
            // A packet that found it before it was marked may have renewed it since, and has ended by now.
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

    /// Takes out denied flows, but for those that a packet has come for since. Packets that came since they were read are
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

    /// Reports an entry that is frozen.
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

    /// Whether a connection whose packets were all reported can go.
    pub(super) fn conn_is_over(&self, conn: &TrackedConn, now: u32) -> bool {
        let state = &conn.state;
        let timeout = self.timeouts[timeout_of(conn.key.conn_protocol(), state.state) as usize];
        conn.outdated || self.registry.is_retired(state.slot) || idle(now, state.last, timeout)
    }
}
