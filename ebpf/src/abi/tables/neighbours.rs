//! Per-slot state of neighbour discovery.

use super::{Word, pair};
use crate::{
    abi::{Address, unpair},
    conntrack::idle,
};

/// A small cache of addresses that a task's neighbours used or that the task probed: 112 bytes for each slot. The lowest
/// bits of an address choose its only place; the latest address replaces the one before.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct NeighbourCache {
    entries: [NeighbourEntry; 4],
    /// Counters of new link-local addresses, of the task and of its neighbours: start of the counting period above, count
    /// below.
    named: [Word; 2],
}

/// An address in the cache: 24 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct NeighbourEntry {
    /// The address.
    address: [Word; 2],
    /// Link and [`NeighbourKind`] above, the slot's epoch below. A link's number is never 0.
    whose: Word,
}

/// How an address got into the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NeighbourKind {
    /// A neighbour sent neighbour discovery from this address to the task.
    Heard = 0,
    /// The task probed for the address and has not used it since.
    Probed = 1,
}

impl NeighbourCache {
    #[inline(always)]
    fn place(&self, address: Address) -> &NeighbourEntry {
        &self.entries[(address.halves()[1] & 3) as usize]
    }

    /// Whether the cache has an address of this kind, link and epoch.
    #[inline(always)]
    pub fn has(&self, address: Address, kind: NeighbourKind, link: u32, epoch: u32) -> bool {
        let NeighbourEntry { address: kept, whose } = self.place(address);
        let kept = Address::new(kept[0].get(), kept[1].get());
        kept.difference(address) | (whose.get() ^ Self::whose(kind, link, epoch)) == 0
    }

    /// Adds an address.
    #[inline(always)]
    pub fn keep(&self, address: Address, kind: NeighbourKind, link: u32, epoch: u32) {
        if !self.has(address, kind, link, epoch) {
            let place = self.place(address);
            let [upper, lower] = address.halves();
            place.address[0].set(upper);
            place.address[1].set(lower);
            place.whose.set(Self::whose(kind, link, epoch));
        }
    }

    /// Clears the address's place.
    #[inline(always)]
    pub fn forget(&self, address: Address) {
        self.place(address).whose.set(0);
    }

    /// Counts a new link-local address; `false` if its side already has `most` new ones within `span` ticks.
    #[inline(always)]
    pub fn may_name_one_more(&self, is_neighbour: bool, most: u32, now: u32, span: u32) -> bool {
        let named = &self.named[is_neighbour as usize];
        let (since, count) = unpair(named.get());
        let is_over = count == 0 || idle(now, since, span);
        if !is_over && count >= most {
            return false;
        }
        named.set(if is_over { pair(now, 1) } else { pair(since, count + 1) });
        true
    }

    /// From the words in memory.
    #[cfg(test)]
    pub(super) fn from_words(words: [u64; 14]) -> Self {
        let (entries, named) = words.split_at(12);
        let mut cache = Self::default();
        for (entry, words) in cache.entries.iter_mut().zip(entries.chunks_exact(3)) {
            *entry = NeighbourEntry {
                address: [words[0].into(), words[1].into()],
                whose: words[2].into(),
            };
        }
        cache.named = [named[0].into(), named[1].into()];
        cache
    }

    /// The words in memory.
    #[cfg(test)]
    pub(super) fn to_words(&self) -> [u64; 14] {
        let Self { entries, named } = self;
        let entries = entries
            .iter()
            .flat_map(|NeighbourEntry { address, whose }| address.iter().chain([whose]));
        let mut words = [0; 14];
        for (word, kept) in words.iter_mut().zip(entries.chain(named)) {
            *word = kept.get();
        }
        words
    }

    /// Byte offsets: an entry's address and owner, the second entry, and the counters.
    #[cfg(test)]
    pub(super) const OFFSETS: [usize; 4] = [
        core::mem::offset_of!(NeighbourEntry, address),
        core::mem::offset_of!(NeighbourEntry, whose),
        core::mem::offset_of!(Self, entries) + size_of::<NeighbourEntry>(),
        core::mem::offset_of!(Self, named),
    ];

    #[inline(always)]
    const fn whose(kind: NeighbourKind, link: u32, epoch: u32) -> u64 {
        pair(link | (kind as u32) << 24, epoch)
    }
}
