//! Reads the image: who a link and an address are, and whether a policy allows a packet. The layout is
//! [`crate::abi::image`]'s.
//!
//! Searches compare by borrow (`(x - v) >> 63`), never by `<` used as a value: LLVM turns that into branches, and each
//! branch doubles what the verifier walks.

use crate::abi::LinkId;
use crate::abi::image::{
    ADDRESS_ROW, ADDRESS_ROW_BYTES, ADDRESS_ROWS, CONTROL_BANK, CONTROL_FLAGS, CONTROL_FORMER, CONTROL_GENERATION,
    CONTROL_SHARES, CONTROL_TIMEOUTS, CONTROL_TRUNK, CONTROL_UPLINK, CONTROL_WINDOW, EMPTY, EPOCHS, LINK_ROW,
    LINK_ROWS, LINK_WORDS, LINKS, MAX_DEPTH, MAX_ROW_WORDS, MEMBER_WORDS, MEMBERS, POLICY_HEADER_BYTES, POLICY_MAGIC,
    PROBES, PolicyRef, Probe, ROWS_BANK, SLOT_LINKS, SLOT_MACS, SLOT_ROW, SLOT_ROW_BYTES, SLOT_SEGMENTS, SLOTS, Share,
    Shared, Timeout, address, probe, slot,
};

/// A bank of the image.
pub trait Bank: Copy {
    /// The word at `offset` bytes. The offset is masked to the bank and to eight bytes first.
    fn word(self, offset: u32) -> u64;
}

/// The image.
pub trait Image {
    /// One of its banks.
    type Bank: Bank;
    /// The bank with this number, if there is one.
    fn bank(&self, index: u32) -> Option<Self::Bank>;
}

/// The control words, with the generation that judges this packet.
#[derive(Clone, Copy)]
pub struct Control<B> {
    bank: B,
    /// The generation, read once: 0 if nothing is configured.
    pub generation: u32,
    /// The number of the capture window.
    pub window: u32,
    /// [`crate::abi::image::control`] bits.
    pub flags: u64,
}

impl<B: Bank> Control<B> {
    /// Reads them; `None` only where the image has no bank at all.
    #[inline(always)]
    pub fn read<I: Image<Bank = B>>(image: &I) -> Option<Self> {
        let bank = image.bank(CONTROL_BANK)?;
        Some(Self {
            bank,
            generation: bank.word(CONTROL_GENERATION) as u32,
            window: bank.word(CONTROL_WINDOW) as u32,
            flags: bank.word(CONTROL_FLAGS),
        })
    }

    /// The idle time-out in ticks.
    #[inline(always)]
    pub fn timeout(&self, timeout: Timeout) -> u32 {
        self.bank.word(CONTROL_TIMEOUTS + 8 * timeout as u32) as u32
    }

    /// How a table is shared.
    #[inline(always)]
    pub fn share(&self, table: Shared) -> Share {
        let word = self.bank.word(CONTROL_SHARES + 8 * table as u32);
        Share {
            floor: word as u32,
            pool: (word >> 32) as u32,
        }
    }

    /// The trunk's ifindex; 0 if there is none.
    #[inline(always)]
    pub fn trunk(&self) -> u32 {
        self.bank.word(CONTROL_TRUNK) as u32
    }

    /// The ifindex of the link that was the trunk before; 0 if there is none.
    #[inline(always)]
    pub fn previous_trunk(&self) -> u32 {
        self.bank.word(CONTROL_FORMER) as u32
    }

    /// The uplink's ifindex; 0 if none is named.
    #[inline(always)]
    pub fn uplink(&self) -> u32 {
        self.bank.word(CONTROL_UPLINK) as u32
    }

    /// The link that carries a slot's ENI.
    #[inline(always)]
    pub fn link_of(&self, slot: u16) -> Option<LinkId> {
        match self.bank.word(SLOT_LINKS + 8 * (slot as u32 & (SLOTS - 1))) as u32 {
            0 => None,
            link => Some(LinkId::from_number(link)),
        }
    }

    /// The hardware address of a slot's ENI; 0 if it is not known.
    #[inline(always)]
    pub fn mac_of(&self, slot: u16) -> u64 {
        self.bank.word(SLOT_MACS + 8 * (slot as u32 & (SLOTS - 1)))
    }

    /// The bridge that a slot's link is a port of.
    #[inline(always)]
    pub fn segment_of(&self, slot: u16) -> Option<u32> {
        match self.bank.word(SLOT_SEGMENTS + 8 * (slot as u32 & (SLOTS - 1))) as u32 {
            0 => None,
            bridge => Some(bridge),
        }
    }

    /// The epoch of a slot.
    #[inline(always)]
    pub fn epoch(&self, slot: u16) -> u32 {
        self.bank.word(EPOCHS + 8 * (slot as u32 & (SLOTS - 1))) as u32
    }

    /// Follows a key through an open-addressed table of `words` words at `base`: `found` is asked for each index whose
    /// tag fits.
    #[inline(always)]
    fn search<R>(&self, base: u32, words: u32, probe: Probe, found: impl Fn(u32) -> Option<R>) -> Option<R> {
        let mut at = probe.first;
        for _ in 0..PROBES {
            let word = self.bank.word(base + 8 * (at & (words - 1)));
            if word == EMPTY {
                return None;
            }
            if (word >> 32) as u32 == probe.tag {
                let row = found(word as u32);
                if row.is_some() {
                    return row;
                }
            }
            at = at.wrapping_add(probe.stride);
        }
        None
    }
}

/// What the configuration says, in one generation.
#[derive(Clone, Copy)]
pub struct Rows<B> {
    control: Control<B>,
    bank: B,
}

/// An ENI as its slot's row has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EniRow {
    /// Its number.
    pub slot: u16,
    /// [`slot`] flags.
    pub flags: u32,
    /// Where its policies lie, by direction: IPv4 below, IPv6 above.
    pub roots: [u64; 2],
    /// How many connections it may have tracked at most.
    pub conn_cap: u32,
}

/// An address as its row has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressRow {
    /// The slot of its ENI, if that is gated here; else 0.
    pub slot: u16,
    /// [`address`] flags; none if the address is not known.
    pub flags: u32,
    /// The set of groups that its ENI has; 0 for none.
    pub group_set: u32,
}

impl<B: Bank> Rows<B> {
    /// The rows of the generation in `control`.
    #[inline(always)]
    pub fn read<I: Image<Bank = B>>(image: &I, control: Control<B>) -> Option<Self> {
        if control.generation == 0 {
            return None;
        }
        Some(Self {
            control,
            bank: image.bank(ROWS_BANK + (control.generation & 1))?,
        })
    }

    /// Puts the ENI that a link carries into `into`, which stays as it is if there is none.
    #[inline(always)]
    pub fn eni_of(&self, link: u32, into: &mut EniRow) -> Option<()> {
        let slot = self.control.search(LINKS, LINK_WORDS, probe(0, link as u64), |index| {
            let row = self.bank.word(LINK_ROW + 8 * (index & (LINK_ROWS - 1)));
            (row as u32 == link).then_some((row >> 32) as u16)
        })?;
        self.eni(slot, into)
    }

    /// Puts the ENI in a slot into `into`, likewise.
    #[inline(always)]
    pub fn eni(&self, slot: u16, into: &mut EniRow) -> Option<()> {
        let at = SLOT_ROW + SLOT_ROW_BYTES * (slot as u32 & (SLOTS - 1));
        let flags = self.bank.word(at + 16) as u32;
        if slot == 0 || flags & slot::PRESENT == 0 {
            return None;
        }
        *into = EniRow {
            slot,
            flags,
            roots: [self.bank.word(at), self.bank.word(at + 8)],
            conn_cap: self.bank.word(at + 24) as u32,
        };
        Some(())
    }

    /// What is known of an address.
    #[inline(always)]
    pub fn address(&self, halves: [u64; 2]) -> AddressRow {
        let found = self
            .control
            .search(MEMBERS, MEMBER_WORDS, probe(halves[0], halves[1]), |index| {
                let at = ADDRESS_ROW + ADDRESS_ROW_BYTES * (index & (ADDRESS_ROWS - 1));
                let row = self.bank.word(at + 16);
                let flags = (row >> 16) as u32 & 0xffff;
                // Differences and not comparisons: one branch instead of three.
                let differs = (self.bank.word(at) ^ halves[0]) | (self.bank.word(at + 8) ^ halves[1]);
                (differs | (flags & address::PRESENT ^ address::PRESENT) as u64 == 0).then_some(AddressRow {
                    slot: row as u16,
                    flags,
                    group_set: (row >> 32) as u32,
                })
            });
        found.unwrap_or_default()
    }
}

/// The address of a peer, as the peer axis of its family orders it.
pub trait PeerKey: Copy {
    /// Whether its policies are those of IPv6: which half of a root word is theirs.
    const V6: bool;
    /// Offset of the row of the interval that holds it.
    fn find<B: Bank>(self, bank: B, axis: u32, depth: u32) -> u32;
}

/// An IPv4 peer.
#[derive(Clone, Copy)]
pub struct Peer4(pub u32);

/// An IPv6 peer: upper and lower half.
#[derive(Clone, Copy)]
pub struct Peer6(pub [u64; 2]);

impl PeerKey for Peer4 {
    const V6: bool = false;

    #[inline(always)]
    fn find<B: Bank>(self, bank: B, axis: u32, depth: u32) -> u32 {
        find_narrow(bank, axis, depth, self.0)
    }
}

impl PeerKey for Peer6 {
    const V6: bool = true;

    #[inline(always)]
    fn find<B: Bank>(self, bank: B, axis: u32, depth: u32) -> u32 {
        let at = lower_bound(depth, 4, |middle| {
            let key = axis.wrapping_add(middle);
            let (hi, lo) = (bank.word(key), bank.word(key.wrapping_add(8)));
            less_than(self.0[0], hi, less_than(self.0[1], lo, 0))
        });
        bank.word(axis.wrapping_add(16 << depth).wrapping_add(at >> 1)) as u32
    }
}

/// Offset of the last of 2^`depth` sorted entries of 2^`size` bytes that is not beyond the key; `beyond` is 1 for those
/// that are, else 0.
#[inline(always)]
fn lower_bound(depth: u32, size: u32, beyond: impl Fn(u32) -> u64) -> u32 {
    let mut at = 0;
    let mut half = 1_u64 << (depth + size);
    for _ in 0..MAX_DEPTH {
        half >>= 1;
        if half < 1 << size {
            break;
        }
        let middle = at + half;
        at = middle - (half & beyond(middle as u32).wrapping_neg());
    }
    at as u32
}

/// 1 if `x - y - carry` borrows, else 0.
#[inline(always)]
const fn less_than(x: u64, y: u64, carry: u64) -> u64 {
    let difference = x.wrapping_sub(y).wrapping_sub(carry);
    ((!x & y) | ((!x | y) & difference)) >> 63
}

/// The row of the interval that holds `key`, on an axis of packed entries.
#[inline(always)]
fn find_narrow<B: Bank>(bank: B, axis: u32, depth: u32, key: u32) -> u32 {
    let entry = |at: u32| bank.word(axis.wrapping_add(at));
    let at = lower_bound(depth, 3, |middle| (key as u64).wrapping_sub(entry(middle) >> 32) >> 63);
    entry(at) as u32
}

/// A rule that allows: its number and its [`crate::abi::image::rule`] flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleMatch {
    /// Its number, never 0.
    pub rule: u32,
    /// Its flags.
    pub flags: u32,
}

/// What a policy says of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyResult {
    /// This rule allows it.
    Allowed(RuleMatch),
    /// No rule does.
    NoRule,
    /// There is no policy where one should be.
    NoPolicy,
}

/// What a rule is matched against.
#[derive(Clone, Copy)]
pub struct PolicyQuery<P> {
    /// Which port axis: the number of a [`crate::abi::image::Class`].
    pub axis: u32,
    /// The key on it: destination port, ICMP type and code, or protocol number.
    pub port: u32,
    /// The far side's address.
    pub peer: P,
    /// The far side's groups.
    pub group_set: u32,
}

/// Judges by the policy at `roots` (a slot's root word of the packet's direction).
#[inline(always)]
pub fn classify<I: Image, P: PeerKey>(image: &I, roots: u64, query: PolicyQuery<P>) -> PolicyResult {
    let root = PolicyRef(if P::V6 { (roots >> 32) as u32 } else { roots as u32 });
    let Some(bank) = image.bank(root.bank()) else {
        return PolicyResult::NoPolicy;
    };
    let base = root.offset();
    let first = bank.word(base);
    if root.0 == 0 || first as u32 != POLICY_MAGIC {
        return PolicyResult::NoPolicy;
    }
    let axis = |index: u32| -> (u32, u32) {
        let word = bank.word(base + 16 + 8 * index);
        (base.wrapping_add(word as u32), (word >> 32) as u32 & 31)
    };
    let (ports, depth) = axis(query.axis & 3);
    let port_row = base.wrapping_add(find_narrow(bank, ports, depth, query.port));
    let (peers, depth) = axis(4);
    let peer_row = base.wrapping_add(query.peer.find(bank, peers, depth));
    let (groups, depth) = axis(5);
    let group_row = base.wrapping_add(find_narrow(bank, groups, depth, query.group_set));
    let mut summary = bank.word(port_row) & (bank.word(peer_row) | bank.word(group_row));
    for _ in 0..MAX_ROW_WORDS {
        if summary == 0 {
            return PolicyResult::NoRule;
        }
        let word = lowest_bit(summary);
        let at = 8 + 8 * word;
        let bits = bank.word(port_row.wrapping_add(at))
            & (bank.word(peer_row.wrapping_add(at)) | bank.word(group_row.wrapping_add(at)));
        if bits != 0 {
            let rules = bank.word(base + 8) as u32;
            let rule = bank.word(
                base.wrapping_add(rules)
                    .wrapping_add(8 * (64 * word + lowest_bit(bits))),
            );
            return PolicyResult::Allowed(RuleMatch {
                rule: rule as u32,
                flags: (rule >> 32) as u32,
            });
        }
        summary &= summary - 1;
    }
    PolicyResult::NoRule
}

/// The number of the lowest bit that is set. Written out: a BPF CPU has no such instruction, and a table would be a map.
#[inline(always)]
const fn lowest_bit(value: u64) -> u32 {
    let mut below = (value & value.wrapping_neg()).wrapping_sub(1);
    below -= below >> 1 & 0x5555_5555_5555_5555;
    below = (below & 0x3333_3333_3333_3333) + (below >> 2 & 0x3333_3333_3333_3333);
    below = (below + (below >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (below.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

/// A link's number as a row has it.
pub const fn link_row(link: LinkId, slot: u16) -> u64 {
    (slot as u64) << 32 | link.get() as u64
}

const _: () = assert!(POLICY_HEADER_BYTES == 16 + 8 * 6);

#[cfg(test)]
mod tests;
