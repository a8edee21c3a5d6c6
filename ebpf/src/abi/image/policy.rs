//! The words of a policy, and references to policies.

use super::{BANK_BYTES, pair, unpair};

/// The most rules in one policy: 16 words of bitmap.
pub const MAX_RULES: u32 = 1024;
/// The most words in a bitmap.
pub const MAX_ROW_WORDS: u32 = MAX_RULES / 64;
/// The largest depth of an axis.
pub const MAX_DEPTH: u32 = 17;

/// The header of a policy: the rules of one set of groups, in one direction, for one family, as a bit-vector classifier
/// (Lakshman and Stiliadis, SIGCOMM 1998). A policy lies within one bank, 64-byte aligned, and all its offsets are in bytes
/// from its own start. The header's words are, upper half first:
///
/// | word | holds |
/// |---|---|
/// | 0 | words in a bitmap, 1 to 16; [`Self::MAGIC`] |
/// | 1 | how many rules; their offset |
/// | 2 to 7 | an [`AxisRef`] each: four port axes by [`Class`], peers, groups |
///
/// A rule is a [`RuleMatch`]. A row is a summary word, with a bit for each non-zero word of the bitmap, followed by the
/// bitmap: bit *b* of word *w* is rule 64 *w* + *b*. The first set bit of `port & (peer | group)` is the rule that allows
/// the packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyHeader {
    /// Words in a bitmap.
    pub bitmap_words: u32,
    /// The number of rules.
    pub rule_count: u32,
    /// Offset of the rules.
    pub rules: u32,
    /// The port axes, by [`Class`].
    pub ports: [AxisRef; 4],
    /// The peer axis.
    pub peers: AxisRef,
    /// The group axis.
    pub groups: AxisRef,
}

impl PolicyHeader {
    /// Marks the first word.
    pub const MAGIC: u32 = 0x5447_5001;
    /// Words in the header.
    pub const WORDS: usize = 8;
    /// Bytes in the header.
    pub const BYTES: u32 = 8 * Self::WORDS as u32;
    /// Offset of the word with the number and offset of the rules.
    pub const RULES: u32 = 8;
    /// Offset of the word of the peer axis.
    pub const PEERS: u32 = Self::axis(4);
    /// Offset of the word of the group axis.
    pub const GROUPS: u32 = Self::axis(5);

    /// Offset of the word of a port axis, by the number of its [`Class`] modulo 4.
    #[inline(always)]
    pub const fn port_axis(class: u32) -> u32 {
        Self::axis(class & 3)
    }

    const fn axis(number: u32) -> u32 {
        16 + 8 * number
    }

    /// Whether a policy begins with this word.
    #[inline(always)]
    pub const fn begins_with(word: u64) -> bool {
        word as u32 == Self::MAGIC
    }

    /// Its words.
    pub const fn to_words(self) -> [u64; Self::WORDS] {
        let [tcp, udp, icmp, other] = self.ports;
        [
            pair(self.bitmap_words, Self::MAGIC),
            pair(self.rule_count, self.rules),
            tcp.to_word(),
            udp.to_word(),
            icmp.to_word(),
            other.to_word(),
            self.peers.to_word(),
            self.groups.to_word(),
        ]
    }

    /// From those words; `None` without the magic number.
    pub const fn from_words(words: [u64; Self::WORDS]) -> Option<Self> {
        let [first, rules, tcp, udp, icmp, other, peers, groups] = words;
        if !Self::begins_with(first) {
            return None;
        }
        let (rule_count, rules) = unpair(rules);
        Some(Self {
            bitmap_words: unpair(first).0,
            rule_count,
            rules,
            ports: [
                AxisRef::from_word(tcp),
                AxisRef::from_word(udp),
                AxisRef::from_word(icmp),
                AxisRef::from_word(other),
            ],
            peers: AxisRef::from_word(peers),
            groups: AxisRef::from_word(groups),
        })
    }
}

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

/// Position and size of an axis in its policy: 2^depth entries, sorted by the first keys of their intervals. The first key
/// is 0; entries beyond the last interval repeat it. Keys are a port, an ICMP type and code (`type << 8 | code`), a protocol
/// number, an IPv4 address, a group set; entries are [`AxisEntry`]s.
///
/// The peer axis of IPv6 has 2^depth keys of two words (upper half, lower half), followed by 2^depth words with the rows'
/// offsets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AxisRef {
    /// Offset of the first entry.
    pub offset: u32,
    /// The depth, below 32.
    pub depth: u32,
}

impl AxisRef {
    /// As a word: depth above, offset below.
    pub const fn to_word(self) -> u64 {
        pair(self.depth, self.offset)
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (depth, offset) = unpair(word);
        Self {
            offset,
            depth: depth & 31,
        }
    }
}

/// An interval of an axis: one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AxisEntry {
    /// The first key of the interval.
    pub key: u32,
    /// Offset of the interval's row.
    pub row: u32,
}

impl AxisEntry {
    /// As a word: key above, row below.
    pub const fn to_word(self) -> u64 {
        pair(self.key, self.row)
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (key, row) = unpair(word);
        Self { key, row }
    }
}

/// A rule as the result of classification: one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Its number, never 0.
    pub rule: u32,
    /// [`rule`] flags.
    pub flags: u32,
}

impl RuleMatch {
    /// As a word: flags above, number below.
    pub const fn to_word(self) -> u64 {
        pair(self.flags, self.rule)
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (flags, rule) = unpair(word);
        Self { rule, flags }
    }
}

/// Flags of a rule.
pub mod rule {
    /// TCP flows that the rule allows are untracked.
    pub const UNTRACKED_TCP: u32 = 1 << 0;
    /// UDP flows that the rule allows are untracked.
    pub const UNTRACKED_UDP: u32 = 1 << 1;
}

/// A reference to a policy, as in a slot's row: bank, and offset in units of 64 bytes. 0: no policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct PolicyRef(pub u32);

impl PolicyRef {
    const UNIT_BITS: u32 = 15;

    /// The reference to the policy at `offset` (a multiple of 64) in `bank`.
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

const _: () = assert!(BANK_BYTES >> 6 == 1 << PolicyRef::UNIT_BITS);

/// The policies of a slot in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PolicyRoots {
    /// The policy for IPv4.
    pub v4: PolicyRef,
    /// The policy for IPv6.
    pub v6: PolicyRef,
}

impl PolicyRoots {
    /// As a word: IPv6 above, IPv4 below.
    pub const fn to_word(self) -> u64 {
        pair(self.v6.0, self.v4.0)
    }

    /// From that word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let (v6, v4) = unpair(word);
        Self {
            v4: PolicyRef(v4),
            v6: PolicyRef(v6),
        }
    }
}
