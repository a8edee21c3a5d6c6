//! Per-slot usage of the shared tables, and the accounts that entries are charged to.

use super::{Word, state};

/// The account that an entry is charged to, for the whole life of the entry. A number instead of an `enum`, so that the
/// verifier walks the following code once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Charge(u32);

impl Charge {
    /// The guaranteed floor of the slot.
    pub const FLOOR: Self = Self(0);
    /// The pool that all slots share.
    pub const POOL: Self = Self(1);

    /// The account with this number; only the lowest bit counts.
    #[inline(always)]
    pub const fn new(number: u32) -> Self {
        Self(number & 1)
    }

    /// From the state of a connection.
    #[inline(always)]
    pub const fn of_state(state: u16) -> Self {
        Self::new((state >> state::POOL_BIT) as u32)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }

    /// Its bit in the state of a connection.
    #[inline(always)]
    pub const fn state(self) -> u16 {
        (self.0 as u16) << state::POOL_BIT
    }
}

/// Counts of entries charged to a slot's two accounts, or given back to them: its floor, and its part of the common pool.
/// For slot 0: the pool's total.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Charges([Word; 2]);

impl Charges {
    /// The count of one account.
    #[inline(always)]
    pub const fn of(&self, charge: Charge) -> &Word {
        // Masked, which avoids a bounds check.
        &self.0[(charge.0 & 1) as usize]
    }

    /// The byte offset of that count.
    pub const fn offset(charge: Charge) -> usize {
        charge.0 as usize * size_of::<Word>()
    }
}

/// A slot's usage of the shared tables: 128 bytes. The kernel writes the first line and the last two words, user space the
/// rest, so no word has two writers; `inserted - removed` entries are in use. An entry is charged before it is inserted, and
/// given back after it was removed.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct EniUsage {
    /// Tracked connections that were inserted.
    pub conns_inserted: Charges,
    /// Denied flows that were inserted.
    pub denials_inserted: Charges,
    /// First fragments that were remembered, minus those that the kernel removed when their datagram was complete.
    pub fragments_inserted: Charges,
    /// Packets that passed without an entry, so they are in no record: untracked flows, ICMP errors about connections, and
    /// packets that met contention in the table.
    pub flows_lost: Word,
    /// Denied packets without room for a record: they are only in the counters.
    pub denials_lost: Word,
    /// Connections that user space removed.
    pub conns_removed: Charges,
    /// Denied flows that user space removed.
    pub denials_removed: Charges,
    /// Remembered first fragments that user space removed.
    pub fragments_removed: Charges,
    /// Packets that were denied because there was no room to track their connection.
    pub conns_refused: Word,
    /// First fragments that could not be remembered: the rest of their datagrams was dropped.
    pub fragments_lost: Word,
}

impl EniUsage {
    /// For slot 0: how many CPUs are currently moving a connection's charge to another slot. Only one may.
    #[inline(always)]
    pub const fn moving(&self) -> &Word {
        // Slot 0 has no floor, so its word is free.
        self.conns_inserted.of(Charge::FLOOR)
    }
}

#[cfg(test)]
impl EniUsage {
    /// From its words as they lie in memory.
    pub(super) fn from_words(words: [u64; 16]) -> Self {
        let charges = |at: usize| Charges([words[at].into(), words[at + 1].into()]);
        Self {
            conns_inserted: charges(0),
            denials_inserted: charges(2),
            fragments_inserted: charges(4),
            flows_lost: words[6].into(),
            denials_lost: words[7].into(),
            conns_removed: charges(8),
            denials_removed: charges(10),
            fragments_removed: charges(12),
            conns_refused: words[14].into(),
            fragments_lost: words[15].into(),
        }
    }

    /// Its words as they lie in memory.
    pub(super) fn to_words(&self) -> [u64; 16] {
        let Self {
            conns_inserted: Charges(conns_in),
            denials_inserted: Charges(denials_in),
            fragments_inserted: Charges(fragments_in),
            flows_lost,
            denials_lost,
            conns_removed: Charges(conns_out),
            denials_removed: Charges(denials_out),
            fragments_removed: Charges(fragments_out),
            conns_refused,
            fragments_lost,
        } = self;
        let words = [conns_in, denials_in, fragments_in]
            .into_iter()
            .flatten()
            .chain([flows_lost, denials_lost])
            .chain([conns_out, denials_out, fragments_out].into_iter().flatten())
            .chain([conns_refused, fragments_lost]);
        let mut there = [0; 16];
        for (there, word) in there.iter_mut().zip(words) {
            *there = word.get();
        }
        there
    }
}
