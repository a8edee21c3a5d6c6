//! From the kernel's tables to the records of one capture window.

mod clock;
mod entry;
mod error;
mod removal;
mod state;

use std::{collections::HashMap, time::Duration};

use taskgate_ebpf::abi::{Direction, DropReason, image::TIMEOUTS};
use taskgate_model::FlowLog;
use taskgate_tables::FlowTables;

pub use self::error::CollectError;
pub(crate) use self::state::{CollectorState, Note};
use self::{
    clock::TickClock,
    entry::{Entry, LastState},
    removal::{Frozen, Over},
};
use super::{
    attribution::Attribution,
    baseline::{Baselines, Delta},
    budget::{Overflow, cut, loss_of},
    eni::{LoggedEni, Registry},
    names::RecordNames,
    record::{FlowRecord, Reasons, coalesce},
    schedule::{Bounds, Schedule},
    unlogged::Unlogged,
    window::{Loss, Unattributed, Window},
};

const CONNS: &str = "tracked connections";
const DENIALS: &str = "denied flows";

/// Reads the kernel's tables once per window and removes entries that are over.
///
/// Only the collector removes entries. It keeps a baseline for each: 56 bytes, allocated for up to twice as many
/// entries as there are. An entry is removed in two steps: first its counts are reported and the kernel no longer finds it, then
/// [`Collector::free`] frees its place. Between the two steps its last state can be added to the journal.
#[derive(Debug)]
pub struct Collector {
    registry: Registry,
    names: RecordNames,
    clock: TickClock,
    unlogged: Unlogged,
    timeouts: [u32; TIMEOUTS],
    schedule: Schedule,
    conns: Baselines,
    denials: Baselines,
    /// By slot: passed and denied packets whose loss was reported.
    losses: HashMap<u16, (u64, u64)>,
    number: u32,
    start: u64,
    /// When closing the window failed last.
    failed: u64,
    /// Records of the window that is not closed yet.
    open: Vec<FlowRecord>,
    /// The limit of `open`.
    most: usize,
    /// By ENI id: passed and denied packets of earlier windows whose records were given up. Losses of the kernel's tables are not in it.
    given_up: HashMap<String, (u64, u64)>,
    /// Losses of the open window in user space: given-up records, possible counter wraps, and ENIs adopted without a journal.
    overflow: Overflow,
    unattributed: Unattributed,
    /// Entries that are fully reported and not freed yet.
    frozen: Frozen,
    /// Changes that the journal lacks: last states of frozen entries, and new ENIs of slots.
    notes: Vec<Note>,
    /// By slot, a lower bound of the passed and denied packets that an ENI's records lack, because there was no journal.
    unknown: HashMap<u16, (u64, u64)>,
    /// Set until the first window after a takeover closes: baselines from the journal may belong to entries that are gone.
    resumed: bool,
}

impl Collector {
    /// Begins to collect at `now` (Unix seconds) into capture window `number`, and sets this number in the kernel.
    ///
    /// `timeouts` are the idle time-outs in ticks, as the image has them.
    pub fn begin(
        tables: &mut dyn FlowTables,
        number: u32,
        now: u64,
        logs: &[FlowLog],
        unlogged: Unlogged,
        timeouts: [u32; TIMEOUTS],
    ) -> Result<Self, CollectError> {
        tables
            .set_window(number)
            .map_err(|source| CollectError::SetWindow { number, source })?;
        let schedule = Schedule::new(logs);
        Ok(Self {
            registry: Registry::default(),
            names: RecordNames::default(),
            clock: TickClock::default(),
            unlogged,
            timeouts,
            start: schedule.at_or_before(now),
            schedule,
            conns: Baselines::default(),
            denials: Baselines::default(),
            losses: HashMap::new(),
            number,
            failed: 0,
            open: Vec::new(),
            most: usize::MAX,
            given_up: HashMap::new(),
            overflow: Overflow::new(),
            unattributed: Unattributed::default(),
            frozen: Frozen::default(),
            notes: Vec::new(),
            unknown: HashMap::new(),
            resumed: false,
        })
    }

    /// The rules, generation and peers that records name.
    pub fn names(&mut self) -> &mut RecordNames {
        &mut self.names
    }

    /// Limits the records that are held for the open window, about 140 bytes each. Beyond the limit the ENIs with most
    /// records lose some.
    pub fn hold_at_most(&mut self, records: usize) {
        self.most = records;
    }

    /// Assigns a slot to an ENI. A slot must be retired and drained before it is assigned to another ENI.
    pub fn bind(&mut self, slot: u16, eni: LoggedEni) {
        if self.registry.eni(slot).is_none_or(|old| **old != eni) {
            self.notes.push(Note::Bound(slot, Box::new(eni.clone())));
        }
        self.registry.set(slot, eni);
        if let (Some((passed, denied)), Some(eni)) = (self.unknown.remove(&slot), self.registry.eni(slot)) {
            let loss = loss_of(&mut self.overflow, eni);
            loss.passed += passed;
            loss.denied += denied;
        }
    }

    /// The slots of ENIs that the configuration names, with the ENIs' ids.
    pub fn bound(&self) -> impl Iterator<Item = (u16, &str)> {
        self.registry.current()
    }

    /// The ENI of a slot, by its id.
    pub fn eni_of(&self, slot: u16) -> Option<&str> {
        self.registry.eni(slot).map(|eni| eni.id())
    }

    /// The passed and denied packets of a slot's ENI whose records were given up, because the limit of held records was exceeded.
    pub fn given_up(&self, slot: u16) -> (u64, u64) {
        let Some(id) = self.eni_of(slot) else { return (0, 0) };
        let (passed, denied) = self.given_up.get(id).copied().unwrap_or_default();
        let running = self.overflow.get(id).map_or((0, 0), |loss| (loss.passed, loss.denied));
        (passed + running.0, denied + running.1)
    }

    /// Marks a slot whose ENI the configuration no longer names. The remaining counts of its entries are recorded, then the entries are
    /// removed, and a window names the slot in [`Window::drained`].
    pub fn retire(&mut self, slot: u16) {
        self.registry.retire(slot);
    }

    /// Reads all entries into the open window and removes none, as removal waits for a grace period. To be called once retired slots
    /// no longer count packets: an entry whose flow goes on then belongs to the slot's next ENI, with all counts that were not read.
    pub fn snapshot(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        self.read(tables, false).map(drop)
    }

    /// Takes over reloaded settings. If the intervals change, close the window with [`Collector::close_final`] first.
    pub fn reconfigure(&mut self, logs: &[FlowLog], unlogged: Unlogged, timeouts: [u32; TIMEOUTS]) {
        self.schedule = Schedule::new(logs);
        self.unlogged = unlogged;
        self.timeouts = timeouts;
    }

    /// How long until the window is to be closed; `now` is the time since the Unix epoch. At most a minute, so that a
    /// clock that is set back does not stop the records. After a failure: until the next window would end.
    pub fn time_left(&self, now: Duration) -> Duration {
        self.schedule.left(self.start.max(self.failed), now)
    }

    /// How many connections and denied flows have a baseline.
    pub fn known(&self) -> (usize, usize) {
        (self.conns.len(), self.denials.len())
    }

    /// Closes the open window and returns its records. To be followed by [`Collector::free`].
    ///
    /// Removes connections that are idle past their time-out or of an older epoch, and entries of retired slots, each only if
    /// all of its counts were reported in an earlier window; denied flows after two windows without a packet.
    pub fn close_window(&mut self, tables: &mut dyn FlowTables, now: u64) -> Result<Window, CollectError> {
        let (end, next) = self.schedule.close(self.start, now);
        let closed = self.close(tables, Bounds { start: self.start, end }, next, false);
        self.failed = if closed.is_err() { now } else { 0 };
        closed
    }

    /// Closes the window before its time: taskgate ends, or the flow logs change. Its `end` is `now`.
    pub fn close_final(&mut self, tables: &mut dyn FlowTables, now: u64) -> Result<Window, CollectError> {
        let end = now.max(self.start);
        self.close(tables, Bounds { start: self.start, end }, end, true)
    }

    /// Reads connections that have carried so many bytes since they were last read that their packet counters may wrap
    /// before the window ends. To be called every few seconds.
    pub fn read_large(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        tables
            .conns(&mut |conn| {
                if self.conns.is_large(conn.id, &(&conn.state).into()) {
                    self.report(&Entry::conn(conn.id, conn.key, &conn.state, &self.unlogged), false);
                }
            })
            .map_err(|source| CollectError::Read { table: CONNS, source })
    }

    fn close(
        &mut self,
        tables: &mut dyn FlowTables,
        bounds: Bounds,
        next: u64,
        last: bool,
    ) -> Result<Window, CollectError> {
        let number = self.number.wrapping_add(1);
        tables
            .set_window(number)
            .map_err(|source| CollectError::SetWindow { number, source })?;
        let over = self.read(tables, last)?;
        self.freeze_conns(tables, &over.conns)?;
        self.freeze_denials(tables, &over.denials)?;
        let slots = self.registry.slots();
        let mut used = Vec::with_capacity(slots.len());
        for (slot, eni) in slots {
            let usage = tables
                .usage(slot)
                .map_err(|source| CollectError::Usage { slot, source })?;
            used.push((slot, eni, usage));
        }

        let frozen = self.frozen.by_slot();
        if std::mem::take(&mut self.resumed) {
            self.conns.forget_unread(self.number);
            self.denials.forget_unread(self.number);
        }

        // Nothing fails from here on, so everything taken out of `self` reaches the caller.
        for (id, loss) in &self.overflow {
            let given_up = self.given_up.entry(id.clone()).or_default();
            given_up.0 += loss.passed;
            given_up.1 += loss.denied;
        }
        let mut losses = Vec::new();
        let mut drained = Vec::new();
        for (slot, eni, usage) in used {
            let reported = self.losses.entry(slot).or_default();
            let passed = usage.flows_lost.saturating_sub(reported.0);
            let denied = usage.denials_lost.saturating_sub(reported.1);
            *reported = (usage.flows_lost, usage.denials_lost);
            let left = usage.conns.total() + usage.denials.total();
            if self.registry.is_retired(slot) && left <= frozen.get(&slot).copied().unwrap_or_default() {
                self.registry.remove(slot);
                self.given_up.remove(eni.id());
                drained.push(slot);
            }
            if passed != 0 || denied != 0 {
                losses.push(Loss { eni, passed, denied });
            }
        }
        let mut records = std::mem::take(&mut self.open);
        coalesce(&mut records);
        add_losses(&mut losses, std::mem::take(&mut self.overflow));
        let unattributed = std::mem::take(&mut self.unattributed);
        let window = Window {
            number: self.number,
            bounds,
            last,
            records,
            losses,
            active: self.registry.active(),
            drained,
            unattributed,
        };
        self.number = number;
        self.start = next;
        Ok(window)
    }

    /// Reads both tables into the open records, and returns the entries that are over and have nothing new to report.
    fn read(&mut self, tables: &mut dyn FlowTables, whole: bool) -> Result<Over, CollectError> {
        let now = self.clock.read(tables)?;
        let mut over = Over::default();
        tables
            .conns(&mut |conn| {
                let entry = Entry::conn(conn.id, conn.key, &conn.state, &self.unlogged);
                let grew = self.report(&entry, whole);
                if !grew && self.conn_is_over(conn, now) {
                    over.conns.push(conn.id);
                }
            })
            .map_err(|source| CollectError::Read { table: CONNS, source })?;
        tables
            .denials(&mut |id, key, state| {
                let entry = Entry::denial(id, key, &state);
                let grew = self.report(&entry, whole);
                let silent = self.denials.silent_for(id, self.number) >= 2;
                if !grew && (silent || self.registry.is_retired(entry.slot)) {
                    over.denials.push(id);
                }
            })
            .map_err(|source| CollectError::Read { table: DENIALS, source })?;
        Ok(over)
    }

    /// Records an entry's growth beyond its baseline, and returns whether there was any.
    fn report(&mut self, entry: &Entry, whole: bool) -> bool {
        let baselines = if entry.denied.is_none() {
            &mut self.conns
        } else {
            &mut self.denials
        };
        let deltas = baselines.deltas(entry.id, &entry.sample, self.number, whole);
        for (direction, delta) in [Direction::Egress, Direction::Ingress].into_iter().zip(deltas) {
            if let Some(delta) = delta {
                self.record(entry, direction, delta);
            }
        }
        deltas.iter().any(Option::is_some)
    }

    fn record(&mut self, entry: &Entry, direction: Direction, delta: Delta) {
        if entry.unlogged {
            return;
        }
        let Some(eni) = self.registry.touch(entry.slot) else {
            self.unattributed.flows += 1;
            self.unattributed.packets += delta.count.packets;
            return;
        };
        if delta.at_least {
            loss_of(&mut self.overflow, eni).passed += 1 << 32;
        }
        let denied = entry
            .denied
            .map(|number| DropReason::from_number(number).map_or(Reasons::NONE, Reasons::only));
        let mut record = FlowRecord::new(eni, &entry.key, entry.protocol, direction, denied, delta);
        record.attribution = attribution(&mut self.names, &self.clock, eni, entry);
        self.open.push(record);
        if self.open.len() > self.most {
            // Cut to half the limit, so that the next record does not cause another cut.
            cut(&mut self.open, self.most / 2, &mut self.overflow);
        }
    }
}

fn attribution(names: &mut RecordNames, clock: &TickClock, eni: &LoggedEni, entry: &Entry) -> Attribution {
    let admitted = entry.admitted;
    Attribution {
        rule: admitted.and_then(|(rule, _)| names.rules().get(rule)),
        generation: admitted.map_or(0, |(_, generation)| names.generation(generation)),
        peer: names.peer(entry.key.remote(), eni.eni().vpc.as_deref()),
        last: clock.millis(entry.last),
    }
}

/// Adds the losses from given-up records to those from full kernel tables.
fn add_losses(losses: &mut Vec<Loss>, overflow: Overflow) {
    for (id, more) in overflow {
        match losses.iter_mut().find(|loss| loss.eni.id() == id) {
            Some(loss) => {
                loss.passed += more.passed;
                loss.denied += more.denied;
            }
            None => losses.push(more),
        }
    }
}
