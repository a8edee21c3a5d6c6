//! ARP, neighbour discovery and listener discovery: no rule speaks of them, but a task takes part only as itself.

use anyhow::Result;
use taskgate_ebpf::abi::Direction::{self, Egress, Ingress};
use taskgate_tests::scene::{frames::*, on_host_and_in_kernel};

use super::*;

const GATEWAY4: &str = "10.9.0.1";
const GATEWAY6: &str = "fe80::1";
const NOBODY6: &str = "::";
const ALL_NODES: &str = "ff02::1";
const ALL_ROUTERS: &str = "ff02::2";

/// What a gate does with a frame, and the reason or kind that it counts under.
type Row = (&'static str, Direction, Vec<u8>, &'static str);

fn check(rows: &[Row]) -> Result<()> {
    on_host_and_in_kernel(|stage| {
        for (name, direction, frame, outcome) in rows {
            stage.set(with_rules(&[], &[]))?;
            let passes = stage.send(*direction, 0, frame)?;
            let way = if *direction == Egress { "egress" } else { "ingress" };
            assert_eq!(passes, *outcome == "neighbour", "{name}, {}", stage.name);
            stage.assert_lines(name, &[&format!("count task {way} {outcome} 1")]);
        }
        Ok(())
    })
}

#[test]
fn arp_names_the_tasks_own_address() -> Result<()> {
    let packet = |operation, sender: &str, target: &str| arp(operation, at(sender), at(target));
    check(&[
        ("asks for the gateway", Egress, packet(1, TASK4, GATEWAY4), "neighbour"),
        ("answers", Egress, packet(2, TASK4, GATEWAY4), "neighbour"),
        ("announces itself", Egress, packet(1, TASK4, TASK4), "neighbour"),
        ("probes its address", Egress, packet(1, "0.0.0.0", TASK4), "neighbour"),
        (
            "asks as somebody else",
            Egress,
            packet(1, "10.9.0.99", GATEWAY4),
            "spoofed-source",
        ),
        (
            "answers as somebody else",
            Egress,
            packet(2, GATEWAY4, TASK4),
            "spoofed-source",
        ),
        (
            "probes another's address",
            Egress,
            packet(1, "0.0.0.0", "10.9.0.99"),
            "spoofed-source",
        ),
        ("is asked", Ingress, packet(1, GATEWAY4, TASK4), "neighbour"),
        ("is answered", Ingress, packet(2, GATEWAY4, TASK4), "neighbour"),
        (
            "another is asked",
            Ingress,
            packet(1, GATEWAY4, "10.9.0.99"),
            "not-for-task",
        ),
    ])
}

#[test]
fn neighbour_discovery_names_the_tasks_own_addresses() -> Result<()> {
    let message =
        |source: &str, destination: &str, kind, target: &str| neighbour(at(source), at(destination), kind, at(target));
    let solicited = "ff02::1:ff00:5";
    check(&[
        (
            "asks for the gateway",
            Egress,
            message(TASK6, GATEWAY6, 135, GATEWAY6),
            "neighbour",
        ),
        (
            "asks by its link-local address",
            Egress,
            message("fe80::5", GATEWAY6, 135, GATEWAY6),
            "neighbour",
        ),
        (
            "probes its address",
            Egress,
            message(NOBODY6, solicited, 135, TASK6),
            "neighbour",
        ),
        (
            "probes a link-local address",
            Egress,
            message(NOBODY6, solicited, 135, "fe80::5"),
            "neighbour",
        ),
        (
            "probes another's address",
            Egress,
            message(NOBODY6, solicited, 135, "2001:db8:9::6"),
            "spoofed-source",
        ),
        (
            "asks as somebody else",
            Egress,
            message("2001:db8:9::6", GATEWAY6, 135, GATEWAY6),
            "spoofed-source",
        ),
        ("answers", Egress, message(TASK6, GATEWAY6, 136, TASK6), "neighbour"),
        (
            "answers for somebody else",
            Egress,
            message(TASK6, GATEWAY6, 136, "2001:db8:9::6"),
            "spoofed-source",
        ),
        (
            "asks for routers",
            Egress,
            message("fe80::5", ALL_ROUTERS, 133, NOBODY6),
            "neighbour",
        ),
        (
            "asks for routers without an address",
            Egress,
            message(NOBODY6, ALL_ROUTERS, 133, NOBODY6),
            "neighbour",
        ),
        (
            "says that it is a router",
            Egress,
            message("fe80::5", ALL_NODES, 134, NOBODY6),
            "spoofed-source",
        ),
        (
            "redirects",
            Egress,
            message("fe80::5", GATEWAY6, 137, NOBODY6),
            "spoofed-source",
        ),
        (
            "is asked",
            Ingress,
            message(GATEWAY6, solicited, 135, TASK6),
            "neighbour",
        ),
        (
            "another is asked",
            Ingress,
            message(GATEWAY6, solicited, 135, "2001:db8:9::6"),
            "not-for-task",
        ),
        (
            "is answered",
            Ingress,
            message(GATEWAY6, TASK6, 136, GATEWAY6),
            "neighbour",
        ),
        (
            "its address is taken",
            Ingress,
            message(GATEWAY6, ALL_NODES, 136, TASK6),
            "neighbour",
        ),
        (
            "another is answered",
            Ingress,
            message(GATEWAY6, "2001:db8:9::6", 136, GATEWAY6),
            "not-for-task",
        ),
        (
            "hears a router",
            Ingress,
            message(GATEWAY6, ALL_NODES, 134, NOBODY6),
            "neighbour",
        ),
        (
            "hears a router from afar",
            Ingress,
            message(STRANGER6, ALL_NODES, 134, NOBODY6),
            "not-for-task",
        ),
        (
            "is redirected",
            Ingress,
            message(GATEWAY6, TASK6, 137, NOBODY6),
            "neighbour",
        ),
        (
            "is taken for a router",
            Ingress,
            message(GATEWAY6, ALL_ROUTERS, 133, NOBODY6),
            "not-for-task",
        ),
    ])
}

#[test]
fn listener_discovery_goes_one_hop() -> Result<()> {
    let message = |source: &str, kind| {
        ipv6(
            at(source),
            at("ff02::16"),
            0,
            1,
            &extension(58, 1, &icmp(kind, 0, 0, &[0; 16])),
        )
    };
    check(&[
        ("reports", Egress, message("fe80::5", 143), "neighbour"),
        ("reports without an address", Egress, message(NOBODY6, 143), "neighbour"),
        ("reports, version 1", Egress, message(TASK6, 131), "neighbour"),
        ("is done", Egress, message("fe80::5", 132), "neighbour"),
        (
            "reports as somebody else",
            Egress,
            message("2001:db8:9::6", 143),
            "spoofed-source",
        ),
        ("queries", Egress, message("fe80::5", 130), "spoofed-source"),
        ("is queried", Ingress, message(GATEWAY6, 130), "neighbour"),
        ("is queried from afar", Ingress, message(STRANGER6, 130), "not-for-task"),
    ])
}

/// A message of neighbour discovery that came over a router is none: the rules decide, and it is recorded.
#[test]
fn what_came_over_a_router_is_judged_by_the_rules() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        stage.set(with_rules(&[], &[]))?;
        let mut far = neighbour(at(STRANGER6), at(TASK6), 135, at(TASK6));
        far[21] = 254;
        assert!(!stage.ingress(&far)?);
        stage.assert_lines(
            "from afar",
            &[
                "count task ingress no-rule 1",
                "denied task ingress icmpv6 2001:db8:9::5 2001:db8:bad::9 no-rule, 1 packets 64 bytes",
            ],
        );
        Ok(())
    })
}

/// In the tables that address is IPv4's.
#[test]
fn neighbour_discovery_about_an_ipv4_address_is_malformed() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        stage.set(with_rules(&[], &[]))?;
        let mapped = format!("::ffff:{TASK4}");
        assert!(!stage.ingress(&neighbour(at(GATEWAY6), at(TASK6), 135, at(&mapped)))?);
        stage.assert_lines(
            "mapped",
            &[
                "count task ingress malformed 1",
                "denied task ingress icmpv6 2001:db8:9::5 fe80::1 malformed, 1 packets 64 bytes",
            ],
        );
        Ok(())
    })
}
