//! Who has the link-local addresses of each link.

use core::cell::Cell;

use super::{Word, pair};
use crate::abi::unpair;

/// A link-local address on a link: 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct LinkLocalKey {
    /// The lower half of the address: the upper one is the same for all (RFC 4291, 2.5.6).
    pub interface: u64,
    /// The link: a bridge for all tasks on it, else what carries the ENI.
    pub segment: u32,
    /// 0.
    pub spare: u32,
}

/// Who has such an address: 16 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct LinkLocal {
    /// The task that uses it: slot above, the slot's epoch below. 0: none that is gated.
    owner: Word,
    /// Where it was heard of last, if no task has it: by which link of this host above (0: by none, it is the host's), when
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

    /// Somebody's that is not gated, heard by a link.
    #[inline(always)]
    pub fn of_neighbour(by: u32, now: u32) -> Self {
        Self::from_words([0, pair(by, now)])
    }

    /// A task's.
    #[inline(always)]
    pub fn of_task(slot: u16, epoch: u32) -> Self {
        Self::from_words([pair(slot as u32, epoch), 0])
    }

    /// The task that has it: slot and epoch. Slot 0: none.
    #[inline(always)]
    pub fn owner(&self) -> (u16, u32) {
        let (slot, epoch) = unpair(self.owner.get());
        (slot as u16, epoch)
    }

    /// Beside the link in [`Self::heard`]: the task there asked whether anybody has the address, and who had it till then has
    /// not answered.
    pub const ASKED: u32 = 1 << 31;

    /// Gives it to a task.
    #[inline(always)]
    pub fn give(&self, slot: u16, epoch: u32) {
        self.owner.set(pair(slot as u32, epoch));
        self.heard.set(0);
    }

    /// Keeps by which link it was heard, or asked for, and when. Whoever has it keeps it.
    #[inline(always)]
    pub fn note(&self, by: u32, now: u32) {
        self.heard.set(pair(by, now));
    }

    /// Forgets who asked: the one that has it has spoken.
    #[inline(always)]
    pub fn defend(&self) {
        self.heard.set(0);
    }

    /// By which link it was heard, and when.
    #[inline(always)]
    pub fn heard(&self) -> (u32, u32) {
        unpair(self.heard.get())
    }

    /// Keeps that it was heard, of somebody that is not gated.
    #[inline(always)]
    pub fn set_heard(&self, by: u32, now: u32) {
        self.heard.set(pair(by, now));
        self.owner.set(0);
    }
}
