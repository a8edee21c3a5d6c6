//! The image: the configuration that user space passes to the kernel, in one mmapped array of banks of 2 MiB.
//!
//! | bank | holds |
//! |---|---|
//! | 0 | control words, epochs and links by slot, the open-addressed table `links` |
//! | 1, 2 | rows of links and slots, one bank for each parity of the generation |
//! | 3… | the open-addressed table `members`, and its rows, one for each address. Pairs of banks, one of a pair for each parity; their number is fixed when the image is made ([`ImageWord::MemberBanks`]) |
//! | then | policies |
//!
//! The image is read in words of 8 bytes at offsets that are masked first, so a damaged image can give a wrong answer, never
//! an unsafe load. One store of [`ImageWord::Generation`] switches the whole configuration.
//!
//! **Tables.** A word of `links` or `members` is an [`IndexWord`], [`EMPTY`] or [`TOMBSTONE`], and does not depend on the
//! configuration. The configuration of the index is in its row, which repeats the key: a row with another key counts as
//! absent. Position and stride come from [`probe`]; a search ends at an empty word or after [`PROBES`] words. A key of
//! `members` also chooses its bank, and its row lies in the same pair of banks, so the cost of a search does not depend on
//! the number of banks.
//!
//! **Policies.** See [`PolicyHeader`].

mod policy;
mod rows;

pub use policy::{
    AxisEntry, AxisRef, Class, MAX_DEPTH, MAX_ROW_WORDS, MAX_RULES, PolicyHeader, PolicyRef, PolicyRoots, RuleMatch,
    rule,
};
pub use rows::{AddressRow, LinkRow, SlotRow, address, slot};

use super::{layout, pair, unpair};

/// Bytes in a bank.
pub const BANK_BYTES: u32 = 2 << 20;
/// The bank of control words, per-slot words and `links`.
pub const CONTROL_BANK: u32 = 0;
/// The first bank of `members`.
pub const MEMBER_BANK: u32 = 3;
/// The first bank of policies in the smallest image.
pub const POLICY_BANK: u32 = policy_bank(LEAST_MEMBER_BANKS);
/// Banks of `members` in the smallest image: one pair.
pub const LEAST_MEMBER_BANKS: u32 = 2;
/// Banks of `members` in the largest image.
pub const MOST_MEMBER_BANKS: u32 = 256;

/// The bank of a generation's rows of links and slots, by its parity.
#[inline(always)]
pub const fn rows_bank(generation: u32) -> u32 {
    1 + (generation & 1)
}

/// The first bank of policies, after `member_banks` banks of `members`.
pub const fn policy_bank(member_banks: u32) -> u32 {
    MEMBER_BANK + member_banks
}

/// The number of addresses that `member_banks` banks of `members` can hold. The hash assigns keys to pairs: with several
/// pairs, a sixteenth of the rows is reserved for uneven distribution.
pub const fn member_room(member_banks: u32) -> u32 {
    let rows = member_banks / 2 * ADDRESS_ROWS.count;
    if member_banks == LEAST_MEMBER_BANKS {
        rows
    } else {
        rows / 16 * 15
    }
}

/// An array of entries of one size within a bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Offset of the first entry, in bytes from the bank's start.
    pub offset: u32,
    /// Bytes from one entry to the next.
    pub stride: u32,
    /// The number of entries: a power of two.
    pub count: u32,
}

impl Region {
    const fn new(offset: u32, words: u32, count: u32) -> Self {
        assert!(count.is_power_of_two());
        Self {
            offset,
            stride: 8 * words,
            count,
        }
    }

    /// Offset of an entry. The index is taken modulo the count, so no index leads outside.
    #[inline(always)]
    pub const fn at(self, index: u32) -> u32 {
        self.offset + self.stride * (index & (self.count - 1))
    }

    /// Offset right after the first `count` entries.
    pub const fn end_of(self, count: u32) -> u32 {
        self.offset + self.stride * count
    }

    /// Offset right after the last entry.
    pub const fn end(self) -> u32 {
        self.end_of(self.count)
    }

    /// Whether an offset lies within the region.
    pub const fn contains(self, offset: u32) -> bool {
        offset >= self.offset && offset < self.end()
    }
}

/// In the bank of control words: a word for each [`ImageWord`].
pub const CONTROL_WORDS: Region = Region::new(0, 1, 8);
/// In the bank of control words: the idle time-outs in ticks, a word for each [`Timeout`].
pub const TIMEOUT_TICKS: Region = Region::new(64, 1, 16);
/// In the bank of control words: the [`Share`] of each [`Shared`] table.
pub const SHARES: Region = Region::new(192, 1, 4);
/// In the bank of control words: the epochs, a word for each slot.
pub const EPOCHS: Region = Region::new(64 << 10, 1, SLOTS);
/// In the bank of control words: the [`IndexWord`]s of `links`.
pub const LINKS: Region = Region::new(128 << 10, 1, 16_384);
/// In the bank of control words: the [`super::LinkId`] of each slot's ENI, or 0.
pub const SLOT_LINKS: Region = Region::new(256 << 10, 1, SLOTS);
/// In the bank of control words: the fixed hardware address of each slot's ENI, as [`crate::packet::hardware_number`]
/// encodes it, or 0.
pub const SLOT_MACS: Region = Region::new(320 << 10, 1, SLOTS);
/// In the bank of control words: the ifindex of the bridge of which each slot's link is a port, or 0.
pub const SLOT_SEGMENTS: Region = Region::new(384 << 10, 1, SLOTS);

/// In a bank of rows: a [`LinkRow`] for each index in `links`.
pub const LINK_ROWS: Region = Region::new(0, 1, 8192);
/// In a bank of rows: a [`SlotRow`] for each slot.
pub const SLOT_ROWS: Region = Region::new(256 << 10, SlotRow::WORDS as u32, SLOTS);

/// In each bank of `members`: the [`IndexWord`]s of the keys that hash to the bank.
pub const MEMBERS: Region = Region::new(0, 1, 65_536);
/// In each bank of `members`: an [`AddressRow`] for each index of the pair of banks, for generations of one parity.
pub const ADDRESS_ROWS: Region = Region::new(512 << 10, AddressRow::WORDS as u32, 65_536);

/// The number of banks of `members` in this image, stored as a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberBanks(u32);

impl MemberBanks {
    /// This number of banks: a power of two from [`LEAST_MEMBER_BANKS`] to [`MOST_MEMBER_BANKS`].
    pub const fn of(banks: u32) -> Self {
        Self(banks - 1)
    }

    /// The number of banks.
    pub const fn count(self) -> u32 {
        self.0 + 1
    }

    /// As a control word.
    pub const fn to_word(self) -> u64 {
        self.0 as u64
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word as u32 & (MOST_MEMBER_BANKS - 1))
    }

    /// The bank of a key's index word.
    #[inline(always)]
    pub const fn words_of(self, probe: Probe) -> u32 {
        MEMBER_BANK + (probe.first >> 16 & self.0)
    }

    /// The bank of the key's row in a generation: one of the same pair.
    #[inline(always)]
    pub const fn rows_of(self, probe: Probe, generation: u32) -> u32 {
        MEMBER_BANK + (probe.first >> 16 & self.0 & !1 | generation & 1)
    }
}

/// Raised whenever a word of the image changes its meaning, except for the words of [`CARRIED_VERSION`].
pub const IMAGE_VERSION: u32 = 5;
/// Raised whenever one of the words changes its meaning that a process reads in the images of earlier ones: generation,
/// window and trunks, epochs and links of slots.
pub const CARRIED_VERSION: u32 = 1;

/// The image's first word. Each process creates its own image, so it can take over from a process with another image layout,
/// as long as it can read the words that it carries over: the upper half of this word identifies their layout
/// ([`is_readable`]), the lower half the layout of the rest.
pub const IMAGE_LAYOUT: u64 = {
    let carried = layout(&[
        CARRIED_VERSION as u64,
        BANK_BYTES as u64,
        CONTROL_BANK as u64,
        ImageWord::Generation.offset() as u64,
        ImageWord::Window.offset() as u64,
        ImageWord::Trunk.offset() as u64,
        ImageWord::PreviousTrunk.offset() as u64,
        EPOCHS.offset as u64,
        SLOT_LINKS.offset as u64,
        SLOTS as u64,
    ]);
    let rest = layout(&[
        IMAGE_VERSION as u64,
        LINKS.offset as u64,
        SLOT_MACS.offset as u64,
        SLOT_SEGMENTS.offset as u64,
        LINK_ROWS.offset as u64,
        SLOT_ROWS.offset as u64,
        SlotRow::WORDS as u64,
        MEMBER_BANK as u64,
        ADDRESS_ROWS.offset as u64,
        AddressRow::WORDS as u64,
        POLICY_BANK as u64,
    ]);
    pair(
        (carried >> 32) as u32 ^ carried as u32,
        (rest >> 32) as u32 ^ rest as u32,
    )
};

/// Whether this build can read the words that are carried over from an image, by the image's first word.
pub const fn is_readable(first_word: u64) -> bool {
    first_word >> 32 == IMAGE_LAYOUT >> 32
}

/// The single control words, in the order of [`CONTROL_WORDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ImageWord {
    /// [`IMAGE_LAYOUT`].
    Layout = 0,
    /// The generation, 1 and up; its lowest bit names the bank of rows. 0: nothing is configured.
    Generation = 1,
    /// The number of the capture window.
    Window = 2,
    /// The [`control`] flags.
    Flags = 3,
    /// The trunk's ifindex: VLAN tags name branches on that link only. 0: there is no trunk.
    Trunk = 4,
    /// The ifindex of the previous trunk, which is kept closed: tagged frames are dropped there, untagged frames belong to
    /// the host. 0: there is none.
    PreviousTrunk = 5,
    /// The ifindex of the uplink, on which packets arrive from the wire; 0: none is configured.
    Uplink = 6,
    /// The [`MemberBanks`].
    MemberBanks = 7,
}

impl ImageWord {
    /// The word's offset in the bank of control words.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        CONTROL_WORDS.at(self as u32)
    }
}

/// The tables that tasks share, in the order of their control words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shared {
    /// Tracked connections.
    Connections = 0,
    /// Denied flows.
    Denials = 1,
    /// Remembered first fragments.
    Fragments = 2,
}

impl Shared {
    /// All of them, in the order of their control words.
    pub const ALL: [Self; 3] = [Self::Connections, Self::Denials, Self::Fragments];

    /// The room for first fragments, by the room for denied flows: an eighth of it, at least 1.
    pub const fn fragments(denials: u32) -> u32 {
        if denials < 8 { 1 } else { denials / 8 }
    }
}

/// How a table is shared among slots, counting entries of both families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Entries guaranteed to each slot.
    pub floor: u32,
    /// Entries shared by all slots beyond their floors.
    pub pool: u32,
}

impl Share {
    /// As a control word.
    pub const fn to_word(self) -> u64 {
        pair(self.pool, self.floor)
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (pool, floor) = unpair(word);
        Self { floor, pool }
    }
}

/// The cause of an entry, which limits its part of floor, pool and cap. Entries of the task's own packets may use all of
/// them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Claim {
    /// An ICMP error about a connection, which any host on the path may send: at most half, so half is left to connections.
    Error = 1,
    /// Opened or sent from outside: a quarter is left to what the task itself opens, exemptions included.
    Inward = 2,
    /// Opened or sent by the task.
    Outward = 31,
}

impl Claim {
    /// The part of `of` entries that a claim with this number may use: all but `of / 2^number`.
    #[inline(always)]
    pub const fn part(claim: u32, of: u32) -> u32 {
        of - (of >> (claim & 31))
    }
}

/// The value for a task without a cap.
pub const NO_CAP: u32 = u32::MAX;

/// Bits of the control flags.
pub mod control {
    /// There is a follower: the first packet of each flow is written to the ring buffer.
    pub const FOLLOW: u64 = 1 << 0;
    /// `on-rule-removal: cut`: tracked connections are re-evaluated after a change, too.
    pub const CUT: u64 = 1 << 1;
    /// `icmp-errors: pmtu` or `all`.
    pub const ICMP_PMTU: u64 = 1 << 2;
    /// `icmp-errors: all`.
    pub const ICMP_ALL: u64 = 1 << 3;
}

/// The idle time-outs, in the order of their control words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Timeout {
    /// Established TCP.
    TcpEstablished = 0,
    /// TCP whose handshake is not complete.
    TcpHalfOpen = 1,
    /// TCP after both sides' FIN, or a RST.
    TcpClosed = 2,
    /// UDP before a second exchange.
    Udp = 3,
    /// UDP from the second exchange on.
    UdpStream = 4,
    /// ICMP and ICMPv6.
    Icmp = 5,
    /// Every other protocol.
    Other = 6,
    /// The first fragment of an IPv4 datagram.
    FragmentV4 = 7,
    /// The first fragment of an IPv6 packet.
    FragmentV6 = 8,
    /// TCP after one side's FIN.
    TcpHalfClosed = 9,
    /// A neighbour's link-local address, since the neighbour was last heard.
    LinkLocal = 10,
}

impl Timeout {
    /// All of them, in the order of their control words.
    pub const ALL: [Self; TIMEOUTS] = [
        Self::TcpEstablished,
        Self::TcpHalfOpen,
        Self::TcpClosed,
        Self::Udp,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
        Self::FragmentV4,
        Self::FragmentV6,
        Self::TcpHalfClosed,
        Self::LinkLocal,
    ];
}

/// The number of time-outs.
pub const TIMEOUTS: usize = 11;

/// The number of slots. A slot is an ENI's number in the tables, 1 to 8,191; slot 0 is no ENI.
pub const SLOTS: u32 = 8192;

/// A word of `links` or `members`: the key's tag above, the index of its row below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexWord {
    /// [`Probe::tag`] of the key.
    pub tag: u32,
    /// The index of its row.
    pub index: u32,
}

impl IndexWord {
    /// As a word of `links` or `members`.
    pub const fn to_word(self) -> u64 {
        pair(self.tag, self.index)
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (tag, index) = unpair(word);
        Self { tag, index }
    }
}

/// A word of `links` or `members` that was never used: a search ends.
pub const EMPTY: u64 = 0;
/// A word whose key was removed: a search goes on. No tag is 0.
pub const TOMBSTONE: u64 = 1;
/// The most words that a search reads.
pub const PROBES: u32 = 24;

/// The search for a key: start, stride, and the tag of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Index of the first word, before masking: 24 bits.
    pub first: u32,
    /// The stride in words: odd, so that a search reaches every word of a table.
    pub stride: u32,
    /// The word's upper half: never 0.
    pub tag: u32,
}

impl Probe {
    /// Index of the word that a search reads after this many steps, before masking.
    pub const fn position(self, step: u32) -> u32 {
        self.first.wrapping_add(step.wrapping_mul(self.stride))
    }
}

/// The search for a key: the halves of an address, or 0 and a link.
#[inline(always)]
pub const fn probe([upper, lower]: [u64; 2]) -> Probe {
    // Two rounds of multiply and fold: every bit of the key affects the bits in use. The keys come from the configuration,
    // so senders of packets cannot choose them.
    let mixed = (upper ^ upper >> 29)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(27)
        ^ lower;
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    Probe {
        first: (mixed >> 40) as u32,
        stride: (mixed >> 20) as u32 | 1,
        tag: mixed as u32 | 1,
    }
}

const _: () = {
    assert!(CONTROL_WORDS.end() <= TIMEOUT_TICKS.offset && TIMEOUTS <= TIMEOUT_TICKS.count as usize);
    assert!(TIMEOUT_TICKS.end() <= SHARES.offset && Shared::ALL.len() <= SHARES.count as usize);
    assert!(SHARES.end() <= EPOCHS.offset && EPOCHS.end() <= LINKS.offset && LINKS.end() <= SLOT_LINKS.offset);
    assert!(SLOT_LINKS.end() <= SLOT_MACS.offset && SLOT_MACS.end() <= SLOT_SEGMENTS.offset);
    assert!(SLOT_SEGMENTS.end() <= BANK_BYTES);
    assert!(LINK_ROWS.end() <= SLOT_ROWS.offset && SLOT_ROWS.end() <= BANK_BYTES);
    assert!(MEMBERS.end() <= ADDRESS_ROWS.offset && ADDRESS_ROWS.end() <= BANK_BYTES && MEMBERS.count == 1 << 16);
    assert!(MOST_MEMBER_BANKS.is_power_of_two() && MOST_MEMBER_BANKS << 16 <= 1 << 24);
};

#[cfg(test)]
mod tests;
