//! Rows: a generation's configuration of a link, a slot or an address.

use super::{PolicyRoots, pair, unpair};
use crate::abi::{Address, LinkId};

/// The row of a link: one word. A link's number is never 0, so a word of 0 is an unused row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// The link.
    pub link: LinkId,
    /// The slot of the ENI that the link carries.
    pub slot: u16,
}

impl LinkRow {
    /// As a word: slot above, link below.
    pub const fn to_word(self) -> u64 {
        pair(self.slot as u32, self.link.get())
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (slot, link) = unpair(word);
        Self {
            link: LinkId::from_number(link),
            slot: slot as u16,
        }
    }
}

/// The row of a slot: egress roots, ingress roots, flags below and group set above, the cap below. It counts as absent
/// without [`slot::PRESENT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotRow {
    /// The references to its policies, by [`crate::abi::Direction`].
    pub roots: [PolicyRoots; 2],
    /// [`slot`] flags.
    pub flags: u32,
    /// The ENI's group set.
    pub group_set: u32,
    /// The most tracked connections that the ENI may have; [`super::NO_CAP`]: no limit.
    pub conn_cap: u32,
}

impl SlotRow {
    /// Words in it.
    pub const WORDS: usize = 4;

    /// Its words.
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        let [egress, ingress] = self.roots;
        [
            egress.to_word(),
            ingress.to_word(),
            pair(self.group_set, self.flags),
            self.conn_cap as u64,
        ]
    }

    /// From those words.
    #[inline(always)]
    pub const fn from_words([egress, ingress, set_and_flags, cap]: [u64; Self::WORDS]) -> Self {
        let (group_set, flags) = unpair(set_and_flags);
        Self {
            roots: [PolicyRoots::from_word(egress), PolicyRoots::from_word(ingress)],
            flags,
            group_set,
            conn_cap: cap as u32,
        }
    }
}

/// The row of an address: its halves, then slot (16 bits), flags (16 bits) and group set (upper half) in one word. It counts
/// as absent without [`address::PRESENT`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressRow {
    /// The slot of the address's ENI, if the ENI is gated on this host; else 0.
    pub slot: u16,
    /// [`address`] flags, 16 bits; none if the address is unknown.
    pub flags: u32,
    /// The group set of the address's ENI; 0 for none.
    pub group_set: u32,
}

impl AddressRow {
    /// Words in it.
    pub const WORDS: usize = 3;

    /// The words of the row of `address`.
    pub const fn to_words(self, address: Address) -> [u64; Self::WORDS] {
        let [upper, lower] = address.halves();
        [
            upper,
            lower,
            pair(self.group_set, (self.flags & 0xffff) << 16 | self.slot as u32),
        ]
    }

    /// From those words.
    #[inline(always)]
    pub const fn from_words([upper, lower, rest]: [u64; Self::WORDS]) -> (Address, Self) {
        let (group_set, low) = unpair(rest);
        let row = Self {
            slot: low as u16,
            flags: low >> 16,
            group_set,
        };
        (Address::new(upper, lower), row)
    }
}

/// Flags of a slot's row.
pub mod slot {
    /// The row is valid: the configuration has the ENI.
    pub const PRESENT: u32 = 1 << 0;
    /// `source-dest-check`.
    pub const SOURCE_DEST_CHECK: u32 = 1 << 1;
    /// The ENI is isolated: everything is dropped.
    pub const ISOLATED: u32 = 1 << 2;
    /// The task may talk DHCP without a rule.
    pub const EXEMPT_DHCP: u32 = 1 << 3;
}

/// Flags of an address's row.
pub mod address {
    /// The row is valid.
    pub const PRESENT: u32 = 1 << 0;
    /// Tasks may open connections to the address without a rule.
    pub const EXEMPT: u32 = 1 << 1;
}
