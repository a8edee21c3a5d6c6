//! The order of steps that puts each packet into exactly one record, even if the process is killed at any point.
//!
//! The journal has the recorder's state as of the last window; the kernel's totals only grow. So the next process can repeat
//! every step from the journal and the totals, except irreversible ones: removing an entry, writing lines, giving a slot
//! to another ENI. Each of these comes after the journal that accounts for it.
//!
//! A window:
//!
//! | step | killed after it |
//! |---|---|
//! | the kernel gets the next window's number | the next process sets it back; flags count in either |
//! | entries are read; those that are over are marked, and after a grace period frozen | marked ones are live; frozen ones are reported by the next process, by their baselines |
//! | lines are made | they are made again, from at least the same packets |
//! | the journal is renamed into place: the window is decided | the journal has its lines, and the baselines of the frozen entries |
//! | lines are sent in pieces, each confirmed in the journal | an unconfirmed piece may come twice on stdout; files detect or replace it |
//! | the frozen entries are freed | the remaining ones have nothing beyond their baselines, and are freed |
//!
//! Entries that are removed between two windows are frozen, their last states are added to the journal, then they are freed. If the
//! process is killed before the addition, the next process finds them frozen and reports them by their baselines; if after, it
//! reports them from the journal, and then they have nothing new. An entry whose current baseline is in the journal needs no
//! addition. Nothing is counted into a frozen entry: the flow's next packet makes another entry, with another version.
//!
//! Slots: before a slot is given to another ENI, the counts of its entries are read and the journal is replaced. A slot's new ENI
//! is added to the journal before a packet of that ENI can pass.

mod error;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use taskgate_ebpf::abi::image::TIMEOUTS;
use taskgate_model::FlowLog;
use taskgate_tables::FlowTables;

pub use self::error::RecordError;
use super::{
    collector::{CollectError, Collector, CollectorState, Note},
    eni::LoggedEni,
    fault::{Fault, point},
    journal::{Journal, Read},
    names::RecordNames,
    outputs::{Outputs, OutputsState, Sinks},
    queue::DestinationState,
    saved::{EniNumbers, NumberedEnis, SavedEnis},
    sink::SinkError,
    totals::RecordTotals,
    unlogged::Unlogged,
    window::{Unattributed, Window},
};

/// Bytes of changes beyond which the journal is replaced: a port scan makes some megabytes per second, and a replaced journal is
/// bounded, as held records are.
const CHANGES: u64 = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// Start parameters of a [`Recorder`].
#[derive(Clone, Copy, Debug)]
pub struct RecorderStart {
    /// Now, in Unix seconds.
    pub now: u64,
    /// The first window's number, if there is no journal.
    pub window: u32,
    /// The most records to hold, for the open window and for each flow log.
    pub most: usize,
}

/// The configuration's settings for flow records.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// The flow logs.
    pub logs: Vec<FlowLog>,
    /// Traffic without records.
    pub unlogged: Unlogged,
    /// The idle time-outs in ticks, as the image has them.
    pub timeouts: [u32; TIMEOUTS],
}

/// The state frame of a journal. `enis` comes last: serialising the other fields assigns the ENI numbers.
#[derive(Debug, Serialize, Deserialize)]
struct State<C, O, E> {
    collector: C,
    outputs: O,
    enis: E,
}

type SavedState = State<CollectorState, OutputsState, SavedEnis>;

/// The outcome of closing a window.
#[derive(Debug)]
pub struct ClosedWindow {
    /// When it ended, in Unix seconds.
    pub end: u64,
    /// Flows that belong to no ENI.
    pub unattributed: Unattributed,
    /// Errors that did not keep the window from closing.
    pub errors: Vec<RecordError>,
}

/// Collects and writes flow records, and keeps their journal.
pub struct Recorder {
    collector: Collector,
    outputs: Outputs,
    journal: Journal,
    totals: RecordTotals,
}

impl Recorder {
    /// Continues from the journal of an instance, or begins anew if there is none: then the tables' current contents count as
    /// reported. Also returns non-fatal errors, such as a refused journal. `names` must have the rules of all existing entries.
    pub fn begin(
        tables: &mut dyn FlowTables,
        instance: &str,
        journal: Journal,
        start: RecorderStart,
        settings: RecordSettings,
        names: RecordNames,
    ) -> Result<(Self, Vec<RecordError>), RecordError> {
        Self::begin_with(tables, journal, start, (settings, names), Sinks::of(instance))
    }

    /// [`Recorder::begin`] with other sinks.
    pub(super) fn begin_with(
        tables: &mut dyn FlowTables,
        journal: Journal,
        start: RecorderStart,
        (settings, names): (RecordSettings, RecordNames),
        sinks: Sinks,
    ) -> Result<(Self, Vec<RecordError>), RecordError> {
        let mut errors = Vec::new();
        let saved = journal.read().unwrap_or_else(|error| {
            errors.push(RecordError::BeginAnew(error));
            None
        });
        let resumed = saved.is_some();
        let mut recorder = match saved {
            Some(saved) => Self::resume(tables, journal, saved, (&settings, names), start.most, sinks)?,
            None => Self::anew(tables, journal, start, (&settings, names), sinks)?,
        };
        if !resumed {
            let Unattributed { flows, packets } = recorder.collector.adopt(tables)?;
            errors.extend((flows != 0).then_some(RecordError::Unknown { flows, packets }));
        }
        errors.append(&mut recorder.decide(tables));
        if resumed {
            errors.append(&mut recorder.reconfigure(tables, start.now, settings));
        }
        Ok((recorder, errors))
    }

    fn anew(
        tables: &mut dyn FlowTables,
        journal: Journal,
        start: RecorderStart,
        (settings, names): (&RecordSettings, RecordNames),
        sinks: Sinks,
    ) -> Result<Self, RecordError> {
        let RecorderStart { now, window, most } = start;
        let RecordSettings {
            logs,
            unlogged,
            timeouts,
        } = settings;
        let mut collector = Collector::begin(tables, window, now, logs, unlogged.clone(), *timeouts)?;
        *collector.names() = names;
        collector.hold_at_most(most);
        let outputs = Outputs::open(logs, now, most, sinks, &journal)?;
        Ok(Self {
            collector,
            outputs,
            journal,
            totals: RecordTotals::default(),
        })
    }

    fn resume(
        tables: &mut dyn FlowTables,
        journal: Journal,
        saved: Read<SavedState, Note>,
        (settings, names): (&RecordSettings, RecordNames),
        most: usize,
        sinks: Sinks,
    ) -> Result<Self, RecordError> {
        let State {
            collector,
            outputs,
            enis,
        } = saved.state;
        let enis = NumberedEnis::new(enis, names.rules().clone());
        let unlogged = settings.unlogged.clone();
        let mut collector = Collector::resume(
            tables,
            collector,
            saved.changes,
            (&enis, names),
            outputs.logs(),
            unlogged,
            settings.timeouts,
        )?;
        collector.hold_at_most(most);
        let outputs = Outputs::resume(outputs, &saved.places, most, &enis, sinks, &journal)?;
        Ok(Self {
            collector,
            outputs,
            journal,
            totals: RecordTotals::default(),
        })
    }

    /// Takes over the record settings of a new configuration. If the flow logs change, the window is closed before its time:
    /// if that fails, its counts go into the first window of the new logs.
    pub fn reconfigure(&mut self, tables: &mut dyn FlowTables, now: u64, settings: RecordSettings) -> Vec<RecordError> {
        let RecordSettings {
            logs,
            unlogged,
            timeouts,
        } = settings;
        let mut errors = Vec::new();
        if *self.outputs.logs() == logs {
            self.collector.reconfigure(&logs, unlogged, timeouts);
            return errors;
        }
        let end = match self.close_final(tables, now) {
            Ok(mut closed) => {
                errors.append(&mut closed.errors);
                closed.end
            }
            Err(error) => {
                errors.push(error.into());
                now
            }
        };
        let replaced = self.outputs.replace(&logs, end, &self.journal);
        errors.extend(replaced.err().map(RecordError::Sink));
        self.collector.reconfigure(&logs, unlogged, timeouts);
        // New destinations need a place in the journal to confirm their lines in.
        errors.append(&mut self.decide(tables));
        errors
    }

    /// The rules, generation and peers that records name. Set rules and generation before [`Recorder::bind`], and peers after the flow
    /// logs of the same configuration.
    pub fn names(&mut self) -> &mut RecordNames {
        self.collector.names()
    }

    /// Assigns all slots to their ENIs, and retires slots that `enis` does not name. To be called after the slots of removed ENIs have
    /// stopped counting, and before the slots of new ENIs count anything.
    pub fn bind(&mut self, tables: &mut dyn FlowTables, enis: HashMap<u16, LoggedEni>) -> Vec<RecordError> {
        let mut errors = Vec::new();
        let named = |slot, id: &str| enis.get(&slot).is_some_and(|eni| eni.id() == id);
        let gone: Vec<u16> = self
            .collector
            .bound()
            .filter(|(slot, id)| !named(*slot, id))
            .map(|(slot, _)| slot)
            .collect();
        for slot in &gone {
            self.collector.retire(*slot);
        }
        if !gone.is_empty()
            && let Err(error) = self.collector.snapshot(tables)
        {
            errors.push(RecordError::Snapshot(error));
        }
        let names: HashSet<&str> = enis.values().map(|eni| eni.eni().display_name()).collect();
        self.totals.keep(|name| names.contains(name));
        for (slot, eni) in enis {
            self.collector.bind(slot, eni);
        }
        errors.append(&mut if gone.is_empty() {
            self.add(tables)
        } else {
            self.decide(tables)
        });
        errors
    }

    /// Closes the window in time: see [`Collector::close_window`].
    pub fn close_window(&mut self, tables: &mut dyn FlowTables, now: u64) -> Result<ClosedWindow, CollectError> {
        let window = self.collector.close_window(tables, now)?;
        Ok(self.write(tables, &window))
    }

    /// Closes the window before its time: taskgate ends, or the flow logs change.
    pub fn close_final(&mut self, tables: &mut dyn FlowTables, now: u64) -> Result<ClosedWindow, CollectError> {
        let window = self.collector.close_final(tables, now)?;
        Ok(self.write(tables, &window))
    }

    /// [`Recorder::close_window`], returning the window that it wrote.
    #[cfg(test)]
    pub(super) fn close_records(&mut self, tables: &mut dyn FlowTables, now: u64) -> Result<Window, CollectError> {
        let window = self.collector.close_window(tables, now)?;
        self.write(tables, &window);
        Ok(window)
    }

    fn write(&mut self, tables: &mut dyn FlowTables, window: &Window) -> ClosedWindow {
        point(Fault::Closed);
        self.totals.add(window);
        self.outputs.push(window);
        ClosedWindow {
            end: window.bounds.end,
            unattributed: window.unattributed,
            errors: self.decide(tables),
        }
    }

    /// Removes connections that are over, between two windows: see [`Collector::gc`].
    pub fn gc(&mut self, tables: &mut dyn FlowTables, unreported: bool) -> Vec<RecordError> {
        let done = self.collector.gc(tables, unreported);
        self.added(tables, done)
    }

    /// Makes room for denied flows: see [`Collector::free_denials`].
    pub fn free_denials(&mut self, tables: &mut dyn FlowTables) -> Vec<RecordError> {
        let done = self.collector.free_denials(tables);
        self.added(tables, done)
    }

    /// Makes room for fragments: see [`Collector::free_fragments`].
    pub fn free_fragments(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        self.collector.free_fragments(tables)
    }

    /// Reads connections with much traffic: see [`Collector::read_large`].
    pub fn read_large(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        self.collector.read_large(tables)
    }

    /// How long until the window is to be closed: see [`Collector::time_left`].
    pub fn time_left(&self, now: Duration) -> Duration {
        self.collector.time_left(now)
    }

    /// The ENI of a slot, by its id.
    pub fn eni_of(&self, slot: u16) -> Option<&str> {
        self.collector.eni_of(slot)
    }

    /// The packets of a slot's ENI whose records were given up: see [`Collector::given_up`].
    pub fn given_up(&self, slot: u16) -> (u64, u64) {
        self.collector.given_up(slot)
    }

    /// Waits until all lines are written, as long as their readers make progress.
    ///
    /// Returns an error for each destination that lost lines, still fails, or has taken no lines for `patience`.
    pub fn finish(&self, patience: Duration) -> Vec<SinkError> {
        self.outputs.finish(patience)
    }

    /// Reopens the files of flow logs by their names, as a log rotation tool asks for after moving them.
    pub fn reopen(&self) {
        self.outputs.reopen();
    }

    /// The sums of all records since the process began, as of the last window.
    pub fn totals(&self) -> &RecordTotals {
        &self.totals
    }

    /// The states of the destinations.
    pub fn destinations(&self) -> Vec<DestinationState> {
        self.outputs.destinations()
    }

    /// Errors of destinations since the last call. A lasting failure is returned once.
    pub fn troubles(&mut self) -> Vec<RecordError> {
        let told = |error: SinkError| {
            if error.passes() {
                RecordError::Waiting(error)
            } else {
                RecordError::Lost(error)
            }
        };
        self.outputs.troubles().into_iter().map(told).collect()
    }

    /// Writes the journal, then acts on it: sends lines and frees entries.
    fn decide(&mut self, tables: &mut dyn FlowTables) -> Vec<RecordError> {
        let mut errors = Vec::new();
        let enis = EniNumbers::default();
        let state = State {
            collector: self.collector.state(&enis),
            outputs: self.outputs.state(&enis),
            enis: &enis,
        };
        let written = self.journal.commit(&state, &self.outputs.keys());
        errors.extend(written.err().map(RecordError::Journal));
        // A failed journal does not stop the steps below: full tables would deny new connections.
        self.collector.saved();
        errors.extend(self.outputs.send().err().map(RecordError::Sink));
        errors.append(&mut self.troubles());
        point(Fault::Sent);
        errors.extend(self.collector.free(tables).err().map(RecordError::Collect));
        point(Fault::Freed);
        errors
    }

    /// Adds pending changes to the journal, then frees the frozen entries.
    fn add(&mut self, tables: &mut dyn FlowTables) -> Vec<RecordError> {
        if self.journal.added() > CHANGES {
            return self.decide(tables);
        }
        let mut errors = Vec::new();
        let notes = self.collector.notes();
        if !notes.is_empty() {
            errors.extend(self.journal.add(notes).err().map(RecordError::Journal));
        }
        self.collector.noted();
        errors.extend(self.collector.free(tables).err().map(RecordError::Collect));
        point(Fault::Freed);
        errors
    }

    fn added(&mut self, tables: &mut dyn FlowTables, done: Result<(), CollectError>) -> Vec<RecordError> {
        let mut errors = Vec::from_iter(done.err().map(RecordError::Collect));
        errors.append(&mut self.add(tables));
        errors
    }
}
