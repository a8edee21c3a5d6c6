//! Neighbour discovery by a task that no egress rule lets anything out of.

use anyhow::Result;
use testkit::fixture::{frames::*, on_host_and_in_kernel};

use super::*;

const ALL_NODES: &str = "ff02::1";
const HOST_LINK_LOCAL: &str = "fe80::1";
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A message with `extra` bytes of options after its target; the options begin with an address.
fn message(source: &str, destination: &str, kind: u8, target: &str, extra: usize) -> Vec<u8> {
    const ADDRESS: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 1];
    let mut options = vec![7; extra];
    options[..extra.min(8)].copy_from_slice(&ADDRESS[..extra.min(8)]);
    with_options(source, destination, kind, target, &options)
}

fn with_options(source: &str, destination: &str, kind: u8, target: &str, options: &[u8]) -> Vec<u8> {
    let plain = neighbour(at(source), at(destination), kind, at(target));
    ipv6(at(source), at(destination), 58, 255, &[&plain[54..], options].concat())
}

fn padded(mut frame: Vec<u8>, length: usize) -> Vec<u8> {
    frame.resize(length, 0);
    frame
}

/// Sends a frame from the task, and asserts the verdict and everything that it leaves.
fn one(name: &str, frame: &[u8], passes: bool, left: &[&str]) -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert_eq!(test.egress(frame)?, passes, "{name}, {}", test.name);
        test.assert_lines(name, left);
        Ok(())
    })
}

#[test]
fn what_stays_on_the_link_needs_no_rule() -> Result<()> {
    for (name, frame) in [
        ("asks all", message(TASK6, "ff02::1:ff00:7", SOLICITATION, PEER6, 8)),
        (
            "asks the host",
            message(TASK6, HOST_LINK_LOCAL, SOLICITATION, HOST_LINK_LOCAL, 8),
        ),
        ("tells all", message(TASK6, ALL_NODES, ADVERTISEMENT, TASK6, 8)),
        (
            "tells the host",
            message(TASK6, HOST_LINK_LOCAL, ADVERTISEMENT, TASK6, 8),
        ),
        (
            "asks for a router",
            ipv6(at(TASK6), at("ff02::2"), 58, 255, &icmp(133, 0, 0, b"")),
        ),
        (
            "tells what it listens to",
            ipv6(at(TASK6), at("ff02::16"), 58, 1, &listener(143, 1, at(ALL_NODES))),
        ),
    ] {
        one(name, &frame, true, &["count task egress neighbour 1"])?;
    }
    Ok(())
}

/// Hosts send an address and a nonce (RFC 7527), and Ethernet pads: nothing else passes without a rule.
#[test]
fn what_needs_no_rule_has_no_room_for_letters() -> Result<()> {
    const ADDRESS: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 1];
    const NONCE: [u8; 8] = [14, 1, 1, 2, 3, 4, 5, 6];
    let asks = |options: &[u8]| with_options(TASK6, "ff02::1:ff00:7", SOLICITATION, PEER6, options);
    let answers = |options: &[u8]| with_options(TASK6, HOST_LINK_LOCAL, ADVERTISEMENT, TASK6, options);
    let router = |options: &[u8]| ipv6(at(TASK6), at("ff02::2"), 58, 255, &icmp(133, 0, 0, options));
    let routed = |header: u8, payload: &[u8]| {
        let message = extension(58, header, &[&icmp(ADVERTISEMENT, 0, 0, &[])[..], payload].concat());
        ipv6(at(TASK6), at(HOST_LINK_LOCAL), 60, 255, &message)
    };
    let own6 = &neighbour(at(TASK6), at(TASK6), ADVERTISEMENT, at(TASK6))[62..78];
    let asks_arp = || arp(1, at(TASK4), at("10.9.0.1"));
    for (name, frame, passes) in [
        ("ARP", asks_arp(), true),
        ("ARP, padded", padded(asks_arp(), 60), true),
        ("ARP with more", padded(asks_arp(), 61), false),
        ("asks", asks(&[]), true),
        ("asks, address and nonce", asks(&[ADDRESS, NONCE].concat()), true),
        ("asks, three options", asks(&[ADDRESS, NONCE, NONCE].concat()), false),
        ("asks, a long option", asks(&[&[14, 2], &[0; 14][..]].concat()), false),
        ("asks, an unknown option", asks(&[38, 1, 0, 0, 0, 0, 0, 0]), false),
        ("asks, half an option", asks(&[1, 1, 2, 0]), false),
        ("answers", answers(&ADDRESS), true),
        (
            "answers, an unknown option",
            answers(&[ADDRESS, [38, 1, 0, 0, 0, 0, 0, 0]].concat()),
            false,
        ),
        ("answers, more behind", padded(answers(&ADDRESS), 87), false),
        ("answers behind a header", routed(1, own6), false),
        ("asks for routers", router(&ADDRESS), true),
        ("asks for routers, more", router(&[0; 8]), false),
    ] {
        let outcome = if passes { "neighbour" } else { "malformed" };
        one(name, &frame, passes, &[&format!("count task egress {outcome} 1")])?;
    }
    Ok(())
}

/// Listener reports with more than groups, and those to a single host, are ICMPv6 for the rules.
#[test]
fn a_listener_report_without_a_rule_goes_to_the_link_and_is_about_groups_alone() -> Result<()> {
    let report = |to: &str, groups: u8, header: u8| {
        let message = listener(143, groups, at(to));
        ipv6(at(TASK6), at(to), 0, 1, &extension(58, header, &message))
    };
    for (name, frame, bytes) in [
        ("few groups", report("ff02::16", 1, 1), None),
        ("as many groups as a frame holds", report("ff02::16", 71, 1), None),
        ("a long header", report("ff02::16", 1, 2), Some(84)),
        ("more behind", padded(report("ff02::16", 1, 1), 140), Some(76)),
        ("to somebody", report(HOST_LINK_LOCAL, 1, 1), Some(76)),
    ] {
        let to = if name == "to somebody" {
            HOST_LINK_LOCAL
        } else {
            "ff02::16"
        };
        match bytes {
            None => one(name, &frame, true, &["count task egress neighbour 1"])?,
            Some(bytes) => {
                let denied = format!("denied task egress icmpv6 {TASK6} {to} no-rule, 1 packets {bytes} bytes");
                one(name, &frame, false, &["count task egress no-rule 1", &denied])?;
            }
        }
    }
    Ok(())
}

/// With hop limit 255 or less, the message is ordinary ICMPv6, judged and recorded.
#[test]
fn what_a_router_would_carry_on_needs_a_rule() -> Result<()> {
    for (name, frame, bytes) in [
        ("an advertisement", message(TASK6, PEER6, ADVERTISEMENT, TASK6, 8), 72),
        ("one with a letter", message(TASK6, PEER6, ADVERTISEMENT, TASK6, 24), 88),
        ("a solicitation", message(TASK6, PEER6, SOLICITATION, PEER6, 0), 64),
        (
            "asks one for another",
            message(TASK6, PEER6, SOLICITATION, STRANGER6, 8),
            72,
        ),
        (
            "asks for a router afar",
            ipv6(at(TASK6), at(PEER6), 58, 255, &icmp(133, 0, 0, b"")),
            48,
        ),
    ] {
        let denied = format!("denied task egress icmpv6 {TASK6} {PEER6} no-rule, 1 packets {bytes} bytes");
        one(name, &frame, false, &["count task egress no-rule 1", &denied])?;
    }
    Ok(())
}

/// Neighbours with global addresses ask, and are answered, under them: a task may answer hosts that spoke on the link.
#[test]
fn a_neighbour_that_spoke_on_the_link_is_answered_under_its_address() -> Result<()> {
    const NEIGHBOUR: &str = "2001:db8:9::77";
    on_host_and_in_kernel(|test| {
        let asked = message(NEIGHBOUR, "ff02::1:ff00:5", SOLICITATION, TASK6, 8);
        let answered = message(NEIGHBOUR, TASK6, ADVERTISEMENT, NEIGHBOUR, 8);
        let mut from_afar = asked.clone();
        from_afar[21] = 254;
        let not_for_task = message(NEIGHBOUR, "ff02::1:ff00:6", SOLICITATION, "2001:db8:9::6", 8);
        for (what, heard, passes) in [
            ("asked", asked, true),
            ("answered", answered, true),
            ("over a router", from_afar, false),
            ("asked another", not_for_task, false),
        ] {
            test.set(web())?;
            test.ingress(&heard)?;
            for spoken in [
                message(TASK6, NEIGHBOUR, ADVERTISEMENT, TASK6, 8),
                message(TASK6, NEIGHBOUR, SOLICITATION, NEIGHBOUR, 8),
            ] {
                assert_eq!(test.egress(&spoken)?, passes, "{what}, {}", test.name);
            }
            // To that neighbour only, and from the task's own address.
            assert!(!test.egress(&message(TASK6, PEER6, ADVERTISEMENT, TASK6, 8))?);
            assert!(!test.egress(&message(STRANGER6, NEIGHBOUR, ADVERTISEMENT, STRANGER6, 8))?);
            // A link that was bound again has other neighbours.
            let slot = test.fixture.slot("task")?;
            test.fixture.writer.bump_epoch(slot)?;
            assert!(!test.egress(&message(TASK6, NEIGHBOUR, ADVERTISEMENT, TASK6, 8))?);
        }
        Ok(())
    })
}

/// A rule says where a message may go, not what it may claim: its receiver may be on the link.
#[test]
fn nobody_speaks_for_another_where_a_rule_lets_it() -> Result<()> {
    let any = [(Protocol::All, "::/0")];
    for (what, about, source, passes) in [
        ("itself", TASK6, TASK6, true),
        ("another", STRANGER6, TASK6, false),
        ("the gateway", HOST_LINK_LOCAL, TASK6, false),
    ] {
        on_host_and_in_kernel(|test| {
            test.set(with_rules(&[], &any))?;
            let tells = message(source, PEER6, ADVERTISEMENT, about, 8);
            assert_eq!(test.egress(&tells)?, passes, "{what}, {}", test.name);
            let count = String::from("count task egress spoofed-source 1");
            assert_eq!(test.lines()?.contains(&count), !passes, "{what}, {}", test.name);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn nobody_speaks_for_another_beyond_the_link() -> Result<()> {
    let left = [
        "count task egress spoofed-source 1",
        "denied task egress icmpv6 2001:db8:bad::9 2001:db8:1::7 spoofed-source, 1 packets 72 bytes",
    ];
    for about in [TASK6, STRANGER6] {
        one(about, &message(STRANGER6, PEER6, ADVERTISEMENT, about, 8), false, &left)?;
    }
    Ok(())
}
