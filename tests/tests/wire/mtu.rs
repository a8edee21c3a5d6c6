//! A path whose MTU shrinks while a connection uses it: a router on the path reports that, and the connection goes on
//! because the gate lets the report through.
//!
//! ```text
//!   task ──gate── host ──── outside, a router ──── server
//! ```

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use testkit::{
    Action, Config, Count, E2eTest, Flow, Ledger, Netns, Topology, Wire, at, ip,
    kernel::await_gates,
    ledger::protocol,
    netns::{await_up, until},
    traffic::{Bulk, UdpPeer},
    wire::Way,
};

const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
const OTHER: [&str; 2] = ["10.88.0.20", "fd88::20"];
const SERVER: [&str; 2] = ["10.77.0.2", "fd77::2"];
const INNER: [&str; 2] = ["10.66.0.2", "fd66::2"];
const PORT: u16 = 5001;
/// The bytes that connections send first, and once more after the change.
const PART: u64 = 100_000;
const NARROW: &str = "mtu 1300";
const OUT: &str = "ingress: [], egress: [{ protocol: tcp, ports: 5001, to: any }]";
const IN: &str = "ingress: [{ protocol: tcp, ports: 5001, from: any }], egress: []";

/// A topology whose outside is a router, with a server behind it.
pub(super) fn routed() -> Result<(Topology, Netns)> {
    let topology = Topology::new()?;
    let server = Netns::new("server")?;
    topology.outside.add_veth("far", &server, "eth0")?;
    for (sysctl, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        // One error for each packet that is too big, without a rate limit.
        ("net.ipv4.icmp_ratelimit", "0"),
    ] {
        topology.outside.set(sysctl, value)?;
    }
    topology.outside.ip("address add 10.77.0.1/24 dev far
         address add fd77::1/64 dev far nodad
         link set dev far up")?;
    server.ip("address add 10.77.0.2/24 dev eth0
         address add fd77::2/64 dev eth0 nodad
         link set dev eth0 up
         route add default via 10.77.0.1
         route add ::/0 via fd77::1")?;
    topology.host.ip("route add 10.77.0.0/24 via 10.99.0.2
         route add fd77::/64 via fd99::2")?;
    await_up(&[(&topology.outside, "far"), (&server, "eth0")])?;
    Ok((topology, server))
}

fn one(config: Config) -> Config {
    config.group("out", OUT).task("web-1", &TASK, &["out"])
}

/// The only ICMP flow that a link has seen.
fn errors(wire: &Wire, way: Way) -> Result<Flow> {
    let flows = wire.flows()?;
    let is_icmp = |flow: &Flow| [protocol::ICMP, protocol::ICMPV6].contains(&flow.protocol);
    let mut found = flows.keys().filter(|(seen, flow)| *seen == way && is_icmp(flow));
    found.next().map(|(_, flow)| *flow).context("there were no errors")
}

/// Narrows the path of `web-1` in the middle of a connection: the connection continues, and `web-1` has received an error
/// about it.
fn goes_on_when(test: E2eTest, bulk: Bulk, narrower: impl FnOnce(&E2eTest) -> Result<()>) -> Result<()> {
    bulk.await_more(PART)?;
    narrower(&test)?;
    bulk.await_more(PART)?;
    bulk.finish()?;
    let error = errors(test.wire("web-1")?, Way::In)?;
    let expected = test.passed()?;
    assert!(expected.get("web-1", error, Action::Accept).packets > 0);
    test.finish(&expected)?;
    Ok(())
}

/// `gso_max_segs` of the sender's link: with 1 it sends packets as on the wire, with more it may send GSO packets.
const SEGMENTS: [&str; 2] = ["gso_max_segs 1", "gso_max_segs 40"];

#[test]
fn a_narrower_path_from_a_task_does_not_stop_its_connection() -> Result<()> {
    for segments in SEGMENTS {
        for address in SERVER {
            let (topology, server) = routed()?;
            let test = E2eTest::in_topology(topology, one)?;
            let task = test.task("web-1")?;
            task.ip(&format!("link set dev eth0 {segments}"))?;
            let bulk = Bulk::start(task, &server, at(address, PORT))?;
            goes_on_when(test, bulk, |test| {
                test.topology.outside.ip(&format!("link set dev far {NARROW}"))
            })?;
        }
    }
    Ok(())
}

/// Whether or not the task's kernel already fragmented the datagrams: it learns the path MTU.
#[test]
fn a_narrower_path_from_a_task_lets_datagrams_through_again() -> Result<()> {
    for address in SERVER {
        for size in [1400, 4000] {
            let (topology, server) = routed()?;
            let test = E2eTest::in_topology(topology, |config| {
                let rules = "ingress: [], egress: [{ protocol: udp, ports: 53, to: any }]";
                config.group("dns", rules).task("web-1", &TASK, &["dns"])
            })?;
            let local = TASK[usize::from(ip(address).is_ipv6())];
            let sender = UdpPeer::bind(test.task("web-1")?, &at(local, 0).to_string())?;
            let receiver = UdpPeer::bind(&server, &at(address, 53).to_string())?;
            let data = vec![7; size];
            let flow = sender.send(receiver.address(), &data)?;
            receiver.expect(&data)?;
            test.topology.outside.ip(&format!("link set dev far {NARROW}"))?;
            until(&format!("{size} bytes get to {address}"), || {
                // The next send returns the last error, or that the datagram is too large now.
                sender.send(receiver.address(), &data).ok();
                Ok(!receiver.is_silent()?)
            })?;
            let wire = test.wire("web-1")?;
            // Fragments have no ports: all packets from the task to the server belong to this flow.
            let sent = wire.flows()?.into_iter().filter(|((way, _), _)| *way == Way::Out);
            let mut expected = Ledger::default().accept("web-1", flow, sent.map(|(_, count)| count).sum());
            // Routers fragment the fragments of IPv4 again, without an error. For IPv6 they report each fragment, and
            // only the first one names its flow.
            if size < 1500 || flow.source.is_ipv6() {
                let told = errors(wire, Way::In)?;
                let passed = wire.received(told)?;
                let denied = test.outside.sent(told)? - passed;
                assert_eq!(denied == Count::default(), size < 1500);
                test.await_denials("web-1", denied.packets)?;
                expected = expected.accept("web-1", told, passed).reject("web-1", told, denied);
            }
            test.finish(&expected)?;
        }
    }
    Ok(())
}

/// The error decides: without it the connection stalls, and continues as soon as errors get through.
#[test]
fn without_errors_a_narrower_path_stops_a_connection_until_they_get_through() -> Result<()> {
    for address in SERVER {
        let (topology, server) = routed()?;
        let mut test = E2eTest::in_topology(topology, |config| one(config).with("settings: { icmp-errors: none }"))?;
        // Otherwise the kernel would find the path MTU by probing, after a while.
        test.task("web-1")?.set("net.ipv4.tcp_mtu_probing", "0")?;
        let bulk = Bulk::start(test.task("web-1")?, &server, at(address, PORT))?;
        bulk.await_more(PART)?;
        test.topology.outside.ip(&format!("link set dev far {NARROW}"))?;
        let rejected = |test: &E2eTest| {
            let ledger = test.daemon.await_ledger(|_| true)?;
            anyhow::Ok(ledger.total("web-1", Action::Reject).packets)
        };
        test.await_denials("web-1", 1)?;
        // Packets that were on their way have arrived by now.
        let (before, told) = (bulk.received(), rejected(&test)?);
        test.await_denials("web-1", told + 2)?;
        assert_eq!(bulk.received(), before, "nothing gets through");
        test.daemon.apply(&one(test.topology.config()))?;
        bulk.await_more(PART)?;
        bulk.finish()?;
        let told = errors(&test.outside, Way::Out)?;
        let expected = test.denied_in(&[("outside", "web-1")])?;
        for action in [Action::Accept, Action::Reject] {
            assert!(expected.get("web-1", told, action).packets > 0, "{action:?}");
        }
        test.finish(&expected)?;
    }
    Ok(())
}

/// The host reports the other task's narrower link to the task.
#[test]
fn a_narrower_link_of_a_task_stops_no_connection_from_another() -> Result<()> {
    for address in OTHER {
        let test = E2eTest::start(|config| one(config).group("in", IN).task("db-1", &OTHER, &["in"]))?;
        let bulk = Bulk::start(test.task("web-1")?, test.task("db-1")?, at(address, PORT))?;
        goes_on_when(test, bulk, |test| {
            let link = test.topology.host_link("db-1")?;
            test.topology.host.ip(&format!("link set dev {link} {NARROW}"))
        })?;
    }
    Ok(())
}

/// The error goes to the server and meets no gate. Later packets are small enough.
#[test]
fn a_narrower_path_to_a_task_does_not_stop_its_connection() -> Result<()> {
    for narrow_at_host in [false, true] {
        for address in TASK {
            let (topology, server) = routed()?;
            let test = E2eTest::in_topology(topology, |config| config.group("in", IN).task("web-1", &TASK, &["in"]))?;
            let bulk = Bulk::start(&server, test.task("web-1")?, at(address, PORT))?;
            bulk.await_more(PART)?;
            let link = test.topology.host_link("web-1")?;
            if narrow_at_host {
                test.topology.host.ip(&format!("link set dev {link} {NARROW}"))?;
            } else {
                test.topology.outside.ip(&format!("link set dev eth0 {NARROW}"))?;
            }
            bulk.await_more(PART)?;
            bulk.finish()?;
            let expected = test.passed()?;
            test.finish(&expected)?;
        }
    }
    Ok(())
}

/// A task that is itself a router: errors about its link to the hosts behind it leave through its gate, under its own
/// address.
#[test]
fn a_narrower_path_behind_a_task_that_routes_does_not_stop_a_connection() -> Result<()> {
    for (number, address) in INNER.into_iter().enumerate() {
        let (topology, server) = routed()?;
        let task = topology.device("tg-router", &TASK, true)?;
        let inner = Netns::new("inner")?;
        task.add_veth("behind", &inner, "eth0")?;
        task.set("net.ipv4.ip_forward", "1")?;
        task.set("net.ipv6.conf.all.forwarding", "1")?;
        task.ip("address add 10.66.0.1/24 dev behind
             address add fd66::1/64 dev behind nodad
             link set dev behind up")?;
        inner.ip("address add 10.66.0.2/24 dev eth0
             address add fd66::2/64 dev eth0 nodad
             link set dev eth0 up
             route add default via 10.66.0.1
             route add ::/0 via fd66::1")?;
        topology
            .host
            .ip("route add 10.66.0.0/24 via 10.88.0.10 dev tg-router onlink
             route add fd66::/64 via fd88::10 dev tg-router onlink")?;
        await_up(&[(&task, "behind"), (&inner, "eth0")])?;
        let wire = Wire::tap(&task, "eth0")?;
        let config = topology
            .config()
            .group("in", IN)
            .device_task("web-1", "tg-router", &TASK, &["in"])
            .amend("web-1", "source-dest-check: false");
        let daemon = topology.start(&config)?;
        await_gates(&topology.host, "tg-router")?;
        let bulk = Bulk::start(&server, &inner, at(address, PORT))?;
        bulk.await_more(PART)?;
        task.ip(&format!("link set dev behind {NARROW}"))?;
        bulk.await_more(PART)?;
        bulk.finish()?;
        let told = errors(&wire, Way::Out)?;
        assert_eq!(told.destination, at(SERVER[number], 0));
        // In IPv4 records a task's primary address replaces those of the hosts behind it.
        let recorded = |end: SocketAddr| {
            if end.ip() == ip(INNER[0]) {
                at(TASK[0], end.port())
            } else {
                end
            }
        };
        let mut expected = Ledger::default();
        for ((_, flow), count) in wire.flows()? {
            let (source, destination) = (recorded(flow.source), recorded(flow.destination));
            let flow = Flow {
                source,
                destination,
                ..flow
            };
            expected = expected.accept("web-1", flow, count);
        }
        assert_eq!(daemon.stop()?.ledger()?, expected);
    }
    Ok(())
}
