//! The names of connections, shared by the packets of both directions.

use std::net::IpAddr;

use taskgate_compiler::oracle;
use taskgate_ebpf::abi::Direction;

use super::{
    super::naive_parser::{Body, Ip},
    World,
};

/// The name of a tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    pub(crate) link: u32,
    /// The task's address and the peer's. DHCP has the addresses of a task without an address and of all servers, since
    /// answers come from, and go to, other addresses.
    pub(crate) addresses: (IpAddr, IpAddr),
    pub(crate) protocol: u8,
    /// Ports, ICMP type or identification.
    pub(crate) what: What,
}

/// The part that distinguishes connections between the same addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// The task's port and the peer's.
    Ports(u16, u16),
    /// An ICMP request and its reply: identifier, type and direction of the request.
    Asked(u16, u8, Direction),
    /// Any other ICMP message: direction, type and code.
    Message(Direction, u8, u8),
    Pair,
}

/// A task without an address, and all DHCP servers.
fn dhcp_ends(v6: bool) -> (IpAddr, IpAddr) {
    let (task, servers) = if v6 {
        ("fe80::", "ff02::1:2")
    } else {
        ("0.0.0.0", "255.255.255.255")
    };
    (task.parse().expect("an address"), servers.parse().expect("an address"))
}

pub(super) fn as_dhcp(name: &Name) -> Name {
    Name {
        addresses: dhcp_ends(name.is_v6()),
        ..name.clone()
    }
}

impl Name {
    /// Whether the name is of an IPv6 connection.
    pub(super) fn is_v6(&self) -> bool {
        self.addresses.0.is_ipv6()
    }
}

/// The type of the request that an ICMP message is or answers, and whether it is an answer.
pub(super) fn exchange(v6: bool, kind: u8) -> Option<(u8, bool)> {
    match (v6, kind) {
        (false, 8 | 13 | 15 | 17) | (true, 128) => Some((kind, false)),
        (false, 0) => Some((8, true)),
        (false, 14 | 16 | 18) | (true, 129) => Some((kind - 1, true)),
        _ => None,
    }
}

/// The code of an ICMP request.
pub(super) fn request_code(ip: &Ip) -> Option<u8> {
    match ip.body {
        Body::Icmp { kind, code, .. } => {
            exchange(ip.source.is_ipv6(), kind).and_then(|(_, answers)| (!answers).then_some(code))
        }
        _ => None,
    }
}

pub(super) fn is_error(v6: bool, kind: u8) -> bool {
    if v6 {
        (1..=4).contains(&kind)
    } else {
        [3, 11, 12].contains(&kind)
    }
}

/// A packet on its way.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) world: &'a World,
    pub(super) link: u32,
    pub(super) direction: Direction,
    /// The packet came in by the uplink.
    pub(super) from_wire: bool,
    /// The destination of the frame, if it says anything about the task.
    pub(super) to: Option<[u8; 6]>,
    pub(super) now: u32,
}

impl Case<'_> {
    /// The source's and the destination's values, as the task's and the peer's.
    pub(super) fn of_ends<T>(&self, source: T, destination: T) -> (T, T) {
        match self.direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        }
    }

    pub(super) fn ends(&self, ip: &Ip) -> (IpAddr, IpAddr) {
        self.of_ends(ip.source, ip.destination)
    }

    pub(super) fn is_dhcp(&self, ip: &Ip) -> bool {
        let Body::Ports {
            source, destination, ..
        } = ip.body
        else {
            return false;
        };
        let v6 = ip.source.is_ipv6();
        let (local, remote) = self.of_ends(source, destination);
        let (_, servers) = dhcp_ends(v6);
        let client = if v6 { (546, 547) } else { (68, 67) };
        let asks_all = self.direction == Direction::Ingress || ip.destination == servers;
        ip.protocol == 17 && (local, remote) == client && asks_all
    }

    /// The names under which a packet's connection may be known, in the order in which they are tried.
    pub(super) fn names(&self, ip: &Ip) -> Vec<Name> {
        let v6 = ip.source.is_ipv6();
        let name = |what| Name {
            link: self.link,
            addresses: self.ends(ip),
            protocol: ip.protocol,
            what,
        };
        match ip.body {
            Body::Ports {
                source, destination, ..
            } => {
                let (local, remote) = self.of_ends(source, destination);
                vec![name(What::Ports(local, remote))]
            }
            Body::Icmp {
                kind, code, identifier, ..
            } => match exchange(v6, kind) {
                Some((asks, false)) => vec![name(What::Asked(identifier, asks, self.direction))],
                Some((asks, true)) => vec![
                    name(What::Asked(identifier, asks, self.direction.opposite())),
                    name(What::Message(self.direction, kind, code)),
                ],
                None => vec![name(What::Message(self.direction, kind, code))],
            },
            _ => vec![name(What::Pair)],
        }
    }

    /// The packet in the form in which rules are evaluated; `reply`: for the rules of the other direction, as if the
    /// opener had sent it.
    pub(super) fn asked(ip: &Ip, peer: IpAddr, reply: bool) -> oracle::OraclePacket {
        let mut packet = oracle::OraclePacket {
            peer,
            protocol: ip.protocol,
            source_port: 0,
            destination_port: 0,
            icmp_type: 0,
            icmp_code: 0,
        };
        match ip.body {
            Body::Ports {
                source, destination, ..
            } => {
                let (source, destination) = if reply {
                    (destination, source)
                } else {
                    (source, destination)
                };
                packet.source_port = source;
                packet.destination_port = destination;
            }
            Body::Icmp { kind, code, .. } => {
                (packet.icmp_type, packet.icmp_code) = match exchange(ip.source.is_ipv6(), kind) {
                    Some((asks, true)) if reply => (asks, 0),
                    _ => (kind, code),
                };
            }
            _ => {}
        }
        packet
    }
}
