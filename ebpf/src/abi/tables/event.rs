//! The event of a flow's first packet.

use super::{
    KeyTag,
    entry::{halves, word},
};
use crate::abi::Address;

/// The event of a flow's first packet, for live followers: 64 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Event {
    /// The task's address.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// As in [`super::Key4`].
    pub ports: u32,
    /// As in a denied flow's key, with the outcome's number in place of the reason.
    pub tag: KeyTag,
    /// The rule that allowed it, or 0.
    pub rule: u32,
    /// The time in ticks.
    pub time: u32,
    /// IP bytes of the packet.
    pub bytes: u32,
    /// TCP flags of the packet.
    pub tcp_flags: u32,
    /// The generation by which the packet was judged.
    pub generation: u32,
    /// Not used yet.
    pub spare: u32,
}

impl Event {
    /// From its words as they lie in memory.
    pub fn from_words(words: [u64; 8]) -> Self {
        let [a, b, c, d, flow, when, packet, judged] = words;
        let [ports, tag] = halves(flow);
        let [rule, time] = halves(when);
        let [bytes, tcp_flags] = halves(packet);
        let [generation, spare] = halves(judged);
        Self {
            local: Address::new(a, b),
            remote: Address::new(c, d),
            ports,
            tag: KeyTag::from_number(tag),
            rule,
            time,
            bytes,
            tcp_flags,
            generation,
            spare,
        }
    }

    /// Its words as they lie in memory.
    pub fn to_words(&self) -> [u64; 8] {
        let ([a, b], [c, d]) = (self.local.halves(), self.remote.halves());
        [
            a,
            b,
            c,
            d,
            word(self.ports, self.tag.number()),
            word(self.rule, self.time),
            word(self.bytes, self.tcp_flags),
            word(self.generation, self.spare),
        ]
    }
}
