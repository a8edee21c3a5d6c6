//! Ethernet, IPv4 and IPv6, by name.

use etherparse::{EtherType, IpFragOffset};
use taskgate_ebpf::{
    abi::Address,
    host::HostFrame,
    packet::{PULL_BYTES, Packet},
};

use crate::{expected::*, frames::*};

#[test]
fn ethernet_frames() {
    let plain = || ipv4(6, &tcp(80, 443, 0, b""), |_| ());
    let tagged = |ether_type: EtherType| ethernet(ether_type, &[&[0, 101][..], &plain()[12..]].concat());
    let with_tag = Packet {
        tagged: true,
        ..nothing()
    };
    check([
        ("empty", vec![], MALFORMED, nothing()),
        ("13 bytes", plain()[..13].to_vec(), MALFORMED, nothing()),
        ("header alone", plain()[..14].to_vec(), MALFORMED, nothing()),
        ("802.1Q", tagged(EtherType::VLAN_TAGGED_FRAME), UNSUPPORTED, with_tag),
        ("QinQ", tagged(EtherType::PROVIDER_BRIDGING), UNSUPPORTED, with_tag),
        (
            "802.3 length",
            ethernet(EtherType(64), &[0xaa; 64]),
            UNSUPPORTED,
            nothing(),
        ),
        (
            "loopback test",
            ethernet(EtherType(0x9000), &[0; 46]),
            UNSUPPORTED,
            nothing(),
        ),
        (
            "padding to the least frame",
            [plain(), vec![0xff; 6]].concat(),
            Ok(()),
            ports(v4(6, 40)),
        ),
    ]);
    let frame = plain();
    let beside = HostFrame {
        tagged: true,
        ..HostFrame::new(&frame, LINK)
    };
    assert_eq!(parsed_as(&beside), (UNSUPPORTED, with_tag), "a tag beside the frame");
}

#[test]
fn ipv4_headers() {
    let segment = || tcp(80, 443, 0, b"data");
    let plain = || ipv4(6, &segment(), |_| ());
    let said = |length: u16| with(plain(), &[(16, (length >> 8) as u8), (17, length as u8)]);
    check([
        ("plain", plain(), Ok(()), ports(v4(6, 44))),
        ("no header", plain()[..33].to_vec(), MALFORMED, nothing()),
        ("version 6", with(plain(), &[(14, 0x65)]), MALFORMED, nothing()),
        ("header length 16", with(plain(), &[(14, 0x44)]), MALFORMED, v4(6, 44)),
        (
            "header length 60 of 44 bytes",
            with(plain(), &[(14, 0x4f)]),
            MALFORMED,
            v4(6, 44),
        ),
        ("says 0 bytes", said(0), MALFORMED, v4(6, 44)),
        ("says 19 bytes", said(19), MALFORMED, v4(6, 44)),
        ("says one byte too many", said(45), MALFORMED, v4(6, 44)),
        ("says 65535 bytes", said(65535), MALFORMED, v4(6, 44)),
        ("says less than the frame has", said(40), Ok(()), ports(v4(6, 40))),
        ("says half a TCP header", said(30), MALFORMED, v4(6, 30)),
        (
            "options that read 443, port 22",
            ipv4(6, &tcp(80, 22, 0, b""), |ip| {
                ip.options = options(&[1, 187, 1, 187, 1, 187, 1, 187]);
            }),
            Ok(()),
            Packet {
                destination_port: 22,
                ..ports(v4(6, 48))
            },
        ),
        (
            "40 bytes of options, port 443",
            ipv4(6, &segment(), |ip| ip.options = options(&[1; 40])),
            Ok(()),
            ports(v4(6, 84)),
        ),
        ("protocol 0", ipv4(0, &segment(), |_| ()), Ok(()), v4(0, 44)),
        ("no payload", ipv4(47, b"", |_| ()), Ok(()), v4(47, 20)),
        (
            "ICMPv6 in IPv4",
            ipv4(58, &icmp(128, 0, 5, b""), |_| ()),
            Ok(()),
            v4(58, 28),
        ),
        (
            "authentication header: a protocol of its own",
            ipv4(51, &authentication(6, 3, &segment()), |_| ()),
            Ok(()),
            v4(51, 68),
        ),
    ]);
}

#[test]
fn ipv4_fragments() {
    let cut = |protocol, payload: &[u8], offset, more| {
        ipv4(protocol, payload, |ip| {
            ip.fragment_offset = IpFragOffset::try_new(offset).unwrap();
            ip.more_fragments = more;
        })
    };
    let segment = tcp(80, 443, 0, b"data");
    check([
        ("first", cut(6, &segment, 0, true), Ok(()), first(24, ports(v4(6, 44)))),
        (
            "do not fragment",
            ipv4(6, &segment, |ip| ip.dont_fragment = true),
            Ok(()),
            ports(v4(6, 44)),
        ),
        (
            "first with half a header",
            cut(6, &segment[..16], 0, true),
            MALFORMED,
            first(16, v4(6, 36)),
        ),
        (
            "first of 22 bytes",
            cut(6, &tcp(80, 443, 0, b"12"), 0, true),
            MALFORMED,
            v4(6, 42),
        ),
        (
            "later",
            cut(17, b"443 443 443", 1, false),
            Ok(()),
            later(-8, v4(17, 31)),
        ),
        (
            "later that reaches into TCP's header",
            cut(6, b"443", 2, false),
            MALFORMED,
            later(-16, v4(6, 23)),
        ),
        (
            "later behind TCP's header",
            cut(6, b"443", 3, false),
            Ok(()),
            later(-24, v4(6, 23)),
        ),
        (
            "later, without payload",
            cut(17, b"", 1, false),
            Ok(()),
            later(-8, v4(17, 20)),
        ),
        (
            "last that ends at 64 KiB",
            cut(17, &[0; 7], 8191, false),
            Ok(()),
            later(-65528, v4(17, 27)),
        ),
        (
            "last that ends beyond",
            cut(17, &[0; 8], 8191, false),
            MALFORMED,
            later(-65528, v4(17, 28)),
        ),
    ]);
}

#[test]
fn ipv6_headers() {
    let segment = || tcp(80, 443, 0, b"data");
    let plain = || ipv6(6, &segment());
    let said = |length: u8| with(plain(), &[(19, length)]);
    let mapped_source = with(
        plain(),
        &[22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33].map(|at| (at, if at < 32 { 0 } else { 0xff })),
    );
    check([
        ("plain", plain(), Ok(()), ports(v6(6, 64))),
        ("no header", plain()[..53].to_vec(), MALFORMED, nothing()),
        ("version 4", with(plain(), &[(14, 0x40)]), MALFORMED, nothing()),
        ("says one byte too many", said(25), MALFORMED, v6(6, 64)),
        ("says 0 bytes", said(0), MALFORMED, v6(6, 40)),
        ("says less than the frame has", said(20), Ok(()), ports(v6(6, 60))),
        ("no next header", ipv6(59, b"whatever"), Ok(()), v6(59, 48)),
        ("ICMP in IPv6", ipv6(1, &icmp(8, 0, 5, b"")), Ok(()), v6(1, 48)),
        (
            "an IPv4 address as source",
            mapped_source,
            MALFORMED,
            Packet {
                source: Address::new(0, 0xffff_0000_0007),
                ..v6(6, 64)
            },
        ),
    ]);
}

#[test]
fn ipv6_extension_headers() {
    let segment = || tcp(80, 443, 0, b"data");
    // A chain of destination options, then TCP.
    let chain =
        |length: usize| (0..length).fold((6, segment()), |(next, payload), _| (60, extension(next, 1, &payload)));
    let chained = |length| {
        let (next, payload) = chain(length);
        ipv6(next, &payload)
    };
    // The TCP header begins at 54 + 8 × units.
    let long = |units| ipv6(60, &extension(6, units, &segment()));
    let reach = (PULL_BYTES as usize - 14 - 54) / 8;
    check([
        (
            "hop-by-hop",
            ipv6(0, &extension(6, 1, &segment())),
            Ok(()),
            ports(v6(6, 72)),
        ),
        (
            "routing",
            ipv6(43, &extension(6, 3, &segment())),
            Ok(()),
            ports(v6(6, 88)),
        ),
        (
            "destination",
            ipv6(60, &extension(6, 2, &segment())),
            Ok(()),
            ports(v6(6, 80)),
        ),
        (
            "authentication header: a protocol of its own, as in IPv4",
            ipv6(51, &authentication(6, 3, &segment())),
            Ok(()),
            v6(51, 88),
        ),
        (
            "the same behind destination options",
            ipv6(60, &extension(51, 1, &authentication(6, 3, &segment()))),
            Ok(()),
            v6(51, 96),
        ),
        (
            "atomic fragment",
            ipv6(44, &fragment(6, 0, false, &segment())),
            Ok(()),
            ports(v6(6, 72)),
        ),
        (
            "hop-by-hop, routing, fragment, destination",
            ipv6(
                0,
                &extension(
                    43,
                    1,
                    &extension(44, 1, &fragment(60, 0, false, &extension(6, 1, &segment()))),
                ),
            ),
            Ok(()),
            ports(v6(6, 96)),
        ),
        (
            "hop-by-hop that is not the first",
            ipv6(60, &extension(0, 1, &extension(6, 1, &segment()))),
            MALFORMED,
            v6(0, 80),
        ),
        ("eight", chained(8), Ok(()), ports(v6(6, 128))),
        ("nine", chained(9), MALFORMED, v6(60, 136)),
        (
            "one that ends at the packet's end",
            ipv6(60, &extension(59, 1, b"")),
            Ok(()),
            v6(59, 48),
        ),
        (
            "one that ends behind it",
            ipv6(60, &with(extension(59, 1, b""), &[(1, 1)])),
            MALFORMED,
            v6(59, 48),
        ),
        ("one that is not there", ipv6(60, b""), MALFORMED, v6(60, 40)),
        ("half of one", ipv6(60, &[6, 0, 0, 0]), MALFORMED, v6(60, 44)),
        (
            "half of one, the rest behind the packet",
            [ipv6(60, &[6, 0, 0, 0]), vec![0; 40]].concat(),
            MALFORMED,
            v6(6, 44),
        ),
        (
            "TCP where the header says nothing is left",
            ipv6(60, &extension(6, 1, b"")),
            MALFORMED,
            v6(6, 48),
        ),
        ("encrypted", ipv6(50, &segment()), Ok(()), v6(50, 64)),
        (
            "the last header within reach",
            long(reach),
            Ok(()),
            ports(v6(6, 64 + 8 * reach as u32)),
        ),
        ("out of reach", long(reach + 1), MALFORMED, v6(6, 72 + 8 * reach as u32)),
    ]);
}

/// With a source route, the destination is only the next hop. A used-up route is accepted in IPv6; in IPv4 every source
/// route is refused.
#[test]
fn source_routes() {
    let segment = || tcp(80, 443, 0, b"data");
    let optioned = |bytes: &[u8]| ipv4(6, &segment(), |ip| ip.options = options(bytes));
    let routing = |left: u8| with(ipv6(43, &extension(6, 3, &segment())), &[(57, left)]);
    let later = with(optioned(&[131, 3, 4, 0]), &[(20, 0), (21, 9)]);
    check([
        (
            "loose",
            optioned(&[131, 7, 4, 10, 0, 0, 1, 0]),
            SOURCE_ROUTED,
            v4(6, 52),
        ),
        (
            "strict",
            optioned(&[137, 7, 4, 10, 0, 0, 1, 0]),
            SOURCE_ROUTED,
            v4(6, 52),
        ),
        (
            "loose, used up",
            optioned(&[131, 7, 8, 10, 0, 0, 1, 0]),
            SOURCE_ROUTED,
            v4(6, 52),
        ),
        (
            "behind others",
            optioned(&[1, 68, 4, 5, 1, 131, 3, 4]),
            SOURCE_ROUTED,
            v4(6, 52),
        ),
        (
            "at the end of the longest header",
            optioned(&[&[1; 37][..], &[131, 3, 4]].concat()),
            SOURCE_ROUTED,
            v4(6, 84),
        ),
        ("in a later fragment", later, SOURCE_ROUTED, v4(6, 48)),
        (
            "in another option",
            optioned(&[68, 8, 5, 0, 131, 3, 4, 0]),
            Ok(()),
            ports(v4(6, 52)),
        ),
        (
            "behind the end of options",
            optioned(&[0, 131, 3, 4]),
            Ok(()),
            ports(v4(6, 48)),
        ),
        (
            "behind an option without a length",
            optioned(&[68, 0, 131, 3]),
            Ok(()),
            ports(v4(6, 48)),
        ),
        (
            "an option that ends behind the header",
            optioned(&[68, 255, 1, 1]),
            Ok(()),
            ports(v4(6, 48)),
        ),
        (
            "a last byte that has no length",
            optioned(&[1, 1, 1, 68]),
            Ok(()),
            ports(v4(6, 48)),
        ),
        (
            "a route without a length",
            optioned(&[1, 1, 1, 131]),
            Ok(()),
            ports(v4(6, 48)),
        ),
        ("segments left", routing(1), SOURCE_ROUTED, v6(43, 88)),
        ("none left", routing(0), Ok(()), ports(v6(6, 88))),
        (
            "behind other headers",
            with(ipv6(0, &extension(43, 1, &extension(6, 1, &segment()))), &[(65, 2)]),
            SOURCE_ROUTED,
            v6(43, 80),
        ),
    ]);
}

#[test]
fn ipv6_fragments() {
    let segment = tcp(80, 443, 0, b"data");
    let cut = |offset, more, payload: &[u8]| ipv6(44, &fragment(6, offset, more, payload));
    check([
        ("first", cut(0, true, &segment), Ok(()), first(24, ports(v6(6, 72)))),
        (
            "first with half a header",
            cut(0, true, &segment[..16]),
            MALFORMED,
            first(16, v6(6, 64)),
        ),
        (
            "first of 21 bytes",
            cut(0, true, &tcp(80, 443, 0, b"1")),
            MALFORMED,
            v6(44, 69),
        ),
        ("later", cut(3, false, b"443 443"), Ok(()), later(-24, v6(6, 55))),
        (
            "later that reaches into TCP's header",
            cut(2, false, b"443 443"),
            MALFORMED,
            later(-16, v6(6, 55)),
        ),
        (
            "later with more to come",
            cut(3, true, b"443 443 "),
            Ok(()),
            later(8, v6(6, 56)),
        ),
        (
            "later of 7 bytes with more to come",
            cut(3, true, b"443 443"),
            MALFORMED,
            v6(44, 55),
        ),
        (
            "last that ends at 64 KiB",
            cut(8191, false, &[0; 7]),
            Ok(()),
            later(-65528, v6(6, 55)),
        ),
        (
            "last that ends beyond",
            cut(8191, false, &[0; 8]),
            MALFORMED,
            v6(44, 56),
        ),
        (
            "last that ends beyond with what comes before",
            ipv6(0, &extension(44, 1, &fragment(6, 8190, false, &[0; 8]))),
            MALFORMED,
            v6(44, 64),
        ),
        (
            "a fragment of a fragment",
            ipv6(44, &fragment(44, 0, false, &fragment(6, 3, false, b"443"))),
            Ok(()),
            later(-24, v6(6, 59)),
        ),
        (
            "a later fragment in a first one",
            ipv6(44, &fragment(44, 0, true, &fragment(6, 3, false, b"8 bytes."))),
            Ok(()),
            later(-24, v6(6, 64)),
        ),
        (
            "its header ends behind the packet",
            [ipv6(44, &[6, 0, 0, 8]), vec![0; 40]].concat(),
            MALFORMED,
            v6(44, 44),
        ),
    ]);
}
