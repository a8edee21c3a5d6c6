//! How user space removes entries. One process at a time; every access is sequentially consistent.
//!
//! Removal takes two phases with one grace period between them: [`mark`] whatever is over, wait until no program runs that
//! began before, then look again. A program that saw the entry live has ended by then; one that saw it dying has revived
//! it, and the compare-and-swap of the second phase fails.

use super::{ControlWord, State, TableMemory};

/// Marks an entry that is over: live becomes dying. It is found all the same, and lives on if a packet comes. `true` if
/// the way is to be looked at again after a grace period.
#[inline]
pub fn mark<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) -> bool {
    word.is(State::Live) && memory.swap(way, word, word.with(State::Dying)) == word
}

/// Takes the mark back, after the grace period, of an entry that is not over any more.
#[inline]
pub fn unmark<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) {
    memory.swap(way, word, word.with(State::Live));
}

/// Gives back the way of an entry that is still dying after the grace period and was reported to the last packet.
/// `false` if a packet has come.
#[inline]
pub fn remove<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) -> bool {
    memory.swap(way, word, word.emptied()) == word
}

/// Takes an entry that is still dying after the grace period out of the programs' reach, so that its totals stay as they
/// are until they are reported. `false` if a packet has come.
#[inline]
pub fn freeze<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) -> bool {
    memory.swap(way, word, word.with(State::Frozen)) == word
}

/// Gives back the way of a frozen entry whose totals were reported.
#[inline]
pub fn free<K, M: TableMemory<K>>(memory: &M, way: u32, word: ControlWord) {
    memory.store(way, word.emptied());
}
