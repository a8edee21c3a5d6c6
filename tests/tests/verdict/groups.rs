//! Packets to several hosts reach a task if a rule allows them; packets for other hosts leave no record, whatever the
//! frame's header.

use anyhow::Result;
use testkit::fixture::{frames::*, on_host_and_in_kernel};

use super::*;

const SPEAKER4: &str = "10.0.1.7";
const SPEAKER6: &str = "fe80::7";
/// The broadcast address of a subnet, which looks like any other host's address.
const SUBNET: &str = "10.9.0.255";
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const OTHERS_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

fn toward(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

fn mdns(source: &str, destination: &str, port: u16) -> Vec<u8> {
    ip(at(source), at(destination), 17, &udp(5353, port, b"?"))
}

/// UDP 5353 from two networks.
fn hears() -> Model {
    with_rules(&[(udp_to(5353), "10.0.1.0/24"), (udp_to(5353), "fe80::/10")], &[])
}

#[test]
fn a_rule_for_the_protocol_and_port_admits_multicast_and_broadcast_of_its_peer() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let mut admitted = 0;
        for checks in [true, false] {
            let mut model = hears();
            model.enis[0].source_dest_check = checks;
            test.set(model)?;
            for (what, frame, passes) in [
                ("multicast", mdns(SPEAKER4, "224.0.0.251", 5353), true),
                ("broadcast", mdns(SPEAKER4, "255.255.255.255", 5353), true),
                ("a subnet's", toward(BROADCAST_MAC, mdns(SPEAKER4, SUBNET, 5353)), false),
                (
                    "another's, to all",
                    toward(BROADCAST_MAC, mdns(SPEAKER4, "10.9.0.99", 5353)),
                    false,
                ),
                (
                    "another's, to some",
                    toward([0x33, 0x33, 0, 0, 0, 0xfb], mdns(SPEAKER6, "2001:db8:9::99", 5353)),
                    false,
                ),
                ("IPv6", mdns(SPEAKER6, "ff02::fb", 5353), true),
                ("another port", mdns(SPEAKER4, "224.0.0.251", 5354), false),
                ("another peer", mdns(STRANGER4, "224.0.0.251", 5353), false),
                ("another peer", mdns(STRANGER6, "ff02::fb", 5353), false),
            ] {
                assert_eq!(test.ingress(&frame)?, passes, "{what}, {checks}, {}", test.name);
                admitted += u32::from(passes);
            }
            // Packets that are not meant for the task are not recorded as its denials.
            let lines = test.lines()?;
            assert!(
                lines.contains(&String::from("count task ingress not-for-task 6")),
                "{lines:?}"
            );
            assert!(!lines.iter().any(|line| line.starts_with("denied")), "{lines:?}");
        }
        assert_eq!(admitted, 6);
        Ok(())
    })
}

#[test]
fn nobody_answers_from_an_address_of_many() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (source, group) in [
            (SPEAKER4, "224.0.0.251"),
            (SPEAKER4, "255.255.255.255"),
            (SPEAKER6, "ff02::fb"),
        ] {
            test.set(hears())?;
            let frame = mdns(source, group, 5353);
            assert!(test.ingress(&toward(BROADCAST_MAC, frame))?, "{group}, {}", test.name);
            // The ports of the connection that was admitted, the other way round.
            assert!(!test.egress(&mdns(group, source, 5353))?, "{group}, {}", test.name);
            let count = String::from("count task egress spoofed-source 1");
            assert!(test.lines()?.contains(&count), "{group}, {}", test.name);
        }
        Ok(())
    })
}

/// A bridge floods frames to unknown destinations. They are not recorded as denials, even for a task whose hardware
/// address is unknown; packets for another host that are sent to the task on purpose are.
#[test]
fn a_frame_for_another_is_dropped_and_counted_and_not_recorded() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (what, checks, mac, frame, passes, recorded) in [
            (
                "flooded",
                true,
                Some(TASK_MAC),
                toward(OTHERS_MAC, mdns(SPEAKER4, "10.9.0.99", 53)),
                false,
                false,
            ),
            (
                "flooded",
                true,
                None,
                toward(OTHERS_MAC, mdns(SPEAKER4, "10.9.0.99", 53)),
                false,
                false,
            ),
            (
                "misrouted",
                true,
                Some(TASK_MAC),
                mdns(SPEAKER4, "10.9.0.99", 53),
                false,
                true,
            ),
            // A task that forwards has rules for frames sent to it, not for frames that are flooded past it.
            (
                "flooded",
                false,
                Some(TASK_MAC),
                toward(OTHERS_MAC, mdns(SPEAKER4, "10.9.0.99", 5353)),
                false,
                false,
            ),
            (
                "to forward",
                false,
                Some(TASK_MAC),
                mdns(SPEAKER4, "10.9.0.99", 5353),
                true,
                false,
            ),
        ] {
            let mut model = hears();
            model.enis[0].source_dest_check = checks;
            test.set(model)?;
            let slot = test.fixture.slot("task")?;
            test.fixture.writer.control().set_mac(slot, mac);
            assert_eq!(test.ingress(&frame)?, passes, "{what}, {}", test.name);
            let lines = test.lines()?;
            let count = String::from("count task ingress not-for-task 1");
            assert_eq!(lines.contains(&count), !passes, "{what}, {}: {lines:?}", test.name);
            let denied = lines.iter().any(|line| line.starts_with("denied"));
            assert_eq!(denied, recorded, "{what}, {}: {lines:?}", test.name);
        }
        // Packets to the task itself are recorded, whatever the frame's header.
        test.set(hears())?;
        assert!(!test.ingress(&toward(OTHERS_MAC, mdns(SPEAKER4, TASK4, 53)))?);
        assert!(!test.ingress(&toward(BROADCAST_MAC, mdns(SPEAKER4, TASK4, 53)))?);
        let denied = "denied task ingress udp 10.9.0.5:53 10.0.1.7:5353 no-rule, 2 packets 58 bytes";
        assert!(test.lines()?.contains(&denied.to_owned()), "{:?}", test.lines()?);
        Ok(())
    })
}
