//! The kernel's state: BPF maps in the kernel, plain collections on the host.

use core::{cell::Cell, ops::Deref};

use crate::{
    abi::{
        Conn, Denial, Direction, EniUsage, Event, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, NeighbourCache,
        image::AddressRow, tables::Word,
    },
    policy::Image,
};

/// The result of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted<E> {
    /// A new entry.
    Created,
    /// Another CPU inserted the key first: its entry.
    Exists(E),
    /// The table is full.
    Full,
    /// Contention in every attempt; nothing was added.
    Busy,
}

/// The number of attempts for an insert.
const TRIES: u32 = 4;

/// Maps the kernel's error to the result of an insert; `None` if another attempt may succeed.
#[inline(always)]
pub const fn from_errno(answer: Result<(), i32>) -> Option<Inserted<()>> {
    const EBUSY: i32 = -16;
    const EEXIST: i32 = -17;
    match answer {
        Ok(()) => Some(Inserted::Created),
        Err(EEXIST) => Some(Inserted::Exists(())),
        // Another program on this CPU holds the lock of the bucket (Linux 5.11 to 6.14, commit 20b6cc34ea74).
        Err(EBUSY) => None,
        // No room (E2BIG), or no lock at all (from 6.15 on: EDEADLK, ETIMEDOUT after a quarter of a second).
        Err(_) => Some(Inserted::Full),
    }
}

/// Repeats `attempt`, which returns the kernel's error, while the bucket is busy, up to four times. If this program
/// interrupted the lock's holder, the bucket stays busy until the program ends.
#[inline(always)]
pub fn insert_by(mut attempt: impl FnMut() -> Result<(), i32>) -> Inserted<()> {
    for _ in 0..TRIES {
        if let Some(inserted) = from_errno(attempt()) {
            return inserted;
        }
    }
    Inserted::Busy
}

/// The per-flow tables of one address family.
pub trait Flows<K> {
    /// A tracked connection in the table.
    type Conn: Deref<Target = Conn>;
    /// A denied flow in the table.
    type Denial: Deref<Target = Denial>;
    /// Finds a tracked connection.
    fn conn(&self, key: &K) -> Option<Self::Conn>;
    /// Adds a tracked connection unless the key has one.
    fn insert_conn(&self, key: &K, value: &Conn) -> Inserted<Self::Conn>;
    /// Finds a denied flow.
    fn denial(&self, key: &K) -> Option<Self::Denial>;
    /// Adds a denied flow unless the key has one.
    fn insert_denial(&self, key: &K, value: &Denial) -> Inserted<Self::Denial>;
    /// A remembered first fragment in the table.
    type Fragment: Deref<Target = Fragment>;
    /// Finds a remembered first fragment.
    fn fragment(&self, key: &K) -> Option<Self::Fragment>;
    /// Adds a first fragment unless the key has one.
    fn insert_fragment(&self, key: &K, value: &Fragment) -> Inserted<()>;
    /// Removes a remembered first fragment; returns whether it was there.
    fn remove_fragment(&self, key: &K) -> bool;
}

/// Everything that a verdict reads and writes.
pub trait Tables: Image + Flows<Key4> + Flows<Key6> {
    /// The kernel's clock in ticks, wrapping.
    fn now(&self) -> u32;
    /// A slot's usage.
    fn usage(&self, slot: u16) -> Option<&EniUsage>;
    /// A slot's neighbour cache.
    fn neighbours(&self, slot: u16) -> Option<&NeighbourCache>;
    /// A link-local address in the table.
    type LinkLocal: Deref<Target = LinkLocal>;
    /// Finds the owner of a link-local address.
    fn link_local(&self, key: &LinkLocalKey) -> Option<Self::LinkLocal>;
    /// Adds an address that is not there; may evict addresses that were not looked up for long (LRU).
    fn insert_link_local(&self, key: &LinkLocalKey, value: &LinkLocal) -> Inserted<()>;
    /// Adds to a counter that several CPUs share.
    fn add(&self, count: &Word, more: u64);
    /// [`Tables::add`] for a packet counter of 32 bits.
    fn add_packets(&self, count: &Cell<u32>, more: u32);
    /// Counts packets by the number of their [`crate::abi::Outcome`].
    fn count(&self, slot: u16, direction: Direction, outcome: u32, packets: u64);
    /// Returns `value` as a number unknown to the verifier, which then walks the following code once, instead of once for
    /// each value that can arrive there.
    fn opaque(&self, value: u32) -> u32;
    /// [`Tables::opaque`] for the result of an address lookup, which otherwise continues as two paths, found and not found.
    #[inline(always)]
    fn opaque_row(&self, row: AddressRow) -> AddressRow {
        let low = self.opaque((row.flags & 0xffff) << 16 | row.slot as u32);
        AddressRow {
            slot: low as u16,
            flags: low >> 16,
            group_set: self.opaque(row.group_set),
        }
    }
    /// Emits the event of a flow's first packet.
    fn emit(&self, event: &Event);
}

#[cfg(test)]
mod tests;
