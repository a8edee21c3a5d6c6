//! Odd packets toward a task that allows TCP 443 from 10.0.1.0/24 and 2001:db8:1::/48, and nothing else.

use anyhow::Result;
use testkit::fixture::{frames::*, on_host_and_in_kernel};

use super::*;

/// Sends a packet toward the task, and asserts the verdict and everything that it leaves.
fn one(name: &str, frame: &[u8], passes: bool, left: &[&str]) -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert_eq!(test.ingress(frame)?, passes, "{name}, {}", test.name);
        test.assert_lines(name, left);
        Ok(())
    })
}

fn syn(port: u16) -> Vec<u8> {
    tcp(40000, port, flags::SYN, b"")
}

const ADMITTED4: [&str; 2] = [
    "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes flags 2: ingress",
    "count task ingress rule 1",
];

fn toward4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    ip(at(PEER4), at(TASK4), protocol, payload)
}

fn toward6(next: u8, payload: &[u8]) -> Vec<u8> {
    ip(at(PEER6), at(TASK6), next, payload)
}

#[test]
fn a_syn_to_443_as_all_others_are_measured_against() -> Result<()> {
    one("IPv4", &toward4(6, &syn(443)), true, &ADMITTED4)?;
    one(
        "IPv6",
        &toward6(6, &syn(443)),
        true,
        &[
            "conn task tcp [2001:db8:9::5]:443 [2001:db8:1::7]:40000 by web/ingress/2, egress 0 packets 0 bytes, ingress 1 packets 60 bytes flags 2: ingress",
            "count task ingress rule 1",
        ],
    )?;
    one(
        "from elsewhere",
        &ip(at(STRANGER4), at(TASK4), 6, &syn(443)),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress tcp 10.9.0.5:443 203.0.113.9:40000 no-rule, 1 packets 40 bytes flags 2",
        ],
    )?;
    one(
        "IPv6, from elsewhere",
        &ip(at(STRANGER6), at(TASK6), 6, &syn(443)),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress tcp [2001:db8:9::5]:443 [2001:db8:bad::9]:40000 no-rule, 1 packets 60 bytes flags 2",
        ],
    )
}

#[test]
fn a_later_fragment_of_a_datagram_that_was_not_seen() -> Result<()> {
    one(
        "IPv4, its payload reads as ports to 443",
        &ipv4(at(PEER4), at(TASK4), 6, &[], 3, &syn(443)),
        false,
        &[
            "count task ingress fragment-without-first 1",
            "denied task ingress tcp 10.9.0.5:0 10.0.1.7:0 fragment-without-first, 1 packets 40 bytes",
        ],
    )?;
    one(
        "IPv6, its payload reads as ports to 443",
        &toward6(44, &fragment(6, 3, false, &syn(443))),
        false,
        &[
            "count task ingress fragment-without-first 1",
            "denied task ingress tcp [2001:db8:9::5]:0 [2001:db8:1::7]:0 fragment-without-first, 1 packets 68 bytes",
        ],
    )
}

#[test]
fn a_later_fragment_of_an_allowed_datagram_after_its_first_and_before() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        let first = ipv4(
            at(PEER4),
            at(TASK4),
            6,
            &[],
            MORE_FRAGMENTS,
            &tcp(40000, 443, flags::SYN, &[0; 12]),
        );
        // Eight bytes in between do not come, so that the datagram is not whole.
        let later = ipv4(at(PEER4), at(TASK4), 6, &[], 5, b"443");
        assert!(!test.ingress(&later)?, "before its first");
        assert!(test.ingress(&first)?);
        assert!(test.ingress(&later)?, "after its first");
        // Another datagram between the same two hosts, and the same datagram on another link.
        let mut other = later.clone();
        other[18..20].copy_from_slice(&[0x12, 0x35]);
        assert!(!test.ingress(&other)?, "of another datagram");
        assert!(!test.egress(&later)?, "sent by the task in the peer's name");
        test.assert_lines(
            "fragments",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 2 packets 75 bytes flags 2: ingress",
                "count task egress spoofed-source 1",
                "count task ingress fragment-without-first 2",
                "count task ingress rule 1",
                "denied task egress tcp 10.0.1.7:40000 10.9.0.5:443 spoofed-source, 1 packets 23 bytes",
                "denied task ingress tcp 10.9.0.5:0 10.0.1.7:0 fragment-without-first, 2 packets 46 bytes",
            ],
        );
        Ok(())
    })
}

#[test]
fn ipv6_fragments_follow_their_first_and_none_reaches_into_its_header() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        let first = toward6(44, &fragment(6, 0, true, &tcp(40000, 443, flags::SYN, &[0; 12])));
        let later = toward6(44, &fragment(6, 4, false, b"443"));
        let overlapping = toward6(44, &fragment(6, 2, true, &[0; 8]));
        assert!(!test.ingress(&later)?, "before its first");
        assert!(test.ingress(&first)?);
        assert!(test.ingress(&later)?, "after its first");
        assert!(!test.ingress(&overlapping)?, "RFC 3128");
        Ok(())
    })
}

#[test]
fn ipv4_with_options_real_port_22_option_bytes_that_read_443() -> Result<()> {
    one(
        "options",
        &ipv4(at(PEER4), at(TASK4), 6, &[1, 187, 1, 187, 1, 187, 1, 187], 0, &syn(22)),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress tcp 10.9.0.5:22 10.0.1.7:40000 no-rule, 1 packets 48 bytes flags 2",
        ],
    )
}

#[test]
fn ipv4_with_options_real_port_443() -> Result<()> {
    one(
        "options",
        &ipv4(at(PEER4), at(TASK4), 6, &[1; 40], 0, &syn(443)),
        true,
        &[
            "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 80 bytes flags 2: ingress",
            "count task ingress rule 1",
        ],
    )
}

#[test]
fn a_tcp_header_cut_at_10_bytes() -> Result<()> {
    one(
        "IPv4",
        &toward4(6, &syn(443)[..10]),
        false,
        &[
            "count task ingress malformed 1",
            "denied task ingress tcp 10.9.0.5:0 10.0.1.7:0 malformed, 1 packets 30 bytes",
        ],
    )?;
    one(
        "IPv6",
        &toward6(6, &syn(443)[..10]),
        false,
        &[
            "count task ingress malformed 1",
            "denied task ingress tcp [2001:db8:9::5]:0 [2001:db8:1::7]:0 malformed, 1 packets 50 bytes",
        ],
    )
}

#[test]
fn ipv4_protocol_0_and_ipv6_hop_by_hop_then_tcp_80() -> Result<()> {
    one(
        "IPv4",
        &toward4(0, &extension(6, 1, &syn(443))),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress 0 10.9.0.5 10.0.1.7 no-rule, 1 packets 48 bytes",
        ],
    )?;
    one(
        "IPv6",
        &toward6(0, &extension(6, 1, &syn(80))),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress tcp [2001:db8:9::5]:80 [2001:db8:1::7]:40000 no-rule, 1 packets 68 bytes flags 2",
        ],
    )
}

const ADMITTED6_EXTENDED: [&str; 2] = [
    "conn task tcp [2001:db8:9::5]:443 [2001:db8:1::7]:40000 by web/ingress/2, egress 0 packets 0 bytes, ingress 1 packets 68 bytes flags 2: ingress",
    "count task ingress rule 1",
];

#[test]
fn ipv6_hop_by_hop_or_destination_options_then_tcp_443() -> Result<()> {
    one(
        "hop-by-hop",
        &toward6(0, &extension(6, 1, &syn(443))),
        true,
        &ADMITTED6_EXTENDED,
    )?;
    one(
        "destination options",
        &toward6(60, &extension(6, 1, &syn(443))),
        true,
        &ADMITTED6_EXTENDED,
    )
}

#[test]
fn an_ipv6_atomic_fragment_then_tcp_443() -> Result<()> {
    one(
        "atomic",
        &toward6(44, &fragment(6, 0, false, &syn(443))),
        true,
        &ADMITTED6_EXTENDED,
    )
}

/// Only live links put the tag into skb metadata.
#[test]
fn an_802_1q_tagged_frame_on_a_link_that_is_no_trunk() -> Result<()> {
    let frame = tagged(101, &toward4(6, &syn(443)));
    one(
        "in the frame",
        &frame,
        false,
        &["count task ingress unsupported-ethertype 1"],
    )?;
    let twice = tagged(7, &frame);
    one("twice", &twice, false, &["count task ingress unsupported-ethertype 1"])
}

/// A router's error about a packet from the task that was too big.
fn too_big(quoted_packet: &[u8], v6: bool) -> Vec<u8> {
    if v6 {
        let message = icmp(2, 0, 0, &quoted(quoted_packet, 200));
        ip(at(STRANGER6), at(TASK6), 58, &message)
    } else {
        let message = icmp(3, 4, 0, &quoted(quoted_packet, 28));
        ip(at(STRANGER4), at(TASK4), 1, &message)
    }
}

#[test]
fn packet_too_big_about_a_tracked_connection() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert!(test.ingress(&toward4(6, &syn(443)))?);
        assert!(test.ingress(&toward6(6, &syn(443)))?);
        let answer = tcp(443, 40000, flags::SYN_ACK, b"");
        assert!(test.ingress(&too_big(&ip(at(TASK4), at(PEER4), 6, &answer), false))?);
        assert!(test.ingress(&too_big(&ip(at(TASK6), at(PEER6), 6, &answer), true))?);
        test.assert_lines(
            "errors",
            &[
                "conn task icmp 10.9.0.5 203.0.113.9 1:0304 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 56 bytes: ingress",
                "conn task icmpv6 2001:db8:9::5 2001:db8:bad::9 1:0200 by web/ingress/2, egress 0 packets 0 bytes, ingress 1 packets 108 bytes: ingress",
                ADMITTED4[0],
                "conn task tcp [2001:db8:9::5]:443 [2001:db8:1::7]:40000 by web/ingress/2, egress 0 packets 0 bytes, ingress 1 packets 60 bytes flags 2: ingress",
                "count task ingress icmp-error 2",
                "count task ingress rule 2",
            ],
        );
        Ok(())
    })
}

#[test]
fn packet_too_big_about_a_connection_that_is_not_tracked() -> Result<()> {
    let answer = tcp(443, 40000, flags::SYN_ACK, b"");
    one(
        "IPv4",
        &too_big(&ip(at(TASK4), at(PEER4), 6, &answer), false),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress icmp 10.9.0.5 203.0.113.9 no-rule, 1 packets 56 bytes",
        ],
    )?;
    one(
        "IPv6",
        &too_big(&ip(at(TASK6), at(PEER6), 6, &answer), true),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress icmpv6 2001:db8:9::5 2001:db8:bad::9 no-rule, 1 packets 108 bytes",
        ],
    )
}

#[test]
fn icmp_echo_without_an_icmp_rule() -> Result<()> {
    one(
        "IPv4",
        &toward4(1, &icmp(8, 0, 77, b"")),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress icmp 10.9.0.5 10.0.1.7 no-rule, 1 packets 28 bytes",
        ],
    )?;
    one(
        "IPv6",
        &toward6(58, &icmp(128, 0, 77, b"")),
        false,
        &[
            "count task ingress no-rule 1",
            "denied task ingress icmpv6 2001:db8:9::5 2001:db8:1::7 no-rule, 1 packets 48 bytes",
        ],
    )
}

#[test]
fn rst_or_plain_ack_to_443_with_no_connection_from_the_allowed_network() -> Result<()> {
    one(
        "RST",
        &toward4(6, &tcp(40000, 443, flags::RST, b"")),
        true,
        &[
            "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes flags 4: ingress reset-ingress",
            "count task ingress rule 1",
        ],
    )?;
    one(
        "ACK",
        &toward4(6, &tcp(40000, 443, flags::ACK, b"")),
        true,
        &[
            "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes: ingress",
            "count task ingress rule 1",
        ],
    )
}

#[test]
fn the_tasks_own_address_as_source_arriving_from_outside() -> Result<()> {
    one(
        "IPv4",
        &ip(at(TASK4), at(TASK4), 6, &syn(443)),
        false,
        &[
            "count task ingress spoofed-source 1",
            "denied task ingress tcp 10.9.0.5:443 10.9.0.5:40000 spoofed-source, 1 packets 40 bytes flags 2",
        ],
    )?;
    one(
        "IPv6",
        &ip(at(TASK6), at(TASK6), 6, &syn(443)),
        false,
        &[
            "count task ingress spoofed-source 1",
            "denied task ingress tcp [2001:db8:9::5]:443 [2001:db8:9::5]:40000 spoofed-source, 1 packets 60 bytes flags 2",
        ],
    )
}

/// Not in the table, and worse than all that is: an IPv4 address spoken for in IPv6.
#[test]
fn an_ipv4_address_mapped_into_ipv6() -> Result<()> {
    one(
        "as source",
        &ip(at("::ffff:10.0.1.7"), at(TASK6), 6, &syn(443)),
        false,
        &[
            "count task ingress malformed 1",
            "denied task ingress tcp [2001:db8:9::5]:0 [::ffff:10.0.1.7]:0 malformed, 1 packets 60 bytes",
        ],
    )
}
