//! Routers that report how far a packet came, and hosts that report a port without a listener: errors that path MTU
//! discovery does not need, so that the settings decide.
//!
//! ```text
//!   task ──gate── host, 1 ──── outside, 2 ──── server, 3
//! ```

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Config, Count, Counters, E2eTest, Flow, Ledger, at, ip,
    traffic::{UdpPeer, inject},
};

use super::{frames, mtu::routed};

const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
const OUTSIDE: [&str; 2] = ["10.99.0.2", "fd99::2"];
const SERVER: [&str; 2] = ["10.77.0.2", "fd77::2"];
/// The addresses from which the host and the outside answer.
const ROUTERS: [[&str; 2]; 2] = [["10.99.0.1", OUTSIDE[0]], ["fd99::1", OUTSIDE[1]]];
/// The setting, and whether such errors get through.
const SETTINGS: [(&str, bool); 3] = [("all", true), ("pmtu", false), ("none", false)];
const RULES: &str = "ingress: [{ protocol: udp, ports: 53, from: any }], \
                     egress: [{ protocol: udp, ports: 33434-33534, to: any }, { protocol: tcp, ports: 80, to: any }, \
                     { protocol: icmp, type: 8, to: any }, { protocol: icmpv6, type: 128, to: any }]";

fn test(errors: &str) -> Result<(E2eTest, testkit::Netns)> {
    let (topology, server) = routed()?;
    for netns in [&topology.host, &topology.outside, &server] {
        netns.set("net.ipv4.icmp_ratelimit", "0")?;
        netns.set("net.ipv6.icmp.ratelimit", "0")?;
    }
    let test = E2eTest::in_topology(topology, |config: Config| {
        config
            .group("probes", RULES)
            .task("web-1", &TASK, &["probes"])
            .with(&format!("settings: {{ icmp-errors: {errors} }}"))
    })?;
    Ok((test, server))
}

/// The packets of three ways of tracing a route, with this hop limit.
fn probes(family: usize, hops: u8) -> [(Flow, Vec<u8>); 3] {
    let (from, to) = (TASK[family], SERVER[family]);
    let number = 20_000 + u16::from(hops);
    let udp = Flow::udp(at(from, number), at(to, 33_434));
    let tcp = Flow::tcp(at(from, number), at(to, 80));
    let echo = Flow::icmp(ip(from), ip(to));
    let asks = [8, 128][family];
    [
        (udp, frames::udp(number, 33_434, &[0; 12])),
        (tcp, frames::tcp(number, 80, frames::flags::SYN, b"")),
        (echo, frames::icmp(asks, 0, number, &[0; 12])),
    ]
    .map(|(flow, payload)| {
        let mut packet = frames::ip(ip(from), ip(to), flow.protocol, &payload).split_off(14);
        packet[[8, 7][family]] = hops;
        (flow, packet)
    })
}

/// An error about a small packet quotes all of it, after an IP header and eight bytes of ICMP.
fn about(family: usize, packet: &[u8]) -> Count {
    Count::new(1, packet.len() as u64 + [28, 48][family])
}

fn judged(ledger: Ledger, flow: Flow, passes: bool, count: Count) -> Ledger {
    if passes {
        ledger.accept("web-1", flow, count)
    } else {
        ledger.reject("web-1", flow, count)
    }
}

#[test]
fn routers_tell_a_task_how_far_its_packets_came_where_settings_let_them() -> Result<()> {
    for (errors, passes) in SETTINGS {
        let (test, _server) = test(errors)?;
        let counters = Counters::of(&test.daemon)?;
        let (mut expected, mut told_so_far) = (Ledger::default(), 0);
        for family in [0, 1] {
            for (hops, router) in (1..).zip(ROUTERS[family]) {
                let told = Flow::icmp(ip(router), ip(TASK[family]));
                for (number, (flow, packet)) in probes(family, hops).into_iter().enumerate() {
                    inject(test.task("web-1")?, &packet)?;
                    told_so_far += 1;
                    if passes {
                        test.wire("web-1")?.await_received(told, number as u64 + 1)?;
                    } else {
                        counters.await_dropped(Direction::Ingress, DropReason::NoRule, told_so_far)?;
                        assert_eq!(test.wire("web-1")?.received(told)?, Count::default());
                    }
                    let sent = Count::new(1, packet.len() as u64);
                    expected = judged(expected, told, passes, about(family, &packet)).accept("web-1", flow, sent);
                }
            }
        }
        test.finish(&expected)?;
    }
    Ok(())
}

/// In both directions: about a datagram from the task, and about one to it.
#[test]
fn ends_say_that_nobody_listens_where_settings_let_them() -> Result<()> {
    for (errors, passes) in SETTINGS {
        let (test, server) = test(errors)?;
        let counters = Counters::of(&test.daemon)?;
        let task = test.task("web-1")?;
        let mut expected = Ledger::default();
        for family in [0, 1] {
            for (from, addresses, to, direction) in [
                (task, TASK, at(SERVER[family], 33_434), Direction::Ingress),
                (&server, SERVER, at(TASK[family], 53), Direction::Egress),
            ] {
                let peer = UdpPeer::bind(from, &at(addresses[family], 0).to_string())?;
                let flow = peer.send(to, b"anybody?")?;
                let told = Flow::icmp(flow.destination.ip(), flow.source.ip());
                let sent = Count::new(1, [36, 56][family]);
                let count = Count::new(1, sent.bytes + [28, 48][family]);
                let beyond = match direction {
                    Direction::Ingress => test.wire("web-1")?,
                    Direction::Egress => &test.outside,
                };
                if passes {
                    assert_eq!(beyond.await_received(told, 1)?, count);
                } else {
                    counters.await_dropped(direction, DropReason::NoRule, family as u64 + 1)?;
                    assert_eq!(beyond.received(told)?, Count::default());
                }
                expected = judged(expected, told, passes, count).accept("web-1", flow, sent);
            }
        }
        test.finish(&expected)?;
    }
    Ok(())
}
