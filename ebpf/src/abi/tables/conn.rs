//! Tracked connections.

use core::cell::Cell;

use super::{
    Flags, Word,
    entry::{halves, word},
};

/// A tracked connection: the 48 bytes before its key in an [`Entry`](super::Entry). Fields that change together share a
/// word.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// Packets by [`crate::abi::Direction`], egress and ingress, wrapping.
    pub packets: [Cell<u32>; 2],
    /// IP bytes, by direction.
    pub bytes: [Word; 2],
    /// The packed [`Admitted`]: for whom and when the connection was admitted.
    pub admitted: Word,
    /// [`Conn::pack_by`]: the rule that admitted it.
    pub by: Cell<u32>,
    /// The time of the last packet, in jiffies, wrapping.
    pub last: Cell<u32>,
    /// TCP: the next sequence number of each side.
    pub next: Next,
    /// The lower half of its state, and TCP flags by window.
    pub flags: Flags,
}

/// For whom and when a connection was admitted. One word in the table, so that readers never see parts of two admissions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Admitted {
    /// The [`epoch`](Admitted::EPOCHS) of its slot.
    pub epoch: u32,
    /// The code of the ICMP request that it was admitted for.
    pub code: u8,
    /// The low half of the number of the generation that admitted it last.
    pub generation: u16,
    /// The slot of its ENI.
    pub slot: u16,
}

impl Admitted {
    /// Epochs are stored modulo this, 24 bits: entries of an old epoch are removed long before the number recurs.
    pub const EPOCHS: u32 = 1 << 24;

    /// As one word.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let Self {
            epoch,
            code,
            generation,
            slot,
        } = self;
        (epoch as u64 & (Self::EPOCHS as u64 - 1)) << 40 | (code as u64) << 32 | (generation as u64) << 16 | slot as u64
    }

    /// From that word.
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        Self {
            epoch: (word >> 40) as u32,
            code: (word >> 32) as u8,
            generation: (word >> 16) as u16,
            slot: word as u16,
        }
    }

    /// Whether the connection belongs to a slot's epoch.
    #[inline(always)]
    pub const fn is_of(self, epoch: u32) -> bool {
        self.epoch == epoch & (Self::EPOCHS - 1)
    }
}

impl Conn {
    /// From its words as they lie in memory.
    pub fn from_words(words: [u64; 6]) -> Self {
        let [packets, egress, ingress, admitted, by_and_last, next_and_flags] = words;
        let [egress_packets, ingress_packets] = halves(packets);
        let [by, last] = halves(by_and_last);
        let [next, flags] = halves(next_and_flags);
        let [low, high, more, most] = next.to_ne_bytes();
        Self {
            packets: [egress_packets.into(), ingress_packets.into()],
            bytes: [egress.into(), ingress.into()],
            admitted: admitted.into(),
            by: by.into(),
            last: last.into(),
            next: Next::new([u16::from_ne_bytes([low, high]), u16::from_ne_bytes([more, most])]),
            flags: Flags(flags.into()),
        }
    }

    /// Its words as they lie in memory.
    pub fn to_words(&self) -> [u64; 6] {
        let [egress, ingress] = self.next.get().map(u16::to_ne_bytes);
        let next = u32::from_ne_bytes([egress[0], egress[1], ingress[0], ingress[1]]);
        [
            word(self.packets[0].get(), self.packets[1].get()),
            self.bytes[0].get(),
            self.bytes[1].get(),
            self.admitted.get(),
            word(self.by.get(), self.last.get()),
            word(next, self.flags.0.get()),
        ]
    }

    /// For whom and when it was admitted.
    #[inline(always)]
    pub fn admitted(&self) -> Admitted {
        Admitted::of(self.admitted.get())
    }

    /// Packs the number of the admitting rule (24 bits, uppermost; [`RULE_EXEMPT`] for an exemption) and the upper half of
    /// the [`state`](super::state).
    #[inline(always)]
    pub const fn pack_by(rule: u32, state: u16) -> u32 {
        rule << 8 | state as u32 >> 8
    }

    /// The number of the rule.
    #[inline(always)]
    pub fn rule(&self) -> u32 {
        self.by.get() >> 8
    }

    /// Its [`state`](super::state).
    #[inline(always)]
    pub fn state(&self) -> u16 {
        (self.by.get() as u16) << 8 | self.flags.state()
    }
}

/// TCP: the sequence number that each side sends next, by [`crate::abi::Direction`], its low 16 bits. Each one is stored
/// separately, so that packets of both directions on two CPUs do not overwrite each other's.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Next([Cell<u16>; 2]);

impl Next {
    /// The next sequence numbers of both sides.
    #[inline(always)]
    pub const fn new([egress, ingress]: [u16; 2]) -> Self {
        Self([Cell::new(egress), Cell::new(ingress)])
    }

    /// Both sequence numbers.
    #[inline(always)]
    pub fn get(&self) -> [u16; 2] {
        [self.0[0].get(), self.0[1].get()]
    }

    /// Sets both.
    #[inline(always)]
    pub fn set(&self, [egress, ingress]: [u16; 2]) {
        self.0[0].set(egress);
        self.0[1].set(ingress);
    }

    /// Sets the peer's number, the only one that the peer's packets change.
    #[inline(always)]
    pub fn set_ingress(&self, ingress: u16) {
        self.0[1].set(ingress);
    }
}

/// The rule number of exemptions: no rule has it.
pub const RULE_EXEMPT: u32 = RULES - 1;

/// Rule numbers are below this one, 24 bits.
pub const RULES: u32 = 1 << 24;
