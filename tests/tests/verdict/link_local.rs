//! Link-local addresses belong to the first that is seen with them, on each link.

use anyhow::Result;
use taskgate_ebpf::abi::Direction::{self, Egress, Ingress};
use testkit::fixture::{DataPathTest, Kernel, Sent, frames::*, on_host_and_in_kernel};

use super::*;

const ALL_NODES: &str = "ff02::1";
const ALL_ROUTERS: &str = "ff02::2";
const NOBODY: &str = "::";
const GATEWAY: &str = "fe80::1";
/// The task's hardware address, as an address.
const BY_MAC: &str = "fe80::ff:fe00:2";
const VICTIM: &str = "fe80::5";
const OTHER: &str = "fe80::6";
const BRIDGE: u32 = 900;

/// Two tasks, which may send anything over UDP.
fn two(test: &mut DataPathTest<'_>, bridge: u32) -> Result<()> {
    let any = [(udp_to(53), "::/0")];
    let enis = vec![task(), gated("other", &["10.9.0.6", "2001:db8:9::6"], &[0])];
    test.set(model(vec![group("web", &any, &any)], enis))?;
    join(test, bridge)
}

fn join(test: &DataPathTest<'_>, bridge: u32) -> Result<()> {
    for eni in ["task", "other"] {
        test.fixture
            .writer
            .control()
            .set_segment(test.fixture.slot(eni)?, bridge);
    }
    Ok(())
}

fn message(source: &str, destination: &str, kind: u8, target: &str) -> Vec<u8> {
    neighbour(at(source), at(destination), kind, at(target))
}

/// All ways to speak as `address`; the last one is not neighbour discovery.
fn all_as(address: &str) -> [Vec<u8>; 6] {
    let listens = extension(58, 1, &listener(143, 0, at(ALL_NODES)));
    [
        message(address, ALL_NODES, 136, address),
        message(address, "ff02::1:ff00:1", 135, GATEWAY),
        message("2001:db8:9::6", ALL_NODES, 136, address),
        ipv6(at(address), at(ALL_ROUTERS), 58, 255, &icmp(133, 0, 0, &[])),
        ipv6(at(address), at("ff02::16"), 0, 1, &listens),
        ip(at(address), at(GATEWAY), 17, &udp(40000, 53, b"?")),
    ]
}

/// Duplicate address detection.
fn probe(address: &str) -> Vec<u8> {
    message(NOBODY, "ff02::1:ff00:5", 135, address)
}

fn refused_to(eni: u32, test: &mut DataPathTest<'_>, address: &str) -> Result<()> {
    for frame in all_as(address) {
        assert!(!test.send(Egress, eni, &frame)?, "{}: {frame:02x?}", test.name);
    }
    let lines = test.lines()?;
    let spoofed = |line: &&String| line.contains("spoofed-source");
    let recorded = lines.iter().filter(|line| line.starts_with("denied")).filter(spoofed);
    assert_eq!(recorded.count(), 1, "only what needs a rule is recorded: {lines:?}");
    Ok(())
}

#[test]
fn nobody_speaks_as_another_task_of_its_link() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (number, first) in all_as(VICTIM).iter().enumerate() {
            // An answer comes from the attacker's own address, and is refused to the victim too.
            if number == 2 {
                continue;
            }
            two(test, BRIDGE)?;
            assert!(test.send(Egress, 0, first)?, "{number}, {}", test.name);
            refused_to(1, test, VICTIM)?;
            for (number, own) in all_as(OTHER).iter().enumerate().filter(|(number, _)| *number != 2) {
                assert!(test.send(Egress, 1, own)?, "{number}, {}", test.name);
            }
            // Nor does a task announce one of its addresses from another's address.
            assert!(!test.send(Egress, 1, &message(OTHER, ALL_NODES, 136, VICTIM))?);
            assert!(test.send(Egress, 1, &message(OTHER, ALL_NODES, 136, "2001:db8:9::6"))?);
        }
        Ok(())
    })
}

#[test]
fn tasks_on_other_links_have_their_own_addresses() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test, 0)?;
        for eni in [0, 1] {
            for frame in [&all_as(VICTIM)[0], &all_as(VICTIM)[5]] {
                assert!(test.send(Egress, eni, frame)?, "{eni}, {}", test.name);
            }
        }
        Ok(())
    })
}

#[test]
fn nobody_speaks_as_a_neighbour_that_was_heard() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let listens = extension(58, 1, &listener(143, 0, at(ALL_NODES)));
        for (what, heard) in [
            ("it asks", message(GATEWAY, "ff02::1:ff00:5", 135, "fe80::77")),
            ("it answers", message(GATEWAY, ALL_NODES, 136, GATEWAY)),
            (
                "it says so from elsewhere",
                message("2001:db8:9::1", ALL_NODES, 136, GATEWAY),
            ),
            ("it probes", message(NOBODY, "ff02::1:ff00:1", 135, GATEWAY)),
            (
                "it is a router",
                ipv6(at(GATEWAY), at(ALL_NODES), 58, 255, &icmp(134, 0, 0, &[0; 8])),
            ),
            ("it listens", ipv6(at(GATEWAY), at("ff02::16"), 0, 1, &listens)),
        ] {
            two(test, BRIDGE)?;
            test.send(Ingress, 0, &heard)?;
            for eni in [0, 1] {
                for frame in [&all_as(GATEWAY)[0], &all_as(GATEWAY)[3], &all_as(GATEWAY)[5]] {
                    assert!(!test.send(Egress, eni, frame)?, "{what}, {eni}, {}", test.name);
                }
            }
            // The observation has expired.
            test.wait(301)?;
            assert!(test.send(Egress, 1, &all_as(GATEWAY)[0])?, "{what}, {}", test.name);
            assert!(!test.send(Egress, 0, &all_as(GATEWAY)[0])?, "{what}, {}", test.name);
        }
        Ok(())
    })
}

/// A task that already used addresses before its link was gated, or gated anew, keeps them.
#[test]
fn a_task_is_known_by_its_link_before_it_is_gated() -> Result<()> {
    on_host_and_in_kernel(|test| {
        two(test, BRIDGE)?;
        let heard = message(OTHER, ALL_NODES, 136, OTHER);
        let came_by = *Kernel::LINKS.start() + 1;
        let sent = Sent {
            frame: &heard,
            link: *Kernel::LINKS.start(),
            direction: Ingress,
            came_by,
            segments: (0, 0),
            left: taskgate_ebpf::host::Left::NOTHING,
        };
        assert!(test.path.judge(&sent)?);
        assert!(!test.send(Egress, 0, &heard)?, "{}", test.name);
        assert!(test.send(Egress, 1, &heard)?, "{}", test.name);
        // The former link has no addresses any more.
        let slot = test.fixture.slot("other")?;
        test.fixture.writer.bump_epoch(slot)?;
        assert!(test.send(Egress, 0, &heard)?, "{}", test.name);
        assert!(!test.send(Egress, 1, &heard)?, "{}", test.name);
        Ok(())
    })
}

/// Duplicate address detection claims nothing: the host that answers has the address.
#[test]
fn an_address_that_is_defended_is_not_the_tasks() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for defended in [true, false] {
            two(test, BRIDGE)?;
            assert!(test.send(Egress, 0, &probe(VICTIM))?);
            if defended {
                assert!(test.send(Ingress, 0, &message(VICTIM, ALL_NODES, 136, VICTIM))?);
            }
            let uses = message(VICTIM, ALL_NODES, 136, VICTIM);
            assert_eq!(test.send(Egress, 0, &uses)?, !defended, "{}", test.name);
            // From then on no other host may claim the task's address.
            assert_eq!(test.send(Ingress, 0, &uses)?, defended, "{}", test.name);
        }
        Ok(())
    })
}

/// A host that claims an address and does not answer for it loses the address to a task that probes for it; a host that
/// answers keeps it.
#[test]
fn an_address_that_nobody_answers_for_goes_to_who_asks() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let uses = message(VICTIM, ALL_NODES, 136, VICTIM);
        for claimed in [
            // Packets that no rule lets out claim too.
            (Egress, ip(at(VICTIM), at(GATEWAY), 17, &udp(40000, 54, b"?"))),
            (Egress, uses.clone()),
            (Ingress, uses.clone()),
        ] {
            for answers in [true, false] {
                two(test, BRIDGE)?;
                test.send(claimed.0, 0, &claimed.1)?;
                assert!(!test.send(Egress, 1, &uses)?, "{}", test.name);
                assert!(test.send(Egress, 1, &probe(VICTIM))?, "{}", test.name);
                assert!(
                    !test.send(Egress, 1, &uses)?,
                    "before anybody could answer, {}",
                    test.name
                );
                if answers {
                    test.send(claimed.0, 0, &uses)?;
                }
                test.wait(1)?;
                assert_eq!(test.send(Egress, 1, &uses)?, !answers, "{}", test.name);
            }
        }
        // A probe without a use of the address keeps no other task out.
        two(test, BRIDGE)?;
        assert!(test.send(Egress, 0, &probe(VICTIM))?);
        assert!(test.send(Egress, 1, &probe(VICTIM))?);
        test.wait(1)?;
        assert!(test.send(Egress, 1, &uses)?, "{}", test.name);
        Ok(())
    })
}

#[test]
fn what_goes_to_a_link_local_address_of_nobody_is_counted_and_not_recorded() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let asks = |to: &str| {
            let mut frame = ip(at("fe80::7"), at(to), 17, &udp(40000, 53, b"?"));
            frame[5] = 9;
            frame
        };
        two(test, BRIDGE)?;
        // Rules let the packet in: the address may be the task's.
        assert!(test.send(Ingress, 0, &asks(VICTIM))?, "{}", test.name);
        two(test, BRIDGE)?;
        let mut denied = ip(at("fe80::7"), at(VICTIM), 17, &udp(40000, 54, b"?"));
        denied[5] = 9;
        assert!(!test.send(Ingress, 0, &denied)?);
        test.assert_lines("flooded", &["count task ingress not-for-task 1"]);
        // The address derived from its hardware address is the task's before it sends anything.
        assert!(test.send(Ingress, 0, &asks(BY_MAC))?, "{}", test.name);
        // A link with two ends is not flooded: a task there need not have spoken.
        two(test, 0)?;
        assert!(test.send(Ingress, 0, &asks(VICTIM))?, "{}", test.name);
        test.send(Ingress, 0, &message(OTHER, ALL_NODES, 136, OTHER))?;
        assert!(!test.send(Ingress, 0, &asks(OTHER))?, "{}", test.name);
        two(test, BRIDGE)?;
        assert!(test.send(Egress, 0, &all_as(VICTIM)[1])?);
        assert!(test.send(Ingress, 0, &asks(VICTIM))?, "{}", test.name);
        assert!(!test.send(Ingress, 1, &asks(VICTIM))?, "{}", test.name);
        Ok(())
    })
}

/// A task can name only a limited number of new addresses in five minutes, and takes no room that others need.
#[test]
fn a_task_names_few_addresses() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let named = |direction: Direction, number: u32| {
            let address = format!("fe80::1:{number:x}");
            (direction, message(&address, ALL_NODES, 136, &address))
        };
        two(test, BRIDGE)?;
        for number in 0..65 {
            let (direction, frame) = named(Egress, number);
            assert_eq!(test.send(direction, 0, &frame)?, number < 64, "{number}, {}", test.name);
        }
        // The task keeps the addresses that it has, and other tasks have limits of their own.
        assert!(test.send(Egress, 0, &named(Egress, 3).1)?);
        assert!(test.send(Egress, 1, &named(Egress, 177).1)?);
        Ok(())
    })
}
