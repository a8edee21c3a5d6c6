//! A thread of the model: the table's own functions, replayed from the beginning with the results of their accesses so far.
//! The next access unwinds. So a thread's state is the list of those results, and the real code is checked, not a copy of
//! the protocol.

use std::{cell::Cell, panic::resume_unwind};

use taskgate_ebpf::conntable::{
    ControlWord, HashTag, InsertOutcome, Probe, State, TableMemory, Version, find, gc, insert,
};

/// One access to shared memory, or a call whose result depends on other threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Access {
    Load(Place),
    CompareAndSwap(usize, ControlWord, ControlWord),
    Exchange(usize, ControlWord),
    /// A locked add of one to the count of a way.
    Count(usize),
    /// A plain store.
    Store(Place, u64),
    /// A whole grace period.
    Grace,
    /// Reads the baseline of a way's occupancy.
    Baseline(usize, Version),
    /// Reports the total of the entry in a way, with this version and key, and makes it the baseline.
    Report {
        way: usize,
        version: Version,
        key: u64,
        total: u64,
    },
}

/// A word of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    Control(usize),
    Key(usize),
    Total(usize),
}

/// Deliberate faults, which the checker must detect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    #[default]
    None,
    /// The claim behind is not killed. This was the first design: "of two claims the one behind gives way".
    NoKill,
    /// Programs do not look for rivals after a claim.
    NoLookForRivals,
    /// A claim is published by a plain exchange.
    PlainPublish,
    /// Entries are removed without a grace period.
    NoGrace,
    /// A packet is counted in a dying entry without reviving it.
    NoRevive,
    /// A frozen entry's way is freed before its total is reported.
    FreeBeforeReport,
    /// A baseline is kept by key alone.
    BaselineByKey,
    /// The claim is not a barrier: it may stay in the store buffer while its program looks for rivals.
    ClaimIsNoBarrier,
    /// A program that sees another claim gives way, even if its own is in front.
    AllGiveWay,
}

/// Unwinds a run at its next access.
pub(crate) struct Next(pub(crate) Access);

/// The memory as seen by one run of a thread.
pub(crate) struct Replay<'a, const WAYS: usize> {
    results: &'a [u64],
    at: Cell<usize>,
    fault: Fault,
    /// Whether the thread is between a claim and its end, for [`Fault::NoLookForRivals`].
    claimed: Cell<bool>,
}

impl<'a, const WAYS: usize> Replay<'a, WAYS> {
    pub(crate) fn new(results: &'a [u64], fault: Fault) -> Self {
        Self {
            results,
            at: Cell::new(0),
            fault,
            claimed: Cell::new(false),
        }
    }

    fn access(&self, access: Access) -> u64 {
        match self.results.get(self.at.get()) {
            Some(result) => {
                self.at.set(self.at.get() + 1);
                *result
            }
            None => resume_unwind(Box::new(Next(access))),
        }
    }

    fn control(&self, way: usize) -> ControlWord {
        ControlWord(self.access(Access::Load(Place::Control(way))))
    }
}

impl<const WAYS: usize> TableMemory<u64> for Replay<'_, WAYS> {
    type Bucket = usize;
    const WAYS: u32 = WAYS as u32;
    const AMPLE: u32 = WAYS as u32;
    const TRIES: u32 = 2;

    fn bucket(&self, number: u32) -> Option<usize> {
        Some(number as usize)
    }

    fn load(&self, bucket: usize, way: u32) -> ControlWord {
        if self.fault == Fault::NoLookForRivals && self.claimed.get() {
            return ControlWord(0);
        }
        self.control(bucket * WAYS + way as usize)
    }

    fn swap(&self, way: u32, was: ControlWord, is: ControlWord) -> ControlWord {
        let way = way as usize;
        if was.is(State::Empty) {
            self.claimed.set(true);
        }
        let publishes = was.is(State::Pending) && is.is(State::Live);
        if publishes {
            self.claimed.set(false);
        }
        match self.fault {
            Fault::NoKill if is.is(State::Killed) => return was,
            // Behave as if the other claim had been published.
            Fault::AllGiveWay if is.is(State::Killed) => return was.with(State::Live),
            Fault::PlainPublish if publishes => {
                self.access(Access::Exchange(way, is));
                return was;
            }
            Fault::NoRevive if was.is(State::Dying) && is.is(State::Live) => return was,
            _ => {}
        }
        ControlWord(self.access(Access::CompareAndSwap(way, was, is)))
    }

    fn store(&self, way: u32, word: ControlWord) {
        self.access(Access::Exchange(way as usize, word));
    }

    fn is_key(&self, way: u32, key: &u64) -> bool {
        self.access(Access::Load(Place::Key(way as usize))) == *key
    }
}

/// The probe of a key in the model: all keys use both buckets, in either order. Keys from 5 on share a tag.
pub(crate) const fn probe(key: u64) -> Probe {
    let (first, second) = if key % 2 == 1 { (0, 1) } else { (1, 0) };
    let tag = if key >= 5 { 5 } else { key };
    Probe {
        first,
        second,
        tag: HashTag::of_hash(tag),
    }
}

/// Whether the table kept a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Yes,
    NoRoom,
}

/// Runs a program for a packet of `key`. `looks_first`: with a lookup first, as in the data path; without it, two inserts of
/// one key meet more often.
pub(crate) fn packet<const WAYS: usize>(memory: &Replay<'_, WAYS>, key: u64, looks_first: bool) -> Kept {
    let count = |way: u32| {
        memory.access(Access::Count(way as usize));
        Kept::Yes
    };
    if looks_first && let Some(way) = find(memory, probe(key), &key) {
        return count(way);
    }
    let fill = |way: u32| {
        memory.access(Access::Store(Place::Key(way as usize), key));
        memory.access(Access::Store(Place::Total(way as usize), 1));
    };
    match insert(memory, probe(key), &key, fill) {
        InsertOutcome::Created(_) => Kept::Yes,
        InsertOutcome::Exists(way) => count(way),
        InsertOutcome::Full | InsertOutcome::Busy => Kept::NoRoom,
    }
}

/// Runs the daemon's rounds: close a window, then remove expired entries, in the model all of them. `freezes`: also those
/// with unreported packets.
pub(crate) fn daemon<const WAYS: usize>(memory: &Replay<'_, WAYS>, fault: Fault, rounds: usize, freezes: bool) {
    for _ in 0..rounds {
        close_window(memory, fault);
        remove_all(memory, fault, freezes);
    }
}

fn close_window<const WAYS: usize>(memory: &Replay<'_, WAYS>, fault: Fault) {
    for way in 0..2 * WAYS {
        let word = memory.control(way);
        if !matches!(word.state(), Some(State::Live | State::Dying | State::Frozen)) {
            continue;
        }
        let is_frozen = word.is(State::Frozen);
        if is_frozen && fault == Fault::FreeBeforeReport {
            gc::free::<u64, _>(memory, way as u32, word);
        }
        let key = memory.access(Access::Load(Place::Key(way)));
        let total = memory.access(Access::Load(Place::Total(way)));
        memory.access(Access::Report {
            way,
            version: word.version(),
            key,
            total,
        });
        if is_frozen && fault != Fault::FreeBeforeReport {
            gc::free::<u64, _>(memory, way as u32, word);
        }
    }
}

fn remove_all<const WAYS: usize>(memory: &Replay<'_, WAYS>, fault: Fault, freezes: bool) {
    let mut marked = Vec::new();
    for way in 0..2 * WAYS {
        let word = memory.control(way);
        // Already dying: marked by a daemon that was killed.
        if word.is(State::Dying) || gc::mark::<u64, _>(memory, way as u32, word) {
            marked.push((way, word.with(State::Dying)));
        }
    }
    if marked.is_empty() {
        return;
    }
    if fault != Fault::NoGrace {
        memory.access(Access::Grace);
    }
    for (way, word) in marked {
        let total = memory.access(Access::Load(Place::Total(way)));
        let baseline = memory.access(Access::Baseline(way, word.version()));
        let way = way as u32;
        if total == baseline {
            gc::remove::<u64, _>(memory, way, word);
        } else if freezes {
            gc::freeze::<u64, _>(memory, way, word);
        } else {
            gc::unmark::<u64, _>(memory, way, word);
        }
    }
}
