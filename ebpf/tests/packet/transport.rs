//! TCP, UDP, ICMP, neighbour discovery and GSO packets, by name.

use etherparse::EtherType;
use taskgate_ebpf::{
    abi::Address,
    host::HostFrame,
    packet::{HARDWARE_UNREAD, IcmpKind, Kind, Neighbour, Packet},
};

use crate::{expected::*, frames::*};

#[test]
fn transport_headers() {
    let of = |packet: Packet, source_port, destination_port| Packet {
        source_port,
        destination_port,
        ..packet
    };
    let offset = |words: u8| with(tcp(80, 443, 0, b"0123"), &[(12, words << 4)]);
    let flags = |flags: u8| with(tcp(80, 443, 0, b""), &[(13, flags)]);
    check([
        (
            "UDP",
            ipv4(17, &udp(53, 5353, b"q"), |_| ()),
            Ok(()),
            of(v4(17, 29), 53, 5353),
        ),
        ("UDP of 7 bytes", ipv4(17, &[0; 7], |_| ()), MALFORMED, v4(17, 27)),
        ("UDP of 7 bytes, IPv6", ipv6(17, &[0; 7]), MALFORMED, v6(17, 47)),
        (
            "TCP of 10 bytes",
            ipv4(6, &tcp(80, 443, 0, b"")[..10], |_| ()),
            MALFORMED,
            v4(6, 30),
        ),
        (
            "TCP of 19 bytes",
            ipv6(6, &tcp(80, 443, 0, b"")[..19]),
            MALFORMED,
            v6(6, 59),
        ),
        (
            "TCP that says 16 bytes",
            ipv4(6, &offset(4), |_| ()),
            MALFORMED,
            v4(6, 44),
        ),
        (
            "TCP that says as much as there is",
            ipv4(6, &offset(6), |_| ()),
            Ok(()),
            ports(v4(6, 44)),
        ),
        ("TCP that says more", ipv4(6, &offset(7), |_| ()), MALFORMED, v4(6, 44)),
        (
            "TCP with 40 bytes of options",
            ipv4(6, &tcp(80, 443, 10, b""), |_| ()),
            Ok(()),
            ports(v4(6, 80)),
        ),
        (
            "TCP without flags",
            ipv4(6, &flags(0), |_| ()),
            Ok(()),
            Packet {
                tcp_flags: 0,
                ..ports(v4(6, 40))
            },
        ),
        (
            "TCP with all flags",
            ipv4(6, &flags(0xff), |_| ()),
            Ok(()),
            Packet {
                tcp_flags: 0xff,
                ..ports(v4(6, 40))
            },
        ),
        ("SCTP", ipv4(132, &tcp(80, 443, 0, b""), |_| ()), Ok(()), v4(132, 40)),
        ("UDP-Lite", ipv6(136, &udp(80, 443, b"")), Ok(()), v6(136, 48)),
    ]);
}

#[test]
fn icmp_messages() {
    let of = |packet: Packet, kind: u8, code: u8, exchange, source_port| Packet {
        destination_port: u16::from_be_bytes([kind, code]),
        exchange,
        source_port,
        // Behind Ethernet, the IP header and the message's own eight bytes, where nothing follows.
        quoted_at: match (exchange, packet.kind) {
            (IcmpKind::Error, Kind::V4) => 14 + 20 + 8,
            (IcmpKind::Error, _) => 14 + 40 + 8,
            _ => 0,
        },
        quoted_end: match (exchange, packet.kind) {
            (IcmpKind::Error, Kind::V4) => 14 + 20 + 8,
            (IcmpKind::Error, _) => 14 + 40 + 8,
            _ => 0,
        },
        ..packet
    };
    for (kind, code) in (0..=255).flat_map(|kind| [(kind, 0), (kind, 3)]) {
        let exchange = match kind {
            8 | 13 | 15 | 17 => IcmpKind::Request,
            0 | 14 | 16 | 18 => IcmpKind::Reply,
            3 | 11 | 12 => IcmpKind::Error,
            _ => IcmpKind::None,
        };
        let asks = matches!(exchange, IcmpKind::Request | IcmpKind::Reply);
        let expected = if kind == 255 {
            (MALFORMED, v4(1, 28))
        } else {
            // Redirects and router advertisements.
            let neighbour = if matches!(kind, 5 | 9) {
                Neighbour::Router
            } else {
                Neighbour::None
            };
            let packet = of(v4(1, 28), kind, code, exchange, if asks { 0x1234 } else { 0 });
            (Ok(()), Packet { neighbour, ..packet })
        };
        let frame = ipv4(1, &icmp(kind, code, 0x1234, b""), |_| ());
        assert_eq!(parsed(&frame), expected, "ICMP type {kind} code {code}");

        // A hop limit of 64: neighbour discovery that came over a router is none.
        let exchange = match kind {
            128 => IcmpKind::Request,
            129 => IcmpKind::Reply,
            1..=4 => IcmpKind::Error,
            _ => IcmpKind::None,
        };
        let asks = matches!(exchange, IcmpKind::Request | IcmpKind::Reply);
        let expected = if kind == 255 {
            (MALFORMED, v6(58, 48))
        } else {
            let neighbour = if matches!(kind, 130 | 134 | 137 | 151..=153) {
                Neighbour::RouterRole
            } else {
                Neighbour::None
            };
            let packet = of(v6(58, 48), kind, code, exchange, if asks { 0x1234 } else { 0 });
            (Ok(()), Packet { neighbour, ..packet })
        };
        let frame = ipv6(58, &icmp(kind, code, 0x1234, b""));
        assert_eq!(parsed(&frame), expected, "ICMPv6 type {kind} code {code}");
    }
    check([
        (
            "ICMP of 7 bytes",
            ipv4(1, &icmp(8, 0, 1, b"")[..7], |_| ()),
            MALFORMED,
            v4(1, 27),
        ),
        (
            "ICMPv6 of 7 bytes",
            ipv6(58, &icmp(128, 0, 1, b"")[..7]),
            MALFORMED,
            v6(58, 47),
        ),
    ]);
}

#[test]
fn neighbour_discovery() {
    const TARGET: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x42];
    let message =
        |kind: u8, hop_limit: u8, payload: &[u8]| with(ipv6(58, &icmp(kind, 0, 0, payload)), &[(21, hop_limit)]);
    let of = |kind: u8, bytes, neighbour, target| Packet {
        destination_port: u16::from(kind) << 8,
        neighbour,
        target,
        ..v6(58, bytes)
    };
    let known = Address::from_octets(TARGET);
    let none = Address::default();
    // Messages of routers are recognised with any hop limit.
    let of_afar = |kind: u8| match kind {
        130 | 134 | 137 => Neighbour::RouterRole,
        _ => Neighbour::None,
    };
    for (kind, neighbour, target) in [
        (133, Neighbour::RouterSolicitation, none),
        (134, Neighbour::Router, none),
        (135, Neighbour::Solicitation, known),
        (136, Neighbour::Advertisement, known),
        (137, Neighbour::Router, none),
    ] {
        // Behind the first eight bytes a router solicitation has options.
        let hardware = if kind == 133 { HARDWARE_UNREAD } else { 0 };
        let expected = (
            Ok(()),
            Packet {
                hardware,
                roomy: kind == 133,
                ..of(kind, 64, neighbour, target)
            },
        );
        assert_eq!(parsed(&message(kind, 255, &TARGET)), expected, "type {kind}");
        for hop_limit in [0, 1, 254] {
            let expected = (Ok(()), of(kind, 64, of_afar(kind), none));
            assert_eq!(
                parsed(&message(kind, hop_limit, &TARGET)),
                expected,
                "type {kind} over a router"
            );
        }
    }
    // A version 1 message names one group; a version 2 record has at least twenty bytes, so this message is inconsistent.
    for (kind, neighbour, target, roomy) in [
        (130, Neighbour::ListenerQuery, none, false),
        (131, Neighbour::ListenerReport, known, false),
        (132, Neighbour::ListenerReport, known, false),
        (143, Neighbour::ListenerReport, none, true),
    ] {
        let with_alert = with(ipv6(0, &extension(58, 1, &icmp(kind, 0, 0, &TARGET))), &[(21, 1)]);
        let expected = Packet {
            roomy,
            ..of(kind, 72, neighbour, target)
        };
        assert_eq!(parsed(&with_alert), (Ok(()), expected), "type {kind}");
        let expected = (Ok(()), of(kind, 64, of_afar(kind), none));
        assert_eq!(
            parsed(&message(kind, 255, &TARGET)),
            expected,
            "type {kind} with more hops than one"
        );
    }
    check([
        (
            "solicitation without its target",
            message(135, 255, &TARGET[..15]),
            MALFORMED,
            of(135, 63, Neighbour::None, none),
        ),
        (
            "advertisement without its target",
            message(136, 255, b""),
            MALFORMED,
            of(136, 48, Neighbour::None, none),
        ),
        (
            "redirect by a stranger, short",
            message(137, 255, b""),
            Ok(()),
            of(137, 48, Neighbour::Router, none),
        ),
    ]);
}

/// The link-layer address that a message gives, in at most two options of eight bytes.
#[test]
fn link_layer_addresses() {
    const OWN: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 9];
    const NONCE: [u8; 8] = [14, 1, 2, 0, 0, 0, 0, 9];
    const LONG: [u8; 8] = [2, 2, 2, 0, 0, 0, 0, 1];
    let own = 0x0200_0000_0001;
    for (options, hardware) in [
        (&[][..], 0),
        (&[OWN], own),
        (&[NONCE], 0),
        (&[NONCE, OWN], own),
        (&[OWN, NONCE], own),
        (&[OTHER, OWN], HARDWARE_UNREAD),
        (&[LONG], HARDWARE_UNREAD),
        (&[NONCE, NONCE, OWN], HARDWARE_UNREAD),
    ] {
        let options = options.concat();
        for (kind, head) in [(133, 0), (135, 16), (136, 16)] {
            let payload = [&vec![0x20; head][..], &options].concat();
            let frame = with(ipv6(58, &icmp(kind, 0, 0x8000, &payload)), &[(21, 255)]);
            let (result, packet) = parsed(&frame);
            assert_eq!(
                (result, packet.hardware),
                (Ok(()), hardware),
                "type {kind}: {options:?}"
            );
            assert_eq!(packet.says_router, kind == 136, "type {kind}");
        }
    }
    let odd = with(
        ipv6(58, &icmp(136, 0, 0, &[[0x20; 16].as_slice(), &[2, 1, 2]].concat())),
        &[(21, 255)],
    );
    assert_eq!(parsed(&odd).1.hardware, HARDWARE_UNREAD);
}

#[test]
fn membership_queries() {
    let of = |payload: &[u8]| parsed(&ipv4(2, payload, |_| ())).1.neighbour;
    assert_eq!(of(&[0x11, 0, 0, 0, 0, 0, 0, 0]), Neighbour::ListenerQuery);
    assert_eq!(of(&[0x11, 0, 0, 0, 0, 0, 0]), Neighbour::None, "cut short");
    assert_eq!(of(&[0x22, 0, 0, 0, 0, 0, 0, 0]), Neighbour::None, "a report");
}

#[test]
fn arp() {
    let packet = |operation: u8| {
        let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, operation, 2, 0, 0, 0, 0, 1];
        bytes.extend(SOURCE4);
        bytes.extend([0; 6]);
        bytes.extend(DESTINATION4);
        ethernet(EtherType::ARP, &bytes)
    };
    let found = Packet {
        source: Address::from_v4_octets(SOURCE4),
        destination: Address::from_v4_octets(DESTINATION4),
        target: Address::from_v4_octets(DESTINATION4),
        hardware: 0x0200_0000_0001,
        bytes: 28,
        kind: Kind::Arp,
        neighbour: Neighbour::Arp,
        ..nothing()
    };
    check([
        ("request", packet(1), Ok(()), found),
        ("reply, padded", [packet(2), vec![0; 18]].concat(), Ok(()), found),
        ("reverse request", packet(3), MALFORMED, nothing()),
        ("operation 257", with(packet(1), &[(20, 1)]), MALFORMED, nothing()),
        ("27 bytes", without_last(packet(1), 1), MALFORMED, nothing()),
        ("another hardware", with(packet(1), &[(15, 6)]), MALFORMED, nothing()),
        ("another protocol", with(packet(1), &[(16, 0x86)]), MALFORMED, nothing()),
        (
            "another hardware length",
            with(packet(1), &[(18, 8)]),
            MALFORMED,
            nothing(),
        ),
        (
            "another protocol length",
            with(packet(1), &[(19, 16)]),
            MALFORMED,
            nothing(),
        ),
    ]);
}

#[test]
fn packets_that_stand_for_several() {
    let large = ipv4(6, &tcp(80, 443, 3, &[0; 3000]), |_| ());
    let nameless = with(large.clone(), &[(16, 0), (17, 0)]);
    let jumbo = with(
        ipv6(0, &extension(6, 1, &tcp(80, 443, 0, &[0; 2500]))),
        &[(18, 0), (19, 0)],
    );
    let datagrams = ipv4(17, &udp(53, 54, &[0; 2001]), |_| ());
    let other = ipv4(47, &[0; 1000], |_| ());
    for (name, frame, segments, packets, bytes) in [
        ("itself", &large, (0, 0), 1, 3052),
        ("counted, but of no size", &large, (3, 0), 1, 3052),
        ("three segments", &large, (3, 1000), 3, 3052 + 2 * 52),
        ("nobody counted them", &large, (0, 1000), 3, 3052 + 2 * 52),
        (
            "nobody counted them, the last one short",
            &large,
            (0, 1001),
            3,
            3052 + 2 * 52,
        ),
        (
            "nobody counted them, the last one of a byte",
            &large,
            (0, 999),
            4,
            3052 + 3 * 52,
        ),
        ("IPv4 of no length", &nameless, (3, 1000), 3, 3052 + 2 * 52),
        // Its hop-by-hop header is on no wire.
        ("jumbogram", &jumbo, (5, 500), 5, 2560 + 4 * 60),
        ("datagrams", &datagrams, (0, 1000), 3, 2029 + 2 * 28),
        ("no transport header", &other, (0, 500), 2, 1020 + 20),
        ("nonsense does not overflow", &large, (u32::MAX, 1), u32::MAX, u32::MAX),
    ] {
        let (result, packet) = parsed_as(&HostFrame {
            segments,
            ..HostFrame::new(frame, LINK)
        });
        assert_eq!(
            (result, packet.packets, packet.bytes),
            (Ok(()), packets, bytes),
            "{name}"
        );
    }
    assert_eq!(parsed(&nameless).0, MALFORMED, "no length, and stands for itself");
    assert_eq!(parsed(&jumbo).0, MALFORMED, "a jumbogram on the wire");
}
