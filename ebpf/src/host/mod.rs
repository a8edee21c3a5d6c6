//! The tables as plain collections, for tests, fuzzing, benchmarks and `explain`.

mod alone;
mod frame;
#[cfg(any(feature = "testing", test))]
mod testing;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::Hash,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering::Acquire},
};

use crate::{
    abi::{
        Conn, Denial, Direction, DropReason, EniUsage, Event, Fragment, Key4, Key6, LinkLocal, LinkLocalKey,
        NeighbourCache, Outcome, image, outcome::OUTCOMES, tables::Word,
    },
    conntable::{
        InsertOutcome, half_for,
        hash::Hashed,
        plain::{PlainTable, SEED},
    },
    policy::{Bank, Image},
    tables::{Flows, Inserted, Tables},
    verdict::{self, FromTask, Scratch, ToTask},
};

pub use alone::{AloneVerdict, decide_alone};
pub use frame::{HostFrame, Left};

/// A bank of an image in memory.
#[derive(Clone, Copy)]
pub struct HostBank<'a>(&'a [AtomicU64]);

impl Bank for HostBank<'_> {
    fn word(self, offset: u32) -> u64 {
        self.0[((offset & (image::BANK_BYTES - 8)) / 8) as usize].load(Acquire)
    }
}

/// A connection table, and its values by way.
struct FlowTable<V, const WORDS: usize> {
    ways: PlainTable<WORDS, 0>,
    values: RefCell<HashMap<u32, Rc<V>>>,
}

impl<V, const WORDS: usize> FlowTable<V, WORDS> {
    /// A table with room for at least `entries` entries.
    fn new(entries: u32) -> Self {
        Self {
            ways: PlainTable::new(half_for(entries)),
            values: RefCell::default(),
        }
    }

    fn value(&self, way: u32) -> Option<Rc<V>> {
        self.values.borrow().get(&way).cloned()
    }

    fn get<K: Kept<WORDS>>(&self, key: &K) -> Option<Rc<V>> {
        self.value(self.ways.find(key.hash(|at| SEED[at]), &key.words())?)
    }

    fn add<K: Kept<WORDS>>(&self, key: &K, value: V) -> Inserted<Rc<V>> {
        match self.ways.insert(key.hash(|at| SEED[at]), &key.words(), &[]) {
            InsertOutcome::Created(way) => {
                self.values.borrow_mut().insert(way, Rc::new(value));
                Inserted::Created
            }
            InsertOutcome::Exists(way) => self.value(way).map_or(Inserted::Busy, Inserted::Exists),
            InsertOutcome::Full => Inserted::Full,
            InsertOutcome::Busy => Inserted::Busy,
        }
    }

    fn all<K: Kept<WORDS> + Hash + Eq>(&self) -> HashMap<K, Rc<V>> {
        let entries = self.ways.entries();
        entries
            .filter_map(|(way, _)| Some((K::of(self.ways.key(way)), self.value(way)?)))
            .collect()
    }
}

/// A key as an array of words.
trait Kept<const WORDS: usize>: Hashed {
    fn words(&self) -> [u64; WORDS];
    fn of(words: [u64; WORDS]) -> Self;
}

impl Kept<2> for Key4 {
    fn words(&self) -> [u64; 2] {
        self.to_words()
    }

    fn of(words: [u64; 2]) -> Self {
        Self::from_words(words)
    }
}

impl Kept<5> for Key6 {
    fn words(&self) -> [u64; 5] {
        self.to_words()
    }

    fn of(words: [u64; 5]) -> Self {
        Self::from_words(words)
    }
}

/// The tables of one address family, with limited room.
struct Family<K, const WORDS: usize> {
    conns: FlowTable<Conn, WORDS>,
    denials: FlowTable<Denial, WORDS>,
    fragments: RefCell<HashMap<K, Rc<Fragment>>>,
}

impl<K, const WORDS: usize> Family<K, WORDS> {
    fn new(room: usize) -> Self {
        Self {
            conns: FlowTable::new(room as u32),
            denials: FlowTable::new(room as u32),
            fragments: RefCell::default(),
        }
    }
}

/// All tables.
pub struct HostTables<'a> {
    image: &'a [AtomicU64],
    v4: Family<Key4, 2>,
    v6: Family<Key6, 5>,
    usage: Vec<EniUsage>,
    neighbours: Vec<NeighbourCache>,
    link_locals: RefCell<HashMap<LinkLocalKey, Rc<LinkLocal>>>,
    counters: RefCell<HashMap<(u16, Direction, u8), u64>>,
    now: Cell<u32>,
    room: usize,
    busy: Cell<u32>,
}

impl<'a> HostTables<'a> {
    /// Empty tables over an image (whole banks of words), with room for `room` entries in each table.
    pub fn new(image: &'a [AtomicU64], room: usize) -> Self {
        Self {
            image,
            v4: Family::new(room),
            v6: Family::new(room),
            usage: (0..image::SLOTS).map(|_| EniUsage::default()).collect(),
            neighbours: vec![NeighbourCache::default(); image::SLOTS as usize],
            link_locals: RefCell::default(),
            counters: RefCell::default(),
            now: Cell::new(1 << 20),
            room,
            busy: Cell::new(0),
        }
    }

    fn add<K: Kept<WORDS>, V, const WORDS: usize>(
        &self,
        table: &FlowTable<V, WORDS>,
        key: &K,
        value: V,
    ) -> Inserted<Rc<V>> {
        if let Some(left) = self.busy.get().checked_sub(1) {
            self.busy.set(left);
            return Inserted::Busy;
        }
        table.add(key, value)
    }

    /// Every tracked connection of IPv4.
    pub fn conns_v4(&self) -> HashMap<Key4, Rc<Conn>> {
        self.v4.conns.all()
    }

    /// Every tracked connection of IPv6.
    pub fn conns_v6(&self) -> HashMap<Key6, Rc<Conn>> {
        self.v6.conns.all()
    }
}

fn insert<K: Hash + Eq + Copy, V>(table: &RefCell<HashMap<K, Rc<V>>>, key: &K, value: V, room: usize) -> Inserted<()> {
    let mut table = table.borrow_mut();
    if table.contains_key(key) {
        return Inserted::Exists(());
    }
    if table.len() >= room {
        return Inserted::Full;
    }
    table.insert(*key, Rc::new(value));
    Inserted::Created
}

macro_rules! flows {
    ($key:ty, $family:ident) => {
        impl Flows<$key> for HostTables<'_> {
            type Conn = Rc<Conn>;
            type Denial = Rc<Denial>;
            type Fragment = Rc<Fragment>;

            fn conn(&self, key: &$key) -> Option<Rc<Conn>> {
                self.$family.conns.get(key)
            }

            fn insert_conn(&self, key: &$key, value: &Conn) -> Inserted<Rc<Conn>> {
                self.add(&self.$family.conns, key, value.clone())
            }

            fn denial(&self, key: &$key) -> Option<Rc<Denial>> {
                self.$family.denials.get(key)
            }

            fn insert_denial(&self, key: &$key, value: &Denial) -> Inserted<Rc<Denial>> {
                self.add(&self.$family.denials, key, value.clone())
            }

            fn fragment(&self, key: &$key) -> Option<Rc<Fragment>> {
                self.$family.fragments.borrow().get(key).cloned()
            }

            fn insert_fragment(&self, key: &$key, value: &Fragment) -> Inserted<()> {
                insert(
                    &self.$family.fragments,
                    key,
                    value.clone(),
                    image::Shared::fragments(self.room as u32) as usize,
                )
            }

            fn remove_fragment(&self, key: &$key) -> bool {
                self.$family.fragments.borrow_mut().remove(key).is_some()
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

    fn usage(&self, slot: u16) -> Option<&EniUsage> {
        self.usage.get(slot as usize)
    }

    fn neighbours(&self, slot: u16) -> Option<&NeighbourCache> {
        self.neighbours.get(slot as usize)
    }

    type LinkLocal = Rc<LinkLocal>;

    fn link_local(&self, key: &LinkLocalKey) -> Option<Rc<LinkLocal>> {
        self.link_locals.borrow().get(key).cloned()
    }

    fn insert_link_local(&self, key: &LinkLocalKey, value: &LinkLocal) -> Inserted<()> {
        insert(&self.link_locals, key, value.clone(), usize::MAX)
    }

    fn add(&self, count: &Word, more: u64) {
        count.set(count.get().wrapping_add(more));
    }

    fn add_packets(&self, count: &Cell<u32>, more: u32) {
        count.set(count.get().wrapping_add(more));
    }

    fn count(&self, slot: u16, direction: Direction, outcome: u32, packets: u64) {
        debug_assert!((outcome as usize) < OUTCOMES);
        *self
            .counters
            .borrow_mut()
            .entry((slot, direction, outcome as u8))
            .or_default() += packets;
    }

    fn opaque(&self, value: u32) -> u32 {
        value
    }

    fn emit(&self, _: &Event) {}
}

/// Runs the prefilter on a frame from the uplink, with its VLAN tag: the reason to drop it, or `None` to pass it on.
pub fn prefilter(tables: &HostTables<'_>, frame: &HostFrame<'_>, tag: Option<u16>) -> Option<DropReason> {
    verdict::prefilter(tables, frame, *frame, tag, &mut Scratch::default())
}

/// Decides on a frame at a gate, as the kernel's entry points do.
pub fn decide(tables: &HostTables<'_>, frame: &HostFrame<'_>, direction: Direction) -> Outcome {
    let mut scratch = Scratch::default();
    let parsed = verdict::read(frame, &mut scratch);
    match direction {
        Direction::Egress => verdict::decide(tables, FromTask, &mut scratch, parsed),
        Direction::Ingress => verdict::decide(tables, ToTask(*frame), &mut scratch, parsed),
    }
}
