//! The keys of flows.

use super::{
    KeyTag,
    entry::{Rest, halves, word},
};
use crate::abi::Address;

/// The key of an IPv4 flow: 16 bytes. Seen from the task, so both directions of a connection have the same key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key4 {
    /// The task's address in the upper half, the peer's in the lower.
    pub addresses: u64,
    /// The task's port in the upper half, the peer's in the lower. Other protocols: see
    /// [`Flow::tracked`](crate::flow::Flow::tracked).
    pub ports: u32,
    /// Link and protocol of a connection; slot, protocol, direction and reason of a denied flow.
    pub tag: KeyTag,
}

/// The key of an IPv6 flow: 40 bytes. As [`Key4`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Key6 {
    /// The task's address.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// As in [`Key4`].
    pub ports: u32,
    /// As in [`Key4`].
    pub tag: KeyTag,
}

impl Key4 {
    /// Its words as they lie in memory.
    #[inline(always)]
    pub fn to_words(self) -> [u64; 2] {
        [self.addresses, word(self.ports, self.tag.number())]
    }

    /// From its words as they lie in memory.
    pub fn from_words([addresses, rest]: [u64; 2]) -> Self {
        let [ports, tag] = halves(rest);
        Self {
            addresses,
            ports,
            tag: KeyTag::from_number(tag),
        }
    }
}

impl Key6 {
    /// Its words as they lie in memory.
    #[inline(always)]
    pub fn to_words(self) -> [u64; 5] {
        let ([a, b], [c, d]) = (self.local.halves(), self.remote.halves());
        [a, b, c, d, word(self.ports, self.tag.number())]
    }

    /// The words as stored in a table: the last ones in the entry, the others in the rest.
    #[inline(always)]
    pub fn to_entry(self) -> ([u64; 2], Rest) {
        let [local, remote] = [self.local.halves(), self.remote.halves()];
        (
            [remote[1], word(self.ports, self.tag.number())],
            [local[0], local[1], remote[0], 0],
        )
    }

    /// From those.
    pub fn from_entry(entry: [u64; 2], rest: Rest) -> Self {
        Self::from_words([rest[0], rest[1], rest[2], entry[0], entry[1]])
    }

    /// From its words as they lie in memory.
    pub fn from_words([a, b, c, d, rest]: [u64; 5]) -> Self {
        let [ports, tag] = halves(rest);
        Self {
            local: Address::new(a, b),
            remote: Address::new(c, d),
            ports,
            tag: KeyTag::from_number(tag),
        }
    }
}
