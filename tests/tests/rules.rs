//! Rules over IPv4: ports, protocols, ICMP, group references, replies.

use anyhow::Result;
use testkit::{
    Config, Count, E2eTest, Flow, OUTSIDE_V4, at, ip,
    ledger::Action,
    traffic::{Answer, Client, DENIED, Pinger, TcpEcho, UdpPeer, inject, probe, probe_for, try_connect},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const WORKER: &str = "10.88.0.30";

/// web may open db's port, worker may open anything, db lets in only web and opens nothing.
fn shop(config: Config) -> Config {
    config
        .group("web", "egress: [{ protocol: tcp, ports: 5432, to: [group:db] }]")
        .group("worker", "")
        .group(
            "db",
            "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []",
        )
        .task("web-1", &[WEB], &["web"])
        .task("db-1", &[DB], &["db"])
        .task("worker-1", &[WORKER], &["worker"])
}

/// AWS: SG-RULE-1, SG-PEER-3, SG-TRACK-1, FL-ACTION-3, ECS-TASK-2
#[test]
fn what_both_groups_allow_passes_and_replies_need_no_rule() -> Result<()> {
    let test = E2eTest::start(shop)?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut client = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    client.echo(10_000)?;
    let flow = client.finish()?;
    let expected = test.passed()?;
    for (task, flow) in [
        ("web-1", flow),
        ("web-1", flow.back()),
        ("db-1", flow),
        ("db-1", flow.back()),
    ] {
        assert_ne!(
            expected.get(task, flow, Action::Accept),
            Count::default(),
            "{task} {flow:?}"
        );
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-RULE-1, SG-RULE-4, SG-RULE-7, FL-ACTION-1, FL-ACTION-2, ECS-TASK-2
#[test]
fn what_one_of_both_groups_does_not_allow_is_dropped_there() -> Result<()> {
    let test = E2eTest::start(shop)?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let _other = TcpEcho::start(test.task("web-1")?, 80)?;
    // The receiver's group does not name worker.
    assert_eq!(probe(test.task("worker-1")?, at(DB, 5432))?, Answer::Silence);
    // web's egress knows this port of db's only.
    assert_eq!(probe(test.task("web-1")?, at(DB, 5433))?, Answer::Silence);
    // db opens nothing.
    assert_eq!(probe(test.task("db-1")?, at(WORKER, 80))?, Answer::Silence);
    let refused_out = [("web-1", at(DB, 5433)), ("db-1", at(WORKER, 80))];
    let mut expected = test.passed()?;
    for (task, to) in refused_out {
        let flow = testkit::e2e::flow_to(test.wire(task)?, to)?;
        expected = expected.rejected(task, flow);
    }
    for (flow, count) in test.not_let_in("worker-1", "db-1")? {
        expected = expected.reject("db-1", flow, count);
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-RULE-3, SG-PROTO-1
#[test]
fn ports_and_peers_are_met_to_the_number() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group(
                "server",
                "ingress: [\
                 { protocol: tcp, ports: [80, 8000-8100], from: [10.99.0.0/24] }, \
                 { protocol: tcp, ports: 22, from: [10.99.0.3/32] }, \
                 { protocol: udp, ports: 443, from: [10.99.0.2/32] }], egress: []",
            )
            .task("server-1", &[WEB], &["server"])
    })?;
    let cases = [
        (79, Answer::Silence),
        (80, Answer::Refused),
        (81, Answer::Silence),
        (7999, Answer::Silence),
        (8000, Answer::Refused),
        (8050, Answer::Refused),
        (8100, Answer::Refused),
        (8101, Answer::Silence),
        (22, Answer::Silence),
        (443, Answer::Silence),
    ];
    for (port, answer) in cases {
        assert_eq!(
            probe_for(&test.topology.outside, at(WEB, port), answer)?,
            answer,
            "port {port}"
        );
    }
    let expected = test.denied_in(&[("outside", "server-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-RULE-1, SG-PEER-4
#[test]
fn groups_add_up_and_sharing_one_allows_nothing() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("http", "ingress: [{ protocol: tcp, ports: 80, from: any }]")
            .group("mesh", "ingress: [{ protocol: tcp, ports: 7000, from: self }]")
            .task("a-1", &[WEB], &["http", "mesh"])
            .task("b-1", &[DB], &["mesh"])
            .task("c-1", &[WORKER], &["http"])
    })?;
    for (from, to, port, answer) in [
        ("b-1", WEB, 80, Answer::Refused),
        ("b-1", WEB, 7000, Answer::Refused),
        ("b-1", WEB, 7001, Answer::Silence),
        ("a-1", DB, 7000, Answer::Refused),
        ("a-1", DB, 80, Answer::Silence),
        ("c-1", WEB, 80, Answer::Refused),
        ("c-1", WEB, 7000, Answer::Silence),
    ] {
        assert_eq!(
            probe_for(test.task(from)?, at(to, port), answer)?,
            answer,
            "{from} to {to}:{port}"
        );
    }
    let expected = test.denied_in(&[("b-1", "a-1"), ("a-1", "b-1"), ("c-1", "a-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: ECS-TASK-1
#[test]
fn two_tasks_listen_on_one_port() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("http", "ingress: [{ protocol: tcp, ports: 80, from: any }]")
            .task("a-1", &[WEB], &["http"])
            .task("b-1", &[DB], &["http"])
    })?;
    let _a = TcpEcho::start(test.task("a-1")?, 80)?;
    let _b = TcpEcho::start(test.task("b-1")?, 80)?;
    for address in [WEB, DB] {
        let mut client = Client::connect(&test.topology.outside, at(address, 80))?;
        client.echo(100)?;
        client.finish()?;
    }
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-TRACK-1, SG-RULE-4, FL-FLOW-1, FL-FLOW-2
#[test]
fn udp_passes_by_rule_and_back_by_state_and_no_further() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group(
                "dns",
                "ingress: [{ protocol: udp, ports: 53, from: [10.99.0.0/24] }], egress: []",
            )
            .task("dns-1", &[WEB], &["dns"])
    })?;
    let server = UdpPeer::bind(test.task("dns-1")?, "10.88.0.10:53")?;
    let other = UdpPeer::bind(test.task("dns-1")?, "10.88.0.10:54")?;
    let client = UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?;
    let stranger = UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?;
    let flow = client.converse(&server, 3)?;
    // Another port of the server is not allowed, nor is a flow that the server opens, even from the port that answers.
    let denied_in = client.send(other.address(), b"no such rule")?;
    let denied_out = server.send(stranger.address(), b"nobody asked")?;
    test.await_denials("dns-1", 2)?;
    assert!(other.is_silent()? && stranger.is_silent()?);
    // The first connection is not affected.
    client.converse(&server, 1)?;
    let expected = test
        .passed()?
        .rejected("dns-1", denied_out)
        .reject("dns-1", denied_in, Count::new(1, 20 + 8 + 12));
    assert_eq!(expected.get("dns-1", flow, Action::Accept), Count::new(4, 4 * 35));
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-PROTO-2, SG-PROTO-3, FL-FLOW-4
#[test]
fn icmp_is_met_by_type_and_code() -> Result<()> {
    const ECHO: (u8, u8) = (8, 0);
    const OTHER_CODE: (u8, u8) = (8, 5);
    const TIMESTAMP: (u8, u8) = (13, 0);
    let groups = [
        ("none", "10.88.1.1", "", [false, false, false]),
        ("all", "10.88.1.2", "{ protocol: icmp, from: [10.99.0.2] }", [true; 3]),
        (
            "type",
            "10.88.1.3",
            "{ protocol: icmp, type: 8, from: [10.99.0.2] }",
            [true, true, false],
        ),
        (
            "code",
            "10.88.1.4",
            "{ protocol: icmp, type: 8, code: 0, from: [10.99.0.2] }",
            [true, false, false],
        ),
        (
            "other",
            "10.88.1.5",
            "{ protocol: icmp, type: 13, from: [10.99.0.2] }",
            [false, false, true],
        ),
        ("v6", "10.88.1.6", "{ protocol: icmpv6, from: any }", [false; 3]),
        ("tcp", "10.88.1.7", "{ protocol: tcp, from: any }", [false; 3]),
    ];
    let test = E2eTest::start(|config| {
        groups.iter().fold(config, |config, (name, address, rule, _)| {
            config.group(name, &format!("ingress: [{rule}], egress: []")).task(
                &format!("{name}-1"),
                &[address],
                &[name],
            )
        })
    })?;
    for (_, address, ..) in groups {
        for (kind, code) in [ECHO, OTHER_CODE, TIMESTAMP] {
            // Each has a different identifier, since an admitted request is tracked under it.
            Pinger::new(&test.topology.outside, OUTSIDE_V4, ip(address))?.request(kind, code)?;
        }
    }
    for (name, address, _, passes) in groups {
        let passed = passes.iter().filter(|passes| **passes).count() as u64;
        let (task, flow) = (format!("{name}-1"), Flow::icmp(OUTSIDE_V4, ip(address)));
        test.wire(&task)?.await_received(flow, passed)?;
        test.await_denials(&task, 3 - passed)?;
        // A task without egress rules answers requests.
        if passes[0] {
            Pinger::new(&test.topology.outside, OUTSIDE_V4, ip(address))?.echo()?;
        }
    }
    let pairs = groups.map(|(name, ..)| format!("{name}-1"));
    let pairs: Vec<_> = pairs.iter().map(|task| ("outside", task.as_str())).collect();
    let expected = test.denied_in(&pairs)?;
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-PROTO-1, SG-TRACK-3, FL-FLOW-4
#[test]
fn other_protocols_go_by_number_and_pair_of_addresses() -> Result<()> {
    const ALLOWED: u8 = 253;
    const DENIED_NUMBER: u8 = 254;
    let packet = |source: &str, destination: &str, protocol: u8| -> Result<(Flow, Vec<u8>)> {
        let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) = (ip(source), ip(destination)) else {
            anyhow::bail!("IPv4 here");
        };
        let header = etherparse::Ipv4Header::new(8, 64, protocol.into(), from.octets(), to.octets())?;
        let mut packet = Vec::new();
        header.write(&mut packet)?;
        packet.extend([7; 8]);
        Ok((Flow::plain(from.into(), to.into(), protocol), packet))
    };
    let test = E2eTest::start(|config| {
        config
            .group(
                "tunnel",
                "ingress: [{ protocol: 253, from: [10.99.0.0/24] }], egress: []",
            )
            .task("tunnel-1", &[WEB], &["tunnel"])
    })?;
    let send = |from: &testkit::Netns, source: &str, destination: &str, protocol| -> Result<Flow> {
        let (flow, packet) = packet(source, destination, protocol)?;
        inject(from, &packet)?;
        Ok(flow)
    };
    let task = test.task("tunnel-1")?;
    // Packets that the task sends first are denied, its answers are not.
    let out = send(task, WEB, "10.99.0.2", ALLOWED)?;
    test.await_denials("tunnel-1", 1)?;
    let inward = send(&test.topology.outside, "10.99.0.2", WEB, ALLOWED)?;
    test.wire("tunnel-1")?.await_received(inward, 1)?;
    send(task, WEB, "10.99.0.2", ALLOWED)?;
    test.outside.await_received(out, 1)?;
    send(&test.topology.outside, "10.99.0.2", WEB, DENIED_NUMBER)?;
    // Both kernels also report by ICMP that the protocol is unsupported, which no rule allows either.
    test.await_denials("tunnel-1", 4)?;
    let expected = test
        .denied_in(&[("outside", "tunnel-1")])?
        .cut("tunnel-1", out, Count::new(1, 28))
        .rejected("tunnel-1", Flow::icmp(ip(WEB), OUTSIDE_V4));
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-RULE-4
#[test]
fn a_group_that_says_nothing_of_egress_lets_everything_out_and_nothing_in() -> Result<()> {
    let test = E2eTest::start(|config| config.group("new", "").task("new-1", &[WEB], &["new"]))?;
    let task = test.task("new-1")?;
    assert_eq!(probe_for(task, at("10.99.0.2", 81), Answer::Refused)?, Answer::Refused);
    let mut pinger = Pinger::new(task, ip(WEB), OUTSIDE_V4)?;
    pinger.echo()?;
    let server = UdpPeer::bind(&test.topology.outside, "10.99.0.2:53")?;
    UdpPeer::bind(task, "10.88.0.10:0")?.converse(&server, 1)?;
    assert!(try_connect(&test.topology.outside, at(WEB, 81))?.is_none());
    let mut back = Pinger::new(&test.topology.outside, OUTSIDE_V4, ip(WEB))?;
    assert!(!back.echoes()?, "within {DENIED:?}");
    let expected = test.denied_in(&[("outside", "new-1")])?;
    test.finish(&expected)?;
    Ok(())
}
