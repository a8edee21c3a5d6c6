//! An image read word by word, as its documentation describes it, without the core's code; and a view of it for the core
//! that observes where the core reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use taskgate_ebpf::{
    abi::{
        Address,
        image::{
            ADDRESS_ROWS, AddressRow, AxisEntry, AxisRef, BANK_BYTES, CONTROL_BANK, CONTROL_WORDS, EPOCHS, ImageWord,
            LINK_ROWS, LINKS, LinkRow, MAX_ROW_WORDS, MEMBER_BANK, MEMBERS, MOST_MEMBER_BANKS, PolicyHeader, PolicyRef,
            PolicyRoots, Region, RuleMatch, SLOT_ROWS, SlotRow, TIMEOUT_TICKS, address, rows_bank, slot,
        },
    },
    policy::{Bank, Image, PolicyResult},
};

const BANK_WORDS: usize = BANK_BYTES as usize / 8;
/// Axes of more intervals are not read here: that would take too long.
const DEEPEST: u32 = 10;

/// The words of an image.
#[derive(Clone, Copy)]
pub(super) struct Words<'a>(pub(super) &'a [AtomicU64]);

/// A packet's query to a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) axis: u32,
    pub(super) port: u32,
    /// The peer; an IPv4 address without mapping.
    pub(super) peer: u128,
    pub(super) v6: bool,
    pub(super) group_set: u32,
}

impl Words<'_> {
    /// A word; no offset leads out of its bank.
    pub(super) fn at(self, bank: u32, offset: u32) -> u64 {
        let offset = offset % BANK_BYTES / 8;
        self.0[bank as usize * BANK_WORDS + offset as usize].load(Relaxed)
    }

    fn banks(self) -> u32 {
        (self.0.len() / BANK_WORDS) as u32
    }

    fn words<const N: usize>(self, bank: u32, offset: u32) -> [u64; N] {
        std::array::from_fn(|word| self.at(bank, offset + 8 * word as u32))
    }

    /// The number of the generation.
    pub(super) fn generation(self) -> u32 {
        self.at(CONTROL_BANK, ImageWord::Generation.offset()) as u32
    }

    /// The bank of rows, if anything is configured.
    fn rows(self) -> Option<u32> {
        let generation = self.generation();
        (generation != 0).then_some(rows_bank(generation))
    }

    /// The slots that rows name for a link.
    pub(super) fn slots_of(self, link: u32) -> Vec<u16> {
        let Some(rows) = self.rows() else {
            return Vec::new();
        };
        let rows = (0..LINK_ROWS.count).map(|row| LinkRow::from_word(self.at(rows, LINK_ROWS.at(row))));
        rows.filter(|row| row.link.get() == link).map(|row| row.slot).collect()
    }

    fn slot_row(self, slot: u16) -> Option<SlotRow> {
        Some(SlotRow::from_words(self.words(self.rows()?, SLOT_ROWS.at(slot.into()))))
    }

    /// The flags of a slot's row, if it is filled.
    pub(super) fn flags_of(self, slot: u16) -> Option<u32> {
        let flags = self.slot_row(slot)?.flags;
        (slot != 0 && flags & slot::PRESENT != 0).then_some(flags)
    }

    /// The roots of a slot's row, by direction.
    pub(super) fn roots_of(self, slot: u16) -> [PolicyRoots; 2] {
        self.slot_row(slot).unwrap_or_default().roots
    }

    /// The filled rows of an address.
    pub(super) fn rows_of(self, address: Address) -> Vec<AddressRow> {
        let generation = self.generation();
        if generation == 0 {
            return Vec::new();
        }
        // Damage may give an odd number; the pair of the last bank is complete all the same.
        let members = 1 + self.at(CONTROL_BANK, ImageWord::MemberBanks.offset()) as u32 % MOST_MEMBER_BANKS;
        let banks = MEMBER_BANK..self.banks().min(MEMBER_BANK + members.next_multiple_of(2));
        banks
            .filter(|bank| (bank - MEMBER_BANK) % 2 == generation % 2)
            .flat_map(|bank| (0..ADDRESS_ROWS.count).map(move |row| (bank, row)))
            .map(|(bank, row)| AddressRow::from_words(self.words(bank, ADDRESS_ROWS.at(row))))
            .filter(|(of, row)| *of == address && row.flags & address::PRESENT != 0)
            .map(|(_, row)| row)
            .collect()
    }

    /// A policy's result; `None` if an axis is not sorted, so that no interval is right.
    pub(super) fn classify(self, root: PolicyRef, question: &Question) -> Option<PolicyResult> {
        let (bank, base) = (root.bank(), root.offset());
        if root.0 == 0 || bank >= self.banks() {
            return Some(PolicyResult::NoPolicy);
        }
        let Some(header) = PolicyHeader::from_words(self.words(bank, base)) else {
            return Some(PolicyResult::NoPolicy);
        };
        let within = |offset: u32| base.wrapping_add(offset);
        let narrow = |AxisRef { offset, depth }: AxisRef, key: u32| -> Option<u32> {
            let at = within(offset);
            let entries =
                intervals(depth)?.map(|entry| AxisEntry::from_word(self.at(bank, at.wrapping_add(8 * entry))));
            interval(entries.map(|entry| (u128::from(entry.key), entry.row)), key.into())
        };
        let wide = |AxisRef { offset, depth }: AxisRef, key: u128| -> Option<u32> {
            let at = within(offset);
            let rows = at.wrapping_add(16 << depth);
            let entries = intervals(depth)?.map(|entry| {
                let place = at.wrapping_add(16 * entry);
                let halves = [place, place.wrapping_add(8)].map(|at| u128::from(self.at(bank, at)));
                let row = self.at(bank, rows.wrapping_add(8 * entry)) as u32;
                (halves[0] << 64 | halves[1], row)
            });
            interval(entries, key)
        };
        let peer = if question.v6 {
            wide(header.peers, question.peer)?
        } else {
            narrow(header.peers, question.peer as u32)?
        };
        let rows = [
            narrow(header.ports[question.axis as usize % 4], question.port)?,
            peer,
            narrow(header.groups, question.group_set)?,
        ];
        // The summary first, then the words that it marks.
        let both = |offset: u32| {
            let [port, peer, group] = rows.map(|row| self.at(bank, within(row).wrapping_add(offset)));
            port & (peer | group)
        };
        let named = (0..64).filter(|word| both(0) >> word & 1 != 0);
        let bit = named
            .take(MAX_ROW_WORDS as usize)
            .map(|word| (word, both(8 + 8 * word)))
            .find(|(_, bits)| *bits != 0)
            .map(|(word, bits)| 64 * word + bits.trailing_zeros());
        Some(bit.map_or(PolicyResult::NoRule, |bit| {
            let rule = self.at(bank, within(header.rules).wrapping_add(8 * bit));
            PolicyResult::Allowed(RuleMatch::from_word(rule))
        }))
    }
}

/// The numbers of an axis' entries.
fn intervals(depth: u32) -> Option<std::ops::Range<u32>> {
    (depth <= DEEPEST).then_some(0..1 << depth)
}

/// The value of the last key up to `key`, if the keys are sorted from 0.
fn interval(entries: impl Iterator<Item = (u128, u32)>, key: u128) -> Option<u32> {
    let mut last = (0, None);
    let mut before = 0;
    for (number, (start, row)) in entries.enumerate() {
        if start < before || number == 0 && start != 0 {
            return None;
        }
        before = start;
        if start <= key {
            last = (start, Some(row));
        }
    }
    last.1
}

/// Where a reader of the image may read before the bank masks anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Anywhere: the bank sees to it that this is harmless.
    Masked,
    /// Within the bank: indices in a compiled image need no mask.
    Bank,
    /// Within tables and rows: every index into them is masked.
    Tables,
}

/// An image whose reader is watched.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    pub(super) words: &'a [AtomicU64],
    pub(super) reach: Reach,
}

#[derive(Clone, Copy)]
pub(super) struct WatchedBank<'a> {
    words: &'a [AtomicU64],
    index: u32,
    reach: Reach,
}

/// Whether an offset lies within a table or row in the bank of control words, in a bank of rows, or in a bank of members.
fn in_tables(bank: u32, offset: u32) -> bool {
    let parts: &[Region] = match bank {
        CONTROL_BANK => &[CONTROL_WORDS, TIMEOUT_TICKS, EPOCHS, LINKS],
        1 | 2 => &[LINK_ROWS, SLOT_ROWS],
        _ => &[MEMBERS, ADDRESS_ROWS],
    };
    parts.iter().any(|part| part.contains(offset))
}

impl Bank for WatchedBank<'_> {
    fn word(self, offset: u32) -> u64 {
        let within = match self.reach {
            Reach::Masked => true,
            Reach::Bank => offset < BANK_BYTES,
            Reach::Tables => in_tables(self.index, offset),
        };
        let whole = self.reach == Reach::Masked || offset.is_multiple_of(8);
        assert!(
            within && whole,
            "the reader asks for a word at {offset:#x} of bank {}",
            self.index
        );
        self.words[(offset % BANK_BYTES / 8) as usize].load(Relaxed)
    }
}

impl<'a> Image for Watched<'a> {
    type Bank = WatchedBank<'a>;

    fn bank(&self, index: u32) -> Option<WatchedBank<'a>> {
        let words = self.words.chunks_exact(BANK_WORDS).nth(index as usize)?;
        Some(WatchedBank {
            words,
            index,
            reach: self.reach,
        })
    }
}
