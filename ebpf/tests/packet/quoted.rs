//! Packets quoted by ICMP errors, by name.

use etherparse::IpFragOffset;
use taskgate_ebpf::packet::{IcmpKind, Kind, PULL_BYTES, Packet, parse_quoted};

use crate::{expected::*, frames::*};

/// The result without a quote.
fn none() -> Packet {
    Packet::default()
}

/// The quoted packet of an error with the IP packet `frame`.
fn quoted(frame: &[u8]) -> Packet {
    let (result, error) = parsed(frame);
    assert_eq!(result, Ok(()), "{frame:02x?}");
    let mut quoted = Packet::default();
    let host = taskgate_ebpf::host::HostFrame::new(frame, LINK);
    assert_eq!(parse_quoted(&host, &error, &mut quoted), Ok(()), "{frame:02x?}");
    if matches!(quoted.kind, Kind::None) {
        none()
    } else {
        quoted
    }
}

/// An ICMPv4 error about the IP packet in a frame, which quotes this many bytes.
fn about4(frame: &[u8], bytes: usize) -> Vec<u8> {
    ipv4(1, &icmp(3, 4, 0, &frame[14..][..bytes]), |_| ())
}

fn about6(frame: &[u8], bytes: usize) -> Vec<u8> {
    ipv6(58, &icmp(2, 0, 0, &frame[14..][..bytes]))
}

/// A quoted packet has addresses, protocol, and ports or ICMP kind; no other fields are read.
fn of4(protocol: u8) -> Packet {
    Packet {
        bytes: 0,
        packets: 0,
        link: 0,
        ..v4(protocol, 0)
    }
}

fn of6(protocol: u8) -> Packet {
    Packet {
        bytes: 0,
        packets: 0,
        link: 0,
        ..v6(protocol, 0)
    }
}

fn with_ports(packet: Packet, source_port: u16, destination_port: u16) -> Packet {
    Packet {
        source_port,
        destination_port,
        ..packet
    }
}

#[test]
fn quoted_packets() {
    let tcp4 = ipv4(6, &tcp(443, 40000, 0, b"data"), |_| ());
    let tcp6 = ipv6(6, &tcp(443, 40000, 0, b"data"));
    let udp4 = ipv4(17, &udp(53, 5353, b""), |_| ());
    let with_options = ipv4(6, &tcp(443, 40000, 0, b""), |ip| ip.options = options(&[1; 8]));
    let first = ipv4(17, &udp(53, 5353, &[0; 8]), |ip| ip.more_fragments = true);
    let later = ipv4(17, &udp(53, 5353, b""), |ip| {
        ip.fragment_offset = IpFragOffset::try_new(1).expect("13 bits");
    });
    let first6 = ipv6(44, &fragment(17, 0, true, &udp(53, 5353, &[0; 8])));
    let later6 = ipv6(44, &fragment(17, 1, false, &udp(53, 5353, b"")));
    let ping4 = ipv4(1, &icmp(8, 0, 77, b""), |_| ());
    let pong6 = ipv6(58, &icmp(129, 0, 77, b""));
    let exchange = |packet: Packet, exchange, message| Packet {
        exchange,
        ..with_ports(packet, 77, message)
    };
    for (name, frame, expected) in [
        ("TCP", about4(&tcp4, 28), with_ports(of4(6), 443, 40000)),
        ("TCP, all of it", about4(&tcp4, 44), with_ports(of4(6), 443, 40000)),
        ("TCP in IPv6", about6(&tcp6, 48), with_ports(of6(6), 443, 40000)),
        ("UDP", about4(&udp4, 28), with_ports(of4(17), 53, 5353)),
        ("options", about4(&with_options, 36), with_ports(of4(6), 443, 40000)),
        ("a first fragment", about4(&first, 28), with_ports(of4(17), 53, 5353)),
        (
            "a request",
            about4(&ping4, 28),
            exchange(of4(1), IcmpKind::Request, 0x0800),
        ),
        (
            "a reply",
            about6(&pong6, 48),
            exchange(of6(58), IcmpKind::Reply, 0x8100),
        ),
        ("nothing", about4(&tcp4, 0), none()),
        ("half an IP header", about4(&tcp4, 19), none()),
        ("seven bytes of TCP", about4(&tcp4, 27), none()),
        ("seven bytes of TCP in IPv6", about6(&tcp6, 47), none()),
        ("seven bytes behind options", about4(&with_options, 35), none()),
        ("a later fragment", about4(&later, 28), none()),
        ("IPv6 in IPv4", about4(&tcp6, 48), none()),
        ("IPv4 in IPv6", about6(&tcp4, 28), none()),
        (
            "a header length of 16",
            about4(&with(tcp4.clone(), &[(14, 0x44)]), 28),
            none(),
        ),
        (
            "a protocol without ports",
            about4(&ipv4(47, &[0; 8], |_| ()), 28),
            of4(47),
        ),
        (
            "ICMPv6 in IPv4",
            about4(&ipv4(58, &icmp(128, 0, 1, b""), |_| ()), 28),
            of4(58),
        ),
        (
            "a first fragment of IPv6",
            about6(&first6, 56),
            with_ports(of6(17), 53, 5353),
        ),
        ("seven bytes behind its header", about6(&first6, 55), none()),
        ("a later fragment of IPv6", about6(&later6, 56), none()),
        ("an error", about4(&about4(&tcp4, 28), 28), none()),
        (
            "an extension header",
            about6(&ipv6(0, &extension(6, 1, &tcp(443, 40000, 0, b""))), 68),
            of6(0),
        ),
        (
            "behind the error's end",
            [about4(&tcp4, 0), tcp4[14..].to_vec()].concat(),
            none(),
        ),
        (
            "its last byte behind the error's end",
            [about4(&tcp4, 27), vec![0; 20]].concat(),
            none(),
        ),
        (
            "a request, which quotes nothing",
            ipv4(1, &icmp(8, 0, 77, &tcp4[14..]), |_| ()),
            none(),
        ),
        (
            "a redirect, which is no error",
            ipv4(1, &icmp(5, 1, 0, &tcp4[14..]), |_| ()),
            none(),
        ),
    ] {
        assert_eq!(quoted(&frame), expected, "{name}");
    }
}

/// An error with extension headers that push the quote to the end of the parsed bytes.
#[test]
fn a_quote_within_reach_and_beyond() {
    let tcp6 = ipv6(6, &tcp(443, 40000, 0, b""));
    let behind = |units| ipv6(60, &extension(58, units, &icmp(2, 0, 0, &tcp6[14..][..48])));
    let last = (PULL_BYTES as usize - 14 - 40 - 8 - 48) / 8;
    assert_eq!(quoted(&behind(last)), with_ports(of6(6), 443, 40000));
    assert_eq!(quoted(&behind(last + 1)), none());
}
