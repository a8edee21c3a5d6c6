//! Tracked connections.

use core::cell::Cell;

use super::{Flags, Seen, Totals, Word, state};

/// A tracked connection: 64 bytes, one cache line. What changes together shares a word.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// By [`crate::abi::Direction`]: egress, ingress.
    pub totals: [Totals; 2],
    /// When it last carried a packet, and whose it is.
    pub seen: Seen,
    /// The epoch of its slot when it was admitted (upper half), and the generation that admitted it last.
    pub admitted: Word,
    /// [`Conn::pack_by`]: who admitted it.
    pub by: Word,
    /// TCP: where each side goes on.
    pub next: Next,
    /// What becomes of it, and TCP flags by window.
    pub flags: Flags,
}

impl From<[u64; 8]> for Conn {
    /// From the words of a table's value.
    fn from(words: [u64; 8]) -> Self {
        let [
            egress_packets,
            egress_bytes,
            ingress_packets,
            ingress_bytes,
            seen,
            admitted,
            by,
            next_and_flags,
        ] = words;
        // As they lie in memory.
        let [low, high, more, most, rest @ ..] = next_and_flags.to_ne_bytes();
        Self {
            totals: [
                Totals::new(egress_packets, egress_bytes),
                Totals::new(ingress_packets, ingress_bytes),
            ],
            seen: Seen(seen.into()),
            admitted: admitted.into(),
            by: by.into(),
            next: Next::new([u16::from_ne_bytes([low, high]), u16::from_ne_bytes([more, most])]),
            flags: Flags(u32::from_ne_bytes(rest).into()),
        }
    }
}

impl Conn {
    /// Epoch and generation.
    #[inline(always)]
    pub fn admitted(&self) -> (u32, u32) {
        let word = self.admitted.get();
        ((word >> 32) as u32, word as u32)
    }

    /// Who admits a connection: the number of the rule (24 bits, uppermost; [`RULE_EXEMPT`] for what is never filtered), the
    /// upper half of its [`state`] (8 bits), the code of an ICMP request (8 bits from bit 16), and the slot of its ENI (16
    /// bits).
    #[inline(always)]
    pub const fn pack_by(rule: u32, state: u16, code: u8, slot: u16) -> u64 {
        (rule as u64) << 40 | (state as u64 >> 8) << 32 | (code as u64) << 16 | slot as u64
    }

    /// The code of the ICMP request that it was admitted for.
    #[inline(always)]
    pub fn code(&self) -> u8 {
        (self.by.get() >> 16) as u8
    }

    /// The number of the rule, and the slot.
    #[inline(always)]
    pub fn by(&self) -> (u32, u16) {
        let word = self.by.get();
        ((word >> 40) as u32, word as u16)
    }

    /// Its [`state`].
    #[inline(always)]
    pub fn state(&self) -> u16 {
        (self.by.get() >> 24) as u16 & state::ADMISSION | self.flags.state()
    }
}

/// TCP: the sequence number that each side sends next, by [`crate::abi::Direction`], its low 16 bits. Each is stored by
/// itself, so that packets of both directions on two CPUs don't write over each other's.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Next([Cell<u16>; 2]);

impl Next {
    /// These.
    #[inline(always)]
    pub const fn new([egress, ingress]: [u16; 2]) -> Self {
        Self([Cell::new(egress), Cell::new(ingress)])
    }

    /// Both.
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

    /// Sets that of the peer, which is all that its own packets move.
    #[inline(always)]
    pub fn set_ingress(&self, ingress: u16) {
        self.0[1].set(ingress);
    }
}

/// The rule number of what is never filtered: no rule has it.
pub const RULE_EXEMPT: u32 = RULES - 1;

/// Rule numbers are below this one, 24 bits.
pub const RULES: u32 = 1 << 24;
