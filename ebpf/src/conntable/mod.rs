//! The connection table: a lock-free hash table of flows in memory that BPF programs on all CPUs and one user-space process
//! share, safe against a SIGKILL of that process at any step.
//!
//! Each key has two buckets, one in each half of the table ("d-left" hashing), with [`TableMemory::WAYS`] ways each. A way
//! is a [`ControlWord`] and an entry; the control word alone says what the entry is. Programs [`find`], [`insert`] and
//! revive; user space removes by [`sweep`]. docs/connection-table.md has the protocol, why it is right, and how that is
//! checked: every interleaving of small scenarios is walked by a test that runs this very code.

mod control;
pub mod hash;
#[cfg(any(feature = "host", test))]
pub mod plain;
pub mod sweep;

pub use control::{ControlWord, State};
pub use hash::{Probe, Seed};

/// The memory of one table. The number of a way is that of its bucket times [`TableMemory::WAYS`], plus its place there.
///
/// The methods beside the accesses exist for compilers and the verifier, and do nothing elsewhere.
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
    let (way, word) = match first_match::<K, M>(memory, probe.first, probe.tag) {
        Some(found) => found,
        None => first_match::<K, M>(memory, probe.second, probe.tag)?,
    };
    if !memory.is_key(way, key) {
        return find_among_equal_tags(memory, probe, key);
    }
    if word.is(State::Dying) && !revive::<K, M>(memory, way, word) {
        return None;
    }
    Some(way)
}

/// The first entry with the tag: the key's own but for one case in 2^40.
#[inline(always)]
fn first_match<K, M: TableMemory<K>>(memory: &M, number: u32, tag: u64) -> Option<(u32, ControlWord)> {
    let bucket = memory.bucket(number)?;
    for way in 0..M::WAYS {
        let word = memory.load(bucket, way);
        if word.is_entry_of(tag) {
            return Some((memory.opaque(number * M::WAYS + way, word), word));
        }
    }
    None
}

/// [`find`] where an entry of another key has the same tag.
#[inline(always)]
fn find_among_equal_tags<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K) -> Option<u32> {
    let mut number = probe.first;
    for _ in 0..2 {
        let bucket = memory.bucket(number)?;
        for way in 0..memory.ways() {
            let word = memory.load(bucket, way);
            if word.is_entry_of(probe.tag) {
                let way = memory.opaque(number * M::WAYS + way, word);
                if memory.is_key(way, key) {
                    let lives = word.is(State::Live) || revive::<K, M>(memory, way, word);
                    return if lives { Some(way) } else { None };
                }
            }
        }
        number = probe.second;
    }
    None
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
    for _ in 0..M::TRIES {
        let Some((free, free_word)) = choose_way::<K, M>(memory, probe) else {
            outcome = InsertOutcome::Full;
            break;
        };
        let mine = memory.opaque(free, free_word);
        let claim = free_word.claimed(probe.tag);
        if memory.swap(mine, free_word, claim) != free_word {
            continue;
        }
        match rival(memory, probe, key, mine) {
            Rival::None => {
                fill(mine);
                if memory.swap(mine, claim, claim.with(State::Live)) == claim {
                    return InsertOutcome::Created(mine);
                }
                memory.store(mine, claim.emptied());
            }
            Rival::Claim(way, word) => {
                memory.store(mine, claim.emptied());
                // That claim becomes an entry, or ends, sooner than another try would be made in vain.
                if let Some(bucket) = memory.bucket(way / M::WAYS) {
                    for _ in 0..memory.patience() {
                        if memory.load(bucket, way % M::WAYS) != word {
                            break;
                        }
                    }
                }
            }
            Rival::Entry(way, word) => {
                memory.store(mine, claim.emptied());
                if word.is(State::Live) || revive::<K, M>(memory, way, word) {
                    return InsertOutcome::Exists(way);
                }
            }
        }
    }
    // Whoever was faster may be done by now.
    match find(memory, probe, key) {
        Some(way) => InsertOutcome::Exists(way),
        None => outcome,
    }
}

/// The free way that an entry goes into, and its control word; `None` if both buckets are full or not there.
#[inline(always)]
fn choose_way<K, M: TableMemory<K>>(memory: &M, probe: Probe) -> Option<(u32, ControlWord)> {
    let first = room::<K, M>(memory, probe.first)?;
    let second = room::<K, M>(memory, probe.second)?;
    if first.free | second.free == 0 {
        return None;
    }
    // Products of 0 and 1, since compilers and the verifier make two paths of a mask.
    let scarce = first.free.wrapping_sub(M::AMPLE as u64) >> 63;
    let emptier = memory.hide(first.free.wrapping_sub(second.free) >> 63 & scarce);
    let way = first
        .way
        .wrapping_add(second.way.wrapping_sub(first.way).wrapping_mul(emptier));
    let word = first
        .word
        .wrapping_add(second.word.wrapping_sub(first.word).wrapping_mul(emptier));
    Some((way as u32, ControlWord(word)))
}

/// The free ways of a bucket.
struct Room {
    /// How many there are.
    free: u64,
    /// The first of them, and its control word; 0 and 0 if there is none.
    way: u64,
    word: u64,
}

#[inline(always)]
fn room<K, M: TableMemory<K>>(memory: &M, number: u32) -> Option<Room> {
    let bucket = memory.bucket(number)?;
    let mut room = Room {
        free: 0,
        way: 0,
        word: 0,
    };
    // From the last to the first, so that the first is what stays.
    for step in 1..=memory.ways() {
        let way = M::WAYS - step;
        let word = memory.load(bucket, way);
        let is_empty = memory.hide(word.state_bits().wrapping_sub(1) >> 63);
        let number = (number * M::WAYS + way) as u64;
        room.free += is_empty;
        room.way = room
            .way
            .wrapping_add(number.wrapping_sub(room.way).wrapping_mul(is_empty));
        room.word = room
            .word
            .wrapping_add(word.0.wrapping_sub(room.word).wrapping_mul(is_empty));
    }
    Some(room)
}

/// Who else has an entry of a key, or claims one.
enum Rival {
    None,
    /// A claim that goes first, and its control word.
    Claim(u32, ControlWord),
    /// An entry, and its control word.
    Entry(u32, ControlWord),
}

/// Looks for rivals of the claim `mine`, and kills the claims behind it.
#[inline(always)]
fn rival<K, M: TableMemory<K>>(memory: &M, probe: Probe, key: &K, mine: u32) -> Rival {
    let mut number = probe.first;
    for _ in 0..2 {
        let Some(bucket) = memory.bucket(number) else {
            return Rival::None;
        };
        for way in 0..memory.ways() {
            let mut word = memory.load(bucket, way);
            if word.tag() != probe.tag {
                continue;
            }
            let way = memory.opaque(number * M::WAYS + way, word);
            if way == mine {
                continue;
            }
            // A claim's key cannot be read yet: equal tags count as equal keys. Once in 2^40 that is wrong, and one of the
            // two tries again.
            if word.is(State::Pending) {
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
        number = probe.second;
    }
    Rival::None
}

#[cfg(test)]
mod tests;
