//! Removal of entries by user space. One process at a time; every access is sequentially consistent.
//!
//! Removal takes two phases with a grace period between them: [`mark`] expired entries, wait until every program that began
//! before has ended, then look again. A program that saw the entry live has ended by then; a program that saw it dying has
//! revived it, and the compare-and-swap of the second phase fails.

use super::{ControlWord, State, TableMemory};

/// Marks an expired entry: live becomes dying. Programs still find the entry, and a packet revives it. `true` if the way is
/// to be checked again after a grace period.
#[inline]
pub fn mark<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) -> bool {
    word.is(State::Live) && memory.swap(way, word, word.with(State::Dying)) == word
}

/// Takes the mark back from an entry that is no longer expired after the grace period.
#[inline]
pub fn unmark<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) {
    memory.swap(way, word, word.with(State::Live));
}

/// Frees the way of an entry that is still dying after the grace period and has been reported completely. `false` if a
/// packet has revived it.
#[inline]
pub fn remove<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) -> bool {
    memory.swap(way, word, word.emptied()) == word
}

/// Hides an entry that is still dying after the grace period from the programs, so that its totals stay final until they are
/// reported. `false` if a packet has revived it.
#[inline]
pub fn freeze<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) -> bool {
    memory.swap(way, word, word.with(State::Frozen)) == word
}

/// Frees the way of a frozen entry whose totals were reported.
#[inline]
pub fn free<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) {
    memory.store(way, word.emptied());
}
