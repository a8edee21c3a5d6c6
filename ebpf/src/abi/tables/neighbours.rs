//! What is kept of neighbour discovery.

use super::{Word, pair};
use crate::{
    abi::{Address, unpair},
    conntrack::idle,
};

/// What a task's neighbours said, and what it asked about itself: 112 bytes for each slot. Each address has one place, by
/// its lowest bits; who comes last has it.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct NeighbourCache {
    entries: [NeighbourEntry; 4],
    /// Link-local addresses that the task, and that its neighbours, named first: since when they are counted above, how many
    /// below.
    named: [Word; 2],
}

/// An address in it: 24 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct NeighbourEntry {
    /// The address.
    address: [Word; 2],
    /// Whose it is: link and [`NeighbourKind`] above, the slot's epoch below. A link's number is never 0.
    whose: Word,
}

/// What is kept of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NeighbourKind {
    /// Somebody on the link sent neighbour discovery from it to the task.
    Heard = 0,
    /// The task asked whether anybody has it, and has not used it since.
    Probed = 1,
}

impl NeighbourCache {
    #[inline(always)]
    fn place(&self, address: Address) -> &NeighbourEntry {
        &self.entries[(address.halves()[1] & 3) as usize]
    }

    /// Whether an address is kept as this kind, of this link and epoch.
    #[inline(always)]
    pub fn has(&self, address: Address, kind: NeighbourKind, link: u32, epoch: u32) -> bool {
        let NeighbourEntry { address: kept, whose } = self.place(address);
        let kept = Address::new(kept[0].get(), kept[1].get());
        kept.difference(address) | (whose.get() ^ Self::whose(kind, link, epoch)) == 0
    }

    /// Keeps it.
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

    /// Forgets whatever has its place.
    #[inline(always)]
    pub fn forget(&self, address: Address) {
        self.place(address).whose.set(0);
    }

    /// Counts a link-local address that nobody named before; `false` where its side has named as many as it may in a span.
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

    #[inline(always)]
    const fn whose(kind: NeighbourKind, link: u32, epoch: u32) -> u64 {
        pair(link | (kind as u32) << 24, epoch)
    }
}
