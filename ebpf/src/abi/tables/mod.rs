//! What the kernel tells user space: keys and values of its tables.
//!
//! Totals only grow and nobody resets them. Counts are added to by locked
//! adds, everything else is plain stores, where a race costs a flag or a few milliseconds of a time, never a count.

use core::cell::Cell;

mod conn;
mod denial;
mod entry;
mod event;
mod fragment;
mod key;
mod link_local;
mod neighbours;
pub mod state;
mod usage;
pub mod window;

pub use conn::{Admitted, Conn, Next, RULE_EXEMPT, RULES};
pub use denial::Denial;
pub use entry::{Entry, Flags, Rest, Seen, Totals};
pub use event::Event;
pub use fragment::{Fragment, FragmentL4};
pub use key::{Key4, Key6, denial_tail, split_denial_tail};
pub use link_local::{LinkLocal, LinkLocalKey};
pub use neighbours::{NeighbourCache, NeighbourEntry, NeighbourKind};
pub use usage::{Charge, Charges, EniUsage};

use super::pair;

/// A word of a table that several CPUs write. BPF knows no relaxed loads or stores (LLVM 22 has no instruction for
/// them): a word is read and written by one instruction each all the same.
pub type Word = Cell<u64>;

const _: () = {
    assert!(size_of::<Key4>() == 16);
    assert!(size_of::<Key6>() == 40);
    assert!(size_of::<Entry<Conn>>() == 64);
    assert!(size_of::<Entry<Denial>>() == 64);
    assert!(size_of::<Rest>() == 32);
    assert!(size_of::<Fragment>() == 24);
    assert!(size_of::<EniUsage>() == 128);
    assert!(size_of::<NeighbourCache>() == 112);
    assert!(size_of::<LinkLocalKey>() == 16);
    assert!(size_of::<LinkLocal>() == 16);
    assert!(size_of::<Event>() == 64);
};

#[cfg(test)]
mod tests;
