//! The keys of flows.

use super::entry::{Rest, halves, word};
use crate::abi::outcome::Direction;

/// A flow of IPv4: 16 bytes. Seen from the task, so both directions of a connection have one key.
///
/// Of a tracked connection the tail is the link and the protocol ([`crate::abi::LinkId::with_protocol`]); of a denied flow
/// it is [`denial_tail`] and the protocol lies in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key4 {
    /// The task's address in the upper half, the peer's in the lower.
    pub addresses: u64,
    /// The task's port in the upper half, the peer's in the lower. ICMP: see the parser.
    pub ports: u32,
    /// See the structure.
    pub tail: u32,
}

/// A flow of IPv6: 40 bytes. As [`Key4`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key6 {
    /// The task's address: upper and lower half.
    pub local: [u64; 2],
    /// The peer's address: upper and lower half.
    pub remote: [u64; 2],
    /// As in [`Key4`].
    pub ports: u32,
    /// As in [`Key4`].
    pub tail: u32,
}

impl Key4 {
    /// Its words as they lie in memory.
    #[inline(always)]
    pub fn to_words(self) -> [u64; 2] {
        [self.addresses, word(self.ports, self.tail)]
    }

    /// From its words as they lie in memory.
    pub fn from_words([addresses, rest]: [u64; 2]) -> Self {
        let [ports, tail] = halves(rest);
        Self { addresses, ports, tail }
    }
}

impl Key6 {
    /// Its words as they lie in memory.
    #[inline(always)]
    pub fn to_words(self) -> [u64; 5] {
        let ([a, b], [c, d]) = (self.local, self.remote);
        [a, b, c, d, word(self.ports, self.tail)]
    }

    /// Its words as a table has them: the last ones in the entry, the others in the rest.
    #[inline(always)]
    pub fn to_entry(self) -> ([u64; 2], Rest) {
        let [local, remote] = [self.local, self.remote];
        (
            [remote[1], word(self.ports, self.tail)],
            [local[0], local[1], remote[0], 0],
        )
    }

    /// From those.
    pub fn from_entry(entry: [u64; 2], rest: Rest) -> Self {
        Self::from_words([rest[0], rest[1], rest[2], entry[0], entry[1]])
    }

    /// From its words as they lie in memory.
    pub fn from_words([a, b, c, d, rest]: [u64; 5]) -> Self {
        let [ports, tail] = halves(rest);
        Self {
            local: [a, b],
            remote: [c, d],
            ports,
            tail,
        }
    }
}

/// The tail of a denial's key: slot, protocol, direction, reason.
#[inline(always)]
pub const fn denial_tail(slot: u16, protocol: u8, direction: Direction, reason: u8) -> u32 {
    (slot as u32) << 16 | (protocol as u32) << 8 | (direction as u32) << 7 | reason as u32 & 0x7f
}

/// What [`denial_tail`] put together: slot, protocol, direction, the reason's number.
pub const fn split_denial_tail(tail: u32) -> (u16, u8, Direction, u8) {
    let direction = if tail & 0x80 == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    };
    ((tail >> 16) as u16, (tail >> 8) as u8, direction, tail as u8 & 0x7f)
}
