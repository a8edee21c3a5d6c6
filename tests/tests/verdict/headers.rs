//! Headers between IP and the transport: source routes, and authentication.

use anyhow::Result;
use taskgate_ebpf::abi::Direction;
use testkit::fixture::{frames::*, on_host_and_in_kernel};

use super::*;

/// A loose and a strict source route, and an exhausted one; by way of 198.51.100.1.
const ROUTES4: [[u8; 8]; 3] = [
    [131, 7, 4, 198, 51, 100, 1, 0],
    [137, 7, 4, 198, 51, 100, 1, 0],
    [1, 131, 7, 8, 198, 51, 100, 1],
];

/// A routing header of this type with `left` segments left and one address; `next` is the protocol of the header after
/// it.
fn routing(next: u8, kind: u8, left: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = extension(next, 3, payload);
    (header[2], header[3]) = (kind, left);
    header[8] = 0x20;
    header
}

fn routed(source: &str, destination: &str, segment: &[u8]) -> Vec<Vec<u8>> {
    let (source, destination) = (at(source), at(destination));
    if source.is_ipv4() {
        ROUTES4
            .iter()
            .map(|route| ipv4(source, destination, 6, route, 0, segment))
            .collect()
    } else {
        // The first kind, mobility's, and segment routing.
        let kinds = [(0, 1), (2, 1), (4, 3)];
        let headers = kinds.map(|(kind, left)| routing(6, kind, left, segment));
        headers
            .iter()
            .map(|payload| ipv6(source, destination, 43, 64, payload))
            .collect()
    }
}

/// A rule for the first hop does not cover the final destination, and replies may not choose their route either.
#[test]
fn a_packet_that_names_its_way_is_dropped_both_ways() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let any = [(Protocol::All, "0.0.0.0/0"), (Protocol::All, "::/0")];
        test.set(with_rules(&any, &any))?;
        for (task, peer) in [(TASK4, PEER4), (TASK6, PEER6)] {
            let syn = tcp(40000, 443, flags::SYN, b"");
            // Also as part of an existing connection.
            assert!(test.egress(&ip(at(task), at(peer), 6, &syn))?);
            for frame in routed(task, peer, &syn) {
                assert!(!test.egress(&frame)?, "{}: {frame:02x?}", test.name);
            }
            for frame in routed(peer, task, &tcp(443, 40000, flags::SYN_ACK, b"")) {
                assert!(!test.ingress(&frame)?, "{}: {frame:02x?}", test.name);
            }
        }
        test.assert_lines(
            "routed",
            &[
                "conn task tcp 10.9.0.5:40000 10.0.1.7:443 by web/egress/1, egress 1 packets 40 bytes flags 2, ingress 0 packets 0 bytes: untracked",
                "conn task tcp [2001:db8:9::5]:40000 [2001:db8:1::7]:443 by web/egress/2, egress 1 packets 60 bytes flags 2, ingress 0 packets 0 bytes: untracked",
                "count task egress rule 2",
                "count task egress source-routed 6",
                "count task ingress source-routed 6",
                "denied task egress 43 2001:db8:9::5 2001:db8:1::7 source-routed, 3 packets 252 bytes",
                "denied task egress tcp 10.9.0.5:0 10.0.1.7:0 source-routed, 3 packets 144 bytes",
                "denied task ingress 43 2001:db8:9::5 2001:db8:1::7 source-routed, 3 packets 252 bytes",
                "denied task ingress tcp 10.9.0.5:0 10.0.1.7:0 source-routed, 3 packets 144 bytes",
            ],
        );
        Ok(())
    })
}

#[test]
fn a_route_that_is_used_up_is_none_in_ipv6_and_other_options_are_none() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        let syn = tcp(40000, 443, flags::SYN, b"");
        assert!(test.ingress(&ipv6(at(PEER6), at(TASK6), 43, 64, &routing(6, 0, 0, &syn)))?);
        // A record of the route, router alert, a time stamp whose bytes read as a route.
        for options in [
            &[7, 7, 4, 0, 0, 0, 0, 0][..],
            &[148, 4, 0, 0],
            &[68, 8, 5, 0, 131, 3, 4, 0],
        ] {
            let frame = ipv4(at(PEER4), at(TASK4), 6, options, 0, &syn);
            assert!(test.ingress(&frame)?, "{options:?}, {}", test.name);
        }
        Ok(())
    })
}

/// A packet with an authentication header is of protocol 51 to the rules and in tracking, whatever its payload.
#[test]
fn authentication_is_protocol_51_in_both_families() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let inner = tcp(40000, 443, flags::SYN, b"");
        let toward =
            |header: &[u8]| [(PEER4, TASK4), (PEER6, TASK6)].map(|(peer, task)| ip(at(peer), at(task), 51, header));
        let frames = toward(&authentication(6, 3, &inner));
        for (protocol, passes) in [
            (Protocol::Number(51), true),
            (tcp_to(443, 443), false),
            (Protocol::All, true),
        ] {
            test.set(with_rules(
                &[(protocol, "10.0.1.0/24"), (protocol, "2001:db8:1::/48")],
                &[],
            ))?;
            for frame in &frames {
                assert_eq!(
                    test.ingress(frame)?,
                    passes,
                    "{protocol:?}, {}: {frame:02x?}",
                    test.name
                );
            }
        }
        test.set(with_rules(&[(Protocol::Number(51), "2001:db8:1::/48")], &[]))?;
        assert!(test.ingress(&frames[1])?);
        assert!(test.send(
            Direction::Egress,
            0,
            &ip(at(TASK6), at(PEER6), 51, &authentication(59, 3, b""))
        )?);
        test.assert_lines(
            "tracked",
            &[
                "conn task 51 2001:db8:9::5 2001:db8:1::7 by web/ingress/1, egress 1 packets 60 bytes, ingress 1 packets 80 bytes: ingress replied",
                "count task ingress rule 1",
            ],
        );
        Ok(())
    })
}
