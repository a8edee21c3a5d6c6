//! Reads the image: the ENI of a link, the row of an address, and whether a policy allows a packet. The layout is defined in
//! [`crate::abi::image`].
//!
//! Searches compare by the borrow bit (`(x - v) >> 63`), never by `<` used as a value: LLVM turns that into branches, and
//! each branch doubles the verifier's work.

use crate::abi::{
    Address, LinkId,
    image::{
        ADDRESS_ROWS, AddressRow, AxisEntry, AxisRef, CONTROL_BANK, EMPTY, EPOCHS, ImageWord, IndexWord, LINK_ROWS,
        LINKS, LinkRow, MAX_DEPTH, MAX_ROW_WORDS, MEMBERS, MemberBanks, PROBES, PolicyHeader, PolicyRoots, Probe,
        Region, RuleMatch, SHARES, SLOT_LINKS, SLOT_MACS, SLOT_ROWS, SLOT_SEGMENTS, Share, Shared, SlotRow,
        TIMEOUT_TICKS, Timeout, address, probe, rows_bank, slot,
    },
    unpair,
};

/// A bank of the image.
pub trait Bank: Copy {
    /// The word at `offset` bytes. The offset is masked to the bank and to eight bytes first.
    fn word(self, offset: u32) -> u64;

    /// The words from `offset` on.
    #[inline(always)]
    fn words<const N: usize>(self, offset: u32) -> [u64; N] {
        let mut words = [0; N];
        for (at, word) in (0..).zip(&mut words) {
            *word = self.word(offset + 8 * at);
        }
        words
    }
}

/// The image.
pub trait Image {
    /// One of its banks.
    type Bank: Bank;
    /// The bank with this number, if there is one.
    fn bank(&self, index: u32) -> Option<Self::Bank>;
}

/// The control words, with the generation by which this packet is judged.
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
    /// Reads the control words; `None` only if the image has no banks.
    #[inline(always)]
    pub fn read<I: Image<Bank = B>>(image: &I) -> Option<Self> {
        let bank = image.bank(CONTROL_BANK)?;
        Some(Self {
            bank,
            generation: bank.word(ImageWord::Generation.offset()) as u32,
            window: bank.word(ImageWord::Window.offset()) as u32,
            flags: bank.word(ImageWord::Flags.offset()),
        })
    }

    /// An idle time-out in ticks.
    #[inline(always)]
    pub fn timeout(&self, timeout: Timeout) -> u32 {
        self.bank.word(TIMEOUT_TICKS.at(timeout as u32)) as u32
    }

    /// Floor and pool of a shared table.
    #[inline(always)]
    pub fn share(&self, table: Shared) -> Share {
        Share::from_word(self.bank.word(SHARES.at(table as u32)))
    }

    /// The trunk's ifindex; 0 if there is none.
    #[inline(always)]
    pub fn trunk(&self) -> u32 {
        self.bank.word(ImageWord::Trunk.offset()) as u32
    }

    /// The ifindex of the link that was the trunk before; 0 if there is none.
    #[inline(always)]
    pub fn previous_trunk(&self) -> u32 {
        self.bank.word(ImageWord::PreviousTrunk.offset()) as u32
    }

    /// The uplink's ifindex; 0 if none is named.
    #[inline(always)]
    pub fn uplink(&self) -> u32 {
        self.bank.word(ImageWord::Uplink.offset()) as u32
    }

    /// The link that carries a slot's ENI.
    #[inline(always)]
    pub fn link_of(&self, slot: u16) -> Option<LinkId> {
        match self.bank.word(SLOT_LINKS.at(slot as u32)) as u32 {
            0 => None,
            link => Some(LinkId::from_number(link)),
        }
    }

    /// The hardware address of a slot's ENI; 0 if it is not known.
    #[inline(always)]
    pub fn mac_of(&self, slot: u16) -> u64 {
        self.bank.word(SLOT_MACS.at(slot as u32))
    }

    /// The bridge that a slot's link is a port of.
    #[inline(always)]
    pub fn segment_of(&self, slot: u16) -> Option<u32> {
        match self.bank.word(SLOT_SEGMENTS.at(slot as u32)) as u32 {
            0 => None,
            bridge => Some(bridge),
        }
    }

    /// The epoch of a slot.
    #[inline(always)]
    pub fn epoch(&self, slot: u16) -> u32 {
        self.bank.word(EPOCHS.at(slot as u32)) as u32
    }

    /// The banks of `members`.
    #[inline(always)]
    fn member_banks(&self) -> MemberBanks {
        MemberBanks::from_word(self.bank.word(ImageWord::MemberBanks.offset()))
    }
}

/// Searches a key in an open-addressed table of a bank: `found` is called with the index of each word whose tag matches.
#[inline(always)]
fn search<B: Bank, R>(bank: B, table: Region, probe: Probe, found: impl Fn(u32) -> Option<R>) -> Option<R> {
    let mut at = probe.first;
    for _ in 0..PROBES {
        let word = bank.word(table.at(at));
        if word == EMPTY {
            return None;
        }
        let IndexWord { tag, index } = IndexWord::from_word(word);
        if tag == probe.tag {
            let row = found(index);
            if row.is_some() {
                return row;
            }
        }
        at = at.wrapping_add(probe.stride);
    }
    None
}

/// The configuration's rows in one generation.
#[derive(Clone, Copy)]
pub struct Rows<B> {
    control: Control<B>,
    bank: B,
}

/// An ENI, as the row of its slot describes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct EniRow {
    /// The slot.
    pub slot: u16,
    /// [`slot`] flags.
    pub flags: u32,
    /// The roots of its policies, by direction.
    pub roots: [PolicyRoots; 2],
    /// The most tracked connections that the ENI may have.
    pub conn_cap: u32,
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
            bank: image.bank(rows_bank(control.generation))?,
        })
    }

    /// Copies the ENI of a link to `into`, which is unchanged if there is none.
    #[inline(always)]
    pub fn eni_of(&self, link: u32, into: &mut EniRow) -> Option<()> {
        let slot = search(self.control.bank, LINKS, probe([0, link as u64]), |index| {
            let row = LinkRow::from_word(self.bank.word(LINK_ROWS.at(index)));
            (row.link.get() == link).then_some(row.slot)
        })?;
        self.eni(slot, into)
    }

    /// Copies the ENI of a slot to `into`; `None` if there is none.
    #[inline(always)]
    pub fn eni(&self, slot: u16, into: &mut EniRow) -> Option<()> {
        let row = SlotRow::from_words(self.bank.words(SLOT_ROWS.at(slot as u32)));
        if slot == 0 || row.flags & slot::PRESENT == 0 {
            return None;
        }
        *into = EniRow {
            slot,
            flags: row.flags,
            roots: row.roots,
            conn_cap: row.conn_cap,
        };
        Some(())
    }

    /// The row of an address: its ENI's slot, flags and group set.
    #[inline(always)]
    pub fn address<I: Image<Bank = B>>(&self, image: &I, address: Address) -> AddressRow {
        let banks = self.control.member_banks();
        let probe = probe(address.halves());
        let banks = [banks.words_of(probe), banks.rows_of(probe, self.control.generation)];
        let [Some(words), Some(rows)] = banks.map(|bank| image.bank(bank)) else {
            return AddressRow::default();
        };
        let found = search(words, MEMBERS, probe, |index| {
            let (of, row) = AddressRow::from_words(rows.words(ADDRESS_ROWS.at(index)));
            // Differences instead of comparisons: one branch instead of three.
            let absent = row.flags & address::PRESENT ^ address::PRESENT;
            (of.difference(address) | absent as u64 == 0).then_some(row)
        });
        found.unwrap_or_default()
    }
}

/// The key of a peer's address on the peer axis of its family.
pub trait PeerKey: Copy {
    /// Whether IPv6 policies apply: selects the half of a root word.
    const V6: bool;
    /// Offset of the row of the interval that contains the peer.
    fn find<B: Bank>(self, bank: B, axis: u32, depth: u32) -> u32;
}

/// An IPv4 peer.
#[derive(Clone, Copy)]
pub struct Peer4(pub u32);

/// An IPv6 peer.
#[derive(Clone, Copy)]
pub struct Peer6(pub Address);

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
        let [upper, lower] = self.0.halves();
        let at = lower_bound(depth, 4, |middle| {
            let key = axis.wrapping_add(middle);
            let (hi, lo) = (bank.word(key), bank.word(key.wrapping_add(8)));
            less_than(upper, hi, less_than(lower, lo, 0))
        });
        bank.word(axis.wrapping_add(16 << depth).wrapping_add(at >> 1)) as u32
    }
}

/// Offset of the last of 2^`depth` sorted entries of 2^`size` bytes whose key is not greater than the search key; `beyond`
/// returns 1 for entries with a greater key, else 0.
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

/// The offset of the row of the interval that contains `key`, on an axis of packed entries.
#[inline(always)]
fn find_narrow<B: Bank>(bank: B, axis: u32, depth: u32, key: u32) -> u32 {
    let entry = |at: u32| AxisEntry::from_word(bank.word(axis.wrapping_add(at)));
    let at = lower_bound(depth, 3, |middle| {
        (key as u64).wrapping_sub(entry(middle).key as u64) >> 63
    });
    entry(at).row
}

/// The result of classification by a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyResult {
    /// This rule allows it.
    Allowed(RuleMatch),
    /// No rule allows the packet.
    NoRule,
    /// The policy is missing from the image.
    NoPolicy,
}

/// The keys that rules are matched against.
#[derive(Clone, Copy)]
pub struct PolicyQuery<P> {
    /// The port axis: the number of a [`crate::abi::image::Class`].
    pub axis: u32,
    /// The key on that axis: destination port, ICMP type and code, or protocol number.
    pub port: u32,
    /// The peer's address.
    pub peer: P,
    /// The peer's group set.
    pub group_set: u32,
}

/// Classifies a packet by the policy at `roots` (of a slot, in one direction).
#[inline(always)]
pub fn classify<I: Image, P: PeerKey>(image: &I, roots: PolicyRoots, query: PolicyQuery<P>) -> PolicyResult {
    let root = if P::V6 { roots.v6 } else { roots.v4 };
    let Some(bank) = image.bank(root.bank()) else {
        return PolicyResult::NoPolicy;
    };
    let base = root.offset();
    if root.0 == 0 || !PolicyHeader::begins_with(bank.word(base)) {
        return PolicyResult::NoPolicy;
    }
    let axis = |at: u32| {
        let AxisRef { offset, depth } = AxisRef::from_word(bank.word(base + at));
        (base.wrapping_add(offset), depth)
    };
    let (ports, depth) = axis(PolicyHeader::port_axis(query.axis));
    let port_row = base.wrapping_add(find_narrow(bank, ports, depth, query.port));
    let (peers, depth) = axis(PolicyHeader::PEERS);
    let peer_row = base.wrapping_add(query.peer.find(bank, peers, depth));
    let (groups, depth) = axis(PolicyHeader::GROUPS);
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
            let (_, rules) = unpair(bank.word(base + PolicyHeader::RULES));
            let at = base
                .wrapping_add(rules)
                .wrapping_add(8 * (64 * word + lowest_bit(bits)));
            return PolicyResult::Allowed(RuleMatch::from_word(bank.word(at)));
        }
        summary &= summary - 1;
    }
    PolicyResult::NoRule
}

/// The number of the lowest set bit. Written out: BPF has no such instruction, and a lookup table would need a map.
#[inline(always)]
const fn lowest_bit(value: u64) -> u32 {
    let mut below = (value & value.wrapping_neg()).wrapping_sub(1);
    below -= below >> 1 & 0x5555_5555_5555_5555;
    below = (below & 0x3333_3333_3333_3333) + (below >> 2 & 0x3333_3333_3333_3333);
    below = (below + (below >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    (below.wrapping_mul(0x0101_0101_0101_0101) >> 56) as u32
}

#[cfg(test)]
mod tests;
