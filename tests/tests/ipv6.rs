//! IPv6: the same rules with other numbers, and neighbours that must be discovered.

use anyhow::Result;
use testkit::{
    Config, Count, E2eTest, Ledger, OUTSIDE_V6, Topology, Wire, at, ip,
    kernel::await_gates,
    ledger::Action,
    netns::until,
    traffic::{Answer, Client, Pinger, TcpEcho, UdpPeer, probe, probe_for, try_connect},
};

const WEB: [&str; 2] = ["10.88.0.10", "fd88::10"];
const DB: [&str; 2] = ["10.88.0.20", "fd88::20"];
const WORKER: [&str; 2] = ["10.88.0.30", "fd88::30"];

/// AWS: SG-PEER-6, SG-TRACK-1, FL-ACTION-1, FL-ACTION-3
#[test]
fn a_group_means_the_ipv6_addresses_of_its_members_too() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("web", "")
            .group("worker", "")
            .group(
                "db",
                "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []",
            )
            .task("web-1", &WEB, &["web"])
            .task("worker-1", &WORKER, &["worker"])
            .task("db-1", &DB, &["db"])
    })?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut client = Client::connect(test.task("web-1")?, at(DB[1], 5432))?;
    client.echo(100_000)?;
    client.finish()?;
    assert!(try_connect(test.task("worker-1")?, at(DB[1], 5432))?.is_none());
    assert!(try_connect(test.task("db-1")?, at(WEB[1], 80))?.is_none());
    let denied_out = testkit::e2e::flow_to(test.wire("db-1")?, at(WEB[1], 80))?;
    let expected = test.denied_in(&[("worker-1", "db-1")])?.rejected("db-1", denied_out);
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-RULE-5, SG-PROTO-2, SG-PROTO-3
#[test]
fn each_family_needs_rules_of_its_own() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group(
                "v4",
                "ingress: [{ protocol: tcp, ports: 80, from: [0.0.0.0/0] }, { protocol: icmp, type: 8, from: any }], \
                 egress: [{ protocol: all, to: [0.0.0.0/0] }]",
            )
            .group(
                "v6",
                "ingress: [{ protocol: tcp, ports: 80, from: ['::/0'] }, { protocol: icmpv6, type: 128, from: any }], \
                 egress: [{ protocol: all, to: ['::/0'] }]",
            )
            .task("four-1", &WEB, &["v4"])
            .task("six-1", &DB, &["v6"])
    })?;
    for (addresses, passes) in [(WEB, [true, false]), (DB, [false, true])] {
        for ((address, passes), from) in addresses.into_iter().zip(passes).zip(["10.99.0.2", "fd99::2"]) {
            let answer = if passes { Answer::Refused } else { Answer::Silence };
            assert_eq!(
                probe_for(&test.topology.outside, at(address, 80), answer)?,
                answer,
                "{address}"
            );
            let mut pinger = Pinger::new(&test.topology.outside, ip(from), ip(address))?;
            assert_eq!(pinger.echoes()?, passes, "{address}");
        }
    }
    // And out.
    let mut expected = test.denied_in(&[("outside", "four-1"), ("outside", "six-1")])?;
    for (task, addresses, denied) in [("four-1", WEB, 1), ("six-1", DB, 0)] {
        let outside = ["10.99.0.2", "fd99::2"];
        let server = UdpPeer::bind(&test.topology.outside, &at(outside[1 - denied], 53).to_string())?;
        let from = UdpPeer::bind(test.task(task)?, &at(addresses[1 - denied], 0).to_string())?;
        let passed = from.converse(&server, 1)?;
        let from = UdpPeer::bind(test.task(task)?, &at(addresses[denied], 0).to_string())?;
        let flow = from.send(at(outside[denied], 53), b"request")?;
        let header = |v6: bool| if v6 { 40 } else { 20 };
        let (allowed, dropped) = (header(denied == 0), header(denied == 1));
        expected = expected
            .accept(task, passed, Count::new(1, allowed + 15))
            .accept(task, passed.back(), Count::new(1, allowed + 16))
            .reject(task, flow, Count::new(1, dropped + 15));
        let so_far = expected.total(task, Action::Reject).packets;
        test.await_denials(task, so_far)?;
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-TRACK-4, SG-TRACK-5, SG-TRACK-6
#[test]
fn what_is_untracked_is_decided_for_each_family() -> Result<()> {
    // IPv4 is open in both directions; IPv6 egress is not, so IPv6 ingress is tracked.
    let rules = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: [{ protocol: all, to: [0.0.0.0/0] }]";
    let mut test = E2eTest::start(|config| config.group("http", rules).task("web-1", &WEB, &["http"]))?;
    let echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let [mut v4, mut v6] = [
        Client::connect(&test.topology.outside, at(WEB[0], 80))?,
        Client::connect(&test.topology.outside, at(WEB[1], 80))?,
    ];
    v4.echo(100)?;
    v6.echo(100)?;
    test.reload(|config| config.group("http", "egress: [{ protocol: all, to: [0.0.0.0/0] }]"))?;
    assert!(!v4.echoes()?);
    v6.echo(100)?;
    v6.finish()?;
    let cut = v4.abort()?;
    echo.abort()?;
    let answered = test.outside.received(cut.back())?;
    let expected = test
        .denied_in(&[("outside", "web-1")])?
        .cut("web-1", cut.back(), answered);
    assert_ne!(expected.get("web-1", cut, Action::Reject), Count::default());
    test.finish(&expected)?;
    Ok(())
}

/// Rules do not concern neighbour discovery: even a task whose groups allow nothing finds its neighbours.
/// AWS: SG-EXEMPT-3
#[test]
fn neighbours_are_found_and_addresses_are_tried_through_a_closed_gate() -> Result<()> {
    let topology = Topology::new()?;
    let closed = |config: Config| {
        config
            .group("closed", "egress: []")
            .device_task("task-1", "tg-task", &["fd88::10"], &["closed"])
    };
    let daemon = topology.start(&closed(topology.config()))?;
    // Duplicate address detection is on: the address is used only after no other host has answered for it.
    let task = topology.device("tg-task", &["fd88::10"], false)?;
    await_gates(&topology.host, "tg-task")?;
    until("the address is tried and taken", || {
        let addresses = task.output("ip", &["-6", "address", "show", "dev", "eth0"])?;
        Ok(addresses.contains("fd88::10") && !addresses.contains("tentative"))
    })?;
    // No other packet passes, but neighbour discovery does, since packets need it.
    assert_eq!(probe(&task, at("fd99::2", 80))?, Answer::Silence);
    assert_eq!(probe(&topology.outside, at("fd88::10", 80))?, Answer::Silence);
    for (netns, link, neighbour) in [(&task, "eth0", "fe80::1"), (&topology.host, "tg-task", "fd88::10")] {
        let known = netns.output("ip", &["-6", "neighbour", "show", "dev", link])?;
        let known = known
            .lines()
            .any(|line| line.starts_with(&format!("{neighbour} ")) && line.contains("lladdr"));
        assert!(known, "{neighbour} is unknown on {link}");
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn an_address_that_somebody_else_has_is_found_out_through_the_gate() -> Result<()> {
    let topology = Topology::new()?;
    let config =
        topology
            .config()
            .group("closed", "egress: []")
            .device_task("task-1", "tg-task", &["fd88::10"], &["closed"]);
    let daemon = topology.start(&config)?;
    let task = topology.device("tg-task", &[], false)?;
    await_gates(&topology.host, "tg-task")?;
    topology.host.ip("address add fd88::10/128 dev tg-task nodad")?;
    task.ip("address add fd88::10/128 dev eth0")?;
    until("the address is found to be somebody else's", || {
        let addresses = task.output("ip", &["-6", "address", "show", "dev", "eth0"])?;
        Ok(addresses.contains("dadfailed"))
    })?;
    daemon.stop()?;
    Ok(())
}

/// AWS: SG-PROTO-3
#[test]
fn an_eni_that_taskgate_made_finds_its_way_by_ipv6_alone() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group(
                "ping",
                "ingress: [{ protocol: icmpv6, type: 128, code: 0, from: ['fd99::/64'] }]",
            )
            .task("six-1", &["fd88::10"], &["ping"])
    })?;
    Pinger::new(&test.topology.outside, OUTSIDE_V6, ip("fd88::10"))?.echo()?;
    Pinger::new(test.task("six-1")?, ip("fd88::10"), OUTSIDE_V6)?.echo()?;
    let expected = test.passed()?;
    assert_eq!(
        expected,
        Ledger::of_wires(&[("six-1", test.wire("six-1")?)])?,
        "nothing else was on the way"
    );
    test.finish(&expected)?;
    Ok(())
}

/// The wires of an IPv6 flow with large segments agree with its records.
/// AWS: FL-FLOW-5
#[test]
fn segments_are_counted_as_what_is_on_the_wire() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("http", "ingress: [{ protocol: tcp, ports: 80, from: ['fd99::2/128'] }]")
            .task("web-1", &WEB, &["http"])
    })?;
    let far = Wire::tap(&test.topology.outside, "eth0")?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut client = Client::connect(&test.topology.outside, at(WEB[1], 80))?;
    client.echo(500_000)?;
    let flow = client.finish()?;
    assert_eq!(far.sent(flow)?, test.wire("web-1")?.received(flow)?);
    assert!(far.sent(flow)?.packets > 500_000 / 1_440);
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}
