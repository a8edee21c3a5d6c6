//! Fragmented datagrams.

use core::cell::Cell;

use super::{Charge, Seen, Word};

/// The remembered first fragment of a datagram: 24 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Fragment {
    /// When it was admitted, and the tag of its key.
    pub seen: Seen,
    /// Its [`FragmentL4`], packed.
    l4: Word,
    /// The sum of [`Packet::reassembly_delta`](crate::packet::Packet::reassembly_delta) of all admitted fragments, as a
    /// signed number: 0 once the datagram is complete.
    pub missing: Word,
}

/// The transport fields that later fragments take from the first one, and the account that the entry is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FragmentL4 {
    /// Its source port, as the parser has it.
    pub source_port: u16,
    /// Its destination port, as the parser has it.
    pub destination_port: u16,
    /// The slot of its ENI.
    pub slot: u16,
    /// The account of that slot that the entry is charged to.
    pub charge: Charge,
    /// The number of its [`IcmpKind`](crate::packet::IcmpKind), 7 bits.
    pub exchange: u8,
    /// Its protocol.
    pub protocol: u8,
}

impl FragmentL4 {
    /// As one word, from above: ports, slot, charge (1 bit), exchange (7 bits), protocol.
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        let ports = (self.source_port as u64) << 48 | (self.destination_port as u64) << 32;
        let charge = (self.charge.number() as u64) << 15;
        let exchange = (self.exchange as u64 & 0x7f) << 8;
        ports | (self.slot as u64) << 16 | charge | exchange | self.protocol as u64
    }

    /// From that word.
    #[inline(always)]
    pub const fn of(word: u64) -> Self {
        Self {
            source_port: (word >> 48) as u16,
            destination_port: (word >> 32) as u16,
            slot: (word >> 16) as u16,
            charge: Charge::new((word >> 15) as u32),
            exchange: (word >> 8) as u8 & 0x7f,
            protocol: word as u8,
        }
    }
}

impl Fragment {
    /// The entry of a first fragment. `carries`: its [`Packet::reassembly_delta`](crate::packet::Packet::reassembly_delta).
    #[inline(always)]
    pub const fn new(seen: Seen, l4: FragmentL4, carries: i32) -> Self {
        Self {
            seen,
            l4: Cell::new(l4.pack()),
            missing: Cell::new(Self::delta(carries)),
        }
    }

    /// The unpacked transport fields.
    #[inline(always)]
    pub fn l4(&self) -> FragmentL4 {
        FragmentL4::of(self.l4.get())
    }

    /// Reuses the entry for another datagram.
    #[inline(always)]
    pub fn begin(&self, l4: FragmentL4, carries: i32) {
        self.l4.set(l4.pack());
        self.missing.set(Self::delta(carries));
    }

    /// A fragment's share of [`Self::missing`], as a word.
    #[inline(always)]
    pub const fn delta(reassembly_delta: i32) -> u64 {
        (reassembly_delta as i64).cast_unsigned()
    }

    /// From its words.
    pub fn from_words([seen, l4, missing]: [u64; 3]) -> Self {
        Self {
            seen: Seen(seen.into()),
            l4: l4.into(),
            missing: missing.into(),
        }
    }

    /// Its words.
    pub fn to_words(&self) -> [u64; 3] {
        [self.seen.0.get(), self.l4.get(), self.missing.get()]
    }
}
