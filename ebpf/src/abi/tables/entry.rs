//! Parts that entries of several tables share.

use core::cell::Cell;

use super::{KeyTag, Word, pair, window};
use crate::abi::outcome::Direction;

/// An entry of a connection table: 64 bytes, one cache line. Key words beyond these two are in a separate array.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Entry<V> {
    /// [`super::Conn`] or [`super::Denial`]. First, because the verifier allows no offset on a lookup's result before the
    /// null check, and compilers may move one there.
    pub value: V,
    /// IPv4: the key. IPv6: its last words.
    pub key: [u64; 2],
}

/// The first three words of an IPv6 key, and a word of padding: 32 bytes.
pub type Rest = [u64; 4];

/// The halves of a word, in memory order.
#[inline(always)]
pub(super) const fn halves(word: u64) -> [u32; 2] {
    let (upper, lower) = ((word >> 32) as u32, word as u32);
    if cfg!(target_endian = "little") {
        [lower, upper]
    } else {
        [upper, lower]
    }
}

/// The word of two halves, given in memory order.
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
    /// Totals with these packets and bytes.
    #[inline(always)]
    pub const fn new(packets: u64, bytes: u64) -> Self {
        Self {
            packets: Cell::new(packets),
            bytes: Cell::new(bytes),
        }
    }
}

/// The time of an entry's last packet, in jiffies, wrapping (upper half), and the tag of its key (lower half): a program
/// that still holds an element which user space removed and the kernel reused sees there that the key has changed.
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

/// From the top: the lower half of the [`super::state`], the low 8 bits of the number of the last [`window`] with a packet,
/// the flags seen in that window, and those seen in the window before (8 bits each).
///
/// A flow that is idle for exactly 256 windows reports the old flags of its last window again in the next one.
#[derive(Clone, Debug, Default)]
#[repr(transparent)]
pub struct Flags(pub(super) Cell<u32>);

impl Flags {
    /// This state in the window with this number, without flags.
    #[inline(always)]
    pub const fn new(state: u16, number: u32) -> Self {
        Self(Cell::new((state as u32) << 24 | (number & 0xff) << 16))
    }

    /// The lower half of the state.
    #[inline(always)]
    pub fn state(&self) -> u16 {
        (self.0.get() >> 24) as u16
    }

    /// The [`window`] words of its two windows, the even and the odd one.
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

    /// Sets the lower half of the state and adds a packet's TCP flags to its window; stores only if something changed.
    #[inline(always)]
    pub fn update(&self, state: u16, number: u32, direction: Direction, tcp_flags: u8) {
        let was = self.0.get();
        let seen = window::seen(direction, tcp_flags);
        let number = number & 0xff;
        let windows = match number.wrapping_sub(was >> 16) & 0xff {
            0 => was & 0x00ff_ffff | seen << 8,
            1 => number << 16 | seen << 8 | was >> 8 & 0xff,
            // Another CPU is already in the next window.
            0xff => was & 0x00ff_ffff | seen,
            _ => number << 16 | seen << 8,
        };
        let is = (state as u32) << 24 | windows;
        if is != was {
            self.0.set(is);
        }
    }
}
