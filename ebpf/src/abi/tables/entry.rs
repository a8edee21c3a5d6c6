//! Parts that entries of several tables share.

use core::cell::Cell;

use super::{KeyTag, Word, pair, window};
use crate::abi::outcome::Direction;

/// An entry of a connection table: 64 bytes, one cache line. Key words beyond these two are in a separate array.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Entry<V> {
    /// [`super::Conn`] or [`super::Denial`]. First: a verifier does not let a compiler add an offset to what a lookup gave
    /// before it is known to be there.
    pub value: V,
    /// IPv4: the key. IPv6: the last words of it.
    pub key: [u64; 2],
}

/// The first words of an IPv6 key, and nothing: 32 bytes.
pub type Rest = [u64; 4];

/// The halves of a word, in the order in which they lie in memory.
#[inline(always)]
pub(super) const fn halves(word: u64) -> [u32; 2] {
    let (upper, lower) = ((word >> 32) as u32, word as u32);
    if cfg!(target_endian = "little") {
        [lower, upper]
    } else {
        [upper, lower]
    }
}

/// The word of two halves in the order in which they lie in memory.
#[inline(always)]
pub(super) const fn word(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        pair(second, first)
    } else {
        pair(first, second)
    }
}

/// Packets and bytes of one direction. Bytes are IP bytes on the wire, without Ethernet.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Totals {
    /// Packets as on the wire: a GSO packet counts as its segments.
    pub packets: Word,
    /// IP bytes.
    pub bytes: Word,
}

impl Totals {
    /// So many packets and bytes.
    #[inline(always)]
    pub const fn new(packets: u64, bytes: u64) -> Self {
        Self {
            packets: Cell::new(packets),
            bytes: Cell::new(bytes),
        }
    }
}

/// When an entry last carried a packet, in ticks of the kernel's jiffies, wrapping (upper half), and the tag of its own
/// key: a packet that still holds an element which user space removed and the kernel gave to another key sees it there.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Seen(pub(super) Word);

impl Seen {
    /// For the entry of a key with this tag.
    #[inline(always)]
    pub const fn new(last: u32, tag: KeyTag) -> Self {
        Self(Cell::new(pair(last, tag.number())))
    }

    /// The time, and the tag.
    #[inline(always)]
    pub fn get(&self) -> (u32, KeyTag) {
        let word = self.0.get();
        ((word >> 32) as u32, KeyTag::from_number(word as u32))
    }

    /// Sets both.
    #[inline(always)]
    pub fn set(&self, last: u32, tag: KeyTag) {
        self.0.set(pair(last, tag.number()));
    }
}

/// From above: the lower half of the [`super::state`], the low 8 bits of the number of the last [`window`] that had a
/// packet, what was seen in it, and what was seen in the one before (8 bits each).
///
/// A flow that is silent for exactly 256 windows shows the old flags of its last window once more in the next one.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Flags(pub(super) Cell<u32>);

impl Flags {
    /// With this state, in the window with this number, and no flags in any.
    #[inline(always)]
    pub const fn new(state: u16, number: u32) -> Self {
        Self(Cell::new((state as u32) << 24 | (number & 0xff) << 16))
    }

    /// The lower half of the state.
    #[inline(always)]
    pub fn state(&self) -> u16 {
        (self.0.get() >> 24) as u16
    }

    /// The [`window`] words of the even and the odd one of its two windows.
    #[inline(always)]
    pub fn windows(&self) -> [u32; 2] {
        let word = self.0.get();
        let last = word >> 8 & 0xffff;
        let before = (last.wrapping_sub(0x100) & 0xff00) | word & 0xff;
        if last & 0x100 == 0 {
            [last, before]
        } else {
            [before, last]
        }
    }

    /// Sets the lower half of the state and adds a packet's TCP flags to its window; stores only what changed.
    #[inline(always)]
    pub fn update(&self, state: u16, number: u32, direction: Direction, tcp_flags: u8) {
        let was = self.0.get();
        let seen = window::seen(direction, tcp_flags);
        let number = number & 0xff;
        let windows = match number.wrapping_sub(was >> 16) & 0xff {
            0 => was & 0x00ff_ffff | seen << 8,
            1 => number << 16 | seen << 8 | was >> 8 & 0xff,
            // Another CPU was in the next one already.
            0xff => was & 0x00ff_ffff | seen,
            _ => number << 16 | seen << 8,
        };
        let is = (state as u32) << 24 | windows;
        if is != was {
            self.0.set(is);
        }
    }
}
