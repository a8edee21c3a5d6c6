//! Addresses: a task is only itself, and some addresses need no rule.

use anyhow::Result;
use testkit::{
    Count, E2eTest, Flow, OUTSIDE_V4, Topology, at, ip,
    ledger::Action,
    traffic::{Answer, TcpEcho, UdpPeer, inject, probe, probe_for, udp_packet},
};

const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
const OTHER: [&str; 2] = ["10.88.0.20", "fd88::20"];
/// All is allowed, in and out.
const OPEN: &str = "ingress: [{ protocol: all, from: any }]";
/// The Amazon DNS resolver.
const RESOLVER: &str = "169.254.169.253";

/// AWS: SG-CHECK-1, FL-ACTION-4, FL-FLOW-6, FL-FLOW-7
#[test]
fn a_task_sends_as_itself_or_not_at_all() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("open", OPEN)
            .task("task-1", &TASK, &["open"])
            .task("other-1", &OTHER, &["open"])
    })?;
    let task = test.task("task-1")?;
    // From here on the task claims other hosts' addresses as well.
    task.ip("address add 10.66.0.1/32 dev eth0
         address add 10.88.0.20/32 dev eth0
         address add fd66::1/128 dev eth0 nodad
         address add fd88::20/128 dev eth0 nodad")?;
    let mut expected = test.passed()?;
    // Under its own addresses the task may send, and so learns its gateway's hardware address.
    for (own, outside) in TASK.into_iter().zip(["10.99.0.2", "fd99::2"]) {
        let server = UdpPeer::bind(&test.topology.outside, &at(outside, 53).to_string())?;
        let flow = UdpPeer::bind(task, &at(own, 0).to_string())?.converse(&server, 1)?;
        let header = if own.contains(':') { 40 } else { 20 };
        expected = expected.accept("task-1", flow, Count::new(1, header + 15)).accept(
            "task-1",
            flow.back(),
            Count::new(1, header + 16),
        );
    }
    // Under a stranger's or a neighbour's address it may not.
    for (number, source) in ["10.66.0.1", OTHER[0], "fd66::1", OTHER[1]].into_iter().enumerate() {
        let v6 = source.contains(':');
        let outside = if v6 { "fd99::2" } else { "10.99.0.2" };
        let spoofed = UdpPeer::bind(task, &at(source, 4000).to_string())?;
        let flow = spoofed.send(at(outside, 53), b"me?")?;
        // IPv4 records name the ENI's primary address, whatever the packet's source.
        let recorded = if v6 {
            flow
        } else {
            Flow::udp(at(TASK[0], 4000), at(outside, 53))
        };
        let header = if v6 { 40 } else { 20 };
        expected = expected.reject("task-1", recorded, Count::new(1, header + 8 + 3));
        test.await_denials("task-1", number as u64 + 1)?;
        assert_eq!(test.outside.received(flow)?, Count::default());
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-CHECK-1, FL-ACTION-4
#[test]
fn nobody_reaches_a_task_as_the_task_itself() -> Result<()> {
    let test = E2eTest::start(|config| config.group("open", OPEN).task("task-1", &TASK, &["open"]))?;
    let servers = [
        UdpPeer::bind(test.task("task-1")?, "10.88.0.10:53")?,
        UdpPeer::bind(test.task("task-1")?, "[fd88::10]:53")?,
    ];
    for server in &servers {
        let own = std::net::SocketAddr::new(server.address().ip(), 4000);
        let flow = Flow::udp(own, server.address());
        inject(&test.topology.outside, &udp_packet(flow, b"yourself")?)?;
    }
    test.await_denials("task-1", 2)?;
    for server in &servers {
        assert!(server.is_silent()?);
    }
    let expected = test.denied_in(&[("outside", "task-1")])?;
    assert_eq!(expected.total("task-1", Action::Reject), Count::new(2, 36 + 56));
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-CHECK-1, SG-CHECK-2, FL-ACTION-4
#[test]
fn what_is_not_for_a_task_reaches_only_one_that_is_no_endpoint() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("open", OPEN)
            .group("dns", "ingress: [{ protocol: udp, ports: 53, from: any }], egress: []")
            .task("end-1", &["10.88.0.10"], &["open"])
            .task("nat-1", &["10.88.0.20"], &["dns"])
            .amend("nat-1", "source-dest-check: false")
    })?;
    for (task, own, behind) in [
        ("end-1", "10.88.0.10", "10.66.1.1"),
        ("nat-1", "10.88.0.20", "10.66.2.1"),
    ] {
        let link = test.topology.host_link(task)?;
        test.topology
            .host
            .ip(&format!("route add {behind}/32 via {own} dev {link} onlink"))?;
        test.task(task)?.ip(&format!("address add {behind}/32 dev lo"))?;
    }
    let client = UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?;
    let behind_end = UdpPeer::bind(test.task("end-1")?, "10.66.1.1:53")?;
    let behind_nat = UdpPeer::bind(test.task("nat-1")?, "10.66.2.1:53")?;
    client.converse(&behind_nat, 1)?;
    client.send(behind_end.address(), b"request")?;
    // The rules still count.
    client.send(at("10.66.2.1", 54), b"request")?;
    test.await_denials("end-1", 1)?;
    test.await_denials("nat-1", 1)?;
    assert!(behind_end.is_silent()?);
    let from = client.address();
    let nat = Flow::udp(from, at("10.88.0.20", 53));
    let expected = testkit::Ledger::default()
        .reject("end-1", Flow::udp(from, at("10.88.0.10", 53)), Count::new(1, 35))
        .reject("nat-1", Flow::udp(from, at("10.88.0.20", 54)), Count::new(1, 35))
        .accept("nat-1", nat, Count::new(1, 35))
        .accept("nat-1", nat.back(), Count::new(1, 36));
    test.finish(&expected)?;
    Ok(())
}

/// A topology whose outside host has the resolver's addresses.
fn with_resolver() -> Result<Topology> {
    let topology = Topology::new()?;
    topology.outside.ip("address add 169.254.169.253/32 dev lo
         address add fd00:ec2::253/128 dev lo nodad")?;
    topology.host.ip("route add 169.254.169.253/32 via 10.99.0.2
         route add fd00:ec2::253/128 via fd99::2")?;
    Ok(topology)
}

/// AWS: SG-EXEMPT-1, FL-SILENT-1
#[test]
fn the_resolver_needs_no_rule_and_leaves_no_record() -> Result<()> {
    let test = E2eTest::in_topology(with_resolver()?, |config| {
        config.group("closed", "egress: []").task("task-1", &TASK, &["closed"])
    })?;
    let task = test.task("task-1")?;
    let udp = UdpPeer::bind(&test.topology.outside, &at(RESOLVER, 53).to_string())?;
    let udp6 = UdpPeer::bind(&test.topology.outside, "[fd00:ec2::253]:53")?;
    UdpPeer::bind(task, "10.88.0.10:0")?.converse(&udp, 2)?;
    UdpPeer::bind(task, "[fd88::10]:0")?.converse(&udp6, 2)?;
    // By TCP as well.
    let _echo = TcpEcho::start(&test.topology.outside, 53)?;
    assert_eq!(probe_for(task, at(RESOLVER, 53), Answer::Open)?, Answer::Open);
    // Unsolicited packets from the resolver are not exempt, and each denial has a record.
    let server = UdpPeer::bind(task, "10.88.0.10:7000")?;
    let unasked = udp.send(server.address(), b"unasked")?;
    assert_eq!(
        probe(task, at("10.99.0.2", 53))?,
        Answer::Silence,
        "the same host under its own name"
    );
    let own_name = testkit::e2e::flow_to(test.wire("task-1")?, at("10.99.0.2", 53))?;
    let sent = test.wire("task-1")?.sent(own_name)?;
    test.await_denials("task-1", sent.packets + 1)?;
    assert!(server.is_silent()?);
    let expected =
        testkit::Ledger::default()
            .reject("task-1", own_name, sent)
            .reject("task-1", unasked, Count::new(1, 35));
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-EXEMPT-1
#[test]
fn what_is_exempt_is_recorded_where_the_settings_say_so() -> Result<()> {
    let test = E2eTest::in_topology(with_resolver()?, |config| {
        config
            .group("closed", "egress: []")
            .task("task-1", &TASK, &["closed"])
            .with("settings: { unlogged: none }")
    })?;
    let resolver = UdpPeer::bind(&test.topology.outside, &at(RESOLVER, 53).to_string())?;
    let server = UdpPeer::bind(test.task("task-1")?, "10.88.0.10:7000")?;
    UdpPeer::bind(test.task("task-1")?, "10.88.0.10:0")?.converse(&resolver, 2)?;
    resolver.send(server.address(), b"unasked")?;
    test.await_denials("task-1", 1)?;
    assert!(server.is_silent()?);
    let expected = test.denied_in(&[("outside", "task-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-EXEMPT-2, FL-SILENT-1
#[test]
fn a_dns_server_of_ones_own_needs_a_rule_and_is_recorded() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("closed", "egress: []")
            .group("dns", "egress: [{ protocol: udp, ports: 53, to: [10.99.0.2] }]")
            .task("task-1", &["10.88.0.10"], &["closed"])
            .task("task-2", &["10.88.0.20"], &["dns"])
    })?;
    let server = UdpPeer::bind(&test.topology.outside, "10.99.0.2:53")?;
    UdpPeer::bind(test.task("task-2")?, "10.88.0.20:0")?.converse(&server, 1)?;
    let denied = UdpPeer::bind(test.task("task-1")?, "10.88.0.10:0")?.send(server.address(), b"request")?;
    test.await_denials("task-1", 1)?;
    assert!(server.is_silent()?);
    let expected = test.passed()?.rejected("task-1", denied);
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn without_exemptions_the_resolver_is_an_address_like_any_other() -> Result<()> {
    let test = E2eTest::in_topology(with_resolver()?, |config| {
        config
            .group("closed", "egress: []")
            .task("task-1", &["10.88.0.10"], &["closed"])
            .with("settings: { exempt: none, unlogged: none }")
    })?;
    let resolver = UdpPeer::bind(&test.topology.outside, &at(RESOLVER, 53).to_string())?;
    let client = UdpPeer::bind(test.task("task-1")?, "10.88.0.10:0")?;
    let denied = client.send(resolver.address(), b"request")?;
    test.await_denials("task-1", 1)?;
    assert!(resolver.is_silent()?);
    let expected = test.passed()?.rejected("task-1", denied);
    assert_eq!(denied, Flow::udp(client.address(), (ip(RESOLVER), 53).into()));
    assert_ne!(denied.destination.ip(), OUTSIDE_V4);
    test.finish(&expected)?;
    Ok(())
}
