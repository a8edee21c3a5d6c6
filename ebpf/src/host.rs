//! The tables as plain collections: what tests, fuzzing, benchmarks and `explain` judge with.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::Hash,
    rc::Rc,
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed},
    },
};

use crate::{
    abi::{Conn, Denial, Direction, Event, Key4, Key6, LinkId, Outcome, Usage, image, outcome::OUTCOMES},
    packet::Frame,
    policy::{Bank, Image},
    tables::{Flows, Inserted, Tables},
};

/// A bank of an image in memory.
#[derive(Clone, Copy)]
pub struct HostBank<'a>(&'a [AtomicU64]);

impl Bank for HostBank<'_> {
    fn word(self, offset: u32) -> u64 {
        self.0[((offset & (image::BANK_BYTES - 8)) / 8) as usize].load(Acquire)
    }
}

/// Tables of one family, with room for so many entries.
#[derive(Default)]
struct Family<K> {
    conns: RefCell<HashMap<K, Rc<Conn>>>,
    denials: RefCell<HashMap<K, Rc<Denial>>>,
}

/// All tables.
pub struct HostTables<'a> {
    image: &'a [AtomicU64],
    v4: Family<Key4>,
    v6: Family<Key6>,
    usage: Vec<Usage>,
    counters: RefCell<HashMap<(u16, Direction, u8), u64>>,
    events: RefCell<Vec<Event>>,
    now: Cell<u32>,
    room: usize,
}

impl<'a> HostTables<'a> {
    /// Empty tables over an image (whole banks of words), with room for `room` entries in each table.
    pub fn new(image: &'a [AtomicU64], room: usize) -> Self {
        Self {
            image,
            v4: Family::default(),
            v6: Family::default(),
            usage: (0..image::SLOTS).map(|_| Usage::default()).collect(),
            counters: RefCell::default(),
            events: RefCell::default(),
            now: Cell::new(1 << 20),
            room,
        }
    }

    /// Lets time go by, in ticks.
    pub fn advance(&self, ticks: u32) {
        self.now.set(self.now.get().wrapping_add(ticks));
    }

    /// How many packets of a slot ended so.
    pub fn counter(&self, slot: u16, direction: Direction, outcome: Outcome) -> u64 {
        self.counters
            .borrow()
            .get(&(slot, direction, outcome.number()))
            .copied()
            .unwrap_or(0)
    }

    /// Every counter that is not zero: slot, direction, the outcome's number → packets.
    pub fn counters(&self) -> HashMap<(u16, Direction, u8), u64> {
        self.counters.borrow().clone()
    }

    /// The events since they were taken last.
    pub fn take_events(&self) -> Vec<Event> {
        self.events.take()
    }

    /// Every tracked connection of IPv4.
    pub fn conns_v4(&self) -> HashMap<Key4, Rc<Conn>> {
        self.v4.conns.borrow().clone()
    }

    /// Every tracked connection of IPv6.
    pub fn conns_v6(&self) -> HashMap<Key6, Rc<Conn>> {
        self.v6.conns.borrow().clone()
    }

    /// Every denied flow of IPv4.
    pub fn denials_v4(&self) -> HashMap<Key4, Rc<Denial>> {
        self.v4.denials.borrow().clone()
    }

    /// Every denied flow of IPv6.
    pub fn denials_v6(&self) -> HashMap<Key6, Rc<Denial>> {
        self.v6.denials.borrow().clone()
    }

    /// Forgets connections and denied flows.
    pub fn clear(&self) {
        self.v4.conns.borrow_mut().clear();
        self.v6.conns.borrow_mut().clear();
        self.v4.denials.borrow_mut().clear();
        self.v6.denials.borrow_mut().clear();
        self.counters.borrow_mut().clear();
        for usage in &self.usage {
            for count in [
                &usage.conns_inserted,
                &usage.denials_inserted,
                &usage.flows_lost,
                &usage.denials_lost,
            ] {
                count.store(0, Relaxed);
            }
        }
    }
}

fn insert<K: Hash + Eq + Copy, V>(table: &RefCell<HashMap<K, Rc<V>>>, key: &K, value: V, room: usize) -> Inserted {
    let mut table = table.borrow_mut();
    if table.contains_key(key) {
        return Inserted::Exists;
    }
    if table.len() >= room {
        return Inserted::Full;
    }
    table.insert(*key, Rc::new(value));
    Inserted::Done
}

fn copy_conn(conn: &Conn) -> Conn {
    let copy = Conn::default();
    for (to, from) in copy.totals.iter().zip(&conn.totals) {
        to.packets.store(from.packets.load(Relaxed), Relaxed);
        to.bytes.store(from.bytes.load(Relaxed), Relaxed);
    }
    copy.last.store(conn.last.load(Relaxed), Relaxed);
    copy.tail.store(conn.tail.load(Relaxed), Relaxed);
    copy.epoch.store(conn.epoch.load(Relaxed), Relaxed);
    copy.generation.store(conn.generation.load(Relaxed), Relaxed);
    copy.rule.store(conn.rule.load(Relaxed), Relaxed);
    copy.slot.store(conn.slot.load(Relaxed), Relaxed);
    copy.state.store(conn.state.load(Relaxed), Relaxed);
    for (to, from) in copy.windows.iter().zip(&conn.windows) {
        to.store(from.load(Relaxed), Relaxed);
    }
    copy
}

fn copy_denial(denial: &Denial) -> Denial {
    let copy = Denial::default();
    copy.totals.packets.store(denial.totals.packets.load(Relaxed), Relaxed);
    copy.totals.bytes.store(denial.totals.bytes.load(Relaxed), Relaxed);
    copy.last.store(denial.last.load(Relaxed), Relaxed);
    copy.tail.store(denial.tail.load(Relaxed), Relaxed);
    for (to, from) in copy.windows.iter().zip(&denial.windows) {
        to.store(from.load(Relaxed), Relaxed);
    }
    copy
}

macro_rules! flows {
    ($key:ty, $family:ident) => {
        impl Flows<$key> for HostTables<'_> {
            type Conn = Rc<Conn>;
            type Denial = Rc<Denial>;

            fn conn(&self, key: &$key) -> Option<Rc<Conn>> {
                self.$family.conns.borrow().get(key).cloned()
            }

            fn insert_conn(&self, key: &$key, value: &Conn) -> Inserted {
                insert(&self.$family.conns, key, copy_conn(value), self.room)
            }

            fn denial(&self, key: &$key) -> Option<Rc<Denial>> {
                self.$family.denials.borrow().get(key).cloned()
            }

            fn insert_denial(&self, key: &$key, value: &Denial) -> Inserted {
                insert(&self.$family.denials, key, copy_denial(value), self.room)
            }
        }
    };
}

flows!(Key4, v4);
flows!(Key6, v6);

impl<'a> Image for HostTables<'a> {
    type Bank = HostBank<'a>;

    fn bank(&self, index: u32) -> Option<HostBank<'a>> {
        const WORDS: usize = image::BANK_BYTES as usize / 8;
        self.image.chunks_exact(WORDS).nth(index as usize).map(HostBank)
    }
}

impl Tables for HostTables<'_> {
    fn now(&self) -> u32 {
        self.now.get()
    }

    fn usage(&self, slot: u16) -> Option<&Usage> {
        self.usage.get(slot as usize)
    }

    fn add(&self, count: &AtomicU64, more: u64) {
        count.fetch_add(more, Relaxed);
    }

    fn count(&self, slot: u16, direction: Direction, outcome: Outcome, packets: u64) {
        debug_assert!((outcome.number() as usize) < OUTCOMES);
        *self
            .counters
            .borrow_mut()
            .entry((slot, direction, outcome.number()))
            .or_default() += packets;
    }

    fn emit(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct HostFrame<'a> {
    /// Its bytes, all of them in reach.
    pub bytes: &'a [u8],
    /// What carries it.
    pub link: LinkId,
    /// Whether a VLAN tag lies beside it.
    pub tagged: bool,
    /// Segments and their size, see [`Frame::segments`].
    pub segments: (u32, u32),
}

impl<'a> HostFrame<'a> {
    /// An untagged frame that stands for itself.
    pub fn new(bytes: &'a [u8], link: LinkId) -> Self {
        Self {
            bytes,
            link,
            tagged: false,
            segments: (0, 0),
        }
    }
}

impl Frame for HostFrame<'_> {
    fn length(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        self.bytes.get(at as usize..)?.first_chunk::<N>().copied()
    }

    fn link(&self) -> LinkId {
        self.link
    }

    fn tagged(&self) -> bool {
        self.tagged
    }

    fn segments(&self) -> (u32, u32) {
        self.segments
    }
}

/// Judges one frame at a gate: what the kernel's entry points do, on the host.
pub fn decide(tables: &HostTables<'_>, frame: &HostFrame<'_>, direction: Direction) -> Outcome {
    let mut packet = crate::packet::Packet::default();
    let parsed = crate::packet::parse(frame, &mut packet);
    crate::verdict::decide(tables, &packet, parsed, direction)
}
