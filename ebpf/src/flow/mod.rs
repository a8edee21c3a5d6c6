//! The flow that a packet belongs to, seen from the task: both directions of a connection have the same key.

use crate::{
    abi::{Address, Direction},
    packet::{IcmpKind, Kind, Packet, exchange, request_of},
    wire::{ICMP, ICMPV6, TCP, UDP, dhcp, icmpv6},
};

/// A packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The task's address.
    pub local: Address,
    /// The peer's address.
    pub remote: Address,
    /// The ports of the conntrack key, or their substitute.
    pub ports: u32,
    /// Whether the packet may also belong to a flow under [`Flow::plain`]: an ICMP reply.
    pub special: bool,
}

/// Marks the lower half of `ports` as an ICMP exchange: ICMP type 255 is reserved, and the parser refuses it.
const EXCHANGE: u32 = 0xff00;

impl Flow {
    /// The flow in the form of a conntrack key.
    ///
    /// * TCP and UDP: the task's port above, the peer's below.
    /// * ICMP requests and replies: the identifier above; below, the request's type and the direction of the request. So a
    ///   reply matches only its own request.
    /// * Other ICMP messages: the direction above, type and code below. They have no replies.
    /// * Other protocols: 0, as AWS tracks them by address pair alone.
    #[inline(always)]
    pub fn tracked(packet: &Packet, direction: Direction) -> Self {
        let plain = Self::plain(packet, direction);
        match packet.exchange {
            IcmpKind::Request | IcmpKind::Reply => {
                let asked = match packet.exchange {
                    IcmpKind::Request => direction,
                    _ => direction.opposite(),
                };
                let kind = request_of(packet.kind, (packet.destination_port >> 8) as u8) as u32 & 0x1f;
                let ports = (packet.source_port as u32) << 16 | EXCHANGE | kind << 1 | asked as u32;
                Self {
                    ports,
                    special: matches!(packet.exchange, IcmpKind::Reply),
                    ..plain
                }
            }
            IcmpKind::None | IcmpKind::Error => plain,
        }
    }

    /// The flow of all DHCP between a task and its servers: that of a request by a task without an address to all servers,
    /// so no other packet has this key. A reply comes from another address than the request went to, and may go to another
    /// address than the request came from.
    #[inline(always)]
    pub fn dhcp(packet: &Packet) -> Self {
        let (local, remote, (client, server)) = if packet.kind as u8 == Kind::V6 as u8 {
            (
                Address::new(Address::LINK_LOCAL_NETWORK, 0),
                Address::ALL_DHCP_SERVERS,
                (dhcp::CLIENT_V6, dhcp::SERVER_V6),
            )
        } else {
            (Address::from_v4(0), Address::BROADCAST, (dhcp::CLIENT, dhcp::SERVER))
        };
        Self {
            local,
            remote,
            ports: (client as u32) << 16 | server as u32,
            special: false,
        }
    }

    /// The flow by the packet's own addresses and ports, without matching a reply to its request.
    #[inline(always)]
    pub fn plain(packet: &Packet, direction: Direction) -> Self {
        let (local, remote, local_port, remote_port) = match direction {
            Direction::Egress => (
                packet.source,
                packet.destination,
                packet.source_port,
                packet.destination_port,
            ),
            Direction::Ingress => (
                packet.destination,
                packet.source,
                packet.destination_port,
                packet.source_port,
            ),
        };
        let ports = match (packet.protocol, packet.kind) {
            (TCP | UDP, _) => (local_port as u32) << 16 | remote_port as u32,
            (ICMP, Kind::V4) | (ICMPV6, Kind::V6) => (direction as u32) << 16 | packet.destination_port as u32,
            _ => 0,
        };
        Self {
            local,
            remote,
            ports,
            special: false,
        }
    }
}

/// The ICMP messages of a tracked connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackedIcmp {
    /// Requests of this type; their code is in the entry ([`Admitted::code`](crate::abi::tables::Admitted)).
    Request(u8),
    /// Errors: each one is judged by its own quote or the rules.
    Error,
    /// Other messages, which have no replies, by type and code.
    Other(u8, u8),
}

/// The ICMP messages of a connection whose key has these ports: the inverse of [`Flow::tracked`].
pub const fn tracked_icmp(family: Kind, ports: u32) -> TrackedIcmp {
    let [kind, code] = (ports as u16).to_be_bytes();
    if ports & EXCHANGE == EXCHANGE {
        let low = code >> 1 & 0x1f;
        return TrackedIcmp::Request(match family {
            Kind::V6 => icmpv6::ECHO_REQUEST & !0x1f | low,
            _ => low,
        });
    }
    match exchange(family, kind) {
        IcmpKind::Error => TrackedIcmp::Error,
        _ => TrackedIcmp::Other(kind, code),
    }
}

/// Whether this is DHCP between a client in the task and a server: from the task UDP 68 to 67 by broadcast (RFC 2131, 4.1),
/// or 546 to 547 to the servers' multicast address (RFC 8415, 7.1); to the task, the same ports in reverse.
#[inline(always)]
pub fn is_dhcp(packet: &Packet, direction: Direction) -> bool {
    let v6 = packet.kind as u8 == Kind::V6 as u8;
    let (client, server) = if v6 {
        (dhcp::CLIENT_V6, dhcp::SERVER_V6)
    } else {
        (dhcp::CLIENT, dhcp::SERVER)
    };
    if packet.protocol != UDP {
        return false;
    }
    match direction {
        Direction::Egress => {
            let everyone = if v6 {
                Address::ALL_DHCP_SERVERS
            } else {
                Address::BROADCAST
            };
            packet.source_port == client && packet.destination_port == server && packet.destination.is(everyone)
        }
        Direction::Ingress => packet.source_port == server && packet.destination_port == client,
    }
}

#[cfg(test)]
mod tests;
