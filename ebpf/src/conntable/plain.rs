//! A connection table in plain memory, used by tests, fuzzing and `explain` in place of mapped BPF arrays.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{ControlWord, InsertOutcome, Probe, Seed, State, TableMemory, find, insert};

/// Ways of a bucket, as in the kernel's tables.
const WAYS: usize = super::WAYS as usize;

/// The hash seed for plain memory, which need not be secret.
pub(crate) const SEED: Seed = [
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

/// A table of keys of `K` words and values of `V` words. Threads may access it as programs and user space access the
/// kernel's.
#[derive(Debug)]
pub struct PlainTable<const K: usize, const V: usize> {
    half: u32,
    control: Vec<AtomicU64>,
    keys: Vec<[AtomicU64; K]>,
    values: Vec<[AtomicU64; V]>,
}

impl<const K: usize, const V: usize> PlainTable<K, V> {
    /// An empty table with `half` buckets in each half.
    pub fn new(half: u32) -> Self {
        let ways = 2 * half as usize * WAYS;
        Self {
            half,
            control: (0..ways).map(|_| AtomicU64::new(0)).collect(),
            keys: (0..ways).map(|_| [const { AtomicU64::new(0) }; K]).collect(),
            values: (0..ways).map(|_| [const { AtomicU64::new(0) }; V]).collect(),
        }
    }

    /// The number of ways, which is the most entries that fit.
    pub fn capacity(&self) -> u32 {
        self.control.len() as u32
    }

    /// The two buckets and the tag of a hash.
    pub fn probe(&self, hash: u64) -> Probe {
        Probe::new(hash, self.half)
    }

    /// The way of a key's entry.
    pub fn find(&self, hash: u64, key: &[u64; K]) -> Option<u32> {
        find(self, self.probe(hash), key)
    }

    /// Adds an entry unless the key has one.
    pub fn insert(&self, hash: u64, key: &[u64; K], value: &[u64; V]) -> InsertOutcome {
        insert(self, self.probe(hash), key, |way| {
            for (word, value) in self.keys[way as usize].iter().zip(key) {
                word.store(*value, SeqCst);
            }
            for (word, value) in self.values[way as usize].iter().zip(value) {
                word.store(*value, SeqCst);
            }
        })
    }

    /// The control word of a way.
    pub fn control(&self, way: u32) -> ControlWord {
        ControlWord(self.control[way as usize].load(SeqCst))
    }

    /// The key in a way, whatever its state.
    pub fn key(&self, way: u32) -> [u64; K] {
        self.keys[way as usize].each_ref().map(|word| word.load(SeqCst))
    }

    /// The words of the value in a way.
    pub fn value(&self, way: u32) -> &[AtomicU64; V] {
        &self.values[way as usize]
    }

    /// The ways with a live or dying entry, and their control words.
    pub fn entries(&self) -> impl Iterator<Item = (u32, ControlWord)> + '_ {
        (0..self.capacity())
            .map(|way| (way, self.control(way)))
            .filter(|(_, word)| matches!(word.state(), Some(State::Live | State::Dying)))
    }
}

impl<const K: usize, const V: usize> TableMemory<[u64; K]> for PlainTable<K, V> {
    type Bucket = u32;
    const WAYS: u32 = WAYS as u32;
    const AMPLE: u32 = super::AMPLE;
    const TRIES: u32 = super::TRIES;

    fn bucket(&self, number: u32) -> Option<u32> {
        (number < 2 * self.half).then_some(number)
    }

    fn load(&self, bucket: u32, way: u32) -> ControlWord {
        self.control(bucket * Self::WAYS + way)
    }

    fn swap(&self, way: u32, was: ControlWord, is: ControlWord) -> ControlWord {
        let word = &self.control[way as usize];
        ControlWord(
            word.compare_exchange(was.0, is.0, SeqCst, SeqCst)
                .unwrap_or_else(|there| there),
        )
    }

    fn store(&self, way: u32, word: ControlWord) {
        self.control[way as usize].swap(word.0, SeqCst);
    }

    fn is_key(&self, way: u32, key: &[u64; K]) -> bool {
        self.key(way) == *key
    }

    fn patience(&self) -> u32 {
        64
    }
}
