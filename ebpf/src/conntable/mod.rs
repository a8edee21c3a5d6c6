//! The connection table: a lock-free hash table of flows in memory shared by BPF programs on all CPUs and one user-space
//! process, and consistent if that process is killed at any step.
//!
//! Each key has two buckets, one in each half of the table ("d-left" hashing), with [`TableMemory::WAYS`] ways each. A way
//! is a [`ControlWord`] and an entry; the control word alone defines the entry's state. Programs [`find`], [`insert`] and
//! revive entries; user space removes them ([`gc`]). docs/connection-table.md describes the protocol, its correctness, and
//! the checks: a test runs this code through every interleaving of small scenarios.

mod control;
pub mod gc;
pub mod hash;
#[cfg(any(feature = "host", test))]
pub mod plain;

pub use control::{ControlWord, HashTag, State, Version};
pub use hash::{Probe, Seed};

/// Ways of a bucket in the kernel's tables: a cache line of control words.
pub const WAYS: u32 = 8;

/// [`TableMemory::AMPLE`] of the kernel's tables.
pub const AMPLE: u32 = 3;

/// [`TableMemory::TRIES`] of the kernel's tables.
pub const TRIES: u32 = 2;

/// Buckets in each half of a table for `entries` entries: these fill 55 % of the ways, where inserts almost never find both
/// buckets full (docs/connection-table.md).
pub const fn half_for(entries: u32) -> u32 {
    const FILL: u64 = 55;
    let half = (entries as u64 * 100).div_ceil(FILL * 2 * WAYS as u64);
    if half == 0 { 1 } else { half as u32 }
}

/// The memory of one table. A way's number is its bucket's number times [`TableMemory::WAYS`], plus its position there.
///
/// The methods that access no memory exist for compilers and the verifier, and do nothing elsewhere.
pub trait TableMemory<K> {
    /// A bucket's control words.
    type Bucket: Copy;
    /// Ways in a bucket.
    const WAYS: u32;
    /// An entry goes into the key's first bucket while that has at least this many free ways, so that most lookups end
    /// there.
    const AMPLE: u32;
    /// The number of attempts for an insert.
    const TRIES: u32;

    /// The bucket with this number, if there is one.
    fn bucket(&self, number: u32) -> Option<Self::Bucket>;
    /// The control word of a way of a bucket, by one load.
    fn load(&self, bucket: Self::Bucket, way: u32) -> ControlWord;
    /// Compares and swaps: a full barrier where it succeeds. Returns the word that was there.
    fn swap(&self, way: u32, was: ControlWord, is: ControlWord) -> ControlWord;
    /// Exchanges the control word, after everything that was stored before.
    fn store(&self, way: u32, word: ControlWord);
    /// Whether the entry of a way has this key.
    fn is_key(&self, way: u32, key: &K) -> bool;

    /// The same way, unknown to compiler and verifier, and data-dependent on the control word that named it: reads through
    /// the result happen after the read of that word. BPF programs have no other load ordering (load-acquire came with Linux
    /// 6.15).
    #[inline(always)]
    fn opaque(&self, way: u32, word: ControlWord) -> u32 {
        let _ = word;
        way
    }

    /// [`TableMemory::WAYS`], unknown to the compiler: a loop over it is not unrolled, which saves stack.
    #[inline(always)]
    fn ways(&self) -> u32 {
        Self::WAYS
    }

    /// How many times a winning claim is polled before the next attempt.
    #[inline(always)]
    fn patience(&self) -> u32 {
        0
    }

    /// The same number, unknown to the compiler, which would otherwise turn arithmetic on it into branches.
    #[inline(always)]
    fn hide(&self, number: u64) -> u64 {
        number
    }
}

/// The result of an insert. Entries at the returned ways may be counted into at once, in the same program run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The entry was inserted at this way.
    Created(u32),
    /// An entry with the same key already exists at this way.
    Exists(u32),
    /// Both buckets are full.
    Full,
    /// Every attempt met a competing claim.
    Busy,
}

/// Finds the entry of a key. A dying entry is revived.
#[inline(always)]
pub fn find<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K) -> Option<u32> {
    match find_alone(memory, probe, key) {
        Found::Entry(way) => Some(way),
        Found::Another(place) => find_behind(memory, probe, key, place),
        Found::Nothing => None,
    }
}

/// The first entry with a key's tag.
enum Found {
    /// The key's own entry.
    Entry(u32),
    /// Another key's entry, and its position among the ways of both buckets.
    Another(u32),
    /// No entry, or an entry that was removed meanwhile.
    Nothing,
}

/// [`find`], up to the first entry with the key's tag.
#[inline(always)]
fn find_alone<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K) -> Found {
    let mut found = first_match::<K, M>(memory, probe.first, probe.tag, 0);
    if found.is_none() {
        found = first_match::<K, M>(memory, probe.second, probe.tag, M::WAYS);
    }
    let Some((place, way, word)) = found else {
        return Found::Nothing;
    };
    if !memory.is_key(way, key) {
        Found::Another(place)
    } else if word.is(State::Dying) && !revive::<K, M>(memory, way, word) {
        Found::Nothing
    } else {
        Found::Entry(way)
    }
}

/// The first entry with the tag, the key's own except once in 2^40: its position, counted from `from`, its way and control
/// word.
#[inline(always)]
fn first_match<K, M: TableMemory<K>>(
    memory: &M,
    number: u32,
    tag: HashTag,
    from: u32,
) -> Option<(u32, u32, ControlWord)> {
    let bucket = memory.bucket(number)?;
    for way in 0..M::WAYS {
        let word = memory.load(bucket, way);
        if word.is_entry_of(tag) {
            return Some((
                memory.opaque(from + way, word),
                memory.opaque(number * M::WAYS + way, word),
                word,
            ));
        }
    }
    None
}

/// [`find`] after the entry of another key with the same tag at `place`: looks at the next entry with the tag, and no
/// further. A third one is only found by an insert.
#[inline(always)]
fn find_behind<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K, place: u32) -> Option<u32> {
    let mut left = !1 << (place % u64::BITS);
    let (way, word) = next_with_tag::<K, M>(memory, probe, &mut left)?;
    if !word.is_entry_of(probe.tag) || !memory.is_key(way, key) {
        return None;
    }
    let lives = word.is(State::Live) || revive::<K, M>(memory, way, word);
    if lives { Some(way) } else { None }
}

/// The most ways with one tag that an insert checks. A third rival takes three other CPUs in the same microsecond, or two
/// keys with the tag of a third (once in 2^80): then the insert tries again, and finally reports [`InsertOutcome::Busy`].
const ROUNDS: u64 = 3;

/// The first way of both buckets with the tag among the bits of `left`, and its current control word. Clears that bit and
/// the ones below.
#[inline(always)]
fn next_with_tag<K, M: TableMemory<K>>(memory: &M, probe: Probe, left: &mut u64) -> Option<(u32, ControlWord)> {
    let differs = |word: ControlWord| word.tag().difference(probe.tag);
    let first = where_zero::<K, M>(memory, probe.first, differs)?;
    let second = where_zero::<K, M>(memory, probe.second, differs)?;
    let found = (first | second << M::WAYS) & *left;
    if found == 0 {
        return None;
    }
    let place = found.trailing_zeros();
    *left &= !1 << place;
    let (number, way) = (probe.bucket(place / M::WAYS), place % M::WAYS);
    let word = memory.load(memory.bucket(number)?, way);
    Some((memory.opaque(number * M::WAYS + way, word), word))
}

/// The ways of a bucket for whose control word `of` returns 0, as bits; `of` returns less than 2^63.
///
/// All ways are read without a branch, the cheapest form for the verifier. The caller reads the word of a chosen way again.
#[inline(always)]
fn where_zero<K, M: TableMemory<K>>(memory: &M, number: u32, of: impl Fn(ControlWord) -> u64) -> Option<u64> {
    let bucket = memory.bucket(number)?;
    let mut found = 0;
    for way in 0..M::WAYS {
        // `number - 1` has its top bit set for 0 alone. Hidden, because compilers would turn this into a comparison and a
        // branch.
        let number = memory.hide(of(memory.load(bucket, way)));
        found |= number.wrapping_sub(1) >> 63 << way;
    }
    Some(found)
}

/// Revives an entry that user space has marked; `false` if the entry was removed first. The version in the word protects a
/// later entry of the same way.
#[inline(always)]
fn revive<K, M: TableMemory<K>>(memory: &M, way: u32, dying: ControlWord) -> bool {
    let live = dying.with(State::Live);
    let was = memory.swap(way, dying, live);
    was == dying || was == live
}

/// Adds an entry unless the key has one. `fill` writes key and value of a way with plain stores.
///
/// Every program claims a way before it looks for rivals: of two inserts of one key, at least one sees the other. The claim
/// further in front kills the one behind, a killed claim cannot be published, and the one behind gives way, so one entry
/// remains.
#[inline(always)]
pub fn insert<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K, fill: impl Fn(u32)) -> InsertOutcome {
    let mut outcome = InsertOutcome::Busy;
    for _ in 0..memory.hide(M::TRIES as u64) {
        let Some(free) = choose_way::<K, M>(memory, probe) else {
            outcome = InsertOutcome::Full;
            break;
        };
        if !free.word.is(State::Empty) {
            continue;
        }
        let mine = memory.opaque(free.way, free.word);
        let claim = free.word.claimed(probe.tag);
        if memory.swap(mine, free.word, claim) != free.word {
            continue;
        }
        let rival = rival(memory, probe, key, mine, free.place);
        if matches!(rival, Rival::None) {
            fill(mine);
            if memory.swap(mine, claim, claim.with(State::Live)) == claim {
                return InsertOutcome::Created(mine);
            }
        }
        memory.store(mine, claim.emptied());
        match rival {
            Rival::None | Rival::Many => {}
            // The rival claim is published or given up sooner than another attempt would take.
            Rival::Claim(way, word) => {
                if let Some(bucket) = memory.bucket(way / M::WAYS) {
                    for _ in 0..memory.patience() {
                        if memory.load(bucket, way % M::WAYS) != word {
                            break;
                        }
                    }
                }
            }
            Rival::Entry(way, word) => {
                if word.is(State::Live) || revive::<K, M>(memory, way, word) {
                    return InsertOutcome::Exists(way);
                }
            }
        }
    }
    // A competing insert may be published by now.
    match find_alone(memory, probe, key) {
        Found::Entry(way) => InsertOutcome::Exists(way),
        Found::Another(_) | Found::Nothing => outcome,
    }
}

/// A free way for a new entry.
struct Free {
    /// Its position among the ways of both buckets.
    place: u32,
    way: u32,
    word: ControlWord,
}

/// Chooses the free way for an entry; `None` if both buckets are full or do not exist.
#[inline(always)]
fn choose_way<K, M: TableMemory<K>>(memory: &M, probe: Probe) -> Option<Free> {
    let first = where_zero::<K, M>(memory, probe.first, ControlWord::state_bits)?;
    let second = where_zero::<K, M>(memory, probe.second, ControlWord::state_bits)?;
    if first | second == 0 {
        return None;
    }
    // As 0 or 1: a comparison would become two paths for compiler and verifier.
    let (free, free_second) = (first.count_ones() as u64, second.count_ones() as u64);
    let scarce = free.wrapping_sub(M::AMPLE as u64) >> 63;
    let emptier = memory.hide(free.wrapping_sub(free_second) >> 63 & scarce);
    let bits = first.wrapping_add(second.wrapping_sub(first).wrapping_mul(emptier));
    let (number, way) = (probe.bucket(emptier as u32), bits.trailing_zeros() % M::WAYS);
    Some(Free {
        place: emptier as u32 * M::WAYS + way,
        way: number * M::WAYS + way,
        word: memory.load(memory.bucket(number)?, way),
    })
}

/// A competing entry or claim of the same key.
#[derive(Clone, Copy)]
enum Rival {
    None,
    /// A claim further in front, which wins: its way and control word.
    Claim(u32, ControlWord),
    /// A published entry: its way and control word.
    Entry(u32, ControlWord),
    /// More than [`ROUNDS`] ways with the tag.
    Many,
}

/// Looks for rivals of the claim on way `mine`, at position `place` among the ways of both buckets, and kills the claims
/// behind it.
#[inline(always)]
fn rival<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K, mine: u32, place: u32) -> Rival {
    let mut left = !(1 << place);
    for _ in 0..memory.hide(ROUNDS) {
        let Some((way, mut word)) = next_with_tag::<K, M>(memory, probe, &mut left) else {
            return Rival::None;
        };
        // A claim's key cannot be read yet: equal tags count as equal keys. That is wrong once in 2^40; then one of the two
        // tries again.
        if word.tag() == probe.tag && word.is(State::Pending) {
            if way < mine {
                return Rival::Claim(way, word);
            }
            let now = memory.swap(way, word, word.with(State::Killed));
            if now == word {
                continue;
            }
            // The rival was published or given up meanwhile. A newer claim on that way has yet to look for rivals, and will
            // see this one.
            word = now;
        }
        if word.is_entry_of(probe.tag) && memory.is_key(way, key) {
            return Rival::Entry(way, word);
        }
    }
    Rival::Many
}

#[cfg(test)]
mod tests;
