//! Denied flows.

use core::cell::Cell;

use super::{Flags, Seen, Totals};

/// A denied flow: 32 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Denial {
    /// What was dropped.
    pub totals: Totals,
    /// As in [`super::Conn`].
    pub seen: Seen,
    /// TCP flags by window, in the half of the key's direction; no state.
    pub flags: Flags,
    /// The number of its [`super::Charge`].
    pub charge: Cell<u32>,
}

impl From<[u64; 4]> for Denial {
    /// From the words of a table's value.
    fn from([packets, bytes, seen, flags]: [u64; 4]) -> Self {
        let [low, high, more, most, charge @ ..] = flags.to_ne_bytes();
        Self {
            totals: Totals::new(packets, bytes),
            seen: Seen(seen.into()),
            flags: Flags(u32::from_ne_bytes([low, high, more, most]).into()),
            charge: Cell::new(u32::from_ne_bytes(charge)),
        }
    }
}
