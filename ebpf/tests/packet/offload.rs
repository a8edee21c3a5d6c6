//! Pending offloads must not change the bytes that were judged.

use etherparse::EtherType;
use taskgate_ebpf::{
    host::{HostFrame, Left},
    packet::{Checksum, Cut, Unparsed},
};

use crate::{expected::MALFORMED, frames::*};

const ETHERNET: i32 = 14;

fn with_checksum(frame: &[u8], start: i32, offset: u16) -> Result<(), Unparsed> {
    let left = Left {
        checksum: Some(Checksum { start, offset }),
        cut: None,
    };
    parsed_as(&HostFrame {
        left,
        ..HostFrame::new(frame, LINK)
    })
    .0
}

/// A frame's name, its bytes, and the offsets of its transport header, of the checksum in that header, and of bytes that may
/// belong to a tunnel.
type Carrier = (&'static str, Vec<u8>, i32, Option<u16>, Option<i32>);

fn carriers() -> Vec<Carrier> {
    let (v4, v6) = (ETHERNET + 20, ETHERNET + 40);
    let body = [0; 40];
    let segment = tcp(80, 443, 0, &body);
    let datagram = udp(53, 4789, &body);
    let echo = |kind| icmp(kind, 0, 7, &body);
    let quotes = [&icmp(3, 4, 0, b"")[..], &ipv4(6, &segment, |_| ())[14..]].concat();
    let long = |header: &mut etherparse::Ipv4Header| header.options = options(&[1; 8]);
    let first = |header: &mut etherparse::Ipv4Header| header.more_fragments = true;
    vec![
        ("TCP", ipv4(6, &segment, |_| ()), v4, Some(16), None),
        ("TCP behind options", ipv4(6, &segment, long), v4 + 8, Some(16), None),
        ("TCP over IPv6", ipv6(6, &segment), v6, Some(16), None),
        (
            "TCP behind extension headers",
            ipv6(0, &extension(60, 1, &extension(6, 2, &segment))),
            v6 + 24,
            Some(16),
            None,
        ),
        ("UDP", ipv4(17, &datagram, |_| ()), v4, Some(6), Some(8)),
        ("UDP over IPv6", ipv6(17, &datagram), v6, Some(6), Some(8)),
        (
            "a first fragment of UDP",
            ipv4(17, &datagram, first),
            v4,
            Some(6),
            Some(8),
        ),
        ("ICMP", ipv4(1, &echo(8), |_| ()), v4, Some(2), None),
        ("an error", ipv4(1, &quotes, |_| ()), v4, Some(2), None),
        ("ICMPv6", ipv6(58, &echo(128)), v6, Some(2), None),
        ("GRE", ipv4(47, &body, |_| ()), v4, None, Some(0)),
        ("IPv4 in IPv6", ipv6(4, &body), v6, None, Some(0)),
        ("ICMPv6 in IPv4", ipv4(58, &echo(128), |_| ()), v4, None, Some(0)),
    ]
}

/// All places that the two numbers can address, and some beyond: every accepted checksum is written to the checksum field,
/// or behind the bytes that were judged.
#[test]
fn a_checksum_is_written_into_its_field_or_behind_the_header() {
    for (name, frame, transport, field, tunnel) in carriers() {
        assert_eq!(parsed(&frame).0, Ok(()), "{name}");
        for start in -300..=500 {
            for offset in (0..120).chain([0x7fff, 0xff00, 0xfffe, 0xffff]) {
                let own = start == transport && Some(offset) == field;
                let behind = tunnel.is_some_and(|tunnel| start >= transport + tunnel);
                let expected = if own || behind { Ok(()) } else { MALFORMED };
                let found = with_checksum(&frame, start, offset);
                assert_eq!(found, expected, "{name}, summed from {start}, written {offset} on");
                if found.is_ok() {
                    let written = start + i32::from(offset);
                    assert!(own || written >= transport + tunnel.unwrap_or(i32::MAX), "{name}");
                }
            }
        }
    }
}

#[test]
fn what_has_no_checksum_gets_none() {
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1];
    arp.extend(SOURCE4);
    arp.extend([0; 6]);
    arp.extend(DESTINATION4);
    let later = |header: &mut etherparse::Ipv4Header| header.fragment_offset = 10.try_into().expect("small");
    for (name, frame) in [
        ("ARP", ethernet(EtherType::ARP, &arp)),
        ("a later fragment", ipv4(17, &[0; 40], later)),
        ("a later fragment, IPv6", ipv6(44, &fragment(17, 10, false, &[0; 40]))),
    ] {
        assert_eq!(parsed(&frame).0, Ok(()), "{name}");
        for start in -100..200 {
            for offset in [0, 2, 6, 16, 100] {
                assert_eq!(
                    with_checksum(&frame, start, offset),
                    MALFORMED,
                    "{name}, {start}, {offset}"
                );
            }
        }
    }
}

#[test]
fn what_is_cut_is_what_was_judged() {
    const V4: u16 = 0x0800;
    const V6: u16 = 0x86dd;
    let honest = |ether_type| Cut {
        ether_type,
        header: Cut::HEADER,
        inner: Cut::NO_INNER,
    };
    let inner = |ether_type, inner| Cut {
        inner,
        ..honest(ether_type)
    };
    let segments = ipv4(6, &tcp(80, 443, 0, &[0; 3000]), |_| ());
    let segments6 = ipv6(6, &tcp(80, 443, 0, &[0; 3000]));
    let tunnel = ipv4(17, &udp(53, 4789, &[0; 3000]), |_| ());
    let gre = ipv6(47, &[0; 3000]);
    for (name, frame, cut, expected) in [
        ("TCP", &segments, honest(V4), Ok(())),
        ("TCP over IPv6", &segments6, honest(V6), Ok(())),
        ("as IPv6", &segments, honest(V6), MALFORMED),
        ("as IPv4", &segments6, honest(V4), MALFORMED),
        (
            "four bytes further on",
            &segments,
            Cut {
                header: 18,
                ..honest(V4)
            },
            MALFORMED,
        ),
        ("a packet in TCP", &segments, inner(V4, ETHERNET + 40), MALFORMED),
        ("a packet in UDP", &tunnel, inner(V4, ETHERNET + 28), Ok(())),
        ("a packet in UDP's header", &tunnel, inner(V4, ETHERNET + 27), MALFORMED),
        (
            "a packet over UDP's ports",
            &tunnel,
            inner(V4, ETHERNET + 20),
            MALFORMED,
        ),
        ("a packet before UDP", &tunnel, inner(V4, ETHERNET + 12), MALFORMED),
        ("a packet in GRE", &gre, inner(V6, ETHERNET + 40), Ok(())),
        ("a packet before GRE", &gre, inner(V6, ETHERNET + 39), MALFORMED),
    ] {
        let judged = |segments| {
            parsed_as(&HostFrame {
                segments,
                left: Left {
                    checksum: None,
                    cut: Some(cut),
                },
                ..HostFrame::new(frame, LINK)
            })
            .0
        };
        assert_eq!(judged((3, 1000)), expected, "{name}");
        assert_eq!(judged((0, 0)), Ok(()), "{name}, and it is not cut");
    }
}

/// A GSO frame is segmented by its own length, and fragments are never segmented.
#[test]
fn what_is_cut_is_all_of_the_frame_and_no_fragment() {
    let segments = ipv4(6, &tcp(80, 443, 0, &[0; 3000]), |_| ());
    let segments6 = ipv6(6, &tcp(80, 443, 0, &[0; 3000]));
    let longer = |frame: &[u8]| [frame, &[0; 500]].concat();
    let first = |header: &mut etherparse::Ipv4Header| header.more_fragments = true;
    let later = |header: &mut etherparse::Ipv4Header| header.fragment_offset = 10.try_into().expect("small");
    for (name, frame) in [
        ("longer than it says", longer(&segments)),
        ("longer than it says, IPv6", longer(&segments6)),
        ("a first fragment", ipv4(17, &udp(1, 2, &[0; 3000]), first)),
        ("a later fragment", ipv4(17, &[0; 3008], later)),
        (
            "a first fragment, IPv6",
            ipv6(44, &fragment(17, 0, true, &udp(1, 2, &[0; 3000]))),
        ),
        ("a later fragment, IPv6", ipv6(44, &fragment(17, 10, false, &[0; 3000]))),
    ] {
        assert_eq!(parsed(&frame).0, Ok(()), "{name}, and it is not cut");
        let cut = HostFrame {
            segments: (3, 1000),
            ..HostFrame::new(&frame, LINK)
        };
        assert_eq!(parsed_as(&cut).0, MALFORMED, "{name}");
    }
}

/// The kernel counts segments in 16 bits: 65,540 segments appear as 4.
#[test]
fn more_segments_than_the_kernel_can_count_are_counted() {
    let mut frame = ipv4(6, &tcp(80, 443, 0, &vec![0; 65_000]), |_| ());
    frame.resize(14 + 40 + 65_540, 0);
    // BIG TCP: the length field is 0.
    frame[16..18].fill(0);
    for (segments, size, packets) in [(4, 1, 65_540), (0, 1, 65_540), (32_770, 2, 32_770), (66, 1000, 66)] {
        let (result, packet) = parsed_as(&HostFrame {
            segments: (segments, size),
            ..HostFrame::new(&frame, LINK)
        });
        assert_eq!((result, packet.packets), (Ok(()), packets), "{segments} of {size}");
    }
}
