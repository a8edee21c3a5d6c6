//! An image read word by word, as its documentation describes it, with none of the core's ways of reading it; and a view
//! of it for the core that sees where the core reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use taskgate_ebpf::{
    abi::image::{
        ADDRESS_ROW, ADDRESS_ROW_BYTES, ADDRESS_ROWS, BANK_BYTES, CONTROL_BANK, CONTROL_GENERATION, CONTROL_TIMEOUTS,
        EPOCHS, LINK_ROW, LINK_ROWS, LINK_WORDS, LINKS, MAX_ROW_WORDS, MEMBER_WORDS, MEMBERS, POLICY_MAGIC, PolicyRef,
        ROWS_BANK, SLOT_ROW, SLOT_ROW_BYTES, SLOTS, TIMEOUTS, address, slot,
    },
    policy::{Bank, Image, PolicyResult, RuleMatch},
};

const BANK_WORDS: usize = BANK_BYTES as usize / 8;
/// Axes of more intervals are not read here: it would take too long.
const DEEPEST: u32 = 10;

/// The words of an image.
#[derive(Clone, Copy)]
pub(super) struct Words<'a>(pub(super) &'a [AtomicU64]);

/// What a packet asks a policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub(super) axis: u32,
    pub(super) port: u32,
    /// The peer; an IPv4 address as it is.
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

    /// The bank of rows, if anything is configured.
    fn rows(self) -> Option<u32> {
        let generation = self.at(CONTROL_BANK, CONTROL_GENERATION) as u32;
        (generation != 0).then_some(ROWS_BANK + generation % 2)
    }

    /// The slots that rows name for a link.
    pub(super) fn slots_of(self, link: u32) -> Vec<u16> {
        let Some(rows) = self.rows() else {
            return Vec::new();
        };
        let words = (0..LINK_ROWS).map(|row| self.at(rows, LINK_ROW + 8 * row));
        words
            .filter(|word| *word as u32 == link)
            .map(|word| (word >> 32) as u16)
            .collect()
    }

    /// The flags of a slot's row, if it is filled.
    pub(super) fn flags_of(self, slot: u16) -> Option<u32> {
        let row = SLOT_ROW + SLOT_ROW_BYTES * (u32::from(slot) % SLOTS);
        let flags = self.at(self.rows()?, row + 16) as u32;
        (slot != 0 && flags & slot::PRESENT != 0).then_some(flags)
    }

    /// The roots of a slot's row, by direction.
    pub(super) fn roots_of(self, slot: u16) -> [u64; 2] {
        let row = SLOT_ROW + SLOT_ROW_BYTES * (u32::from(slot) % SLOTS);
        self.rows()
            .map_or([0; 2], |rows| [self.at(rows, row), self.at(rows, row + 8)])
    }

    /// What the filled rows of an address say: slot, flags, group set.
    pub(super) fn rows_of(self, halves: [u64; 2]) -> Vec<(u16, u32, u32)> {
        let Some(rows) = self.rows() else {
            return Vec::new();
        };
        (0..ADDRESS_ROWS)
            .map(|row| ADDRESS_ROW + ADDRESS_ROW_BYTES * row)
            .filter(|row| [self.at(rows, *row), self.at(rows, row + 8)] == halves)
            .map(|row| self.at(rows, row + 16))
            .map(|word| (word as u16, (word >> 16) as u32 & 0xffff, (word >> 32) as u32))
            .filter(|(_, flags, _)| flags & address::PRESENT != 0)
            .collect()
    }

    /// What a policy says; `None` where an axis is in no order, so that any interval is as good as another.
    pub(super) fn classify(self, root: u32, question: &Question) -> Option<PolicyResult> {
        let (bank, base) = (PolicyRef(root).bank(), PolicyRef(root).offset());
        if root == 0 || bank >= self.banks() || self.at(bank, base) as u32 != POLICY_MAGIC {
            return Some(PolicyResult::NoPolicy);
        }
        let within = |offset: u32| base.wrapping_add(offset);
        let axis = |number: u32| {
            let word = self.at(bank, within(16 + 8 * number));
            (within(word as u32), (word >> 32) as u32 % 32)
        };
        let narrow = |(at, depth): (u32, u32), key: u32| -> Option<u32> {
            let entries = intervals(depth)?.map(|entry| self.at(bank, at.wrapping_add(8 * entry)));
            interval(entries.map(|entry| (u128::from(entry >> 32), entry as u32)), key.into())
        };
        let wide = |(at, depth): (u32, u32), key: u128| -> Option<u32> {
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
            wide(axis(4), question.peer)?
        } else {
            narrow(axis(4), question.peer as u32)?
        };
        let rows = [
            narrow(axis(question.axis % 4), question.port)?,
            peer,
            narrow(axis(5), question.group_set)?,
        ];
        // The summary first, then the words that it names.
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
        let rules = self.at(bank, within(8)) as u32;
        Some(bit.map_or(PolicyResult::NoRule, |bit| {
            let rule = self.at(bank, within(rules).wrapping_add(8 * bit));
            PolicyResult::Allowed(RuleMatch {
                rule: rule as u32,
                flags: (rule >> 32) as u32,
            })
        }))
    }
}

/// The numbers of an axis' entries.
fn intervals(depth: u32) -> Option<std::ops::Range<u32>> {
    (depth <= DEEPEST).then_some(0..1 << depth)
}

/// What belongs to the last key that is not beyond `key`, if the keys are in order from 0 on.
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
    /// In the bank: what the compiler made needs no mask.
    Bank,
    /// Where tables and rows lie: every index in them has a mask of its own.
    Tables,
}

/// An image whose reader is watched.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    pub(super) words: &'a [AtomicU64],
    pub(super) reach: Reach,
}

/// One bank of it.
#[derive(Clone, Copy)]
pub(super) struct WatchedBank<'a> {
    words: &'a [AtomicU64],
    index: u32,
    reach: Reach,
}

/// Whether something lies at an offset of a bank of control words and tables, or of rows.
fn in_tables(bank: u32, offset: u32) -> bool {
    let parts: &[(u32, u32)] = if bank == CONTROL_BANK {
        &[
            (0, CONTROL_TIMEOUTS + 8 * TIMEOUTS as u32),
            (EPOCHS, 8 * SLOTS),
            (LINKS, 8 * LINK_WORDS),
            (MEMBERS, 8 * MEMBER_WORDS),
        ]
    } else {
        &[
            (LINK_ROW, 8 * LINK_ROWS),
            (SLOT_ROW, SLOT_ROW_BYTES * SLOTS),
            (ADDRESS_ROW, ADDRESS_ROW_BYTES * ADDRESS_ROWS),
        ]
    };
    parts
        .iter()
        .any(|(start, length)| (*start..start + length).contains(&offset))
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
