//! Denied flows.

use core::cell::Cell;

use super::{
    Flags, Totals,
    entry::{halves, word},
};

/// A denied flow: the 48 bytes before its key in an [`Entry`](super::Entry).
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Denial {
    /// Dropped packets and bytes.
    pub totals: Totals,
    /// As in [`super::Conn`].
    pub last: Cell<u32>,
    /// TCP flags by window, in the half of the key's direction; no state.
    pub flags: Flags,
    /// The number of its [`super::Charge`].
    pub charge: Cell<u32>,
    spare: [u32; 5],
}

impl Denial {
    /// A denied flow with these totals.
    #[inline(always)]
    pub const fn new(totals: Totals, last: u32, flags: Flags, charge: u32) -> Self {
        Self {
            totals,
            last: Cell::new(last),
            flags,
            charge: Cell::new(charge),
            spare: [0; 5],
        }
    }

    /// From its words as they lie in memory.
    pub fn from_words([packets, bytes, last_and_flags, charge, ..]: [u64; 6]) -> Self {
        let [last, flags] = halves(last_and_flags);
        Self::new(
            Totals::new(packets, bytes),
            last,
            Flags(flags.into()),
            halves(charge)[0],
        )
    }

    /// Its words as they lie in memory.
    pub fn to_words(&self) -> [u64; 6] {
        [
            self.totals.packets.get(),
            self.totals.bytes.get(),
            word(self.last.get(), self.flags.0.get()),
            word(self.charge.get(), 0),
            0,
            0,
        ]
    }
}
