//! The first packet of a flow, as bytes on the wire.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use etherparse::{IpNumber, PacketBuilder};
use taskgate_ebpf::wire;
use taskgate_model::protocol_text;

/// The packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Message {
    /// A TCP SYN.
    Tcp {
        /// The source port.
        source: u16,
        /// The destination port.
        port: u16,
    },
    /// A UDP datagram.
    Udp {
        /// The source port.
        source: u16,
        /// The destination port.
        port: u16,
    },
    /// An ICMP message, over IPv4.
    Icmp {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
    /// An ICMPv6 message, over IPv6.
    Icmpv6 {
        /// The message's type.
        kind: u8,
        /// The message's code.
        code: u8,
    },
    /// Any other protocol, by its number.
    Other(u8),
}

impl Message {
    /// The protocol's IANA number.
    pub fn protocol(self) -> u8 {
        match self {
            Self::Tcp { .. } => wire::TCP,
            Self::Udp { .. } => wire::UDP,
            Self::Icmp { .. } => wire::ICMP,
            Self::Icmpv6 { .. } => wire::ICMPV6,
            Self::Other(number) => number,
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Tcp { port, .. } => write!(f, "tcp port {port}"),
            Self::Udp { port, .. } => write!(f, "udp port {port}"),
            Self::Icmp { kind, code } => write!(f, "icmp type {kind} code {code}"),
            Self::Icmpv6 { kind, code } => write!(f, "icmpv6 type {kind} code {code}"),
            Self::Other(number) => f.write_str(&protocol_text(number)),
        }
    }
}

/// Builds an Ethernet frame with the packet. Both addresses should be of one family; otherwise both are taken as IPv6.
pub(crate) fn frame(source: IpAddr, destination: IpAddr, message: Message) -> Vec<u8> {
    const HOP_LIMIT: u8 = 64;
    const WINDOW: u16 = u16::MAX;
    // Locally administered hardware addresses, which gates ignore here.
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let builder = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => builder.ipv4(source.octets(), destination.octets(), HOP_LIMIT),
        (source, destination) => builder.ipv6(in_v6(source).octets(), in_v6(destination).octets(), HOP_LIMIT),
    };
    let number = IpNumber(message.protocol());
    let mut frame = Vec::new();
    match message {
        Message::Tcp { source, port } => builder.tcp(source, port, 0, WINDOW).syn().write(&mut frame, &[]),
        Message::Udp { source, port } => builder.udp(source, port).write(&mut frame, &[]),
        // After type and code: an identifier and a sequence number, or other fields of other messages.
        Message::Icmp { kind, code } | Message::Icmpv6 { kind, code } => {
            builder.write(&mut frame, number, &[kind, code, 0, 0, 0, 1, 0, 1])
        }
        Message::Other(_) => builder.write(&mut frame, number, &[0; 8]),
    }
    // Writing to a vector cannot fail, and no part exceeds its length field.
    .ok();
    frame
}

fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;

    /// A frame parsed by the same library: the addresses, and the transport header as a [`Message`].
    fn read(bytes: &[u8]) -> (IpAddr, IpAddr, Message) {
        let packet = SlicedPacket::from_ethernet(bytes).unwrap();
        let (source, destination, number): (IpAddr, IpAddr, _) = match packet.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header();
                assert_eq!(header.header_checksum(), header.to_header().calc_header_checksum());
                let ends = (header.source_addr().into(), header.destination_addr().into());
                (ends.0, ends.1, header.protocol())
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header();
                let ends = (header.source_addr().into(), header.destination_addr().into());
                (ends.0, ends.1, header.next_header())
            }
            NetSlice::Arp(_) => panic!("no IP packet"),
        };
        let message = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                assert!(tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin());
                Message::Tcp {
                    source: tcp.source_port(),
                    port: tcp.destination_port(),
                }
            }
            Some(TransportSlice::Udp(udp)) => Message::Udp {
                source: udp.source_port(),
                port: udp.destination_port(),
            },
            Some(TransportSlice::Icmpv4(icmp)) => Message::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
            Some(TransportSlice::Icmpv6(icmp)) => Message::Icmpv6 {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
            Some(TransportSlice::Igmp(_)) | None => Message::Other(number.0),
        };
        (source, destination, message)
    }

    #[test]
    fn what_was_asked_is_in_the_frame() {
        let v4: [IpAddr; 2] = ["10.0.1.15".parse().unwrap(), "203.0.113.9".parse().unwrap()];
        let v6: [IpAddr; 2] = ["2001:db8::15".parse().unwrap(), "2001:db8:ffff::9".parse().unwrap()];
        let tcp = Message::Tcp {
            source: 49152,
            port: 443,
        };
        let udp = Message::Udp { source: 68, port: 67 };
        for ([source, destination], message) in [
            (v4, tcp),
            (v6, tcp),
            (v4, udp),
            (v6, udp),
            (v4, Message::Icmp { kind: 8, code: 0 }),
            (v6, Message::Icmpv6 { kind: 1, code: 3 }),
            (v4, Message::Other(47)),
            (v6, Message::Other(132)),
        ] {
            let bytes = frame(source, destination, message);
            assert_eq!(read(&bytes), (source, destination, message));
        }
    }
}
