//! The keys of flows.

use crate::abi::outcome::Direction;

/// A flow of IPv4: 16 bytes. Seen from the task, so both directions of a connection have one key.
///
/// In `CONNS_V4` the tail is the link and the protocol ([`crate::abi::LinkId::with_protocol`]); in `DENIALS_V4` it is
/// [`denial_tail`] and the protocol lies in it.
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
