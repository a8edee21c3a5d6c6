use super::*;
use crate::abi::Direction::{Egress, Ingress};

const TASK: Address = Address::from_v4(0x0a00_0105);
const PEER: Address = Address::from_v4(0x0a00_0207);

/// A packet between task and peer, with their ports, or identifier, and type and code.
fn packet(direction: Direction, protocol: u8, local_port: u16, remote_port: u16) -> Packet {
    let (source, destination, source_port, destination_port) = match direction {
        Egress => (TASK, PEER, local_port, remote_port),
        Ingress => (PEER, TASK, remote_port, local_port),
    };
    Packet {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        kind: Kind::V4,
        ..Packet::default()
    }
}

fn icmp(direction: Direction, kind: u8, code: u8, identifier: u16, exchange: IcmpKind) -> Packet {
    Packet {
        source_port: identifier,
        destination_port: u16::from_be_bytes([kind, code]),
        exchange,
        ..packet(direction, 1, 0, 0)
    }
}

fn icmpv6(direction: Direction, kind: u8, code: u8, identifier: u16, exchange: IcmpKind) -> Packet {
    Packet {
        kind: Kind::V6,
        protocol: 58,
        ..icmp(direction, kind, code, identifier, exchange)
    }
}

#[track_caller]
fn same(one: (&Packet, Direction), other: (&Packet, Direction)) -> bool {
    let name = |(packet, direction): (&Packet, Direction)| {
        let flow = Flow::tracked(packet, direction);
        (flow.local, flow.remote, flow.ports)
    };
    name(one) == name(other)
}

#[test]
fn both_directions_of_a_connection_have_one_name() {
    for protocol in [6, 17] {
        let out = packet(Egress, protocol, 40000, 443);
        let expected = Flow {
            local: TASK,
            remote: PEER,
            ports: 0x9c40_01bb,
            special: false,
        };
        assert_eq!(Flow::tracked(&out, Egress), expected);
        assert_eq!(Flow::tracked(&packet(Ingress, protocol, 40000, 443), Ingress), expected);
        assert_eq!(Flow::plain(&out, Egress), expected);
    }
}

#[test]
fn other_protocols_go_by_addresses() {
    let expected = Flow {
        local: TASK,
        remote: PEER,
        ports: 0,
        special: false,
    };
    for protocol in [0, 2, 47, 50, 132, 255] {
        for direction in [Egress, Ingress] {
            assert_eq!(Flow::tracked(&packet(direction, protocol, 0, 0), direction), expected);
        }
    }
}

#[test]
fn an_answer_finds_what_asked_and_nothing_else() {
    use IcmpKind::{Reply, Request};
    for (ask, answer) in [(8, 0), (13, 14), (15, 16), (17, 18)] {
        let asked = icmp(Egress, ask, 0, 77, Request);
        assert!(same((&asked, Egress), (&icmp(Ingress, answer, 0, 77, Reply), Ingress)));
        assert!(
            !same((&asked, Egress), (&icmp(Ingress, answer, 0, 78, Reply), Ingress)),
            "another identifier"
        );
        assert!(
            !same((&asked, Egress), (&icmp(Egress, answer, 0, 77, Reply), Egress)),
            "from the same side"
        );
        assert!(
            !same((&asked, Egress), (&icmp(Ingress, ask, 0, 77, Request), Ingress)),
            "the peer asks too"
        );
        for (_, other) in [(8, 0), (13, 14), (15, 16), (17, 18)]
            .iter()
            .filter(|pair| pair.0 != ask)
        {
            assert!(
                !same((&asked, Egress), (&icmp(Ingress, *other, 0, 77, Reply), Ingress)),
                "another answer"
            );
        }
    }
    let asked = icmpv6(Ingress, 128, 0, 77, Request);
    assert!(same((&asked, Ingress), (&icmpv6(Egress, 129, 0, 77, Reply), Egress)));
    assert!(!same((&asked, Ingress), (&icmpv6(Ingress, 129, 0, 77, Reply), Ingress)));
}

/// No message has the same key as a message in the other direction, or as a request.
#[test]
fn messages_that_stand_for_themselves_are_not_answered() {
    for exchange in [IcmpKind::None, IcmpKind::Error] {
        for (kind, code) in (0..=254).flat_map(|kind| [(kind, 0), (kind, 1)]) {
            for message in [icmp, icmpv6] {
                let (out, back) = (
                    message(Egress, kind, code, 0, exchange),
                    message(Ingress, kind, code, 0, exchange),
                );
                assert!(!same((&out, Egress), (&back, Ingress)), "{out:?}");
                let ask = if out.protocol == 1 { 8 } else { 128 };
                for asker in [Egress, Ingress] {
                    let request = message(asker, ask, 0, 0, IcmpKind::Request);
                    assert!(!same((&request, asker), (&out, Egress)), "{out:?}");
                    assert!(!same((&request, asker), (&back, Ingress)), "{out:?}");
                }
            }
        }
    }
}

#[test]
fn a_reply_that_nobody_asked_for_stands_for_itself() {
    let reply = icmp(Ingress, 0, 0, 77, IcmpKind::Reply);
    assert!(Flow::tracked(&reply, Ingress).special);
    let plain = Flow {
        local: TASK,
        remote: PEER,
        ports: 1 << 16,
        special: false,
    };
    assert_eq!(Flow::plain(&reply, Ingress), plain);
}

#[test]
fn all_dhcp_of_a_task_has_the_name_of_what_asks_every_server() {
    let everyone4 = Address::from_v4_octets([255; 4]);
    let everyone6 = Address::new(0xff02 << 48, 0x0001_0002);
    let to = |kind, destination, local, remote| Packet {
        destination,
        kind,
        ..packet(Egress, 17, local, remote)
    };
    let from = |kind, local, remote| Packet {
        kind,
        ..packet(Ingress, 17, local, remote)
    };
    for (name, packet, direction, expected) in [
        ("discover", to(Kind::V4, everyone4, 68, 67), Egress, true),
        ("request to one server", to(Kind::V4, PEER, 68, 67), Egress, false),
        ("as a server", to(Kind::V4, everyone4, 67, 68), Egress, false),
        ("answer", from(Kind::V4, 68, 67), Ingress, true),
        ("to a server", from(Kind::V4, 67, 68), Ingress, false),
        ("solicit", to(Kind::V6, everyone6, 546, 547), Egress, true),
        (
            "solicit with IPv4's ports",
            to(Kind::V6, everyone6, 68, 67),
            Egress,
            false,
        ),
        (
            "solicit of one server",
            to(Kind::V6, Address::new(1, 2), 546, 547),
            Egress,
            false,
        ),
        ("advertise", from(Kind::V6, 546, 547), Ingress, true),
        ("IPv4 with IPv6's ports", from(Kind::V4, 546, 547), Ingress, false),
        (
            "over TCP",
            Packet {
                protocol: 6,
                ..to(Kind::V4, everyone4, 68, 67)
            },
            Egress,
            false,
        ),
    ] {
        assert_eq!(is_dhcp(&packet, direction), expected, "{name}");
        let ports = if matches!(packet.kind, Kind::V6) {
            0x0222_0223
        } else {
            0x0044_0043
        };
        let (local, remote) = match packet.kind {
            Kind::V6 => (Address::new(0xfe80 << 48, 0), everyone6),
            _ => (Address::from_v4(0), everyone4),
        };
        let anybody = Flow {
            local,
            remote,
            ports,
            special: false,
        };
        assert_eq!(
            Flow::tracked(&packet, direction),
            Flow::plain(&packet, direction),
            "{name}"
        );
        if expected {
            assert_eq!(Flow::dhcp(&packet), anybody, "{name}");
        }
    }
}

#[test]
fn a_key_tells_which_icmp_messages_it_is_of() {
    use TrackedIcmp::{Error, Other, Request};
    let cases = [
        (icmp(Egress, 8, 3, 700, IcmpKind::Request), Request(8)),
        (icmp(Ingress, 13, 0, 1, IcmpKind::Request), Request(13)),
        (icmp(Egress, 0, 0, 700, IcmpKind::Reply), Request(8)),
        (icmp(Egress, 18, 0, 700, IcmpKind::Reply), Request(17)),
        (icmpv6(Ingress, 128, 0, 0xffff, IcmpKind::Request), Request(128)),
        (icmpv6(Egress, 129, 0, 9, IcmpKind::Reply), Request(128)),
        (icmp(Ingress, 3, 4, 0, IcmpKind::Error), Error),
        (icmpv6(Egress, 2, 0, 0, IcmpKind::Error), Error),
        (icmp(Egress, 5, 1, 0, IcmpKind::None), Other(5, 1)),
        (icmp(Ingress, 5, 1, 0, IcmpKind::None), Other(5, 1)),
        (icmpv6(Egress, 200, 7, 0, IcmpKind::None), Other(200, 7)),
        (icmpv6(Ingress, 254, 255, 0, IcmpKind::None), Other(254, 255)),
    ];
    for (packet, expected) in cases {
        let direction = if packet.source == TASK { Egress } else { Ingress };
        let ports = Flow::tracked(&packet, direction).ports;
        assert_eq!(tracked_icmp(packet.kind, ports), expected, "{packet:?}");
    }
}
