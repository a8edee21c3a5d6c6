//! A VLAN link on the host: the task is on the host's side and the wire beyond, so its gate is attached the other way
//! round than that of a veth pair.
//!
//! Not every kernel can make such links: `cargo xtask vm` runs these tests on those that can; elsewhere they are counted
//! as ignored.

use anyhow::{Context as _, Result};
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Action, Config, Count, Counters, Daemon, Ledger, Netns, Topology, Wire, at, ip,
    kernel::{await_gates, gates},
    ledger::Flow,
    netns::await_up,
    traffic::{Answer, Client, TcpEcho, UdpPeer, probe},
};

const LINK: &str = "wire.101";
const RULES: &str =
    "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: [{ protocol: tcp, ports: 443, to: any }]";
/// The task's address, and that of the other side, by family.
const FAMILIES: [(&str, &str); 2] = [("10.88.0.10", "10.88.0.1"), ("fd88::10", "fd88::1")];

/// VLAN 101 on both ends of the host's wire; the task's addresses are the host's own on that link.
fn tagged(topology: &Topology) -> Result<()> {
    let sides = [(&topology.host, "wire", 0), (&topology.outside, "eth0", 1)];
    for (netns, link, side) in sides {
        let addresses = FAMILIES.map(|family| [family.0, family.1][side]);
        netns.ip(&format!(
            "link add link {link} name {link}.101 type vlan id 101
             address add {}/24 dev {link}.101
             address add {}/64 dev {link}.101 nodad
             link set {link}.101 up",
            addresses[0], addresses[1]
        ))?;
    }
    await_up(&[(&topology.host, LINK), (&topology.outside, "eth0.101")])
}

fn gated(topology: &Topology) -> Result<Daemon> {
    let addresses = FAMILIES.map(|(task, _)| task);
    let config = topology.config().group("web", RULES);
    let daemon = topology.start(&config.device_task("branch", LINK, &addresses, &["web"]))?;
    await_gates(&topology.host, LINK)?;
    Ok(daemon)
}

/// Sends a datagram that no rule allows. Returns the flow and the count of its record.
fn datagram(from: &Netns, source: &str, to: &str) -> Result<(Flow, Count)> {
    let flow = UdpPeer::bind(from, &at(source, 0).to_string())?.send(at(to, 53), b"request")?;
    let headers = if ip(to).is_ipv4() { 28 } else { 48 };
    Ok((flow, Count::new(1, headers + 7)))
}

#[test]
#[ignore = "needs 802.1Q links: `cargo xtask vm` runs it"]
fn what_comes_from_the_wire_is_ingress_and_what_goes_there_is_egress() -> Result<()> {
    let topology = Topology::new()?;
    tagged(&topology)?;
    let outside = Wire::tap(&topology.outside, "eth0.101")?;
    let daemon = gated(&topology)?;
    let (_inside, _outside) = (
        [80, 443].map(|port| TcpEcho::start(&topology.host, port)),
        [80, 443].map(|port| TcpEcho::start(&topology.outside, port)),
    );
    let mut denied = Ledger::default();
    for (task, other) in FAMILIES {
        let mut client = Client::connect(&topology.outside, at(task, 80))?;
        // More than the link takes at once: GSO packets of many segments.
        client.echo(200_000)?;
        client.finish()?;
        let mut client = Client::connect(&topology.host, at(other, 443))?;
        client.echo(1000)?;
        client.finish()?;
        assert_eq!(probe(&topology.outside, at(task, 443))?, Answer::Silence);
        assert_eq!(probe(&topology.host, at(other, 80))?, Answer::Silence);

        let (flow, count) = datagram(&topology.host, task, other)?;
        denied = denied.reject("branch", flow, count);
        // Such a datagram is on the wire, but does not reach the task.
        let (flow, _) = datagram(&topology.outside, other, task)?;
        assert_eq!(outside.sent(flow)?.packets, 1);
    }
    // Packets of the host on that link count for the task under its own address: records have its primary address.
    let (mut flow, count) = datagram(&topology.host, "10.99.0.1", "10.88.0.1")?;
    flow.source.set_ip(ip("10.88.0.10"));
    denied = denied.reject("branch", flow, count);

    // All packets that crossed the wire were let through, except those to other ports.
    let mut expected = denied;
    for ((_, flow), count) in outside.flows()? {
        let is_task = FAMILIES.iter().any(|(task, _)| flow.destination.ip() == ip(task));
        let refused = is_task && flow.destination.port() != 80 && flow.source.port() != 443;
        expected = if refused {
            expected.reject("branch", flow, count)
        } else {
            expected.accept("branch", flow, count)
        };
    }
    let recorded = daemon.stop()?.ledger()?;
    // How often the host's kernel retries a connection without an answer cannot be counted outside.
    let tries = |ledger: &Ledger| {
        FAMILIES.map(|(_, other)| {
            ledger
                .flows("branch", Action::Reject)
                .filter(|flow| flow.destination == at(other, 80))
                .count()
        })
    };
    assert_eq!(tries(&recorded), [1, 1], "{recorded:?}");
    let rest = recorded.without(|flow| FAMILIES.iter().any(|(_, other)| flow.destination == at(other, 80)));
    assert_eq!(rest, expected);
    assert_eq!(gates(&topology.host, LINK)?, (0, 0));
    Ok(())
}

#[test]
#[ignore = "needs 802.1Q links: `cargo xtask vm` runs it"]
fn a_vlan_has_a_gate_and_the_wire_below_it_has_none() -> Result<()> {
    let topology = Topology::new()?;
    tagged(&topology)?;
    let daemon = gated(&topology)?;
    assert_eq!(gates(&topology.host, LINK)?, (1, 1));
    assert_eq!(gates(&topology.host, "wire")?, (0, 0));
    let _echo = TcpEcho::start(&topology.host, 81)?;
    Client::connect(&topology.outside, at("10.99.0.1", 81))?.finish()?;
    assert_eq!(probe(&topology.outside, at("10.88.0.10", 81))?, Answer::Silence);
    // A gate ends with its link, and a later link of that name gets a new gate.
    topology.host.ip(&format!("link delete {LINK}"))?;
    topology.host.ip(&format!(
        "link add link wire name {LINK} type vlan id 101
         address add 10.88.0.10/24 dev {LINK}
         link set {LINK} up"
    ))?;
    await_gates(&topology.host, LINK)?;
    await_up(&[(&topology.host, LINK)])?;
    assert_eq!(probe(&topology.outside, at("10.88.0.10", 81))?, Answer::Silence);
    daemon.stop()?;
    Ok(())
}

/// The host's own rule from `docs/uplink.md`, for the link and addresses of these tests.
fn documented_rule() -> Result<String> {
    let page = include_str!("../../docs/uplink.md");
    let (_, rest) = page
        .split_once("```text\ntable inet taskgate_vlan")
        .context("the page has no such rule")?;
    let (rule, _) = rest.split_once("```").context("the rule has no end")?;
    let rule = rule.replace("eth1.101", LINK);
    let [v4, v6] = FAMILIES.map(|(task, _)| task);
    Ok(format!(
        "table inet taskgate_vlan{}",
        rule.replace("10.0.1.10", v4).replace("2001:db8:1::10", v6)
    ))
}

/// Whether the task's address is reached at a port that no rule allows, by family: without the VLAN's tag, and by
/// another link of the host.
fn beside(topology: &Topology, other: &Netns) -> Result<[[Answer; 2]; 2]> {
    let mut answers = [[Answer::Silence; 2]; 2];
    for (number, (task, _)) in FAMILIES.into_iter().enumerate() {
        let (length, host) = if ip(task).is_ipv4() {
            (32, "10.99.0.1")
        } else {
            (128, "fd99::1")
        };
        let route = format!("{task}/{length} via {host} dev eth0");
        topology.outside.ip(&format!("route add {route}"))?;
        answers[number] = [probe(&topology.outside, at(task, 81))?, probe(other, at(task, 81))?];
        topology.outside.ip(&format!("route delete {route}"))?;
    }
    Ok(answers)
}

/// Allowed packets pass by the task's VLAN, and the host reaches itself.
fn allowed_passes(topology: &Topology) -> Result<()> {
    let _echo = TcpEcho::start(&topology.host, 80)?;
    for (task, _) in FAMILIES {
        Client::connect(&topology.outside, at(task, 80))?.finish()?;
        assert_eq!(probe(&topology.outside, at(task, 81))?, Answer::Silence, "{task}");
        Client::connect(&topology.host, at(task, 81))?.finish()?;
    }
    Client::connect(&topology.outside, at("10.99.0.1", 81))?.finish()?;
    Ok(())
}

/// Linux takes packets for any of its addresses by any of its links. For a VLAN link on the host, a rule on the host
/// closes that.
#[test]
#[ignore = "needs 802.1Q links: `cargo xtask vm` runs it"]
fn beside_its_vlan_a_task_on_the_host_is_reached_until_a_rule_of_nftables_closes_that() -> Result<()> {
    let topology = Topology::new()?;
    tagged(&topology)?;
    let other = topology.device("other", &["10.77.0.1", "fd77::1"], true)?;
    let daemon = gated(&topology)?;
    let _echo = TcpEcho::start(&topology.host, 81)?;
    assert_eq!(beside(&topology, &other)?, [[Answer::Open; 2]; 2]);
    topology.host.output("nft", &[&documented_rule()?])?;
    assert_eq!(beside(&topology, &other)?, [[Answer::Silence; 2]; 2]);
    allowed_passes(&topology)?;
    daemon.stop()?;
    Ok(())
}

/// On a trunk the gate itself drops packets for a branch without its tag. It does not see other links.
#[test]
#[ignore = "needs 802.1Q links: `cargo xtask vm` runs it"]
fn beside_its_vlan_a_branch_of_the_trunk_is_reached_by_other_links_alone() -> Result<()> {
    let topology = Topology::new()?;
    tagged(&topology)?;
    let other = topology.device("other", &["10.77.0.1", "fd77::1"], true)?;
    // The branch's permitted ARP messages. A forwarding host would announce the branch as a router, which is refused.
    let mac = Config::vlan_mac_text(101);
    topology.host.ip(&format!("link set {LINK} address {mac}"))?;
    topology
        .outside
        .ip(&format!("neigh add {} lladdr {mac} dev eth0.101", FAMILIES[1].0))?;
    let config = topology.config().with("uplink: { device: wire, mode: trunk }");
    let addresses = FAMILIES.map(|(task, _)| task);
    let daemon = topology.start(
        &config
            .group("web", RULES)
            .vlan_task("branch", 101, &addresses, &["web"]),
    )?;
    await_gates(&topology.host, "wire")?;
    let _echo = TcpEcho::start(&topology.host, 81)?;
    assert_eq!(beside(&topology, &other)?, [[Answer::Silence, Answer::Open]; 2]);
    assert!(Counters::of(&daemon)?.dropped(Direction::Ingress, DropReason::NotForTask)? >= 2);
    topology.host.output("nft", &[&documented_rule()?])?;
    assert_eq!(beside(&topology, &other)?, [[Answer::Silence; 2]; 2]);
    allowed_passes(&topology)?;
    daemon.stop()?;
    Ok(())
}
