//! The connection tables as BPF arrays: the only code in the kernel that reads and writes them.
//!
//! Each read depends on the control word that named the way (see [`TableMemory::opaque`]), and each access is one
//! instruction.

use core::{
    arch::asm,
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xchg},
};

use taskgate_ebpf::{
    abi::{Conn, Denial, Key4, Key6, tables::Rest},
    conntable::{AMPLE, ControlWord, InsertOutcome, Probe, Seed, TRIES, TableMemory, WAYS, find, hash::Hashed, insert},
    tables::Inserted,
};

use super::maps::{
    Bucket, Buckets, CONN_BUCKETS_V4, CONN_BUCKETS_V6, CONN_ENTRIES_V4, CONN_ENTRIES_V6, CONN_RESTS_V6,
    DENY_BUCKETS_V4, DENY_BUCKETS_V6, DENY_ENTRIES_V4, DENY_ENTRIES_V6, DENY_RESTS_V6, Entries, Rests,
};

/// The hash seed; set by user space at load.
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
static SEED: Seed = [0; 10];

/// A word of the seed: constant for the verifier, but not for the compiler.
#[inline(always)]
fn seed(at: usize) -> u64 {
    // SAFETY: a word of the array, which is never written while the program is loaded. Volatile, so that the compiler does
    // not use the object's value in place of user space's.
    unsafe { (&raw const SEED).cast::<u64>().add(at % SEED.len()).read_volatile() }
}

/// The same number, unknown to compiler and verifier, and data-dependent on `on`.
#[inline(always)]
fn depending(mut number: u32, on: u64) -> u32 {
    let on = on as u32;
    // SAFETY: arithmetic on a register.
    unsafe {
        asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) number, in(reg) on, options(pure, nomem, nostack));
    }
    number
}

/// The same number, unknown to the compiler.
#[inline(always)]
fn same(mut number: u64) -> u64 {
    // SAFETY: an instruction that does nothing. With none at all, the kernel refuses the line info, which would have two
    // entries at one offset.
    unsafe { asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack)) };
    number
}

/// One connection table.
pub(super) struct FlowTable<V: 'static> {
    buckets: &'static Buckets,
    entries: &'static Entries<V>,
    /// IPv6: the array with the rest of each key.
    rests: Option<&'static Rests>,
    /// The constant with the number of buckets in each half; set by user space at load.
    half: *const u32,
}

/// Defines a table over its arrays, and the constant with the number of buckets in each half.
macro_rules! table {
    ($name:ident: $value:ty = $buckets:ident, $entries:ident, $rests:expr, $half:ident) => {
        // SAFETY: nothing else has this name.
        #[unsafe(no_mangle)]
        static $half: u32 = 0;

        pub(super) const $name: FlowTable<$value> = FlowTable {
            buckets: &$buckets,
            entries: &$entries,
            rests: $rests,
            half: &raw const $half,
        };
    };
}

table!(CONNS_V4: Conn = CONN_BUCKETS_V4, CONN_ENTRIES_V4, None, CONN_HALF_V4);
table!(CONNS_V6: Conn = CONN_BUCKETS_V6, CONN_ENTRIES_V6, Some(&CONN_RESTS_V6), CONN_HALF_V6);
table!(DENIALS_V4: Denial = DENY_BUCKETS_V4, DENY_ENTRIES_V4, None, DENY_HALF_V4);
table!(DENIALS_V6: Denial = DENY_BUCKETS_V6, DENY_ENTRIES_V6, Some(&DENY_RESTS_V6), DENY_HALF_V6);

/// The layout of a key in a table: its words in the entry, and for IPv6 the others in a [`Rest`].
pub(super) trait Kept: Hashed {
    fn is_at(&self, entry: *const u64, rest: Option<*const u64>) -> bool;
    fn write(&self, entry: *mut [u64; 2], rest: Option<*mut Rest>);
}

impl Kept for Key4 {
    #[inline(always)]
    fn is_at(&self, entry: *const u64, _: Option<*const u64>) -> bool {
        are(entry, self.to_words())
    }

    #[inline(always)]
    fn write(&self, entry: *mut [u64; 2], _: Option<*mut Rest>) {
        // SAFETY: the caller's pointer is to an entry that is this program's alone.
        unsafe { entry.write(self.to_words()) };
    }
}

impl Kept for Key6 {
    #[inline(always)]
    fn is_at(&self, entry: *const u64, rest: Option<*const u64>) -> bool {
        let (last, first) = self.to_entry();
        rest.is_some_and(|rest| are(entry, last) && are(rest, [first[0], first[1], first[2]]))
    }

    #[inline(always)]
    fn write(&self, entry: *mut [u64; 2], rest: Option<*mut Rest>) {
        let (last, first) = self.to_entry();
        if let Some(rest) = rest {
            // SAFETY: the caller's pointers are to an entry and a rest that are this program's alone.
            unsafe {
                entry.write(last);
                rest.write(first);
            }
        }
    }
}

/// Whether the words at `there` equal `words`.
#[inline(always)]
fn are<const N: usize>(there: *const u64, words: [u64; N]) -> bool {
    let mut differs = 0;
    for (at, word) in words.into_iter().enumerate() {
        // SAFETY: the callers' pointers are to `N` words of one element. Volatile: each is read once.
        differs |= unsafe { there.add(at).read_volatile() } ^ word;
    }
    differs == 0
}

impl<V> FlowTable<V> {
    #[inline(always)]
    fn probe<K: Hashed>(&self, key: &K) -> Probe {
        // SAFETY: a static, which is never written while the program is loaded. Volatile as in `seed`.
        let half = unsafe { self.half.read_volatile() };
        Probe::new(key.hash(seed), half)
    }

    /// The value of a way.
    #[inline(always)]
    fn value(&self, way: u32) -> Option<&'static V> {
        let entry = self.entries.get_ptr(way)?;
        // SAFETY: an element of an array, which is never unmapped while a program runs. Other CPUs write it, which is why
        // all mutable fields are cells; it belongs to its key until this program has ended.
        Some(unsafe { &(*entry).value })
    }

    /// The entry of a key.
    #[inline(always)]
    pub(super) fn get<K: Kept>(&self, key: &K) -> Option<&'static V> {
        self.value(find(self, self.probe(key), key)?)
    }

    /// Adds an entry unless the key has one.
    #[inline(always)]
    pub(super) fn add<K: Kept>(&self, key: &K, value: &V) -> Inserted<&'static V> {
        let fill = |way| {
            if let Some(entry) = self.entries.get_ptr_mut(way) {
                // SAFETY: the entry is this program's alone until it is published. Its value is plain data.
                unsafe {
                    (&raw mut (*entry).value).copy_from_nonoverlapping(value, 1);
                    key.write(&raw mut (*entry).key, self.rest(way));
                }
            }
        };
        match insert(self, self.probe(key), key, fill) {
            InsertOutcome::Created(_) => Inserted::Created,
            InsertOutcome::Exists(way) => match self.value(way) {
                Some(value) => Inserted::Exists(value),
                None => Inserted::Busy,
            },
            InsertOutcome::Full => Inserted::Full,
            InsertOutcome::Busy => Inserted::Busy,
        }
    }

    #[inline(always)]
    fn rest(&self, way: u32) -> Option<*mut Rest> {
        self.rests?.get_ptr_mut(way)
    }

    /// The control word of a way.
    #[inline(always)]
    fn control(&self, way: u32) -> Option<*mut u64> {
        let bucket = self.buckets.get_ptr_mut(way / WAYS)?;
        // SAFETY: a word of the bucket.
        Some(unsafe { bucket.cast::<u64>().add(way as usize % WAYS as usize) })
    }
}

impl<K: Kept, V> TableMemory<K> for FlowTable<V> {
    type Bucket = *const Bucket;
    const WAYS: u32 = WAYS;
    const AMPLE: u32 = AMPLE;
    const TRIES: u32 = TRIES;

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<*const Bucket> {
        self.buckets.get_ptr(number)
    }

    #[inline(always)]
    fn load(&self, bucket: *const Bucket, way: u32) -> ControlWord {
        // SAFETY: a word of the bucket. Other CPUs write it by single instructions, hence volatile.
        ControlWord(unsafe { bucket.cast::<u64>().add((way % WAYS) as usize).read_volatile() })
    }

    #[inline(always)]
    fn swap(&self, way: u32, was: ControlWord, is: ControlWord) -> ControlWord {
        let Some(word) = self.control(way) else {
            return ControlWord(!was.0);
        };
        // SAFETY: an aligned word of the map.
        ControlWord(unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(word, was.0, is.0).0
        })
    }

    #[inline(always)]
    fn store(&self, way: u32, word: ControlWord) {
        if let Some(place) = self.control(way) {
            // SAFETY: an aligned word of the map.
            unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(place, word.0) };
        }
    }

    #[inline(always)]
    fn is_key(&self, way: u32, key: &K) -> bool {
        let rest = self.rest(way).map(|rest| rest.cast_const().cast());
        self.entries
            .get_ptr(way)
            // SAFETY: a field of an element.
            .is_some_and(|entry| key.is_at(unsafe { &raw const (*entry).key }.cast(), rest))
    }

    #[inline(always)]
    fn opaque(&self, way: u32, word: ControlWord) -> u32 {
        depending(way, word.0)
    }

    #[inline(always)]
    fn ways(&self) -> u32 {
        same(WAYS.into()) as u32
    }

    #[inline(always)]
    fn patience(&self) -> u32 {
        same(32) as u32
    }

    #[inline(always)]
    fn hide(&self, number: u64) -> u64 {
        same(number)
    }
}
