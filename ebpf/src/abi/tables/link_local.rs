//! Owners of link-local addresses, by segment.

use core::cell::Cell;

use super::{Word, pair};
use crate::abi::unpair;

/// A link-local address on a segment: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct LinkLocalKey {
    /// The lower half of the address: the upper one is the same for all (RFC 4291, 2.5.6).
    pub interface: u64,
    /// The segment: a bridge's ifindex for all its ports, else the number of the ENI's link.
    pub segment: u32,
    /// Padding: 0.
    pub spare: u32,
}

/// The owner of a link-local address: 16 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct LinkLocal {
    /// The task that uses it: slot above, the slot's epoch below. 0: no gated task.
    owner: Word,
    /// For an address without a task: the link of this host that last heard it above (0: none, it is the host's), and when
    /// below.
    heard: Word,
}

impl LinkLocal {
    /// From its words.
    #[inline(always)]
    pub const fn from_words([owner, heard]: [u64; 2]) -> Self {
        Self {
            owner: Cell::new(owner),
            heard: Cell::new(heard),
        }
    }

    /// Its words.
    pub fn to_words(&self) -> [u64; 2] {
        [self.owner.get(), self.heard.get()]
    }

    /// An address of a neighbour that is not gated, heard by a link.
    #[inline(always)]
    pub fn of_neighbour(by: u32, now: u32) -> Self {
        Self::from_words([0, pair(by, now)])
    }

    /// An address of a task.
    #[inline(always)]
    pub fn of_task(slot: u16, epoch: u32) -> Self {
        Self::from_words([pair(slot as u32, epoch), 0])
    }

    /// The owning task's slot and epoch. Slot 0: none.
    #[inline(always)]
    pub fn owner(&self) -> (u16, u32) {
        let (slot, epoch) = unpair(self.owner.get());
        (slot as u16, epoch)
    }

    /// A flag next to the link in [`Self::heard`]: the task on that link probed for the address, and its previous owner has
    /// not answered yet.
    pub const ASKED: u32 = 1 << 31;

    /// Makes a task the owner.
    #[inline(always)]
    pub fn give(&self, slot: u16, epoch: u32) {
        self.owner.set(pair(slot as u32, epoch));
        self.heard.set(0);
    }

    /// Records the link that heard the address or probed for it, and when. The owner stays.
    #[inline(always)]
    pub fn note(&self, by: u32, now: u32) {
        self.heard.set(pair(by, now));
    }

    /// Clears a probe: the owner has used the address.
    #[inline(always)]
    pub fn defend(&self) {
        self.heard.set(0);
    }

    /// The link that heard it, and when.
    #[inline(always)]
    pub fn heard(&self) -> (u32, u32) {
        unpair(self.heard.get())
    }

    /// Makes a neighbour that is not gated the owner, heard by a link.
    #[inline(always)]
    pub fn set_heard(&self, by: u32, now: u32) {
        self.heard.set(pair(by, now));
        self.owner.set(0);
    }
}
