//! The first packet of a flow, as bytes on the wire.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::model::protocol_text;

/// What the packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
            Self::Tcp { .. } => 6,
            Self::Udp { .. } => 17,
            Self::Icmp { .. } => 1,
            Self::Icmpv6 { .. } => 58,
            Self::Other(number) => number,
        }
    }

    /// The transport header, and nothing behind it that anybody judges by: checksums are 0.
    fn bytes(self) -> Vec<u8> {
        match self {
            Self::Tcp { source, port } => {
                const DATA_OFFSET: u8 = 5 << 4;
                const SYN: u8 = 2;
                const WINDOW: [u8; 2] = [0xff, 0xff];
                let mut header = [source.to_be_bytes(), port.to_be_bytes()].concat();
                header.extend([0; 8]);
                header.extend([DATA_OFFSET, SYN]);
                header.extend(WINDOW);
                header.extend([0; 4]);
                header
            }
            Self::Udp { source, port } => [source.to_be_bytes(), port.to_be_bytes(), [0, 8], [0, 0]].concat(),
            Self::Icmp { kind, code } | Self::Icmpv6 { kind, code } => vec![kind, code, 0, 0, 0, 1, 0, 1],
            Self::Other(_) => vec![0; 8],
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

/// An Ethernet frame with the packet. The addresses are of one family; if they are not, both are taken as IPv6.
pub(super) fn frame(source: IpAddr, destination: IpAddr, message: Message) -> Vec<u8> {
    // Locally administered addresses: no gate looks at them.
    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
    let payload = message.bytes();
    let mut frame = MACS.to_vec();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4_header(
                source,
                destination,
                message.protocol(),
                payload.len() as u16,
            ));
        }
        (source, destination) => {
            frame.extend([0x86, 0xdd]);
            let [source, destination] = [source, destination].map(in_v6);
            frame.extend(ipv6_header(
                source,
                destination,
                message.protocol(),
                payload.len() as u16,
            ));
        }
    }
    frame.extend(payload);
    frame
}

const HOP_LIMIT: u8 = 64;

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: u16) -> Vec<u8> {
    const VERSION_AND_LENGTH: u8 = 0x45;
    const HEADER: u16 = 20;
    let mut header = vec![VERSION_AND_LENGTH, 0];
    header.extend((HEADER + payload).to_be_bytes());
    header.extend([0, 0, 0, 0, HOP_LIMIT, protocol, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum: u32 = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: u16) -> Vec<u8> {
    const VERSION: [u8; 4] = [0x60, 0, 0, 0];
    let mut header = VERSION.to_vec();
    header.extend(payload.to_be_bytes());
    header.extend([protocol, HOP_LIMIT]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header
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

    /// What another parser makes of a frame: the addresses, and the transport header as [`Message`] has it.
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
    fn another_parser_reads_what_was_written() {
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
