//! The kernel's tables over plain collections, with a callback between any two steps of user space.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    net::IpAddr,
};

use taskgate_ebpf::abi::{
    Direction, DropReason, LinkId,
    image::TIMEOUTS,
    tables::{Flags, KeyTag},
    window,
};
use taskgate_tables::{ConnState, DenialState, FlowCount, FlowId, FlowKey, FlowTables, TrackedConn, UsageState};

use crate::fault;

/// A Unix time at which a minute begins: tick 0.
pub(super) const BEGIN: u64 = 1_767_225_600;

/// Ticks in a second.
pub(super) const SECOND: u32 = 1000;

/// A flow seen from the task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) slot: u16,
    pub(super) local: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
    pub(super) protocol: u8,
}

impl Flow {
    pub(super) fn new(slot: u16, protocol: u8, local: (&str, u16), remote: (&str, u16)) -> Self {
        let end = |(address, port): (&str, u16)| (address.parse().expect("an address"), port);
        Self {
            slot,
            local: end(local),
            remote: end(remote),
            protocol,
        }
    }

    fn key(&self, tag: KeyTag) -> FlowKey {
        let ports = u32::from(self.local.1) << 16 | u32::from(self.remote.1);
        FlowKey::new(self.local.0, self.remote.0, ports, tag)
    }

    pub(super) fn conn(&self) -> FlowKey {
        self.key(KeyTag::of_conn(
            LinkId::device(100 + u32::from(self.slot)),
            self.protocol,
        ))
    }

    pub(super) fn denial(&self, direction: Direction, reason: DropReason) -> FlowKey {
        self.key(KeyTag::of_denial(self.slot, self.protocol, direction, reason as u8))
    }
}

/// A step of user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    SetWindow(u32),
    Now,
    Conn(FlowKey),
    Denial(FlowKey),
    MarkConns,
    MarkDenials,
    LookAtConn(FlowKey),
    FreezeConn(FlowKey),
    FreezeDenial(FlowKey),
    FreeConn(FlowId),
    FreeDenial(FlowId),
    FrozenConns,
    FrozenDenials,
    Usage(u16),
    ForgetFragments([u32; TIMEOUTS]),
}

/// The state of the kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) conns: BTreeMap<FlowKey, ConnState>,
    pub(super) denials: BTreeMap<FlowKey, DenialState>,
    /// The entries marked for removal; a packet removes the mark.
    pub(super) marked: BTreeSet<FlowKey>,
    /// The frozen entries, by number.
    pub(super) frozen_conns: BTreeMap<u64, (FlowKey, ConnState)>,
    pub(super) frozen_denials: BTreeMap<u64, (FlowKey, DenialState)>,
    pub(super) usage: BTreeMap<u16, UsageState>,
    /// The epochs of slots, if not the first one.
    pub(super) epochs: BTreeMap<u16, u32>,
    pub(super) window: u32,
    pub(super) clock: u32,
}

/// A window's word with one more packet.
fn with_flags(word: u32, number: u32, direction: Direction, tcp_flags: u8) -> u32 {
    (number & 0xff) << 8 | u32::from(window::of(word, number)) | window::seen(direction, tcp_flags)
}

impl State {
    /// A packet of a tracked connection, which it opens if necessary.
    pub(super) fn pass(&mut self, flow: &Flow, direction: Direction, bytes: u64, tcp_flags: u8) {
        let fresh = ConnState {
            slot: flow.slot,
            windows: Flags::new(0, self.window).windows(),
            ..ConnState::default()
        };
        self.marked.remove(&flow.conn());
        let conn = self.conns.entry(flow.conn()).or_insert_with(|| {
            self.usage.entry(flow.slot).or_default().conns.floor += 1;
            fresh
        });
        let totals = &mut conn.totals[direction.index()];
        totals.packets += 1;
        totals.bytes += bytes;
        conn.last = self.clock;
        let word = &mut conn.windows[(self.window & 1) as usize];
        *word = with_flags(*word, self.window, direction, tcp_flags);
    }

    /// A dropped packet.
    pub(super) fn deny(&mut self, flow: &Flow, direction: Direction, reason: DropReason, bytes: u64, tcp_flags: u8) {
        let fresh = DenialState {
            windows: Flags::new(0, self.window).windows(),
            ..DenialState::default()
        };
        self.marked.remove(&flow.denial(direction, reason));
        let denial = self.denials.entry(flow.denial(direction, reason)).or_insert_with(|| {
            self.usage.entry(flow.slot).or_default().denials.floor += 1;
            fresh
        });
        denial.totals.packets += 1;
        denial.totals.bytes += bytes;
        denial.last = self.clock;
        let word = &mut denial.windows[(self.window & 1) as usize];
        *word = with_flags(*word, self.window, direction, tcp_flags);
    }

    pub(super) fn conn(&mut self, flow: &Flow) -> &mut ConnState {
        self.conns.get_mut(&flow.conn()).expect("a tracked connection")
    }

    fn slot_of_denial(key: &FlowKey) -> u16 {
        key.denial_parts().0
    }
}

type Between = Box<dyn FnMut(&mut State, Step) -> io::Result<()>>;

/// The tables.
pub(super) struct Kernel {
    pub(super) state: State,
    /// Called just before each step, to play packets or to fail.
    pub(super) between: Between,
    /// The entries that the next reading of the tables misses.
    pub(super) missed: HashSet<FlowKey>,
    /// The entries that the next reading sees twice.
    pub(super) twice: HashSet<FlowKey>,
    /// Every step taken.
    pub(super) steps: Vec<Step>,
    /// The flow of each entry that ever existed, by number.
    entries: Vec<FlowKey>,
    /// The existing entries.
    ids: BTreeMap<FlowKey, FlowId>,
}

impl Kernel {
    pub(super) fn new() -> Self {
        Self {
            state: State::default(),
            between: Box::new(|_, _| Ok(())),
            missed: HashSet::new(),
            twice: HashSet::new(),
            steps: Vec::new(),
            entries: Vec::new(),
            ids: BTreeMap::new(),
        }
    }

    fn id(&mut self, key: FlowKey) -> FlowId {
        *self.ids.entry(key).or_insert_with(|| {
            self.entries.push(key);
            FlowId::numbered(self.entries.len() as u64 - 1)
        })
    }

    fn key(&self, id: FlowId) -> FlowKey {
        self.entries[id.number() as usize]
    }

    fn tracked(&self, id: FlowId, key: FlowKey, conn: ConnState) -> TrackedConn {
        let epoch = self.state.epochs.get(&conn.slot).copied().unwrap_or_default();
        TrackedConn::new(id, key, conn, epoch)
    }

    fn mark(&mut self, ids: &[FlowId]) {
        let there: Vec<_> = ids.iter().map(|id| self.key(*id)).collect();
        self.state.marked.extend(there);
    }

    /// Lists the keys first, and reads each value later: entries that are inserted meanwhile are missed.
    fn reading<'a>(&self, keys: impl Iterator<Item = &'a FlowKey>) -> Vec<FlowKey> {
        keys.filter(|key| !self.missed.contains(key))
            .flat_map(|key| std::iter::repeat_n(*key, 1 + usize::from(self.twice.contains(key))))
            .collect()
    }

    fn step(&mut self, step: Step) -> io::Result<()> {
        fault::step();
        self.steps.push(step);
        (self.between)(&mut self.state, step)
    }
}

impl FlowTables for Kernel {
    fn conns(&mut self, visit: &mut dyn FnMut(&TrackedConn)) -> io::Result<()> {
        let keys = self.reading(self.state.conns.keys());
        for key in keys {
            self.step(Step::Conn(key))?;
            if let Some(conn) = self.state.conns.get(&key).copied() {
                let id = self.id(key);
                visit(&self.tracked(id, key, conn));
            }
        }
        Ok(())
    }

    fn denials(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()> {
        let keys = self.reading(self.state.denials.keys());
        for key in keys {
            self.step(Step::Denial(key))?;
            if let Some(denial) = self.state.denials.get(&key).copied() {
                visit(self.id(key), key, denial);
            }
        }
        Ok(())
    }

    fn mark_conns(&mut self, ids: &[FlowId]) -> io::Result<()> {
        self.step(Step::MarkConns)?;
        self.mark(ids);
        Ok(())
    }

    fn mark_denials(&mut self, ids: &[FlowId]) -> io::Result<()> {
        self.step(Step::MarkDenials)?;
        self.mark(ids);
        Ok(())
    }

    fn marked_conn(&mut self, id: FlowId) -> Option<TrackedConn> {
        let key = self.key(id);
        self.step(Step::LookAtConn(key)).ok()?;
        let conn = self.state.conns.get(&key).copied()?;
        let tracked = self.tracked(id, key, conn);
        self.state.marked.contains(&key).then_some(tracked)
    }

    fn freeze_conn(&mut self, id: FlowId) -> io::Result<Option<(FlowKey, ConnState)>> {
        let key = self.key(id);
        self.step(Step::FreezeConn(key))?;
        if !self.state.marked.remove(&key) {
            return Ok(None);
        }
        self.ids.remove(&key);
        let conn = self.state.conns.remove(&key).expect("what is marked is there");
        self.state.frozen_conns.insert(id.number(), (key, conn));
        Ok(Some((key, conn)))
    }

    fn free_conn(&mut self, id: FlowId) -> io::Result<()> {
        self.step(Step::FreeConn(id))?;
        if let Some((_, conn)) = self.state.frozen_conns.remove(&id.number()) {
            self.state.usage.entry(conn.slot).or_default().conns.floor -= 1;
        }
        Ok(())
    }

    fn keep_conn(&mut self, id: FlowId) {
        let key = self.key(id);
        self.state.marked.remove(&key);
    }

    fn freeze_denial(&mut self, id: FlowId) -> io::Result<Option<(FlowKey, DenialState)>> {
        let key = self.key(id);
        self.step(Step::FreezeDenial(key))?;
        if !self.state.marked.remove(&key) {
            return Ok(None);
        }
        self.ids.remove(&key);
        let denial = self.state.denials.remove(&key).expect("what is marked is there");
        self.state.frozen_denials.insert(id.number(), (key, denial));
        Ok(Some((key, denial)))
    }

    fn free_denial(&mut self, id: FlowId) -> io::Result<()> {
        self.step(Step::FreeDenial(id))?;
        if let Some((key, _)) = self.state.frozen_denials.remove(&id.number()) {
            let usage = self.state.usage.entry(State::slot_of_denial(&key)).or_default();
            usage.denials.floor -= 1;
        }
        Ok(())
    }

    fn frozen_conns(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, ConnState)) -> io::Result<()> {
        self.step(Step::FrozenConns)?;
        for (number, (key, conn)) in &self.state.frozen_conns {
            visit(FlowId::numbered(*number), *key, *conn);
        }
        Ok(())
    }

    fn frozen_denials(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()> {
        self.step(Step::FrozenDenials)?;
        for (number, (key, denial)) in &self.state.frozen_denials {
            visit(FlowId::numbered(*number), *key, *denial);
        }
        Ok(())
    }

    fn forget_fragments(&mut self, timeouts: &[u32; TIMEOUTS]) -> io::Result<()> {
        self.step(Step::ForgetFragments(*timeouts))
    }

    fn usage(&mut self, slot: u16) -> io::Result<UsageState> {
        self.step(Step::Usage(slot))?;
        Ok(self.state.usage.get(&slot).copied().unwrap_or_default())
    }

    fn set_window(&mut self, window: u32) -> io::Result<()> {
        self.step(Step::SetWindow(window))?;
        self.state.window = window;
        Ok(())
    }

    fn now(&mut self) -> io::Result<u32> {
        self.step(Step::Now)?;
        Ok(self.state.clock)
    }

    fn unix_millis(&mut self) -> u64 {
        BEGIN * 1000 + u64::from(self.state.clock)
    }

    fn ticks_per_second(&self) -> u32 {
        SECOND
    }
}

/// A count.
pub(super) fn count(packets: u64, bytes: u64) -> FlowCount {
    FlowCount { packets, bytes }
}
