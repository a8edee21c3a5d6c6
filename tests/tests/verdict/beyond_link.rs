//! Neighbour discovery by a task that no egress rule lets anything out of.

use anyhow::Result;
use testkit::fixture::{frames::*, on_host_and_in_kernel};

use super::*;

const ALL_NODES: &str = "ff02::1";
const HOST_LINK_LOCAL: &str = "fe80::1";
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;

/// A message with `extra` bytes of options behind its target.
fn message(source: &str, destination: &str, kind: u8, target: &str, extra: usize) -> Vec<u8> {
    let plain = neighbour(at(source), at(destination), kind, at(target));
    let payload = [&plain[54..], &vec![7; extra]].concat();
    ipv6(at(source), at(destination), 58, 255, &payload)
}

/// Sends one from the task, and asserts the verdict and all that it leaves.
fn one(name: &str, frame: &[u8], passes: bool, left: &[&str]) -> Result<()> {
    on_host_and_in_kernel(|stage| {
        stage.set(web())?;
        assert_eq!(stage.egress(frame)?, passes, "{name}, {}", stage.name);
        stage.assert_lines(name, left);
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
            ipv6(at(TASK6), at("ff02::16"), 58, 1, &icmp(143, 0, 0, b"")),
        ),
    ] {
        one(name, &frame, true, &["count task egress neighbour 1"])?;
    }
    Ok(())
}

/// Hop limit 255 or not: it is ICMPv6 like any other, judged and recorded.
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

/// Neighbours with global addresses ask and are answered under them: whoever spoke on the link may be spoken to there.
#[test]
fn a_neighbour_that_spoke_on_the_link_is_answered_under_its_address() -> Result<()> {
    const NEIGHBOUR: &str = "2001:db8:9::77";
    on_host_and_in_kernel(|stage| {
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
            stage.set(web())?;
            stage.ingress(&heard)?;
            for spoken in [
                message(TASK6, NEIGHBOUR, ADVERTISEMENT, TASK6, 8),
                message(TASK6, NEIGHBOUR, SOLICITATION, NEIGHBOUR, 8),
            ] {
                assert_eq!(stage.egress(&spoken)?, passes, "{what}, {}", stage.name);
            }
            // For that one alone, and as itself.
            assert!(!stage.egress(&message(TASK6, PEER6, ADVERTISEMENT, TASK6, 8))?);
            assert!(!stage.egress(&message(STRANGER6, NEIGHBOUR, ADVERTISEMENT, STRANGER6, 8))?);
            // A link that was bound anew has other neighbours.
            let slot = stage.scene.slot("task")?;
            stage.scene.writer.raise_epoch(slot)?;
            assert!(!stage.egress(&message(TASK6, NEIGHBOUR, ADVERTISEMENT, TASK6, 8))?);
        }
        Ok(())
    })
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
