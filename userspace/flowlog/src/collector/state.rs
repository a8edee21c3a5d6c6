//! The collector's state: written to the journal and restored from it.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use taskgate_ebpf::abi::image::TIMEOUTS;
use taskgate_model::FlowLog;
use taskgate_tables::FlowTables;

use super::{CONNS, CollectError, Collector, DENIALS, Entry, LastState};
use crate::{
    baseline::Baselines,
    eni::LoggedEni,
    names::RecordNames,
    saved::{EniNumbers, NumberedEnis, RecordsToSave, SavedLoss, SavedRecord, losses},
    unlogged::Unlogged,
    window::Unattributed,
};

/// A collector's state. Written, it borrows baselines and records; read back, it owns them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CollectorState<B = Baselines, R = Vec<SavedRecord>> {
    number: u32,
    start: u64,
    conns: B,
    denials: B,
    /// Slots: the number, the ENI's number, whether it has had traffic, whether it is retired.
    slots: Vec<(u16, u32, bool, bool)>,
    losses: HashMap<u16, (u64, u64)>,
    given_up: HashMap<String, (u64, u64)>,
    open: R,
    overflow: Vec<SavedLoss>,
    /// Flows, packets.
    unattributed: (u64, u64),
}

/// A change since the last journal. It must be in the journal before it takes effect.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Note {
    /// An entry is about to be removed.
    Removed(LastState),
    /// A slot was assigned to this ENI.
    Bound(u16, Box<LoggedEni>),
}

impl Collector {
    /// The state that has to outlive the process.
    pub(crate) fn state<'a>(&'a self, enis: &'a EniNumbers) -> CollectorState<&'a Baselines, RecordsToSave<'a>> {
        let slots = self.registry.all();
        CollectorState {
            number: self.number,
            start: self.start,
            conns: &self.conns,
            denials: &self.denials,
            slots: slots
                .map(|(slot, eni, active, retired)| (slot, enis.of(eni), active, retired))
                .collect(),
            losses: self.losses.clone(),
            given_up: self.given_up.clone(),
            open: RecordsToSave {
                records: &self.open,
                enis,
            },
            overflow: losses(&self.overflow, enis),
            unattributed: (self.unattributed.flows, self.unattributed.packets),
        }
    }

    /// To be called once the journal has the [`Collector::state`], or could not be written.
    pub(crate) fn saved(&mut self) {
        self.conns.saved();
        self.denials.saved();
        self.notes.clear();
    }

    /// Changes since the last journal that have to be added to it, until [`Collector::noted`] is called.
    pub(crate) fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// To be called once the [`Collector::notes`] were added to the journal.
    pub(crate) fn noted(&mut self) {
        self.notes.clear();
    }

    /// Continues from the state of an earlier process, whether it ended cleanly or was killed.
    ///
    /// Entries that the earlier process had frozen and not freed are reported, unless its journal has their last states, and wait for
    /// [`Collector::free`]: write the journal first.
    pub(crate) fn resume(
        tables: &mut dyn FlowTables,
        saved: CollectorState,
        notes: Vec<Note>,
        (enis, names): (&NumberedEnis, RecordNames),
        logs: &[FlowLog],
        unlogged: Unlogged,
        timeouts: [u32; TIMEOUTS],
    ) -> Result<Self, CollectError> {
        let mut collector = Self::begin(tables, saved.number, saved.start, logs, unlogged, timeouts)?;
        collector.names = names;
        collector.start = saved.start;
        collector.conns = saved.conns;
        collector.denials = saved.denials;
        for (slot, number, active, retired) in saved.slots {
            if let Some(eni) = enis.get(number) {
                collector.registry.restore(slot, eni, active, retired);
            }
        }
        collector.losses = saved.losses;
        collector.given_up = saved.given_up;
        collector.open = enis.records(saved.open);
        collector.overflow = enis.overflow(saved.overflow);
        let (flows, packets) = saved.unattributed;
        collector.unattributed = Unattributed { flows, packets };
        collector.resumed = true;
        collector.clock.read(tables)?;
        let mut removed = Vec::new();
        for note in notes {
            match note {
                Note::Removed(last) => {
                    let entry = Entry::from(last);
                    collector.report(&entry, true);
                    removed.push((entry.id, entry.denied.is_some()));
                }
                Note::Bound(slot, eni) => collector.registry.set(slot, *eni),
            }
        }
        collector.finish_frozen(tables)?;
        for (id, denied) in removed {
            let known = if denied {
                &mut collector.denials
            } else {
                &mut collector.conns
            };
            if !collector.frozen.contains(id, denied) {
                known.forget(id);
            }
        }
        Ok(collector)
    }

    /// Counts the tables' current contents as reported, and returns how much they are. Each ENI with entries gets a loss in the
    /// open window, as the part that earlier records cover is unknown.
    pub(crate) fn adopt(&mut self, tables: &mut dyn FlowTables) -> Result<Unattributed, CollectError> {
        let unknown = &mut self.unknown;
        tables
            .conns(&mut |conn| unknown.entry(conn.state.slot).or_default().0 = 1)
            .map_err(|source| CollectError::Read { table: CONNS, source })?;
        tables
            .denials(&mut |_, key, _| unknown.entry(key.denial_parts().0).or_default().1 = 1)
            .map_err(|source| CollectError::Read { table: DENIALS, source })?;
        self.read(tables, true)?;
        self.finish_frozen(tables)?;
        Ok(std::mem::take(&mut self.unattributed))
    }

    /// Reports the entries that an earlier process froze and did not free.
    fn finish_frozen(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        tables
            .frozen_conns(&mut |id, key, state| self.finish(&Entry::conn(id, key, &state, &self.unlogged)))
            .map_err(|source| CollectError::Read { table: CONNS, source })?;
        tables
            .frozen_denials(&mut |id, key, state| self.finish(&Entry::denial(id, key, &state)))
            .map_err(|source| CollectError::Read { table: DENIALS, source })
    }
}
