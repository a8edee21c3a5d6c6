//! The model: a scenario's threads, memory and reports, step by step, with all invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use taskgate_ebpf::conntable::{ControlWord, State as Occupancy, Version};

use crate::replay::{Access, Fault, Kept, Next, Place, Replay, daemon, packet, probe};

/// A scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// The packets of each program, by key.
    pub(crate) programs: Vec<Vec<u64>>,
    /// Keys that initially have an entry with one packet.
    pub(crate) there: Vec<u64>,
    /// Rounds of the daemon; 0: no daemon.
    pub(crate) rounds: usize,
    /// How often the daemon is killed, at any step, and restarted.
    pub(crate) kills: u8,
    /// Whether the daemon only removes entries that were completely reported.
    pub(crate) never_freezes: bool,
    /// Stores may stay in a store buffer for any time, as on x86.
    pub(crate) store_buffers: bool,
    /// Programs insert without a lookup before.
    pub(crate) blind: bool,
    pub(crate) fault: Fault,
}

/// One thread.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Thread {
    /// `None`: the daemon. Otherwise the remaining packets, the first of which is under way if there are results.
    packets: Option<Vec<u64>>,
    done: bool,
    results: Vec<u64>,
    next: Option<Access>,
    buffer: Vec<(Place, u64)>,
}

/// The reported total of each occupancy: its baseline.
type Baselines = BTreeMap<(usize, u64), u64>;

/// A state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    control: Vec<ControlWord>,
    keys: Vec<u64>,
    totals: Vec<u64>,
    threads: Vec<Thread>,
    /// The programs that the current grace period waits for, as bits.
    grace: Option<u8>,
    baselines: Baselines,
    reported: BTreeMap<u64, u64>,
    counted: BTreeMap<u64, u64>,
    kills: u8,
}

/// A violated invariant.
pub(crate) type Broken = String;

impl Scenario {
    /// The initial state.
    pub(crate) fn start<const WAYS: usize>(&self) -> State {
        let ways = 2 * WAYS;
        let thread = |packets: Option<Vec<u64>>| Thread {
            done: packets.as_ref().is_some_and(Vec::is_empty),
            packets,
            results: Vec::new(),
            next: None,
            buffer: Vec::new(),
        };
        let mut state = State {
            control: vec![ControlWord(0); ways],
            keys: vec![0; ways],
            totals: vec![0; ways],
            threads: self.programs.iter().cloned().map(Some).map(thread).collect(),
            grace: None,
            baselines: Baselines::new(),
            reported: BTreeMap::new(),
            counted: BTreeMap::new(),
            kills: self.kills,
        };
        if self.rounds > 0 {
            state.threads.push(thread(None));
        }
        for (way, key) in self.there.iter().enumerate() {
            state.control[way] = ControlWord(0).claimed(probe(*key).tag).with(Occupancy::Live);
            state.keys[way] = *key;
            state.totals[way] = 1;
            *state.counted.entry(*key).or_default() += 1;
        }
        for at in 0..state.threads.len() {
            self.advance::<WAYS>(&mut state, at);
        }
        state
    }

    /// Runs a thread to its next access, or to the end of its packet, which returns `Some`.
    fn advance<const WAYS: usize>(&self, state: &mut State, at: usize) -> Option<Kept> {
        let thread = &mut state.threads[at];
        thread.next = None;
        if thread.done {
            return None;
        }
        let replay = Replay::<WAYS>::new(&thread.results, self.fault);
        let ran = catch_unwind(AssertUnwindSafe(|| {
            if let Some(packets) = &thread.packets {
                return packet(&replay, packets[0], !self.blind);
            }
            daemon(&replay, self.fault, self.rounds, !self.never_freezes);
            Kept::Yes
        }));
        match ran {
            Ok(kept) => Some(kept),
            Err(stopped) => {
                thread.next = Some(stopped.downcast::<Next>().expect("the protocol does not panic").0);
                None
            }
        }
    }

    /// Passes the result of an access to its thread, and runs the thread on.
    fn answer<const WAYS: usize>(&self, state: &mut State, at: usize, result: u64) {
        state.threads[at].results.push(result);
        let Some(kept) = self.advance::<WAYS>(state, at) else {
            return;
        };
        let thread = &mut state.threads[at];
        thread.results.clear();
        let Some(packets) = &mut thread.packets else {
            thread.done = true;
            return;
        };
        let key = packets.remove(0);
        thread.done = packets.is_empty();
        if kept == Kept::Yes {
            *state.counted.entry(key).or_default() += 1;
        }
        if let Some(waits) = &mut state.grace {
            *waits &= !(1 << at);
        }
        self.advance::<WAYS>(state, at);
    }

    /// All possible next states.
    pub(crate) fn steps<const WAYS: usize>(
        &self,
        state: &State,
        mut found: impl FnMut(State, String),
    ) -> Result<(), Broken> {
        for (at, thread) in state.threads.iter().enumerate() {
            if !thread.buffer.is_empty() {
                let mut next = state.clone();
                let (place, value) = next.threads[at].buffer.remove(0);
                next.write(place, value);
                found(next, format!("{at}: a buffered store becomes visible"));
            }
            if thread.packets.is_none() && !thread.done && state.kills > 0 && !thread.results.is_empty() {
                let mut next = state.clone();
                next.kills -= 1;
                next.grace = None;
                next.threads[at].results.clear();
                self.advance::<WAYS>(&mut next, at);
                found(next, format!("{at}: killed and started anew"));
            }
            let Some(access) = thread.next else { continue };
            let locked = matches!(
                access,
                Access::CompareAndSwap(..) | Access::Exchange(..) | Access::Count(_)
            );
            if locked && !thread.buffer.is_empty() {
                continue;
            }
            let mut next = state.clone();
            let label = format!("{at}: {access:x?}");
            match self.carry_out(state, &mut next, at, access)? {
                Done::With(result) => self.answer::<WAYS>(&mut next, at, result),
                Done::Begun => {}
                Done::NotYet => continue,
            }
            found(next, label);
        }
        Ok(())
    }

    fn carry_out(&self, state: &State, next: &mut State, at: usize, access: Access) -> Result<Done, Broken> {
        let result = match access {
            Access::Load(place) => state.read(at, place),
            Access::CompareAndSwap(way, was, is) => {
                let there = state.control[way];
                if there == was {
                    if self.fault == Fault::ClaimIsNoBarrier && was.is(Occupancy::Empty) {
                        next.threads[at].buffer.push((Place::Control(way), is.0));
                    } else {
                        next.control[way] = is;
                    }
                }
                there.0
            }
            Access::Exchange(way, word) => {
                next.control[way] = word;
                state.control[way].0
            }
            Access::Count(way) => {
                state.check_count(at, way)?;
                next.totals[way] += 1;
                0
            }
            Access::Store(place, value) => {
                if self.store_buffers {
                    next.threads[at].buffer.push((place, value));
                } else {
                    next.write(place, value);
                }
                0
            }
            Access::Grace => match state.grace {
                None => {
                    next.grace = Some(state.running());
                    return Ok(Done::Begun);
                }
                Some(0) => {
                    next.grace = None;
                    0
                }
                Some(_) => return Ok(Done::NotYet),
            },
            Access::Baseline(way, version) => self.baseline(state, way, version, state.keys[way]),
            Access::Report {
                way,
                version,
                key,
                total,
            } => {
                let before = self.baseline(state, way, version, key);
                let reported = next.reported.entry(key).or_default();
                *reported = reported.wrapping_add(total.wrapping_sub(before));
                next.baselines.insert(self.baseline_id(way, version, key), total);
                0
            }
        };
        Ok(Done::With(result))
    }

    fn baseline_id(&self, way: usize, version: Version, key: u64) -> (usize, u64) {
        match self.fault {
            Fault::BaselineByKey => (usize::MAX, key),
            _ => (way, version.number()),
        }
    }

    fn baseline(&self, state: &State, way: usize, version: Version, key: u64) -> u64 {
        let id = self.baseline_id(way, version, key);
        state.baselines.get(&id).copied().unwrap_or_default()
    }

    /// Invariants after all threads have ended.
    pub(crate) fn check_end(&self, state: &State) -> Result<(), Broken> {
        let mut reported = state.reported.clone();
        for (way, word) in state.control.iter().enumerate() {
            match word.state() {
                Some(Occupancy::Empty) => {}
                Some(Occupancy::Live | Occupancy::Dying | Occupancy::Frozen) => {
                    let key = state.keys[way];
                    let before = self.baseline(state, way, word.version(), key);
                    let sum = reported.entry(key).or_default();
                    *sum = sum.wrapping_add(state.totals[way].wrapping_sub(before));
                }
                stuck => return Err(format!("way {way} is left in {stuck:?}")),
            }
        }
        reported.retain(|_, sum| *sum != 0);
        if reported != state.counted {
            return Err(format!("counted {:?}, reported {reported:?}", state.counted));
        }
        if self.rounds > 0 {
            return Ok(());
        }
        let inserted: BTreeSet<u64> = self.programs.iter().flatten().copied().collect();
        for key in inserted.iter().chain(&self.there) {
            let entries = state.live().filter(|way| state.keys[*way] == *key).count();
            // If others claim the same ways, each attempt of a key's only insert may meet one of them.
            let outrun = entries == 0 && !state.counted.contains_key(key) && inserted.len() > 1;
            if entries != 1 && !outrun {
                return Err(format!("{entries} entries of key {key}"));
            }
        }
        Ok(())
    }
}

/// The result of a step.
enum Done {
    /// The thread continues with this result.
    With(u64),
    /// The thread waits for the operation to complete.
    Begun,
    /// The step is not possible yet.
    NotYet,
}

impl State {
    /// Whether all threads have ended and all stores are visible.
    pub(crate) fn ended(&self) -> bool {
        self.threads
            .iter()
            .all(|thread| thread.done && thread.buffer.is_empty())
    }

    /// Invariants of every state.
    pub(crate) fn check(&self) -> Result<(), Broken> {
        let mut keys = BTreeSet::new();
        let found = (0..self.control.len())
            .filter(|way| matches!(self.control[*way].state(), Some(Occupancy::Live | Occupancy::Dying)))
            .map(|way| self.keys[way]);
        for key in found {
            if !keys.insert(key) {
                return Err(format!("two entries of key {key}"));
            }
        }
        Ok(())
    }

    fn live(&self) -> impl Iterator<Item = usize> {
        (0..self.control.len()).filter(|way| self.control[*way].is(Occupancy::Live))
    }

    /// The programs with a packet under way, as bits.
    fn running(&self) -> u8 {
        let is_running = |thread: &Thread| thread.packets.is_some() && !thread.results.is_empty();
        let running = self.threads.iter().enumerate().filter(|(_, thread)| is_running(thread));
        running.map(|(at, _)| 1 << at).sum()
    }

    /// A packet is only counted in an existing entry of its own key.
    fn check_count(&self, at: usize, way: usize) -> Result<(), Broken> {
        let word = self.control[way];
        let key = self.threads[at].packets.as_ref().map(|packets| packets[0]);
        if !matches!(word.state(), Some(Occupancy::Live | Occupancy::Dying)) {
            return Err(format!("a packet counts into way {way}, which is {:?}", word.state()));
        }
        if Some(self.keys[way]) != key {
            return Err(format!(
                "a packet of {key:?} counts into an entry of {}",
                self.keys[way]
            ));
        }
        Ok(())
    }

    /// A word as a thread sees it: its own latest store, if that is not yet visible to others.
    fn read(&self, at: usize, place: Place) -> u64 {
        let own = self.threads[at].buffer.iter().rev().find(|(to, _)| *to == place);
        own.map_or_else(
            || match place {
                Place::Control(way) => self.control[way].0,
                Place::Key(way) => self.keys[way],
                Place::Total(way) => self.totals[way],
            },
            |(_, value)| *value,
        )
    }

    fn write(&mut self, place: Place, value: u64) {
        match place {
            Place::Control(way) => self.control[way] = ControlWord(value),
            Place::Key(way) => self.keys[way] = value,
            Place::Total(way) => self.totals[way] = value,
        }
    }
}
