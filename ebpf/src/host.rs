//! The tables as plain collections: what tests, fuzzing, benchmarks and `explain` judge with.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    hash::Hash,
    rc::Rc,
    sync::atomic::{AtomicU64, Ordering::Acquire},
};

use crate::{
    abi::{
        Conn, Denial, Direction, DropReason, EniUsage, Event, Fragment, Key4, Key6, LinkId, LinkLocal, LinkLocalKey,
        NeighbourCache, Outcome, image, outcome::OUTCOMES, tables::Word,
    },
    conntable::{InsertOutcome, Seed, half_for, hash::Hashed, plain::PlainTable, sweep},
    packet::{Checksum, Cut, Ethernet, Frame},
    policy::{Bank, Image},
    tables::{Flows, Inserted, Tables},
    verdict::{self, FromTask, Scratch, ToTask},
};

/// A bank of an image in memory.
#[derive(Clone, Copy)]
pub struct HostBank<'a>(&'a [AtomicU64]);

impl Bank for HostBank<'_> {
    fn word(self, offset: u32) -> u64 {
        self.0[((offset & (image::BANK_BYTES - 8)) / 8) as usize].load(Acquire)
    }
}

/// What the tables are hashed with: nobody has to be kept from guessing it.
const SEED: Seed = [
    0x9b05_688c_2b3e_6c1f,
    0x1f83_d9ab_fb41_bd6b,
    0x5be0_cd19_137e_2179,
    0x6a09_e667_f3bc_c908,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
    0xa54f_f53a_5f1d_36f1,
    0x510e_527f_ade6_82d1,
    0x428a_2f98_d728_ae22,
    0x7137_4491_23ef_65cd,
];

/// A connection table, its values beside it.
struct FlowTable<V, const WORDS: usize> {
    ways: PlainTable<WORDS, 0>,
    values: RefCell<HashMap<u32, Rc<V>>>,
}

impl<V, const WORDS: usize> FlowTable<V, WORDS> {
    /// With room for so many entries, and a little more.
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
                Inserted::Done
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

    fn clear(&mut self) {
        for (way, word) in self.ways.entries() {
            sweep::free(&self.ways, way, word);
        }
        self.values.borrow_mut().clear();
    }
}

/// A key by its words.
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

/// Tables of one family, with room for so many entries.
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

    fn clear(&mut self) {
        self.conns.clear();
        self.denials.clear();
        self.fragments.borrow_mut().clear();
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
    events: RefCell<Vec<Event>>,
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
            events: RefCell::default(),
            now: Cell::new(1 << 20),
            room,
            busy: Cell::new(0),
        }
    }

    /// Has room for the first fragments that belong to so many entries of the other tables, and for no more.
    pub fn room_for_fragments_of(&mut self, entries: usize) {
        self.room = entries;
    }

    /// Makes the next inserts of connections and denied flows find their table busy, so many of them.
    pub fn be_busy(&self, inserts: u32) {
        self.busy.set(inserts);
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
        self.v4.conns.all()
    }

    /// Every tracked connection of IPv6.
    pub fn conns_v6(&self) -> HashMap<Key6, Rc<Conn>> {
        self.v6.conns.all()
    }

    /// Every denied flow of IPv4.
    pub fn denials_v4(&self) -> HashMap<Key4, Rc<Denial>> {
        self.v4.denials.all()
    }

    /// Every denied flow of IPv6.
    pub fn denials_v6(&self) -> HashMap<Key6, Rc<Denial>> {
        self.v6.denials.all()
    }

    /// Every remembered first fragment, of both families.
    pub fn fragments(&self) -> Vec<Rc<Fragment>> {
        let (v4, v6) = (self.v4.fragments.borrow(), self.v6.fragments.borrow());
        v4.values().chain(v6.values()).cloned().collect()
    }

    /// Everybody that is known to have a link-local address.
    pub fn link_locals(&self) -> HashMap<LinkLocalKey, Rc<LinkLocal>> {
        self.link_locals.borrow().clone()
    }

    /// Forgets connections, denied flows, fragments, and what neighbours said.
    pub fn clear(&mut self) {
        self.v4.clear();
        self.v6.clear();
        self.counters.borrow_mut().clear();
        self.usage.fill(EniUsage::default());
        self.neighbours.fill(NeighbourCache::default());
        self.link_locals.borrow_mut().clear();
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
    Inserted::Done
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

    fn emit(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }
}

/// What is left to be done to a frame once it was judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// See [`Frame::checksum`].
    pub checksum: Option<Checksum>,
    /// See [`Frame::cut`].
    pub cut: Option<Cut>,
}

impl Left {
    /// Nothing.
    pub const NOTHING: Self = Self {
        checksum: None,
        cut: None,
    };
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct HostFrame<'a> {
    /// Its bytes, all of them in reach.
    pub bytes: &'a [u8],
    /// What carries it.
    pub link: LinkId,
    /// The first link of the host that received it, see [`Frame::came_by`].
    pub came_by: u32,
    /// Whether a VLAN tag lies beside it.
    pub tagged: bool,
    /// Segments and their size, see [`Frame::segments`].
    pub segments: (u32, u32),
    /// What is left to be done to it.
    pub left: Left,
}

impl<'a> HostFrame<'a> {
    /// An untagged frame that stands for itself.
    pub fn new(bytes: &'a [u8], link: LinkId) -> Self {
        Self {
            bytes,
            link,
            came_by: 0,
            tagged: false,
            segments: (0, 0),
            left: Left::NOTHING,
        }
    }
}

impl Ethernet for HostFrame<'_> {
    fn destination(&self) -> Option<[u8; 6]> {
        self.bytes.first_chunk().copied()
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

    fn came_by(&self) -> u32 {
        self.came_by
    }

    fn tagged(&self) -> bool {
        self.tagged
    }

    fn segments(&self) -> (u32, u32) {
        self.segments
    }

    fn checksum(&self) -> Option<Checksum> {
        self.left.checksum
    }

    fn cut(&self) -> Option<Cut> {
        self.left.cut
    }

    fn opaque(&self, value: u32) -> u32 {
        value
    }
}

/// Judges one frame as the uplink received it, its VLAN tag beside it: why it is dropped, or `None` where it goes on.
pub fn prefilter(tables: &HostTables<'_>, frame: &HostFrame<'_>, tag: Option<u16>) -> Option<DropReason> {
    verdict::prefilter(tables, frame, *frame, tag, &mut Scratch::default())
}

/// Judges one frame at a gate: what the kernel's entry points do, on the host.
pub fn decide(tables: &HostTables<'_>, frame: &HostFrame<'_>, direction: Direction) -> Outcome {
    let mut scratch = Scratch::default();
    let parsed = verdict::read(frame, &mut scratch);
    match direction {
        Direction::Egress => verdict::decide(tables, FromTask, &mut scratch, parsed),
        Direction::Ingress => verdict::decide(tables, ToTask(*frame), &mut scratch, parsed),
    }
}
