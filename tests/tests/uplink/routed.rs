//! An uplink to which the tasks' addresses are routed: the destination names the ENI, and real traffic goes both ways.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use taskgate_ebpf::abi::Direction::Ingress;
use testkit::{
    Action, Capture, Config, Count, E2eTest, Flow, Ledger, MapDump, OUTSIDE_V4, OUTSIDE_V6, Topology, at,
    fixture::frames,
    ledger::protocol,
    traffic::{Answer, Client, Pinger, Segments, Sender, TcpEcho, UdpPeer, inject, probe, segment_packet, try_connect},
};

use super::place::{Judge, ONE_QUEUE, occupy};

const WEB: [&str; 2] = ["10.88.0.10", "fd88::10"];
const DB: [&str; 2] = ["10.88.0.20", "fd88::20"];
const WEB_RULES: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }, { protocol: udp, ports: 53, from: any }], \
                         egress: [{ protocol: all, to: any }]";
const DB_RULES: &str = "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []";

fn two(config: Config) -> Config {
    config
        .group("web", WEB_RULES)
        .group("db", DB_RULES)
        .task("web-1", &WEB, &["web"])
        .task("db-1", &DB, &["db"])
        .with("uplink: { device: wire, mode: routed }")
}

/// The MAC address of the host's wire.
fn mac(topology: &Topology) -> Result<Vec<u8>> {
    let shown = topology.host.output("ip", &["-o", "link", "show", "dev", "wire"])?;
    let after = shown
        .split_once("link/ether ")
        .and_then(|(_, rest)| rest.split_whitespace().next());
    let bytes = after.context("`wire` has no MAC address")?.split(':');
    Ok(bytes
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?)
}

/// The bytes that only packets of this flow hold, from the source address on.
fn headers(flow: Flow) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (source, destination) = (flow.source, flow.destination);
    let next = match flow.protocol {
        protocol::ICMP => vec![8, 0],
        protocol::ICMPV6 => vec![128, 0],
        _ => [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat(),
    };
    [octets(source.ip()), octets(destination.ip()), next].concat()
}

/// The destination port of segments whose number is only in the socket buffer.
const UNCUT: u16 = 54;

/// A topology whose wire has the queues for a judge.
fn topology(judge: Judge) -> Result<Topology> {
    let topology = Topology::new()?;
    let (path, queues) = (topology.outside.path(), judge.queues());
    topology.host.ip(&format!(
        "link delete wire
         link add name wire {ONE_QUEUE} type veth peer name eth0 netns {path} {queues}
         address add 10.99.0.1/24 dev wire
         address add fd99::1/64 dev wire nodad
         link set wire up"
    ))?;
    topology.outside.ip("address add 10.99.0.2/24 dev eth0
         address add fd99::2/64 dev eth0 nodad
         link set eth0 up
         route add default via 10.99.0.1
         route add ::/0 via fd99::1")?;
    testkit::netns::await_up(&[(&topology.host, "wire"), (&topology.outside, "eth0")])?;
    Ok(topology)
}

/// Real sockets of both families: allowed and denied traffic, and later fragments.
fn traffic(judge: Judge) -> Result<()> {
    let topology = topology(judge)?;
    let occupied = (judge == Judge::Gate)
        .then(|| occupy(&topology.host, "wire"))
        .transpose()?;
    // Behind the prefilter.
    let between = Capture::tap(&topology.host, "wire")?;
    let test = E2eTest::in_topology(topology, two)?;
    test.daemon.await_message(judge.said())?;
    let (web, db, outside) = (test.task("web-1")?, test.task("db-1")?, &test.topology.outside);
    let _servers = [
        TcpEcho::start(web, 80)?,
        TcpEcho::start(web, 81)?,
        TcpEcho::start(db, 5432)?,
        TcpEcho::start(outside, 443)?,
    ];
    let mac = mac(&test.topology)?;
    let mut parts = Vec::new();
    for (family, outside_address) in [(0, OUTSIDE_V4), (1, OUTSIDE_V6)] {
        // In, out, and from one task to another: more than a link takes at once.
        let mut client = Client::connect(outside, at(WEB[family], 80))?;
        client.echo(200_000)?;
        client.finish()?;
        let mut client = Client::connect(web, at(&outside_address.to_string(), 443))?;
        client.echo(200_000)?;
        client.finish()?;
        let mut client = Client::connect(web, at(DB[family], 5432))?;
        client.echo(1000)?;
        client.finish()?;
        // A datagram in many parts.
        let resolver = UdpPeer::bind(web, &at(WEB[family], 53).to_string())?;
        let asks = UdpPeer::bind(outside, &at(&outside_address.to_string(), 0).to_string())?;
        parts.push(asks.send(resolver.address(), &[7; 8000])?);
        resolver.expect(&[7; 8000])?;

        for to in [at(WEB[family], 81), at(DB[family], 5432)] {
            assert_eq!(probe(outside, to)?, Answer::Silence, "{to}");
        }
        asks.send(at(DB[family], 53), b"request")?;
        // Four segments in one GSO packet.
        let tcp = frames::tcp(40000, UNCUT, frames::flags::ACK, &[7; 4000]);
        let frame = frames::ip(outside_address, at(DB[family], 0).ip(), 6, &tcp);
        let frame = [&mac[..], &frame[6..]].concat();
        let kind = [Segments::Tcp4, Segments::Tcp6][family];
        Sender::on(outside, "eth0")?.send_segments(&frames::with_checksum(frame), kind, 1000)?;
        let mut pinger = Pinger::new(outside, outside_address, at(WEB[family], 0).ip())?;
        ensure!(!pinger.echoes()?, "an echo came back");
        // The host's own addresses belong to no task.
        Client::connect_refused(outside, at(["10.99.0.1", "fd99::1"][family], 80))?;
    }
    // For each family two SYNs, an echo request, a datagram and the four segments.
    test.await_denials("web-1", 4)?;
    test.await_denials("db-1", 12)?;

    let mut expected = test.denied_in(&[("outside", "web-1"), ("outside", "db-1")])?;
    for flow in parts {
        // On the wire most of them have no ports.
        let bare = Flow::plain(flow.source.ip(), flow.destination.ip(), flow.protocol);
        let count = expected.get("web-1", bare, Action::Accept);
        expected = expected.without(|of| of == bare).accept("web-1", flow, count);
    }
    for task in ["web-1", "db-1"] {
        for flow in expected.flows(task, Action::Reject) {
            let sent = test.outside.sent(flow)?;
            let passed_by = match judge {
                Judge::Gate => sent.packets as usize,
                // A driver receives the segments already split.
                Judge::Generic if flow.destination.port() == UNCUT => 1,
                Judge::Native | Judge::Generic => 0,
            };
            assert_eq!(between.count(&headers(flow))?, passed_by, "{flow:?}");
            assert_eq!(expected.get(task, flow, Action::Reject), sent);
        }
    }
    test.finish(&expected)?;
    drop(occupied);
    Ok(())
}

#[test]
fn an_uplink_whose_driver_drops_early() -> Result<()> {
    traffic(Judge::Native)
}

#[test]
fn an_uplink_on_which_the_kernel_drops_early() -> Result<()> {
    traffic(Judge::Generic)
}

#[test]
fn an_uplink_on_which_the_gates_alone_judge() -> Result<()> {
    traffic(Judge::Gate)
}

/// A tracked connection continues through the prefilter when its rule is removed, and ends if the settings say so.
fn rules_that_change(judge: Judge) -> Result<()> {
    let mut test = E2eTest::in_topology(topology(judge)?, two)?;
    test.daemon.await_message(judge.said())?;
    let echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let to = at(DB[0], 5432);
    assert!(try_connect(&test.topology.outside, to)?.is_none());
    let open = "ingress: [{ protocol: tcp, ports: 5432, from: [10.99.0.0/24] }], egress: []";
    test.reload(|config| config.group("db", open))?;
    let mut live = Client::connect(&test.topology.outside, to)?;
    live.echo(1000)?;
    test.reload(|config| config.group("db", DB_RULES))?;
    live.echo(100_000)?;
    assert!(try_connect(&test.topology.outside, to)?.is_none());
    test.reload(|config| config.with("settings: { on-rule-removal: cut }"))?;
    assert!(!live.echoes()?);
    let flow = live.abort()?;
    echo.abort()?;
    let answered = test.outside.received(flow.back())?;
    let expected = test
        .denied_in(&[("outside", "db-1")])?
        .cut("db-1", flow.back(), answered);
    assert_ne!(expected.get("db-1", flow, Action::Reject), Count::default());
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn connections_live_on_and_end_over_an_uplink_with_native_xdp() -> Result<()> {
    rules_that_change(Judge::Native)
}

#[test]
fn connections_live_on_and_end_over_an_uplink_with_generic_xdp() -> Result<()> {
    rules_that_change(Judge::Generic)
}

/// A packet from the wire with a local task's address is not accepted as that task's, neither as a new connection nor as
/// part of one.
fn the_wire_speaks_as_a_task(judge: Judge) -> Result<()> {
    let topology = topology(judge)?;
    let occupied = (judge == Judge::Gate)
        .then(|| occupy(&topology.host, "wire"))
        .transpose()?;
    let test = E2eTest::in_topology(topology, two)?;
    test.daemon.await_message(judge.said())?;
    let held = MapDump::of(&test.daemon)?;
    let (web, outside) = (test.task("web-1")?, &test.topology.outside);
    let _server = TcpEcho::start(test.task("db-1")?, 5432)?;
    for family in 0..2 {
        let to = at(DB[family], 5432);
        let mut live = Client::connect(web, to)?;
        live.echo(1000)?;
        let new = Flow::tcp(at(WEB[family], 4000), to);
        inject(outside, &segment_packet(new, frames::flags::SYN, 1, 0)?)?;
        inject(outside, &segment_packet(live.flow(), frames::flags::RST, 1, 0)?)?;
        held.await_counted(Ingress, "spoofed-source", &[2 * (family as u64 + 1)])?;
        live.echo(1000)?;
        let live = live.finish()?;
        let recorded = |ledger: &Ledger| [new, live].map(|flow| ledger.get("db-1", flow, Action::Reject).packets);
        test.daemon.await_ledger(|ledger| recorded(ledger) == [1, 1])?;
    }
    drop(occupied);
    Ok(())
}

#[test]
fn the_wire_does_not_speak_as_a_task_past_a_driver() -> Result<()> {
    the_wire_speaks_as_a_task(Judge::Native)
}

#[test]
fn the_wire_does_not_speak_as_a_task_past_generic_xdp() -> Result<()> {
    the_wire_speaks_as_a_task(Judge::Generic)
}

#[test]
fn the_wire_does_not_speak_as_a_task_past_the_gates_alone() -> Result<()> {
    the_wire_speaks_as_a_task(Judge::Gate)
}

/// Frames of several buffers: the driver gives XDP the first buffer. Each datagram is one packet on the wire, and longer
/// than a page.
#[test]
fn jumbo_frames_are_judged_by_the_driver_and_arrive_whole() -> Result<()> {
    const JUMBO: [u8; 8000] = [7; 8000];
    let topology = topology(Judge::Native)?;
    topology.host.ip("link set wire mtu 9000")?;
    topology.outside.ip("link set eth0 mtu 9000")?;
    let between = Capture::tap(&topology.host, "wire")?;
    let test = E2eTest::in_topology(topology, two)?;
    test.daemon.await_message(Judge::Native.said())?;
    let (web, outside) = (test.task("web-1")?, &test.topology.outside);
    for link in ["web-1", "db-1"] {
        let host_link = test.topology.host_link(link)?;
        test.topology.host.ip(&format!("link set {host_link} mtu 9000"))?;
        test.task(link)?.ip("link set eth0 mtu 9000")?;
    }
    for (family, outside_address) in [(0, OUTSIDE_V4), (1, OUTSIDE_V6)] {
        let resolver = UdpPeer::bind(web, &at(WEB[family], 53).to_string())?;
        let asks = UdpPeer::bind(outside, &at(&outside_address.to_string(), 0).to_string())?;
        asks.send(resolver.address(), &JUMBO)?;
        resolver.expect(&JUMBO)?;
        let denied = asks.send(at(DB[family], 53), &JUMBO)?;
        test.await_denials("db-1", family as u64 + 1)?;
        assert_eq!(test.outside.sent(denied)?.packets, 1);
        assert_eq!(between.count(&headers(denied))?, 0, "{denied:?}");
    }
    let expected = test.denied_in(&[("outside", "db-1"), ("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}
