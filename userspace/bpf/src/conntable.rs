//! A connection table of the kernel, mapped into this process: reading and removing an entry takes no system call.
//! docs/connection-table.md describes the protocol.

use std::{
    fmt::{self, Debug},
    marker::PhantomData,
    mem::offset_of,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::SeqCst},
};

#[cfg(feature = "testing")]
use taskgate_ebpf::conntable::{InsertOutcome, Probe, Seed, find, insert};
use taskgate_ebpf::{
    abi::{Conn, Denial, FlowMaps, Key4, Key6},
    conntable::{AMPLE, ControlWord, State, TRIES, TableMemory, WAYS, gc, hash::Hashed},
};

use taskgate_tables::FlowId;

use crate::sys::MmapArray;

/// Words of an entry.
const ENTRY: usize = 8;
/// Words of the value, which precede those of the key.
const VALUE: usize = 6;
/// Words of a key outside of the entry.
const REST: usize = 4;

/// A key of a table by its words: those in the entry, and the rest.
pub trait TableKey: Hashed + Copy + PartialEq {
    /// Assembles it from its words.
    fn of(entry: [u64; 2], rest: [u64; REST]) -> Self;
    /// Splits it into its words.
    fn parts(&self) -> ([u64; 2], [u64; REST]);
}

impl TableKey for Key4 {
    fn of(entry: [u64; 2], _: [u64; REST]) -> Self {
        Self::from_words(entry)
    }

    fn parts(&self) -> ([u64; 2], [u64; REST]) {
        (self.to_words(), [0; REST])
    }
}

impl TableKey for Key6 {
    fn of(entry: [u64; 2], rest: [u64; REST]) -> Self {
        Self::from_entry(entry, rest)
    }

    fn parts(&self) -> ([u64; 2], [u64; REST]) {
        self.to_entry()
    }
}

/// A value of a table by its words.
pub trait TableValue {
    /// Assembles it from its words.
    fn of(words: [u64; VALUE]) -> Self;
    /// Splits it into its words.
    fn words(&self) -> [u64; VALUE];
}

impl TableValue for Conn {
    fn of(words: [u64; VALUE]) -> Self {
        Self::from_words(words)
    }

    fn words(&self) -> [u64; VALUE] {
        self.to_words()
    }
}

impl TableValue for Denial {
    fn of(words: [u64; VALUE]) -> Self {
        Self::from_words(words)
    }

    fn words(&self) -> [u64; VALUE] {
        self.to_words()
    }
}

/// A connection table. Only one process at a time may remove entries; any number may read.
pub struct MappedTable<K, V> {
    buckets: MmapArray<AtomicU64>,
    entries: MmapArray<AtomicU64>,
    rests: Option<MmapArray<AtomicU64>>,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K, V> Debug for MappedTable<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedTable")
            .field("ways", &self.buckets.len())
            .finish_non_exhaustive()
    }
}

impl<K: TableKey, V: TableValue> MappedTable<K, V> {
    /// Opens the table that consists of the maps with these names.
    pub fn open<E>(
        maps: FlowMaps,
        mut map: impl FnMut(&'static str) -> Result<MmapArray<AtomicU64>, E>,
    ) -> Result<Self, E> {
        Ok(Self {
            buckets: map(maps.buckets)?,
            entries: map(maps.entries)?,
            rests: maps.rests.map(map).transpose()?,
            types: PhantomData,
        })
    }

    /// The number of places for entries. Some inserts find no free place long before all are taken.
    pub fn ways(&self) -> u32 {
        self.buckets.len() as u32
    }

    /// The control word of a way.
    pub fn control(&self, way: u32) -> ControlWord {
        ControlWord(self.buckets[way as usize].load(SeqCst))
    }

    fn entry(&self, way: u32) -> &[AtomicU64] {
        &self.entries[way as usize * ENTRY..][..ENTRY]
    }

    /// The key and value of a way, in any state.
    pub fn entry_at(&self, way: u32) -> (K, V) {
        (self.key(way), self.value(way))
    }

    fn key(&self, way: u32) -> K {
        let entry = self.entry(way);
        let mut rest = [0; REST];
        if let Some(rests) = &self.rests {
            for (word, there) in rest.iter_mut().zip(&rests[way as usize * REST..]) {
                *word = there.load(SeqCst);
            }
        }
        K::of([entry[VALUE].load(SeqCst), entry[VALUE + 1].load(SeqCst)], rest)
    }

    /// The value of a way. Programs add a packet, then its bytes.
    fn value(&self, way: u32) -> V {
        let entry = self.entry(way);
        let mut words = [0; VALUE];
        for (word, there) in words.iter_mut().zip(entry) {
            *word = there.load(SeqCst);
        }
        V::of(words)
    }

    /// Visits every entry with its way and control word, in the order of ways. Entries that are inserted or removed meanwhile may be
    /// missed.
    pub fn visit(&self, visit: impl FnMut(u32, ControlWord, K, V)) {
        self.visit_some(0..self.ways(), visit);
    }

    /// [`Self::visit`] for a range of ways; ways beyond the table are skipped.
    pub(super) fn visit_some(&self, ways: Range<u32>, mut visit: impl FnMut(u32, ControlWord, K, V)) {
        for way in ways.start..ways.end.min(self.ways()) {
            let word = self.control(way);
            if !word.is(State::Live) && !word.is(State::Dying) {
                continue;
            }
            let (key, value) = self.entry_at(way);
            // Another process may have removed the entry, and a program reused its place.
            if self.control(way).with(State::Live) == word.with(State::Live) {
                visit(way, word, key, value);
            }
        }
    }

    /// Marks an entry for removal. Programs still find it, and a packet of its flow removes the mark.
    pub(super) fn mark(&self, id: FlowId) {
        let word = self.control(id.way());
        if word.version() == id.version() {
            gc::mark::<K, Self>(self, id.way(), word);
        }
    }

    /// The key and value of an entry, if it is still marked.
    pub(super) fn marked(&self, id: FlowId) -> Option<(K, V)> {
        self.dying(id)?;
        Some(self.entry_at(id.way()))
    }

    /// Removes the mark.
    pub(super) fn unmark(&self, id: FlowId) {
        if let Some(word) = self.dying(id) {
            gc::unmark::<K, Self>(self, id.way(), word);
        }
    }

    /// Freezes an entry that is still marked after a grace period: programs no longer find it. Its value is final, as a program removes
    /// the mark before it counts in the entry.
    pub(super) fn freeze(&self, id: FlowId) -> Option<(K, V)> {
        let word = self.dying(id)?;
        gc::freeze::<K, Self>(self, id.way(), word).then(|| self.entry_at(id.way()))
    }

    /// Frees a frozen entry's way, and returns its key and value.
    pub(super) fn free(&self, id: FlowId) -> Option<(K, V)> {
        let word = self.control(id.way());
        if word.version() != id.version() || !word.is(State::Frozen) {
            return None;
        }
        let held = self.entry_at(id.way());
        gc::free::<K, Self>(self, id.way(), word);
        Some(held)
    }

    /// Visits every frozen entry with its way and control word.
    pub(super) fn visit_frozen(&self, mut visit: impl FnMut(u32, ControlWord, K, V)) {
        for way in 0..self.ways() {
            let word = self.control(way);
            if word.is(State::Frozen) {
                let (key, value) = self.entry_at(way);
                visit(way, word, key, value);
            }
        }
    }

    fn dying(&self, id: FlowId) -> Option<ControlWord> {
        let word = self.control(id.way());
        (word.version() == id.version() && word.is(State::Dying)).then_some(word)
    }
}

impl<K> MappedTable<K, Conn> {
    /// Replaces a connection's admission word, unless a program has just changed it.
    pub(super) fn set_admitted(&self, id: FlowId, was: u64, is: u64) {
        const ADMITTED: usize = offset_of!(Conn, admitted) / size_of::<u64>();
        let word = &self.entries[id.way() as usize * ENTRY + ADMITTED];
        let _changed = word.compare_exchange(was, is, SeqCst, SeqCst);
    }
}

/// Writes entries directly, which otherwise only programs do.
#[cfg(feature = "testing")]
impl<K: TableKey, V: TableValue> MappedTable<K, V> {
    /// Replaces the value of a key, or inserts an entry; counts that programs add meanwhile may be lost. `None`: there is no
    /// room.
    pub fn put(&self, seed: &Seed, key: &K, value: &V) -> Option<u32> {
        match insert(self, self.probe(seed, key), key, |way| self.write(way, key, value)) {
            InsertOutcome::Created(way) => Some(way),
            InsertOutcome::Exists(way) => {
                self.write(way, key, value);
                Some(way)
            }
            InsertOutcome::Full | InsertOutcome::Busy => None,
        }
    }

    /// The value of a key.
    pub fn get(&self, seed: &Seed, key: &K) -> Option<V> {
        Some(self.value(find(self, self.probe(seed, key), key)?))
    }

    /// Changes every value; counts that programs add meanwhile may be lost.
    pub fn change_each(&self, mut change: impl FnMut(&V)) {
        self.visit(|way, _, key, value| {
            change(&value);
            self.write(way, &key, &value);
        });
    }

    /// Removes every entry, while no program runs. Returns how many there were.
    pub fn clear(&self) -> u64 {
        let mut entries = 0;
        self.visit(|way, word, _, _| {
            gc::free::<K, Self>(self, way, word);
            entries += 1;
        });
        entries
    }

    fn probe(&self, seed: &Seed, key: &K) -> Probe {
        let half = self.ways() / WAYS / 2;
        Probe::new(key.hash(|at| seed[at]), half)
    }

    fn write(&self, way: u32, key: &K, value: &V) {
        let (first, rest) = key.parts();
        let words = value.words().into_iter().chain(first);
        for (there, word) in self.entry(way).iter().zip(words) {
            there.store(word, SeqCst);
        }
        if let Some(rests) = &self.rests {
            for (there, word) in rests[way as usize * REST..].iter().zip(rest) {
                there.store(word, SeqCst);
            }
        }
    }
}

impl<K: TableKey, V: TableValue> TableMemory<K> for MappedTable<K, V> {
    type Bucket = u32;
    const WAYS: u32 = WAYS;
    const AMPLE: u32 = AMPLE;
    const TRIES: u32 = TRIES;

    fn bucket(&self, number: u32) -> Option<u32> {
        (number < self.ways() / WAYS).then_some(number)
    }

    fn load(&self, bucket: u32, way: u32) -> ControlWord {
        self.control(bucket * WAYS + way)
    }

    fn swap(&self, way: u32, was: ControlWord, is: ControlWord) -> ControlWord {
        let word = &self.buckets[way as usize];
        ControlWord(
            word.compare_exchange(was.0, is.0, SeqCst, SeqCst)
                .unwrap_or_else(|there| there),
        )
    }

    fn store(&self, way: u32, word: ControlWord) {
        self.buckets[way as usize].swap(word.0, SeqCst);
    }

    fn is_key(&self, way: u32, key: &K) -> bool {
        self.key(way) == *key
    }

    fn patience(&self) -> u32 {
        64
    }
}
