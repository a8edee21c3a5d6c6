//! A flow, its packets and bytes, and whether it was accepted or rejected.

use std::{
    fmt,
    iter::Sum,
    net::{IpAddr, SocketAddr},
    ops::{Add, AddAssign, Sub},
};

/// ICMP, TCP, UDP and ICMPv6.
pub mod protocol {
    #![expect(missing_docs, reason = "the names say it")]
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ICMPV6: u8 = 58;
}

/// A 5-tuple as in flow records: in the direction of the packets; ports are 0 for protocols without ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// The IANA number.
    pub protocol: u8,
}

impl Flow {
    pub fn tcp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            protocol: protocol::TCP,
        }
    }

    pub fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self {
            source,
            destination,
            protocol: protocol::UDP,
        }
    }

    /// A protocol without ports.
    pub fn plain(source: IpAddr, destination: IpAddr, protocol: u8) -> Self {
        Self {
            source: SocketAddr::new(source, 0),
            destination: SocketAddr::new(destination, 0),
            protocol,
        }
    }

    /// ICMP of the addresses' family.
    pub fn icmp(source: IpAddr, destination: IpAddr) -> Self {
        let protocol = if source.is_ipv4() {
            protocol::ICMP
        } else {
            protocol::ICMPV6
        };
        Self::plain(source, destination, protocol)
    }

    #[must_use]
    pub fn back(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ..self
        }
    }

    /// Unsolicited traffic of kernels: multicast, and packets from or to a link-local or unspecified IPv6 address. Its
    /// timing varies, so sums do not include it.
    pub fn is_chatter(&self) -> bool {
        [self.source.ip(), self.destination.ip()]
            .into_iter()
            .any(|address| match address {
                IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
                IpAddr::V6(address) => {
                    address.is_multicast() || address.is_unicast_link_local() || address.is_unspecified()
                }
            })
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.protocol {
            protocol::ICMP => "icmp",
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            protocol::ICMPV6 => "icmpv6",
            other => return write!(f, "{other} {} > {}", self.source.ip(), self.destination.ip()),
        };
        write!(f, "{name} {} > {}", self.source, self.destination)
    }
}

/// Packets, and their bytes from the IP header on.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets on the wire.
    pub packets: u64,
    pub bytes: u64,
}

impl Count {
    /// This many packets, with this many bytes in total.
    pub fn new(packets: u64, bytes: u64) -> Self {
        Self { packets, bytes }
    }
}

impl Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Count {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Self::add)
    }
}

impl Sub for Count {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            packets: self.packets - other.packets,
            bytes: self.bytes - other.bytes,
        }
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} packets, {} bytes", self.packets, self.bytes)
    }
}

/// The fate of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    Accept,
    Reject,
}
