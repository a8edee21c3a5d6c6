//! Datagrams larger than a link's MTU: kernels fragment and reassemble them, and gates see the fragments.

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Config, Count, Counters, E2eTest, Flow, Ledger, Netns, Wire, at, ip,
    ledger::protocol::{TCP, UDP},
    traffic::{Bulk, Pinger, UdpPeer, inject},
    wire::Way,
};

use super::{frames, mtu::routed};

const WEB: [&str; 2] = ["10.88.0.10", "fd88::10"];
const DB: [&str; 2] = ["10.88.0.20", "fd88::20"];
const OUTSIDE: [&str; 2] = ["10.99.0.2", "fd99::2"];
const DNS: &str = "ingress: [{ protocol: udp, ports: 53, from: any }], egress: [{ protocol: udp, ports: 53, to: any }]";
/// Payloads of two fragments, of many, with a last fragment of one byte, and of the largest possible datagram.
const SIZES: [usize; 4] = [1473, 8000, 1480 * 3 - 8 + 1, 65_000];

fn two(config: Config) -> Config {
    config
        .group("dns", DNS)
        .task("web-1", &WEB, &["dns"])
        .task("db-1", &DB, &["dns"])
}

/// The sums of the fragments of datagrams with these payloads on links of 1500 bytes.
fn parts(v6: bool, payloads: &[usize]) -> Count {
    // Each part has a header, and carries a multiple of eight bytes.
    let (header, room) = if v6 { (48, 1448) } else { (20, 1480) };
    let of_one = |payload: &usize| {
        let data = payload + 8;
        let parts = data.div_ceil(room);
        Count::new(parts as u64, (data + parts * header) as u64)
    };
    payloads.iter().map(of_one).sum()
}

/// Everything that a link saw between two addresses, since fragments have no ports.
fn seen(wire: &Wire, way: Way, flow: Flow) -> Result<Count> {
    let flow = Flow::plain(flow.source.ip(), flow.destination.ip(), UDP);
    Ok(wire.flows()?.get(&(way, flow)).copied().unwrap_or_default())
}

/// AWS: FL-FLOW-5
#[test]
fn datagrams_larger_than_a_link_arrive_whole_and_every_part_is_counted() -> Result<()> {
    for family in [0, 1] {
        let test = E2eTest::start(two)?;
        let (web, outside) = (test.task("web-1")?, &test.topology.outside);
        let any =
            |netns: &Netns, addresses: [&str; 2], port| UdpPeer::bind(netns, &at(addresses[family], port).to_string());
        let mut expected = Ledger::default();
        // From outside to a task, from a task to outside, and from one task to another through both their gates.
        for (from, to, tasks) in [
            (any(outside, OUTSIDE, 0)?, any(web, WEB, 53)?, &["web-1"][..]),
            (any(web, WEB, 0)?, any(outside, OUTSIDE, 53)?, &["web-1"]),
            (any(web, WEB, 0)?, any(test.task("db-1")?, DB, 53)?, &["web-1", "db-1"]),
        ] {
            let (flow, count) = (from.flow_to(to.address()), parts(family == 1, &SIZES));
            let crossed = |task: &str| {
                let (ways, wire) = ([Way::Out, Way::In], test.wire(task)?);
                let both = ways.map(|way| anyhow::Ok(seen(wire, way, flow)? + seen(wire, way, flow.back())?));
                let [out, in_] = both;
                anyhow::Ok([out?, in_?])
            };
            let before: Vec<_> = tasks.iter().map(|task| crossed(task)).collect::<Result<_>>()?;
            // Answers are as large as requests.
            for size in SIZES {
                let data: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
                from.send(to.address(), &data)?;
                let back = to.expect(&data)?;
                to.send(back, &data)?;
                from.expect(&data)?;
            }
            for (task, before) in tasks.iter().zip(before) {
                let after = crossed(task)?;
                for way in [0, 1] {
                    assert_eq!(after[way] - before[way], count, "{task}");
                }
                expected = expected.accept(task, flow, count).accept(task, flow.back(), count);
            }
        }
        test.finish(&expected)?;
    }
    Ok(())
}

/// AWS: FL-ACTION-1
#[test]
fn of_datagrams_to_a_denied_port_no_part_gets_through() -> Result<()> {
    for family in [0, 1] {
        let test = E2eTest::start(two)?;
        let counters = Counters::of(&test.daemon)?;
        let (web, outside) = (test.task("web-1")?, &test.topology.outside);
        let mut expected = Ledger::default();
        for (from, addresses, to, direction) in [
            (outside, OUTSIDE, WEB, Direction::Ingress),
            (web, WEB, OUTSIDE, Direction::Egress),
        ] {
            let sender = UdpPeer::bind(from, &at(addresses[family], 0).to_string())?;
            let data = [0; 8000];
            let flow = sender.send(at(to[family], 54), &data)?;
            let all = parts(family == 1, &[data.len()]);
            let first = Count::new(1, if family == 1 { 1496 } else { 1500 });
            let later = Flow::plain(flow.source.ip(), flow.destination.ip(), UDP);
            counters.await_dropped(direction, DropReason::NoRule, 1)?;
            counters.await_dropped(direction, DropReason::FragmentWithoutFirst, all.packets - 1)?;
            expected = expected
                .reject("web-1", flow, first)
                .reject("web-1", later, all - first);
            let beyond = match direction {
                Direction::Ingress => test.wire("web-1")?,
                Direction::Egress => &test.outside,
            };
            assert_eq!(seen(beyond, Way::In, flow)?, Count::default());
        }
        test.finish(&expected)?;
    }
    Ok(())
}

/// Two parts of a datagram to port 53, of 24 bytes and of `later`.
fn cut_in_two(flow: Flow, number: u16, later: &[u8]) -> [Vec<u8>; 2] {
    let mut first = frames::udp(flow.source.port(), flow.destination.port(), &[7; 16]);
    first[4..6].copy_from_slice(&(24 + later.len() as u16).to_be_bytes());
    let (from, to) = (flow.source.ip(), flow.destination.ip());
    [(0, true, &*first), (3, false, later)].map(|(offset, more, payload)| {
        let mut frame = if from.is_ipv4() {
            let word = offset | if more { frames::MORE_FRAGMENTS } else { 0 };
            frames::ipv4(from, to, UDP, &[], word, payload)
        } else {
            frames::ipv6(from, to, 44, 64, &frames::fragment(UDP, offset, more, payload))
        };
        let identification = if from.is_ipv4() { 18 } else { 60 };
        frame[identification..][..2].copy_from_slice(&number.to_be_bytes());
        frame.split_off(14)
    })
}

/// The host that forwards puts nothing together, so parts meet the gate in the order in which they come.
#[test]
fn a_part_that_comes_before_its_first_is_lost_and_only_that() -> Result<()> {
    for family in [0, 1] {
        let test = E2eTest::start(two)?;
        let counters = Counters::of(&test.daemon)?;
        let web = test.task("web-1")?;
        let mut expected = Ledger::default();
        for (from, addresses, to, direction) in [
            (&test.topology.outside, OUTSIDE, WEB, Direction::Ingress),
            (web, WEB, OUTSIDE, Direction::Egress),
        ] {
            let flow = Flow::udp(at(addresses[family], 20_000), at(to[family], 53));
            let plain = Flow::plain(flow.source.ip(), flow.destination.ip(), UDP);
            let [first, later] = cut_in_two(flow, 77, b"a later part");
            let beyond = match direction {
                Direction::Ingress => test.wire("web-1")?,
                Direction::Egress => &test.outside,
            };
            inject(from, &later)?;
            counters.await_dropped(direction, DropReason::FragmentWithoutFirst, 1)?;
            assert_eq!(seen(beyond, Way::In, flow)?, Count::default());
            inject(from, &first)?;
            beyond.await_received(plain, 1)?;
            inject(from, &later)?;
            let both = beyond.await_received(plain, 2)?;
            // The first fragment of another datagram says nothing about this one.
            let [_, other] = cut_in_two(flow, 78, b"of another one");
            inject(from, &other)?;
            counters.await_dropped(direction, DropReason::FragmentWithoutFirst, 2)?;
            let lost = Count::new(2, (later.len() + other.len()) as u64);
            assert_eq!(both, Count::new(2, (first.len() + later.len()) as u64));
            expected = expected.accept("web-1", flow, both).reject("web-1", plain, lost);
            assert_eq!(seen(beyond, Way::In, flow)?, both);
        }
        // The task may report that reassembly timed out, or that the port has no listener: no rule allows that.
        let recorded = test.daemon.stop()?.ledger()?;
        assert_eq!(recorded.of(|flow| flow.protocol == UDP), expected);
    }
    Ok(())
}

/// AWS: FL-FLOW-4
#[test]
fn large_pings_and_their_answers_get_through_by_the_rule_for_small_ones() -> Result<()> {
    for family in [0, 1] {
        let test = E2eTest::start(|config| {
            let rules = "ingress: [{ protocol: icmp, type: 8, from: any }, { protocol: icmpv6, type: 128, from: any }], \
                         egress: []";
            config.group("ping", rules).task("web-1", &WEB, &["ping"])
        })?;
        let mut expected = Ledger::default();
        for payload in [1474, 8000, 60_000] {
            let pinger = Pinger::new(&test.topology.outside, ip(OUTSIDE[family]), ip(WEB[family]))?;
            let mut pinger = pinger.with_payload(payload);
            pinger.echo()?;
            let (flow, count) = (pinger.flow(), parts(family == 1, &[payload]));
            expected = expected
                .accept("web-1", flow, count)
                .accept("web-1", flow.back(), count);
        }
        test.finish(&expected)?;
    }
    Ok(())
}

/// Without path MTU discovery, routers fragment a sender's packets, and a whole transfer arrives in fragments.
#[test]
fn tcp_that_a_router_cuts_up_is_one_connection() -> Result<()> {
    let (topology, server) = routed()?;
    server.set("net.ipv4.ip_no_pmtu_disc", "1")?;
    topology.outside.ip("link set dev eth0 mtu 1300")?;
    let test = E2eTest::in_topology(topology, |config| {
        let rules = "ingress: [{ protocol: tcp, ports: 5001, from: any }], egress: []";
        config.group("in", rules).task("web-1", &WEB, &["in"])
    })?;
    let bulk = Bulk::start(&server, test.task("web-1")?, at(WEB[0], 5001))?;
    let flow = bulk.flow();
    bulk.await_more(4 << 20)?;
    bulk.finish()?;
    let wire = test.wire("web-1")?;
    let cut = wire.received(Flow::plain(flow.source.ip(), flow.destination.ip(), TCP))?;
    assert!(cut.packets > 2000, "{cut:?}");
    let expected = Ledger::default()
        .accept("web-1", flow, cut + wire.received(flow)?)
        .accept("web-1", flow.back(), wire.sent(flow.back())?);
    test.finish(&expected)?;
    Ok(())
}

/// More than a task's share of remembered datagrams: complete datagrams are forgotten.
#[test]
fn many_large_datagrams_in_a_row_all_arrive() -> Result<()> {
    const MANY: usize = 10_000;
    for family in [0, 1] {
        let test = E2eTest::start(two)?;
        let web = test.task("web-1")?;
        let from = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE[family], 0).to_string())?;
        let to = UdpPeer::bind(web, &at(WEB[family], 53).to_string())?;
        let data = [1; 2000];
        for _ in 0..MANY {
            from.send(to.address(), &data)?;
            to.expect(&data)?;
        }
        let expected = Ledger::default().accept(
            "web-1",
            from.flow_to(to.address()),
            parts(family == 1, &vec![data.len(); MANY]),
        );
        test.finish(&expected)?;
    }
    Ok(())
}
