//! Flow records: which ENI reports which packets, how many, and when.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use testkit::{
    Config, Count, E2eTest, OUTSIDE_V4, Topology, Wire, at,
    e2e::flow_to,
    ledger::Action,
    record::{Record, Status},
    traffic::{Answer, Client, Pinger, TcpEcho, UdpPeer, probe},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";

fn pair(config: Config) -> Config {
    config
        .group("web", "")
        .group(
            "db",
            "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []",
        )
        .task("web-1", &[WEB], &["web"])
        .task("db-1", &[DB], &["db"])
}

fn now() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

/// AWS: FL-ACTION-1, FL-FLOW-3, FL-LINE-1, ECS-TASK-2
#[test]
fn a_denial_on_one_host_leaves_accept_at_the_sender_and_reject_at_the_receiver() -> Result<()> {
    let test = E2eTest::start(pair)?;
    let begun = now()?;
    assert_eq!(probe(test.task("web-1")?, at(DB, 5433))?, Answer::Silence);
    let flow = flow_to(test.wire("web-1")?, at(DB, 5433))?;
    let sent = test.wire("web-1")?.sent(flow)?;
    // A SYN of Linux has 60 bytes: 20 of IPv4, 20 of TCP, 20 of options.
    assert_eq!(sent.bytes, 60 * sent.packets);
    let expected = test.denied_in(&[("web-1", "db-1")])?;
    let stopped = test.finish(&expected)?;
    for (task, action) in [("web-1", Action::Accept), ("db-1", Action::Reject)] {
        let about = |record: &&Record| record.flow.as_ref().is_some_and(|seen| seen.tuple == flow);
        let [record] = stopped.records_of(task).filter(about).collect::<Vec<_>>()[..] else {
            // A SYN that was sent again fell into the next window.
            assert!(sent.packets > 1);
            continue;
        };
        let seen = record.flow.as_ref().context("a flow")?;
        assert_eq!((seen.tuple, seen.count, seen.action), (flow, sent, action));
        assert_eq!((&*record.account, record.status), ("000000000000", Status::Ok));
        assert!((begun - 1..=now()? + 1).contains(&record.start), "{record:?}");
    }
    Ok(())
}

/// AWS: FL-FLOW-1, FL-FLOW-3, FL-FLOW-5, FL-WINDOW-1
#[test]
fn many_connections_over_many_windows_add_up_to_what_was_on_the_wire() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group(
                "http",
                "ingress: [{ protocol: tcp, ports: 80, from: [10.99.0.0/24, 10.88.0.0/24] }]",
            )
            .task("web-1", &[WEB, "fd88::10"], &["http"])
            .task("web-2", &[DB], &["http"])
    })?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let _other = TcpEcho::start(test.task("web-2")?, 80)?;
    let (task, outside) = (test.task("web-2")?, &test.topology.outside);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let (from, to) = match number % 4 {
                    0 => (outside, WEB),
                    1 => (outside, DB),
                    _ => (task, WEB),
                };
                scope.spawn(move || {
                    let mut client = Client::connect(from, at(to, 80))?;
                    for size in [1, 1_000, 300_000, 64_000, 1_448, 100] {
                        client.echo(size * (number + 1))?;
                    }
                    client.finish()
                })
            })
            .collect();
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("no panic in there").map(drop))
    })?;
    // At least one window ends without traffic, and another begins.
    test.daemon
        .await_ledger(|ledger| ledger.total("web-1", Action::Accept).packets > 1000)?;
    Client::connect(outside, at(WEB, 80))?.finish()?;
    let expected = test.passed()?;
    let stopped = test.finish(&expected)?;
    assert_windows(&stopped.records, 1)?;
    Ok(())
}

/// All lines of an ENI in a window have its bounds, no two of them are alike, and windows are aligned but the last.
fn assert_windows(records: &[Record], interval: u64) -> Result<()> {
    let mut windows: BTreeMap<u64, u64> = BTreeMap::new();
    let mut lines = BTreeSet::new();
    for record in records {
        assert_eq!(record.start % interval, 0, "{record:?}");
        let end = *windows.entry(record.start).or_insert(record.end);
        assert_eq!(end, record.end, "{record:?}");
        if let Some(seen) = &record.flow {
            let line = (&record.eni, record.start, seen.tuple, seen.action);
            assert!(lines.insert(line), "twice: {record:?}");
        }
    }
    let last = *windows.keys().next_back().context("no window")?;
    for (start, end) in windows {
        let length = end - start;
        assert!(length % interval == 0 || start == last, "{start} to {end}");
        assert!(end <= now()? + 1, "{start} to {end} lies ahead");
    }
    Ok(())
}

/// AWS: FL-WINDOW-1
#[test]
fn the_last_records_come_with_the_end() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let topology = Topology::new()?;
        let config = topology
            .config()
            .group("http", "ingress: [{ protocol: tcp, ports: 80, from: any }]")
            .task("web-1", &[WEB], &["http"]);
        // The longest interval: no window ends before taskgate does.
        let daemon = topology.start_with(&config, Some(600))?;
        let task = topology.task("web-1")?;
        let wire = Wire::tap(&task, "eth0")?;
        let _echo = TcpEcho::start(&task, 80)?;
        let mut client = Client::connect(&topology.outside, at(WEB, 80))?;
        client.echo(5000)?;
        client.finish()?;
        let expected = testkit::Ledger::of_wires(&[("web-1", &wire)])?;
        let stopped = daemon.stop_by(signal)?;
        assert_eq!(stopped.ledger()?, expected, "{signal}");
        assert_windows(&stopped.records, 600)?;
        let end = stopped.records.iter().map(|record| record.end).max();
        assert!(end.is_some_and(|end| end + 5 > now().unwrap_or_default()), "{end:?}");
    }
    Ok(())
}

/// AWS: FL-FLOW-4
#[test]
fn all_icmp_between_two_addresses_is_one_record_each_way() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("ping", "ingress: [{ protocol: icmp, from: any }]")
            .task("web-1", &[WEB], &["ping"])
    })?;
    for _ in 0..3 {
        let mut pinger = Pinger::new(&test.topology.outside, OUTSIDE_V4, WEB.parse()?)?;
        pinger.echo()?;
        pinger.request(13, 0)?;
        assert!(pinger.answered(14, testkit::traffic::PATIENCE)?);
    }
    let expected = test.passed()?;
    let flow = testkit::Flow::icmp(OUTSIDE_V4, WEB.parse()?);
    // Timestamp requests are answered with 20 bytes of IPv4 and 20 of ICMP, whatever their length.
    let counts = [flow, flow.back()].map(|flow| expected.get("web-1", flow, Action::Accept));
    assert_eq!(counts, [Count::new(6, 6 * 84), Count::new(6, 3 * 84 + 3 * 40)]);
    let stopped = test.finish(&expected)?;
    assert_windows(&stopped.records, 1)
}

/// AWS: FL-FLOW-6, FL-FLOW-7, SG-RULE-2
#[test]
fn the_primary_address_stands_for_secondary_ones_of_ipv4_only() -> Result<()> {
    const SECOND: &str = "10.88.0.11";
    const V6: [&str; 2] = ["fd88::10", "fd88::11"];
    let test = E2eTest::start(|config| {
        config
            .group("dns", "ingress: [{ protocol: udp, ports: 53, from: any }], egress: []")
            .task("dns-1", &[WEB, SECOND, V6[0], V6[1]], &["dns"])
    })?;
    let task = test.task("dns-1")?;
    let clients = [
        UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?,
        UdpPeer::bind(&test.topology.outside, "[fd99::2]:0")?,
    ];
    let mut expected = test.passed()?;
    for address in [WEB, SECOND, V6[0], V6[1]] {
        let server = UdpPeer::bind(task, &at(address, 53).to_string())?;
        let client = &clients[usize::from(server.address().is_ipv6())];
        client.converse(&server, 1)?;
        let stands = if address == SECOND { WEB } else { address };
        let flow = client.flow_to(at(stands, 53));
        let header = if server.address().is_ipv6() { 40 } else { 20 };
        expected = expected.accept("dns-1", flow, Count::new(1, header + 15)).accept(
            "dns-1",
            flow.back(),
            Count::new(1, header + 16),
        );
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: FL-LINE-2, FL-WINDOW-2
#[test]
fn silent_windows_are_told_of_where_asked_and_only_after_there_was_traffic() -> Result<()> {
    let test =
        E2eTest::start(|config| pair(config).with("flow-logs: [{ destination: stdout, interval: 1, nodata: true }]"))?;
    Client::connect_refused(test.task("web-1")?, at(DB, 5432))?;
    let daemon = &test.daemon;
    let silent = |task: &str| -> Result<usize> {
        let eni = Config::eni(task);
        let records = daemon.records()?;
        Ok(records
            .iter()
            .filter(|record| record.eni == eni && record.status == Status::NoData)
            .count())
    };
    testkit::netns::until("both ENIs are silent for two windows", || {
        Ok(silent("web-1")? >= 2 && silent("db-1")? >= 2)
    })?;
    let expected = test.passed()?;
    let stopped = test.finish(&expected)?;
    for task in ["web-1", "db-1"] {
        let records: Vec<_> = stopped.records_of(task).collect();
        assert_eq!(records[0].status, Status::Ok, "traffic comes first: {:?}", records[0]);
        for pair in records.windows(2) {
            let abuts = pair[1].start == pair[0].start || pair[1].start == pair[0].end;
            assert!(abuts, "{pair:?}");
        }
    }
    Ok(())
}

#[test]
fn a_flow_log_tells_only_of_the_traffic_that_it_is_for() -> Result<()> {
    for (traffic, action) in [("ACCEPT", Action::Accept), ("REJECT", Action::Reject)] {
        let test = E2eTest::start(|config| {
            let logs = format!("flow-logs: [{{ destination: stdout, traffic: {traffic} }}]");
            pair(config).with(&logs)
        })?;
        Client::connect_refused(test.task("web-1")?, at(DB, 5432))?;
        assert_eq!(probe(test.task("web-1")?, at(DB, 5433))?, Answer::Silence);
        let expected = test.denied_in(&[("web-1", "db-1")])?.only(action);
        assert!(!expected.is_empty());
        test.finish(&expected)?;
    }
    Ok(())
}
