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

/// Reads the kernel's tables, window for window, and removes what is over.
///
/// It is the only one that removes entries. It keeps a baseline for each: 56 bytes, allocated for up to twice as many
/// entries as there are. An entry is removed in two steps: what it holds is reported and the kernel no longer finds it, then
/// [`Collector::free`] gives its place away. Between the two its last state can be written down.
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
    /// How many of them there may be.
    most: usize,
    /// What earlier windows lack of an ENI's records, passed and denied: by its id, what was given up alone.
    given_up: HashMap<String, (u64, u64)>,
    /// Those beyond that.
    overflow: Overflow,
    unattributed: Unattributed,
    /// Entries that were reported to the last packet and are not freed yet.
    frozen: Frozen,
    /// What the journal does not have of them, and new ENIs of slots.
    notes: Vec<Note>,
    /// By slot, the least that an ENI's records lack, passed and denied, because there was no journal.
    unknown: HashMap<u16, (u64, u64)>,
    /// Entries are known that may be gone: nothing was read since these were taken over.
    resumed: bool,
}

impl Collector {
    /// Begins to collect at `now` (Unix seconds) into capture window `number`, which it makes the kernel's.
    ///
    /// `timeouts` are the idle time-outs in ticks, those that the image holds.
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

    /// What records name.
    pub fn names(&mut self) -> &mut RecordNames {
        &mut self.names
    }

    /// Holds so many records of the window that runs, and no more: about 140 bytes each. Beyond that the ENIs with most
    /// records lose some.
    pub fn hold_at_most(&mut self, records: usize) {
        self.most = records;
    }

    /// Says whose a slot is. Before it is another ENI's it must have been retired and drained.
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

    /// The packets of a slot's ENI, passed and denied, whose records were given up, because there were more than are held.
    pub fn given_up(&self, slot: u16) -> (u64, u64) {
        let Some(id) = self.eni_of(slot) else { return (0, 0) };
        let (passed, denied) = self.given_up.get(id).copied().unwrap_or_default();
        let running = self.overflow.get(id).map_or((0, 0), |loss| (loss.passed, loss.denied));
        (passed + running.0, denied + running.1)
    }

    /// Says that the configuration no longer names a slot's ENI. The rest of its entries' counts is recorded, then they are
    /// removed, and a window names the slot among its [`Window::drained`].
    pub fn retire(&mut self, slot: u16) {
        self.registry.retire(slot);
    }

    /// Takes down what entries hold by now, for the window that runs, and removes none: that takes a while. To be called once retired slots count no more: an
    /// entry whose flow goes on is its next ENI's then, with all that was not taken down.
    pub fn snapshot(&mut self, tables: &mut dyn FlowTables) -> Result<(), CollectError> {
        self.read(tables, false).map(drop)
    }

    /// Takes over settings that were reloaded. If the intervals are others, close the window with
    /// [`Collector::close_final`] first.
    pub fn reconfigure(&mut self, logs: &[FlowLog], unlogged: Unlogged, timeouts: [u32; TIMEOUTS]) {
        self.schedule = Schedule::new(logs);
        self.unlogged = unlogged;
        self.timeouts = timeouts;
    }

    /// How long until the window is to be closed; `now` is the time since the Unix epoch. At most a minute, so that a
    /// clock that is set back does not stop the records. After a failure: until the next one would end.
    pub fn time_left(&self, now: Duration) -> Duration {
        self.schedule.left(self.start.max(self.failed), now)
    }

    /// How many connections and denied flows are known.
    pub fn known(&self) -> (usize, usize) {
        (self.conns.len(), self.denials.len())
    }

    /// Closes the window that has run since the last one was closed, and gives its records. To be followed by
    /// [`Collector::free`].
    ///
    /// Removes what is idle past its time-out, connections of an older epoch and
    /// entries of retired slots, each only if everything that it held was reported in an earlier window; denied flows after
    /// two windows without a packet.
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

    /// Takes down what connections hold that have carried so much since they were read that their packet counters may come
    /// round before the window ends. To be called every few seconds.
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

        // Nothing fails from here on, so what is taken out of `self` reaches the caller.
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

    /// Reads both tables into the open records, and gives the entries without anything new that are over.
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

    /// Records what an entry holds beyond its baseline, and says whether there was anything.
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
            // Half of it, so that it is not done again at once.
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

/// Adds what was given up to what found no room in the kernel's tables.
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
