//! A task that forwards for others: only where its source/destination check is off, and only what its rules allow.

use anyhow::Result;
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use testkit::{
    Action, Count, E2eTest, Flow, Ledger, MapDump, Netns, at, ip,
    traffic::{Client, Pinger, TcpEcho, UdpPeer, try_connect},
};

const ROUTER: [&str; 2] = ["10.88.0.10", "fd88::10"];
/// The addresses of a host behind the router.
const BEHIND: [&str; 2] = ["10.66.0.2", "fd66::2"];
const OUTSIDE: [&str; 2] = ["10.99.0.2", "fd99::2"];

/// A host behind a task that is a router, with routes both ways.
fn behind(test: &E2eTest) -> Result<Netns> {
    let router = test.task("router-1")?;
    router.set("net.ipv4.ip_forward", "1")?;
    router.set("net.ipv6.conf.all.forwarding", "1")?;
    let inner = Netns::new("inner")?;
    inner.set("net.ipv6.conf.default.accept_dad", "0")?;
    router.add_veth("inner", &inner, "eth0")?;
    router.ip("address add 10.66.0.1/24 dev inner
         address add fd66::1/64 dev inner nodad
         link set inner up")?;
    inner.ip("address add 10.66.0.2/24 dev eth0
         address add fd66::2/64 dev eth0 nodad
         link set eth0 up
         route add default via 10.66.0.1
         route add ::/0 via fd66::1")?;
    let link = test.topology.host_link("router-1")?;
    test.topology.host.ip(&format!(
        "route add 10.66.0.0/24 via {} dev {link} onlink
         route add fd66::/64 via {} dev {link} onlink",
        ROUTER[0], ROUTER[1]
    ))?;
    Ok(inner)
}

fn start(check: bool) -> Result<E2eTest> {
    // Out to port 7 only, in from one network only, for any host behind the router.
    let rules = "egress: [{ protocol: tcp, ports: 7, to: [10.99.0.0/24, \"fd99::/64\"] }, \
                 { protocol: icmp, type: 8, to: [10.99.0.0/24] }, { protocol: icmpv6, type: 128, to: [\"fd99::/64\"] }], \
                 ingress: [{ protocol: udp, ports: 53, from: [10.99.0.0/24, \"fd99::/64\"] }]";
    E2eTest::start(|config| {
        config
            .group("router", rules)
            .task("router-1", &ROUTER, &["router"])
            .amend("router-1", &format!("source-dest-check: {check}"))
    })
}

/// AWS: SG-CHECK-2, FL-FLOW-6, FL-FLOW-7
#[test]
fn without_the_check_a_task_forwards_what_its_rules_allow() -> Result<()> {
    let test = start(false)?;
    let held = MapDump::of(&test.daemon)?;
    let inner = behind(&test)?;
    let _echo = TcpEcho::start(&test.topology.outside, 7)?;
    let mut denied = 0;
    for (own, outside) in BEHIND.into_iter().zip(OUTSIDE) {
        let mut client = Client::connect(&inner, at(outside, 7))?;
        client.echo(100_000)?;
        client.finish()?;
        Pinger::new(&inner, ip(own), ip(outside))?.echo()?;
        let server = UdpPeer::bind(&inner, &at(own, 53).to_string())?;
        UdpPeer::bind(&test.topology.outside, &at(outside, 0).to_string())?.converse(&server, 2)?;
        // The rules apply to hosts behind the router.
        assert!(try_connect(&inner, at(outside, 8))?.is_none());
        denied += 1;
        test.await_denials("router-1", denied)?;
    }
    assert_eq!(held.counted(Egress, "no-rule")?, [2]);
    assert_eq!(held.counted(Egress, "spoofed-source")?, [0; 0]);
    assert_eq!(held.counted(Ingress, "not-for-task")?, [0; 0]);
    // Records have the router's primary IPv4 address in place of the inner host's, but the inner host's own IPv6
    // address.
    let mut expected = Ledger::default();
    let primary = |flow: Flow| {
        let named = |end: std::net::SocketAddr| {
            if end.ip() == ip(BEHIND[0]) {
                at(ROUTER[0], end.port())
            } else {
                end
            }
        };
        Flow {
            source: named(flow.source),
            destination: named(flow.destination),
            ..flow
        }
    };
    for ((_, flow), count) in test.wire("router-1")?.flows()? {
        expected = if flow.destination.port() == 8 {
            expected.reject("router-1", primary(flow), count)
        } else {
            expected.accept("router-1", primary(flow), count)
        };
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: SG-CHECK-1, FL-ACTION-4
#[test]
fn with_the_check_it_forwards_nothing() -> Result<()> {
    let test = start(true)?;
    let held = MapDump::of(&test.daemon)?;
    let inner = behind(&test)?;
    let _echo = TcpEcho::start(&test.topology.outside, 7)?;
    for (own, outside) in BEHIND.into_iter().zip(OUTSIDE) {
        // As itself the router may.
        Client::connect(test.task("router-1")?, at(outside, 7))?.finish()?;
        assert!(try_connect(&inner, at(outside, 7))?.is_none());
        let server = UdpPeer::bind(&inner, &at(own, 53).to_string())?;
        UdpPeer::bind(&test.topology.outside, &at(outside, 0).to_string())?.send(server.address(), b"request")?;
    }
    test.await_denials("router-1", 4)?;
    assert_eq!(held.counted(Egress, "spoofed-source")?, [2]);
    assert_eq!(held.counted(Ingress, "not-for-task")?, [2]);
    let recorded = test.daemon.stop()?.ledger()?;
    assert_eq!(
        recorded.total("router-1", Action::Reject),
        Count::new(4, 60 + 80 + (20 + 8 + 7) + (40 + 8 + 7))
    );
    Ok(())
}
