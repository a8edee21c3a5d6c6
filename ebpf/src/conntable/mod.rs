//! The connection table: a lock-free hash table of flows in memory that BPF programs on all CPUs and one user-space process
//! share, safe against a SIGKILL of that process at any step.
//!
//! Each key has two buckets, one in each half of the table ("d-left" hashing), with [`TableMemory::WAYS`] ways each. A way
//! is a [`ControlWord`] and an entry; the control word alone says what the entry is. Programs [`find`], [`insert`] and
//! revive; user space removes by [`gc`]. docs/connection-table.md has the protocol, why it is right, and how that is
//! checked: every interleaving of small scenarios is walked by a test that runs this very code.

mod control;
pub mod gc;
pub mod hash;
#[cfg(any(feature = "host", test))]
pub mod plain;

pub use control::{ControlWord, HashTag, State, Version};
pub use hash::{Probe, Seed};

/// Ways of a bucket in the kernel's tables: a cache line of control words.
pub const WAYS: u32 = 8;

/// [`TableMemory::AMPLE`] of those.
pub const AMPLE: u32 = 3;

/// [`TableMemory::TRIES`] of those.
pub const TRIES: u32 = 2;

/// Buckets in each half of a table for so many entries: enough that these are 55 % of the ways, where next to no insert finds
/// both buckets full (docs/connection-table.md).
pub const fn half_for(entries: u32) -> u32 {
    const FILL: u64 = 55;
    let half = (entries as u64 * 100).div_ceil(FILL * 2 * WAYS as u64);
    if half == 0 { 1 } else { half as u32 }
}

/// The memory of one table. The number of a way is that of its bucket times [`TableMemory::WAYS`], plus its place there.
///
/// The methods that access no memory exist for compilers and the verifier, and do nothing elsewhere.
pub trait TableMemory<K> {
    /// A bucket's control words.
    type Bucket: Copy;
    /// Ways in a bucket.
    const WAYS: u32;
    /// An entry goes into the key's first bucket while that has at least so many free ways, so that most lookups end
    /// there.
    const AMPLE: u32;
    /// How often an insert is tried.
    const TRIES: u32;

    /// A bucket; `None` if there is none of that number.
    fn bucket(&self, number: u32) -> Option<Self::Bucket>;
    /// The control word of a way of a bucket, by one load.
    fn load(&self, bucket: Self::Bucket, way: u32) -> ControlWord;
    /// Compares and swaps: a full barrier where it succeeds. Returns the word that was there.
    fn swap(&self, way: u32, was: ControlWord, is: ControlWord) -> ControlWord;
    /// Exchanges the control word, after everything that was stored before.
    fn store(&self, way: u32, word: ControlWord);
    /// Whether the entry of a way has this key.
    fn is_key(&self, way: u32, key: &K) -> bool;

    /// The same way, unknown to compiler and verifier, and dependent on the control word that named it: what is read
    /// through the result is read after that word. BPF programs have no other order for loads (load-acquire came with
    /// Linux 6.15).
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

    /// How often a claim that goes first is looked at before the next try.
    #[inline(always)]
    fn patience(&self) -> u32 {
        0
    }

    /// The same number, unknown to the compiler, which would make branches of it.
    #[inline(always)]
    fn hide(&self, number: u64) -> u64 {
        number
    }
}

/// How an insert went. Ways are those of entries that may be counted into at once, in the same program run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsertOutcome {
    /// The entry is there, under this way.
    Created(u32),
    /// Somebody else's entry of the same key is there.
    Exists(u32),
    /// Both buckets are full.
    Full,
    /// Others claimed the same ways in every try.
    Busy,
}

/// Finds an entry. One that user space is about to remove is revived.
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
    /// The key's.
    Entry(u32),
    /// Another key's, and its place among the ways of both buckets.
    Another(u32),
    /// There is none, or it was removed just now.
    Nothing,
}

/// [`find`] unless an entry of another key has the same tag.
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

/// The first entry with the tag, the key's own but for one case in 2^40: its place, if that of the bucket's first way is
/// `from`, its way and control word.
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

/// [`find`] where the entry of another key at this place has the same tag: the next one is looked at, and no third. Of that an
/// insert finds that it is there.
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

/// How many ways with one tag are looked at. A third rival of one insert takes three other CPUs in the same microsecond, or
/// two keys with the tag of a third (once in 2^80): then the insert tries again, and in the end finds its table busy.
const ROUNDS: u64 = 3;

/// The first way of both buckets with the tag among those that are `left`, as bits, and its control word now; it and what is
/// in front of it is not left afterwards.
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

/// The ways of a bucket for whose control word `number` gives 0, as bits; it gives less than 2^63.
///
/// All of them without a branch: that is what a verifier walks fastest. Whoever wants one of them reads its word again.
#[inline(always)]
fn where_zero<K, M: TableMemory<K>>(memory: &M, number: u32, of: impl Fn(ControlWord) -> u64) -> Option<u64> {
    let bucket = memory.bucket(number)?;
    let mut found = 0;
    for way in 0..M::WAYS {
        // The sign of one less is 1 for 0 alone. Hidden, since compilers would make a comparison of it, and that a branch.
        let number = memory.hide(of(memory.load(bucket, way)));
        found |= number.wrapping_sub(1) >> 63 << way;
    }
    Some(found)
}

/// Makes an entry live again that user space has marked; `false` if it came too late. The version is in the word, so a
/// later entry of the same way cannot be meant.
#[inline(always)]
fn revive<K, M: TableMemory<K>>(memory: &M, way: u32, dying: ControlWord) -> bool {
    let live = dying.with(State::Live);
    let was = memory.swap(way, dying, live);
    was == dying || was == live
}

/// Adds an entry unless the key has one. `fill` writes key and value of a way by plain stores.
///
/// A claim precedes the look for rivals, in every program: of two that insert one key at least one sees the other. The
/// claim further in front kills the one behind, a killed claim cannot be published, and one behind gives way, so that one
/// entry is left.
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
            // That claim becomes an entry, or ends, sooner than another try would be made in vain.
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
    // Whoever was faster may be done by now.
    match find_alone(memory, probe, key) {
        Found::Entry(way) => InsertOutcome::Exists(way),
        Found::Another(_) | Found::Nothing => outcome,
    }
}

/// A free way.
struct Free {
    /// Its place among those of both buckets.
    place: u32,
    way: u32,
    word: ControlWord,
}

/// The free way that an entry goes into; `None` if both buckets are full or not there.
#[inline(always)]
fn choose_way<K, M: TableMemory<K>>(memory: &M, probe: Probe) -> Option<Free> {
    let first = where_zero::<K, M>(memory, probe.first, ControlWord::state_bits)?;
    let second = where_zero::<K, M>(memory, probe.second, ControlWord::state_bits)?;
    if first | second == 0 {
        return None;
    }
    // As numbers of 0 and 1, since compilers and the verifier make two paths of a comparison.
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

/// Who else has an entry of a key, or claims one.
#[derive(Clone, Copy)]
enum Rival {
    None,
    /// A claim that goes first, and its control word.
    Claim(u32, ControlWord),
    /// An entry, and its control word.
    Entry(u32, ControlWord),
    /// More than are looked at.
    Many,
}

/// Looks for rivals of the claim `mine`, which has this place among the ways of both buckets, and kills the claims behind it.
#[inline(always)]
fn rival<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K, mine: u32, place: u32) -> Rival {
    let mut left = !(1 << place);
    for _ in 0..memory.hide(ROUNDS) {
        let Some((way, mut word)) = next_with_tag::<K, M>(memory, probe, &mut left) else {
            return Rival::None;
        };
        // A claim's key cannot be read yet: equal tags count as equal keys. Once in 2^40 that is wrong, and one of the two
        // tries again.
        if word.tag() == probe.tag && word.is(State::Pending) {
            if way < mine {
                return Rival::Claim(way, word);
            }
            let now = memory.swap(way, word, word.with(State::Killed));
            if now == word {
                continue;
            }
            // Published meanwhile, or given up. A newer claim has still to look for rivals, and will see this one.
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
