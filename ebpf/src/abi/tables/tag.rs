//! The tags of keys.

use crate::abi::{LinkId, outcome::Direction};

/// The part of a key after addresses and ports. Of a tracked connection: link (24 bits) and protocol (8); of a denied
/// flow: slot (16), protocol (8), direction (1) and reason (7).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct KeyTag(u32);

impl KeyTag {
    /// The tag of a tracked connection.
    #[inline(always)]
    pub const fn of_conn(link: LinkId, protocol: u8) -> Self {
        Self(link.get() << 8 | protocol as u32)
    }

    /// Link and protocol of a tracked connection.
    #[inline(always)]
    pub const fn split_conn(self) -> (LinkId, u8) {
        (LinkId::from_number(self.0 >> 8), self.0 as u8)
    }

    /// The tag of a tracked connection of another protocol on the same link.
    #[inline(always)]
    #[must_use]
    pub const fn with_protocol(self, protocol: u8) -> Self {
        Self(self.0 & !0xff | protocol as u32)
    }

    /// The tag of a denied flow; `reason`: the reason's number.
    #[inline(always)]
    pub const fn of_denial(slot: u16, protocol: u8, direction: Direction, reason: u8) -> Self {
        Self((slot as u32) << 16 | (protocol as u32) << 8 | (direction as u32) << 7 | reason as u32 & 0x7f)
    }

    /// Slot, protocol, direction and the reason's number of a denied flow.
    pub const fn split_denial(self) -> (u16, u8, Direction, u8) {
        let direction = if self.0 & 0x80 == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        };
        (
            (self.0 >> 16) as u16,
            (self.0 >> 8) as u8,
            direction,
            self.0 as u8 & 0x7f,
        )
    }

    /// By its number.
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.0
    }
}
