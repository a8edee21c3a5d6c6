//! Where the kernel's state lies: BPF maps in the kernel, plain collections on the host.

use core::{ops::Deref, sync::atomic::AtomicU64};

use crate::{
    abi::{Conn, Denial, Direction, Event, Key4, Key6, Outcome, Usage},
    policy::Image,
};

/// How an insert went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The entry is there.
    Done,
    /// Another CPU was faster: its entry is there.
    Exists,
    /// There is no room.
    Full,
}

/// The tables of one family of addresses.
pub trait Flows<K> {
    /// A tracked connection in the table.
    type Conn: Deref<Target = Conn>;
    /// A denied flow in the table.
    type Denial: Deref<Target = Denial>;
    /// Finds a tracked connection.
    fn conn(&self, key: &K) -> Option<Self::Conn>;
    /// Adds one that is not there.
    fn insert_conn(&self, key: &K, value: &Conn) -> Inserted;
    /// Finds a denied flow.
    fn denial(&self, key: &K) -> Option<Self::Denial>;
    /// Adds one that is not there.
    fn insert_denial(&self, key: &K, value: &Denial) -> Inserted;
}

/// Everything that a verdict reads and writes.
pub trait Tables: Image + Flows<Key4> + Flows<Key6> {
    /// The kernel's clock in ticks, wrapping.
    fn now(&self) -> u32;
    /// What a slot uses.
    fn usage(&self, slot: u16) -> Option<&Usage>;
    /// Adds to a count that several CPUs add to.
    fn add(&self, count: &AtomicU64, more: u64);
    /// Counts packets by how they ended.
    fn count(&self, slot: u16, direction: Direction, outcome: Outcome, packets: u64);
    /// Tells whoever follows of a flow's first packet.
    fn emit(&self, event: &Event);
}
