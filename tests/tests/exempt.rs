//! Addresses that tasks reach without a rule are ordinary strangers when they send from outside.

use std::net::IpAddr;

use anyhow::Result;
use taskgate_ebpf::abi::Direction::Ingress;
use testkit::{
    Action, E2eTest, Flow, MapDump, Topology, at, ip,
    ledger::Count,
    traffic::{Client, Flood, Pinger, TcpEcho, UdpPeer, echo_packet, inject, syn_packet, udp_packet},
};

const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
/// Every address of AWS's list but the resolver, which has separate tests.
const EXEMPT: [&str; 7] = [
    "169.254.169.254",
    "169.254.169.123",
    "169.254.169.250",
    "169.254.169.251",
    "169.254.170.2",
    "fd00:ec2::254",
    "fd00:ec2::123",
];

/// A topology whose outside host has all of these addresses.
fn with_services() -> Result<Topology> {
    let topology = Topology::new()?;
    for address in EXEMPT {
        let (length, nodad, via) = if address.contains(':') {
            (128, " nodad", "fd99::2")
        } else {
            (32, "", "10.99.0.2")
        };
        topology
            .outside
            .ip(&format!("address add {address}/{length} dev lo{nodad}"))?;
        topology.host.ip(&format!("route add {address}/{length} via {via}"))?;
    }
    Ok(topology)
}

fn task_of(service: &str) -> &'static str {
    TASK[usize::from(service.contains(':'))]
}

fn header(address: IpAddr) -> u64 {
    if address.is_ipv6() { 40 } else { 20 }
}

/// One packet of each kind from a service's address to the task's, with its flow and its bytes above the IP header.
fn unasked(service: &str) -> Result<Vec<(Vec<u8>, Flow, u64)>> {
    let (from, to) = (ip(service), ip(task_of(service)));
    let tcp = Flow::tcp(at(service, 40_000), at(task_of(service), 80));
    let udp = Flow::udp(at(service, 80), at(task_of(service), 7000));
    let echo = Flow::icmp(from, to);
    Ok(vec![
        (syn_packet(tcp)?, tcp, 20),
        (udp_packet(udp, b"unasked")?, udp, 8 + 7),
        (echo_packet(echo)?, echo, 8 + 4),
    ])
}

/// AWS: SG-EXEMPT-1
#[test]
fn an_exempt_address_opens_nothing_from_outside() -> Result<()> {
    let test = E2eTest::in_topology(with_services()?, |config| {
        config.group("closed", "egress: []").task("task-1", &TASK, &["closed"])
    })?;
    let held = MapDump::of(&test.daemon)?;
    let _tcp = TcpEcho::start(test.task("task-1")?, 80)?;
    let udp = UdpPeer::bind(test.task("task-1")?, "[::]:7000")?;
    let mut expected = testkit::Ledger::default();
    let mut sent = 0;
    // Before the task has sent to the service, and after.
    for asked in [false, true] {
        for service in EXEMPT {
            if asked {
                ask(&test, service)?;
            }
            for (packet, flow, bytes) in unasked(service)? {
                inject(&test.topology.outside, &packet)?;
                sent += 1;
                let count = Count::new(1, header(flow.source.ip()) + bytes);
                expected = expected.reject("task-1", flow, count);
            }
        }
    }
    test.await_denials("task-1", sent)?;
    assert_eq!(held.counted(Ingress, "no-rule")?, [sent]);
    assert!(udp.is_silent()?);
    // A denial is recorded even where the peer's traffic leaves no record otherwise. Accepted traffic with 169.254.170.2
    // is recorded, since AWS's list does not contain it.
    let stopped = test.daemon.stop()?;
    let recorded = stopped.ledger()?;
    assert_eq!(recorded.clone().only(Action::Reject), expected);
    let accepted = recorded.only(Action::Accept);
    assert_ne!(accepted.total("task-1", Action::Accept), Count::default());
    for service in EXEMPT {
        let of_service = accepted.get("task-1", Flow::icmp(ip(task_of(service)), ip(service)), Action::Accept);
        assert_eq!(of_service == Count::default(), service != "169.254.170.2", "{service}");
    }
    Ok(())
}

/// Flows that the task opens are answered, by TCP, UDP and ICMP.
fn ask(test: &E2eTest, service: &str) -> Result<()> {
    let task = test.task("task-1")?;
    let own = task_of(service);
    let _echo = TcpEcho::start(&test.topology.outside, 80)?;
    let mut client = Client::connect(task, at(service, 80))?;
    client.echo(100)?;
    client.finish()?;
    let server = UdpPeer::bind(&test.topology.outside, &at(service, 123).to_string())?;
    UdpPeer::bind(task, &at(own, 0).to_string())?.converse(&server, 2)?;
    Pinger::new(task, ip(own), ip(service))?.echo()
}

/// Nor does a flood of such packets: they are denied, and recorded as far as there is room.
#[test]
fn nor_by_the_thousand() -> Result<()> {
    const PACKETS: u16 = 2000;
    let test = E2eTest::in_topology(with_services()?, |config| {
        config.group("closed", "egress: []").task("task-1", &TASK, &["closed"])
    })?;
    for service in ["169.254.169.254", "fd00:ec2::254"] {
        ask(&test, service)?;
        Flood::syn(&test.topology.outside, ip(service), at(task_of(service), 80))?.send(20_000, PACKETS)?;
    }
    test.await_denials("task-1", 2 * u64::from(PACKETS))?;
    let rejected = test.daemon.stop()?.ledger()?.only(Action::Reject);
    let expected = Count::new(2 * u64::from(PACKETS), u64::from(PACKETS) * (40 + 60));
    assert_eq!(rejected.total("task-1", Action::Reject), expected);
    Ok(())
}
