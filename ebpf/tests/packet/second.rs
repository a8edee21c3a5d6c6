//! Comparison of our parser with `etherparse`. The fuzzer's checks include this file too.

use std::net::IpAddr;

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};
use taskgate_ebpf::{
    abi::Address,
    packet::{Kind, Packet},
};

/// Addresses, and what `etherparse` finds behind the extension headers: protocol, ports and flags.
type Other = (Kind, Address, Address, Option<(u8, u16, u16, u8)>);

/// `etherparse`'s reading of a frame, if it can read it.
fn other_reading(bytes: &[u8]) -> Option<Other> {
    let sliced = LaxSlicedPacket::from_ethernet(bytes).ok()?;
    if !sliced.link_exts.is_empty() {
        return None;
    }
    let (kind, source, destination) = match sliced.net? {
        LaxNetSlice::Ipv4(ip) => (
            Kind::V4,
            IpAddr::from(ip.header().source()).into(),
            IpAddr::from(ip.header().destination()).into(),
        ),
        LaxNetSlice::Ipv6(ip) => (
            Kind::V6,
            IpAddr::from(ip.header().source()).into(),
            IpAddr::from(ip.header().destination()).into(),
        ),
        LaxNetSlice::Arp(_) => return None,
    };
    let transport = sliced.transport.and_then(|transport| {
        Some(match transport {
            TransportSlice::Tcp(tcp) => (6, tcp.source_port(), tcp.destination_port(), tcp.slice()[13]),
            TransportSlice::Udp(udp) => (17, udp.source_port(), udp.destination_port(), 0),
            TransportSlice::Icmpv4(icmp) => (1, 0, u16::from_be_bytes([icmp.type_u8(), icmp.code_u8()]), 0),
            TransportSlice::Icmpv6(icmp) => (58, 0, u16::from_be_bytes([icmp.type_u8(), icmp.code_u8()]), 0),
            TransportSlice::Igmp(_) => return None,
        })
    });
    Some((kind, source, destination, transport))
}

/// The difference, if `etherparse` reads other values than a verdict would be based on.
pub(crate) fn disagrees(bytes: &[u8], packet: &Packet) -> Option<String> {
    let (kind, source, destination, transport) = other_reading(bytes)?;
    let ours = (packet.kind, packet.source, packet.destination);
    if ours != (kind, source, destination) {
        return Some(format!("{ours:?}, etherparse: {:?}", (kind, source, destination)));
    }
    // We take an authentication header for the transport protocol, in both families.
    if packet.protocol == 51 {
        return None;
    }
    let (protocol, source_port, destination_port, flags) = transport.filter(|_| !packet.later_fragment)?;
    let icmp_of_family = matches!((packet.kind, packet.protocol), (Kind::V4, 1) | (Kind::V6, 58));
    let same = packet.protocol == protocol
        && match protocol {
            6 | 17 => {
                (packet.source_port, packet.destination_port, packet.tcp_flags)
                    == (source_port, destination_port, flags)
            }
            _ => !icmp_of_family || packet.destination_port == destination_port,
        };
    (!same).then(|| format!("{packet:?}, etherparse: {transport:?}"))
}
