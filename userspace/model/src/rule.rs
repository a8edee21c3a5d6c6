//! Rules of security groups. A rule allows traffic that matches; no rule denies.

pub use taskgate_ebpf::abi::Direction;

use super::family::Family;
use super::location::Location;
use super::peer::Peer;

/// A rule's protocol and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// `-1`: every protocol, every port.
    All,
    /// TCP, by destination port.
    Tcp(Ports),
    /// UDP, by destination port.
    Udp(Ports),
    /// ICMP (protocol 1): IPv4 only.
    Icmp(IcmpMatch),
    /// ICMPv6 (protocol 58): IPv6 only.
    Icmpv6(IcmpMatch),
    /// Any other IANA protocol number, all ports: never 1, 6, 17 or 58.
    Number(u8),
}

impl Protocol {
    /// Whether this protocol exists in an address family.
    pub fn goes_over(self, family: Family) -> bool {
        match self {
            Self::Icmp(_) => family == Family::V4,
            Self::Icmpv6(_) => family == Family::V6,
            Self::All | Self::Tcp(_) | Self::Udp(_) | Self::Number(_) => true,
        }
    }
}

/// An inclusive range of destination ports; `from <= to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// The first port.
    pub from: u16,
    /// The last port.
    pub to: u16,
}

impl Ports {
    /// 0 to 65535.
    pub const ALL: Self = Self { from: 0, to: u16::MAX };

    /// Whether `port` is in the range.
    pub fn contains(self, port: u16) -> bool {
        self.from <= port && port <= self.to
    }
}

/// Which ICMP messages a rule allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IcmpMatch {
    /// Every type and code (AWS: `-1/-1`).
    All,
    /// Every code of one type (AWS: `T/-1`).
    Type(u8),
    /// One type and code.
    TypeCode(u8, u8),
}

impl IcmpMatch {
    /// Whether a message of this type and code matches.
    pub fn contains(self, kind: u8, code: u8) -> bool {
        match self {
            Self::All => true,
            Self::Type(t) => t == kind,
            Self::TypeCode(t, c) => t == kind && c == code,
        }
    }
}

/// One rule: one protocol and port range, one peer. A permission in a file may expand to several rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The name in messages and verdicts: the `sgr-` id, or `GROUP/ingress/N` with N counted from 1 in the order of the
    /// file. All rules that one native entry expands to share it.
    pub id: String,
    /// Protocol and ports.
    pub protocol: Protocol,
    /// The peer.
    pub peer: Peer,
    /// The description, or empty.
    pub description: String,
    /// The place of its definition.
    pub location: Location,
}
