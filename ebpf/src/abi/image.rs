//! The image: everything that user space tells the kernel, in one array of banks of 2 MiB, mapped by both.
//!
//! | bank | holds |
//! |---|---|
//! | 0 | control words, epochs and links by slot, the open-addressed tables `links` and `members` |
//! | 1, 2 | rows: what the configuration says of a link, a slot or an address, one bank for each parity of the generation |
//! | 3… | policies |
//!
//! All of it is read in words of 8 bytes at offsets that are masked first, so a damaged image can give a wrong answer,
//! never an unsafe load. One store of [`CONTROL_GENERATION`] switches the whole configuration.
//!
//! **Tables.** A word of `links` or `members` is `tag << 32 | index`, [`EMPTY`] or [`TOMBSTONE`], and does not depend on
//! the configuration; what the configuration says of the index is its row, which names its own key again: a row that
//! names another key counts as absent. Position and stride come from [`probe`]; a search ends at an empty word or after
//! [`PROBES`] words.
//!
//! **Policies.** A policy is the rules of one set of groups, in one direction, for one family, as a bit-vector
//! classifier (Lakshman and Stiliadis, SIGCOMM 1998). It lies within one bank, 64-byte aligned, and all its offsets are
//! in bytes from its own start:
//!
//! | word | holds (lower half, upper half) |
//! |---|---|
//! | 0 | [`POLICY_MAGIC`]; words in a bitmap, 1 to 16 |
//! | 1 | offset of the rules; how many |
//! | 2 to 5 | port axes by [`Class`]: offset, depth |
//! | 6 | peer axis: offset, depth |
//! | 7 | group axis: offset, depth |
//!
//! An axis of depth *d* has 2^*d* entries of 8 bytes, sorted: the interval's first key above, the offset of its row
//! below; the first entry's key is 0; entries beyond the last interval repeat it. Keys are a port, an ICMP type and code
//! (`type << 8 | code`), a protocol number, an IPv4 address, a group set. On the peer axis of IPv6 the first 2^*d* × 16
//! bytes are keys (upper half, lower half) and 2^*d* words with the rows' offsets follow. A row is a summary word, with
//! a bit for each word that is not zero, and the bitmap's words: bit *b* of word *w* is rule 64 *w* + *b*. A rule is one
//! word: its number below, [`rule`] flags above. The first set bit of `port & (peer | group)` is the rule that allows.

/// Bytes in a bank.
pub const BANK_BYTES: u32 = 2 << 20;
/// The bank of control words and tables.
pub const CONTROL_BANK: u32 = 0;
/// The first of the two banks of rows; the generation's parity is added.
pub const ROWS_BANK: u32 = 1;
/// The first bank of policies.
pub const POLICY_BANK: u32 = 3;

/// Offset of [`super::ABI_HASH`].
pub const CONTROL_ABI: u32 = 0;
/// Offset of the generation, 1 and up; its lowest bit names the bank of rows. 0: nothing is configured.
pub const CONTROL_GENERATION: u32 = 8;
/// Offset of the number of the capture window.
pub const CONTROL_WINDOW: u32 = 16;
/// Offset of the [`control`] flags.
pub const CONTROL_FLAGS: u32 = 24;
/// Offset of the idle time-outs in ticks: one word for each [`Timeout`].
pub const CONTROL_TIMEOUTS: u32 = 64;

/// Offset of the trunk's ifindex: tags name branches on that link and on no other. 0: there is no trunk.
pub const CONTROL_TRUNK: u32 = 32;

/// Offset of the ifindex of a link that was the trunk and is held closed: tags name nothing there any more, and what has
/// none is the host's, as on a trunk. 0: there is none.
pub const CONTROL_FORMER: u32 = 40;

/// Offset of the ifindex of the uplink, by which the wire's packets come in; 0: none is named.
pub const CONTROL_UPLINK: u32 = 48;

/// Offset of the shares: one word for each [`Shared`] table, the floor of each slot below and the size of the common pool
/// above.
pub const CONTROL_SHARES: u32 = 192;

/// The tables that tasks share, in the order of their control words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Shared {
    /// Tracked connections.
    Connections = 0,
    /// Denied flows.
    Denials = 1,
    /// First fragments that are remembered.
    Fragments = 2,
}

impl Shared {
    /// All of them, in the order of their control words.
    pub const ALL: [Self; 3] = [Self::Connections, Self::Denials, Self::Fragments];

    /// First fragments that are remembered, by the room for denied flows: an eighth.
    pub const fn fragments(denials: u32) -> u32 {
        if denials < 8 { 1 } else { denials / 8 }
    }
}

/// How a table is shared: entries of both families together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// What each slot may have for certain.
    pub floor: u32,
    /// What all slots may have beyond that, together.
    pub pool: u32,
}

/// Who an entry is for, and so what it leaves of floor, pool and cap to others. An entry of the task's own making may have
/// all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Claim {
    /// An ICMP error about a connection, which anybody on the way may send: half is left to connections.
    Error = 1,
    /// Opened or sent from outside: a quarter is left to what the task itself opens, what is never filtered included.
    Inward = 2,
    /// Opened or sent by the task.
    Outward = 31,
}

impl Claim {
    /// What may be taken of so much, by the claim's number.
    #[inline(always)]
    pub const fn part(claim: u32, of: u32) -> u32 {
        of - (of >> (claim & 31))
    }
}

/// The cap of a task that has none.
pub const NO_CAP: u32 = u32::MAX;

/// Bits of the control flags.
pub mod control {
    /// Somebody follows: the first packet of each flow is put on the ring.
    pub const FOLLOW: u64 = 1 << 0;
    /// `on-rule-removal: cut`: tracked connections too are judged anew after a change.
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
    /// A link-local address of a neighbour, since it was heard last.
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

/// How many time-outs there are.
pub const TIMEOUTS: usize = 11;

/// Slots: an ENI's number in the tables, 1 to 8,191. Slot 0 is no ENI.
pub const SLOTS: u32 = 8192;
/// Offset of the epochs: a word for each slot.
pub const EPOCHS: u32 = 64 << 10;
/// Offset of the words of `links`.
pub const LINKS: u32 = 128 << 10;
/// Words in `links`: a power of two.
pub const LINK_WORDS: u32 = 16_384;
/// Rows of links in a bank of rows.
pub const LINK_ROWS: u32 = 8192;
/// Offset of the words of `members`.
pub const MEMBERS: u32 = 1 << 20;
/// Words in `members`: a power of two.
pub const MEMBER_WORDS: u32 = 131_072;
/// Offset of the links of slots, in the bank of control words: a word for each slot, the [`super::LinkId`] that carries
/// its ENI, or 0.
pub const SLOT_LINKS: u32 = 256 << 10;
/// Offset of the hardware addresses of slots, in the bank of control words: a word for each slot, the one that its ENI has
/// and nobody changes, as [`crate::packet::hardware_number`] writes it, or 0.
pub const SLOT_MACS: u32 = 320 << 10;
/// Offset of the segments of slots, in the bank of control words: a word for each slot, the ifindex of the bridge that its
/// link is a port of, or 0.
pub const SLOT_SEGMENTS: u32 = 384 << 10;
/// Rows of addresses in a bank of rows.
pub const ADDRESS_ROWS: u32 = 65_536;

/// A word of `links` or `members` that ends a search.
pub const EMPTY: u64 = 0;
/// A word that held something once: a search goes on. No tag is 0.
pub const TOMBSTONE: u64 = 1;
/// How many words a search looks at.
pub const PROBES: u32 = 24;

/// Where a key's search begins, how far each step goes, and the tag its word has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Number of the first word, before masking.
    pub first: u32,
    /// Words between one step and the next: odd, so that a search meets every word of a table.
    pub stride: u32,
    /// The word's upper half: never 0.
    pub tag: u32,
}

/// The search for a key; a link's upper half is 0.
#[inline(always)]
pub const fn probe(upper: u64, lower: u64) -> Probe {
    // Two rounds of multiply and fold: every bit of the key reaches the bits that are used. The keys come from the
    // configuration, so nobody who sends packets chooses them.
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

/// Offset of the rows of links in a bank of rows: one word each, `link | slot << 32`, 0 if absent.
pub const LINK_ROW: u32 = 0;
/// Offset of the rows of slots.
pub const SLOT_ROW: u32 = 256 << 10;
/// Bytes in a slot's row: egress roots (IPv4 below, IPv6 above), ingress roots, [`slot`] flags below and group set
/// above, cap of tracked connections below ([`NO_CAP`]: none).
pub const SLOT_ROW_BYTES: u32 = 32;
/// Offset of the rows of addresses.
pub const ADDRESS_ROW: u32 = 512 << 10;
/// Bytes in an address's row.
pub const ADDRESS_ROW_BYTES: u32 = 24;
/// Words in an address's row: upper and lower half of the address (IPv4 mapped), then slot (16 bits), [`address`] flags
/// (16 bits), group set (upper half).
pub const ADDRESS_WORDS: u32 = 3;

/// Flags of a slot's row.
pub mod slot {
    /// The row is filled: the configuration names the ENI.
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
    /// The row is filled.
    pub const PRESENT: u32 = 1 << 0;
    /// A task may open connections to it without a rule.
    pub const EXEMPT: u32 = 1 << 1;
}

/// A policy's first half word.
pub const POLICY_MAGIC: u32 = 0x5447_5001;
/// Bytes in a policy's header.
pub const POLICY_HEADER_BYTES: u32 = 64;
/// Rules in one policy at most: 16 words of bitmap.
pub const MAX_RULES: u32 = 1024;
/// Words in a bitmap at most.
pub const MAX_ROW_WORDS: u32 = MAX_RULES / 64;
/// The depth of an axis at most.
pub const MAX_DEPTH: u32 = 17;

/// The port axes of a policy, in the order of its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// TCP, by destination port.
    Tcp = 0,
    /// UDP, by destination port.
    Udp = 1,
    /// ICMP over IPv4, ICMPv6 over IPv6, by type and code.
    Icmp = 2,
    /// Every other protocol, by its number.
    Other = 3,
}

/// Flags of a rule's word.
pub mod rule {
    /// What it allows over TCP is untracked.
    pub const UNTRACKED_TCP: u32 = 1 << 0;
    /// What it allows over UDP is untracked.
    pub const UNTRACKED_UDP: u32 = 1 << 1;
}

/// Where a policy lies, as a slot's row names it: bank and offset in 64-byte units. 0: no policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRef(pub u32);

impl PolicyRef {
    const UNIT_BITS: u32 = 15;

    /// The root of what lies at `offset` (a multiple of 64) in `bank`.
    pub const fn new(bank: u32, offset: u32) -> Self {
        Self(bank << Self::UNIT_BITS | offset >> 6 & ((1 << Self::UNIT_BITS) - 1))
    }

    /// Its bank.
    #[inline(always)]
    pub const fn bank(self) -> u32 {
        self.0 >> Self::UNIT_BITS
    }

    /// Its offset in the bank, in bytes.
    #[inline(always)]
    pub const fn offset(self) -> u32 {
        (self.0 & ((1 << Self::UNIT_BITS) - 1)) << 6
    }
}

const _: () = {
    assert!(BANK_BYTES >> 6 == 1 << PolicyRef::UNIT_BITS);
    assert!(CONTROL_TIMEOUTS + 8 * TIMEOUTS as u32 <= CONTROL_SHARES);
    assert!(CONTROL_SHARES + 8 * Shared::ALL.len() as u32 <= EPOCHS);
    assert!(EPOCHS + 8 * SLOTS <= LINKS);
    assert!(LINKS + 8 * LINK_WORDS <= SLOT_LINKS);
    assert!(SLOT_LINKS + 8 * SLOTS <= SLOT_MACS);
    assert!(SLOT_MACS + 8 * SLOTS <= SLOT_SEGMENTS);
    assert!(SLOT_SEGMENTS + 8 * SLOTS <= MEMBERS);
    assert!(MEMBERS + 8 * MEMBER_WORDS <= BANK_BYTES);
    assert!(LINK_ROW + 8 * LINK_ROWS <= SLOT_ROW);
    assert!(SLOT_ROW + SLOT_ROW_BYTES * SLOTS <= ADDRESS_ROW);
    assert!(ADDRESS_ROW + ADDRESS_ROW_BYTES * ADDRESS_ROWS <= BANK_BYTES);
};
