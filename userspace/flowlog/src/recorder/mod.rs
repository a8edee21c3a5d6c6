//! The order of steps by which each packet is in one record, whenever the process is killed.
//!
//! What a process knows is in its journal as of the last window; the kernel's totals only grow. So whatever it does can be
//! done again by the next process from the journal and the totals, but for what cannot be undone: an entry that is removed,
//! lines that are written, a slot that is another ENI's. Each of these comes after the journal that makes it right.
//!
//! A window:
//!
//! | step | killed after it |
//! |---|---|
//! | the kernel gets the next window's number | the next process sets it back; flags count in either |
//! | entries are read; those that are over are marked, and after a grace period frozen | marked ones are live; frozen ones are reported by the next process, by their baselines |
//! | lines are made | they are made again, of at least the same packets |
//! | the journal is renamed into place: the window is decided | its lines are in it, and so are the baselines of the frozen entries |
//! | the lines are sent, piece by piece, and each piece is confirmed in the journal | at most the piece that was not confirmed comes twice on standard output; in a file it is recognised, and a folder's file takes its own place again |
//! | the frozen entries are freed | those that are still there hold nothing that their baselines lack, and are freed |
//!
//! Entries that are removed between two windows: frozen, then what they held is added to the journal, then freed. Killed before
//! it was added, they are frozen and what they hold was not reported; killed after, it is reported from the journal, and then
//! they hold nothing new. An entry whose baseline is in the journal and is all that it holds needs no addition. Nothing is
//! counted into a frozen entry, and the flow's next packet makes another one, with another version.
//!
//! Slots: what their entries hold is taken down, and the journal replaced, before they are another ENI's; that a slot is an
//! ENI's is added to the journal before a packet of that ENI can pass.

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

/// Bytes of changes beyond which a journal is replaced: somebody who scans makes some megabytes in a second, and what is held of
/// the records is bounded.
const CHANGES: u64 = if cfg!(test) { 1 << 10 } else { 16 << 20 };

/// Where to begin, what to hold.
#[derive(Clone, Copy, Debug)]
pub struct RecorderStart {
    /// Now, in Unix seconds.
    pub now: u64,
    /// The first window's number, if there is no journal.
    pub window: u32,
    /// Records that are held at most, for the window that runs and for each flow log.
    pub most: usize,
}

/// What a configuration says of records.
#[derive(Clone, Debug)]
pub struct RecordSettings {
    /// The flow logs.
    pub logs: Vec<FlowLog>,
    /// Traffic without records.
    pub unlogged: Unlogged,
    /// The idle time-outs in ticks, those that the image holds.
    pub timeouts: [u32; TIMEOUTS],
}

/// Everything of a journal. What is last has what the rest names by number.
#[derive(Debug, Serialize, Deserialize)]
struct State<C, O, E> {
    collector: C,
    outputs: O,
    enis: E,
}

type SavedState = State<CollectorState, OutputsState, SavedEnis>;

/// A window that was closed.
#[derive(Debug)]
pub struct ClosedWindow {
    /// When it ended, in Unix seconds.
    pub end: u64,
    /// Flows that belong to no ENI.
    pub unattributed: Unattributed,
    /// What went wrong beside.
    pub errors: Vec<RecordError>,
}

/// Collects and writes flow records, and keeps the journal of that.
pub struct Recorder {
    collector: Collector,
    outputs: Outputs,
    journal: Journal,
    totals: RecordTotals,
}

impl Recorder {
    /// Begins where the journal of an instance ends, or anew if there is none: then what the tables hold already counts as
    /// reported. Gives what went wrong beside, such as a journal that was refused. `names` has the rules of all entries that are there.
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

    /// The same with other sinks.
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

    /// Takes over what a new configuration says of records. If the flow logs are others, the window is closed before its time:
    /// where that fails, what it holds comes with the first one of the new logs.
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
        // What the lines of new destinations are confirmed in.
        errors.append(&mut self.decide(tables));
        errors
    }

    /// What records name. Rules and generation are to be set before [`Recorder::bind`], peers once the flow logs are those of the
    /// same configuration.
    pub fn names(&mut self) -> &mut RecordNames {
        self.collector.names()
    }

    /// Says whose the slots are, all of them. To be called once slots of ENIs that are no more count nothing, and before those
    /// of new ones count anything.
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

    /// [`Recorder::close_window`], with what it wrote.
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

    /// Removes what is over between two windows: see [`Collector::gc`].
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

    /// Reads connections that carry much: see [`Collector::read_large`].
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

    /// Waits until everything is written, as long as it is read.
    ///
    /// Gives what is not: lines could not be written, or nobody has taken any for `patience`.
    pub fn finish(&self, patience: Duration) -> Vec<SinkError> {
        self.outputs.finish(patience)
    }

    /// Has the files of flow logs opened anew, as whoever moves them away asks for.
    pub fn reopen(&self) {
        self.outputs.reopen();
    }

    /// What the records add up to since the process began, as of the last window.
    pub fn totals(&self) -> &RecordTotals {
        &self.totals
    }

    /// How the destinations fare.
    pub fn destinations(&self) -> Vec<DestinationState> {
        self.outputs.destinations()
    }

    /// What went wrong with destinations since this was called last: the same trouble once.
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

    /// Writes the journal, then does what it decides.
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
        // Without a journal it is done all the same: tables that are full deny new connections.
        self.collector.saved();
        errors.extend(self.outputs.send().err().map(RecordError::Sink));
        errors.append(&mut self.troubles());
        point(Fault::Sent);
        errors.extend(self.collector.free(tables).err().map(RecordError::Collect));
        point(Fault::Freed);
        errors
    }

    /// Adds what changed to the journal, then does what that allows.
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
