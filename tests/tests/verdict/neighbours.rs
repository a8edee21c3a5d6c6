//! ARP, neighbour discovery and listener discovery: no rule speaks of them, but a task takes part only as itself.

use anyhow::Result;
use taskgate_ebpf::abi::{
    Direction::{self, Egress, Ingress},
    LinkId,
};
use testkit::fixture::{Sent, frames::*, on_host_and_in_kernel};

use super::*;

const GATEWAY4: &str = "10.9.0.1";
const GATEWAY6: &str = "fe80::1";
const NOBODY6: &str = "::";
const ALL_NODES: &str = "ff02::1";
const ALL_ROUTERS: &str = "ff02::2";

/// A frame, the gate's verdict, and the reason or kind under which it is counted.
type Row = (&'static str, Direction, Vec<u8>, &'static str);

fn check(rows: &[Row]) -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (name, direction, frame, outcome) in rows {
            test.set(with_rules(&[], &[]))?;
            let passes = test.send(*direction, 0, frame)?;
            let way = if *direction == Egress { "egress" } else { "ingress" };
            assert_eq!(passes, *outcome == "neighbour", "{name}, {}", test.name);
            test.assert_lines(name, &[&format!("count task {way} {outcome} 1")]);
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
        (
            "another announces itself",
            Ingress,
            packet(1, GATEWAY4, GATEWAY4),
            "neighbour",
        ),
        (
            "another announces itself by a reply",
            Ingress,
            packet(2, GATEWAY4, GATEWAY4),
            "neighbour",
        ),
        (
            "another says that it has the task's address",
            Ingress,
            packet(2, TASK4, TASK4),
            "spoofed-source",
        ),
        (
            "another asks under the task's address",
            Ingress,
            packet(1, TASK4, GATEWAY4),
            "spoofed-source",
        ),
        (
            "announces another",
            Egress,
            packet(1, GATEWAY4, GATEWAY4),
            "spoofed-source",
        ),
    ])
}

#[test]
fn neighbour_discovery_names_the_tasks_own_addresses() -> Result<()> {
    let message =
        |source: &str, destination: &str, kind, target: &str| neighbour(at(source), at(destination), kind, at(target));
    let solicited = "ff02::1:ff00:5";
    let asks_for_routers = |source: &str| ipv6(at(source), at(ALL_ROUTERS), 58, 255, &icmp(133, 0, 0, &[]));
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
        ("asks for routers", Egress, asks_for_routers("fe80::5"), "neighbour"),
        (
            "asks for routers without an address",
            Egress,
            asks_for_routers(NOBODY6),
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
            "another says that it has the task's address",
            Ingress,
            message(GATEWAY6, ALL_NODES, 136, TASK6),
            "spoofed-source",
        ),
        (
            "the same to the task alone",
            Ingress,
            message(GATEWAY6, TASK6, 136, TASK6),
            "spoofed-source",
        ),
        (
            "another asks under the task's address",
            Ingress,
            message(TASK6, GATEWAY6, 135, "2001:db8:9::6"),
            "spoofed-source",
        ),
        (
            "another announces itself",
            Ingress,
            message("2001:db8:9::6", ALL_NODES, 136, "2001:db8:9::6"),
            "neighbour",
        ),
        (
            "announces another",
            Egress,
            message(TASK6, ALL_NODES, 136, "2001:db8:9::6"),
            "spoofed-source",
        ),
        (
            "announces itself as another",
            Egress,
            message("2001:db8:9::6", ALL_NODES, 136, TASK6),
            "spoofed-source",
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
            &extension(58, 1, &listener(kind, 1, at("ff02::16"))),
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

/// A neighbour discovery message that passed a router does not count as one: the rules decide, and it is recorded.
#[test]
fn what_came_over_a_router_is_judged_by_the_rules() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(with_rules(&[], &[]))?;
        let mut far = neighbour(at(STRANGER6), at(TASK6), 135, at(TASK6));
        far[21] = 254;
        assert!(!test.ingress(&far)?);
        test.assert_lines(
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
    on_host_and_in_kernel(|test| {
        test.set(with_rules(&[], &[]))?;
        let mapped = format!("::ffff:{TASK4}");
        assert!(!test.ingress(&neighbour(at(GATEWAY6), at(TASK6), 135, at(&mapped)))?);
        test.assert_lines(
            "mapped",
            &[
                "count task ingress malformed 1",
                "denied task ingress icmpv6 2001:db8:9::5 fe80::1 malformed, 1 packets 64 bytes",
            ],
        );
        Ok(())
    })
}

/// A task that probes its own address receives the answer of the host that has it, until the task uses the address.
#[test]
fn a_task_that_probes_its_address_hears_who_has_it() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(with_rules(&[], &[]))?;
        let taken6 = neighbour(at(TASK6), at(ALL_NODES), 136, at(TASK6));
        let taken4 = arp(2, at(TASK4), at("0.0.0.0"));
        for (what, probe, taken, uses) in [
            (
                "IPv6",
                neighbour(at(NOBODY6), at("ff02::1:ff00:5"), 135, at(TASK6)),
                taken6,
                neighbour(at(TASK6), at(GATEWAY6), 135, at(GATEWAY6)),
            ),
            (
                "IPv4",
                arp(1, at("0.0.0.0"), at(TASK4)),
                taken4,
                arp(1, at(TASK4), at(TASK4)),
            ),
        ] {
            assert!(!test.ingress(&taken)?, "{what}, before it asks, {}", test.name);
            assert!(test.egress(&probe)?);
            assert!(test.ingress(&taken)?, "{what}, {}", test.name);
            assert!(test.egress(&uses)?);
            assert!(!test.ingress(&taken)?, "{what}, in use, {}", test.name);
        }
        Ok(())
    })
}

/// A task without the source/destination check still may not act as a router towards its neighbours, nor claim another
/// task's address.
#[test]
fn no_task_speaks_as_a_router_whether_it_is_checked_or_not() -> Result<()> {
    /// PIM of version 2.
    const JOIN: [u8; 4] = [0x23, 0, 0, 0];
    const HELLO: [u8; 4] = [0x20, 0, 0, 0];
    on_host_and_in_kernel(|test| {
        let any = [(Protocol::All, "0.0.0.0/0"), (Protocol::All, "::/0")];
        for checks in [true, false] {
            let mut model = with_rules(&any, &any);
            model.enis[0].source_dest_check = checks;
            model.enis.push(gated("other", &["10.9.0.6"], &[0]));
            test.set(model)?;
            let v6 = |to: &str, kind, hops| ipv6(at("fe80::5"), at(to), 58, hops, &icmp(kind, 0, 0, &[0; 16]));
            let v4 = |to: &str, protocol, payload: &[u8]| ip(at(TASK4), at(to), protocol, payload);
            let query = [0x11, 0, 0, 0, 224, 0, 0, 1];
            // A packet that a rule let through proves nothing.
            assert!(test.egress(&v4("224.0.0.1", 2, &[0x16, 0, 0, 0, 224, 0, 0, 1]))?);
            assert!(test.egress(&v4("224.0.0.13", 103, &JOIN))?);
            let pim6 = |message: &[u8]| ipv6(at("fe80::5"), at("ff02::d"), 103, 1, message);
            assert!(test.egress(&pim6(&JOIN))?);
            let frames = [
                v6(ALL_NODES, 134, 255),
                v6(GATEWAY6, 134, 255),
                v6("2001:db8:9::1", 134, 255),
                v6("2001:db8:9::1", 137, 255),
                v6(ALL_NODES, 130, 1),
                // Hosts drop these messages, but bridges check less strictly.
                v6(ALL_NODES, 130, 64),
                v6("2001:db8:9::1", 130, 255),
                v6(ALL_NODES, 134, 64),
                v6(ALL_NODES, 137, 1),
                v6("ff02::6a", 151, 1),
                v6("ff02::2", 152, 1),
                v6("ff02::6a", 153, 64),
                pim6(&HELLO),
                v4("224.0.0.13", 103, &HELLO),
                v4("224.0.0.106", 2, &[0x30, 20, 0, 0, 0, 0, 0, 0]),
                v4("224.0.0.2", 2, &[0x31, 0, 0, 0]),
                v4("224.0.0.106", 2, &[0x32, 0, 0, 0]),
                v4("224.0.0.4", 2, &[0x13, 1, 0, 0]),
                v4("224.0.0.2", 2, &[0x14, 0, 0, 0]),
                v4("10.9.0.1", 1, &icmp(5, 1, 0, &[0; 28])),
                v4("224.0.0.1", 1, &icmp(9, 0, 0, &[0; 8])),
                v4("224.0.0.1", 2, &query),
                arp(2, at("10.9.0.6"), at("10.9.0.1")),
            ];
            for frame in &frames {
                assert!(!test.egress(frame)?, "{checks}, {}: {frame:02x?}", test.name);
            }
            let count = format!("count task egress spoofed-source {}", frames.len());
            assert!(test.lines()?.contains(&count), "{:?}", test.lines()?);
            // A task may receive them, if a rule allows it.
            let hello = ip(at(PEER4), at("224.0.0.13"), 103, &HELLO);
            assert!(test.ingress(&hello)?, "{}", test.name);
            let found = ipv6(at(GATEWAY6), at("ff02::6a"), 58, 1, &icmp(151, 0, 0, &[]));
            assert!(test.ingress(&found)?, "{}", test.name);
            assert_eq!(
                test.egress(&arp(2, at("10.9.0.77"), at("10.9.0.1")))?,
                !checks,
                "{}",
                test.name
            );
        }
        Ok(())
    })
}

/// A branch announces its hardware address to neighbours that this host does not see. A test run cannot have a tag in
/// metadata: live tests show the same for the kernel.
#[test]
fn a_branch_says_the_hardware_address_that_it_has() -> Result<()> {
    const OWN: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 1];
    const OTHER: [u8; 8] = [2, 1, 2, 0, 0, 0, 0, 9];
    on_host_and_in_kernel(|test| {
        if test.name != "on the host" {
            return Ok(());
        }
        let answer = |options: &[u8], flags: u8| {
            let message = icmp(
                136,
                0,
                u16::from(flags) << 8,
                &[&[0x20, 1, 13, 0xb8, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5], options].concat(),
            );
            ipv6(at(TASK6), at(ALL_NODES), 58, 255, &message)
        };
        let mut lying = arp(2, at(TASK4), at(GATEWAY4));
        lying[27] = 9;
        for (what, frame, on_trunk) in [
            ("ARP", arp(2, at(TASK4), at(GATEWAY4)), true),
            ("ARP with another's", lying, false),
            ("its own", answer(&OWN, 0), true),
            ("left out", answer(&[], 0), true),
            ("another's", answer(&OTHER, 0), false),
            ("two", answer(&[OWN, OTHER].concat(), 0), false),
            ("as a router", answer(&OWN, 0x80), false),
        ] {
            for (mac, link, passes) in [
                (Some(OWN_MAC), LinkId::branch(101), on_trunk),
                (None, LinkId::branch(101), true),
                (Some(OWN_MAC), LinkId::device(101), true),
            ] {
                test.set(with_rules(&[], &[]))?;
                test.fixture.bind(link.get(), "task")?;
                let slot = test.fixture.slot("task")?;
                test.fixture.writer.control().set_mac(slot, mac);
                let sent = Sent {
                    frame: &frame,
                    link: link.get(),
                    direction: Egress,
                    came_by: 0,
                    segments: (0, 0),
                    left: taskgate_ebpf::host::Left::NOTHING,
                };
                assert_eq!(test.path.judge(&sent)?, passes, "{what} on {link:?}, {mac:?}");
            }
        }
        Ok(())
    })
}
