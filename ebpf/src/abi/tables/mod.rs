//! Keys and values of the kernel's tables, which user space reads.
//!
//! Totals only grow and are never reset. Counters are changed by locked adds; everything else by plain stores, where a race
//! costs a flag or some milliseconds of a timestamp, never a count.

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
mod tag;
mod usage;
pub mod window;

pub use conn::{Admitted, Conn, Next, RULE_EXEMPT, RULES};
pub use denial::Denial;
pub use entry::{Entry, Flags, Rest, Seen, Totals};
pub use event::Event;
pub use fragment::{Fragment, FragmentL4};
pub use key::{Key4, Key6};
pub use link_local::{LinkLocal, LinkLocalKey};
pub use neighbours::{NeighbourCache, NeighbourEntry, NeighbourKind};
pub use tag::KeyTag;
pub use usage::{Charge, Charges, EniUsage};

use super::pair;

/// A word of a table that several CPUs write. BPF has no relaxed atomic loads or stores (LLVM 22 has no instruction for
/// them), but a word is still read and written by single instructions.
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
