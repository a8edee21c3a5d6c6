//! Neighbour messages on real links: those that a task may send, and those that it receives.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result};
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use testkit::{
    Action, Config, Count, Daemon, E2eTest, Flow, MapDump, Netns, Topology, at,
    fixture::frames,
    ip,
    kernel::await_gates,
    netns::until,
    record::RecordedFlow,
    traffic::{Pinger, Sender, UdpPeer},
};

const ALL_NODES: &str = "ff02::1";
/// Where frames to `ff02::1` go.
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const BROADCAST_MAC: [u8; 6] = [0xff; 6];
const NEW_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];

/// The hardware address of a link.
fn mac(netns: &Netns, link: &str) -> Result<[u8; 6]> {
    let shown = netns.output("ip", &["-o", "link", "show", "dev", link])?;
    let text = shown.split("link/ether ").nth(1).context("it is no Ethernet link")?;
    let bytes: Result<Vec<u8>, _> = text[..17].split(':').map(|byte| u8::from_str_radix(byte, 16)).collect();
    bytes?.try_into().ok().context("six bytes")
}

/// A frame to a hardware address.
fn toward(mac: [u8; 6], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&mac);
    frame
}

/// An ICMPv6 message with the checksum that hosts require (RFC 4443, 2.3).
fn icmpv6(source: IpAddr, destination: IpAddr, kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
    let mut message = frames::icmp(kind, 0, u16::from(flags) << 8, body);
    message[6..8].fill(0);
    let mut frame = frames::ipv6(source, destination, 58, 255, &message);
    let length = message.len() as u16;
    let covered = [&frame[22..54], &length.to_be_bytes(), &[0, 58], &message].concat();
    let sum: u32 = covered
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A neighbour advertisement that overrides the known entry.
fn advertisement(source: &str, destination: &str, target: &str, mac: [u8; 6]) -> Vec<u8> {
    const OVERRIDE: u8 = 0x20;
    let body = [&octets(ip(target))[..], &[2, 1], &mac].concat();
    icmpv6(ip(source), ip(destination), 136, OVERRIDE, &body)
}

/// A default router for half an hour.
fn router_advertisement(source: &str, destination: &str) -> Vec<u8> {
    let mut frame = icmpv6(ip(source), ip(destination), 134, 0, &[0; 8]);
    let lifetime = 1800_u16.to_be_bytes();
    let checksum = u16::from_be_bytes([frame[56], frame[57]]);
    // The checksum is reduced by the value added to the message.
    let (less, borrows) = checksum.overflowing_sub(u16::from_be_bytes(lifetime));
    frame[56..58].copy_from_slice(&less.wrapping_sub(u16::from(borrows)).to_be_bytes());
    frame[60..62].copy_from_slice(&lifetime);
    frame
}

/// A task on a link that taskgate did not make, which may send only what `rules` allow.
fn closed(rules: &str) -> Result<(Topology, Daemon, Netns)> {
    let topology = Topology::new()?;
    let config: Config = topology.config().group("closed", rules).device_task(
        "task-1",
        "tg-task",
        &["10.88.0.10", "fd88::10"],
        &["closed"],
    );
    let daemon = topology.start(&config)?;
    let task = topology.device("tg-task", &["10.88.0.10", "fd88::10"], true)?;
    await_gates(&topology.host, "tg-task")?;
    Ok((topology, daemon, task))
}

/// Not even a task without the source/destination check, with every rule open, on a host that accepts such messages.
#[test]
fn a_task_does_not_become_the_hosts_default_router() -> Result<()> {
    let test = E2eTest::start(|config| {
        config
            .group("open", "ingress: [{ protocol: all, from: any }]")
            .task("router-1", &["10.88.0.10", "fd88::10"], &["open"])
            .amend("router-1", "source-dest-check: false")
    })?;
    let held = MapDump::of(&test.daemon)?;
    let (topology, task) = (&test.topology, test.task("router-1")?);
    let link = topology.host_link("router-1")?;
    for link in ["wire", &link] {
        topology.host.set(&format!("net.ipv6.conf.{link}.accept_ra"), "2")?;
    }
    let from_task = Sender::on(task, "eth0")?;
    let host = mac(&topology.host, &link)?;
    from_task.send(&toward(ALL_NODES_MAC, router_advertisement("fe80::9", ALL_NODES)))?;
    from_task.send(&toward(host, router_advertisement("fe80::9", "fe80::1")))?;
    from_task.send(&toward(host, router_advertisement("fe80::9", "fd99::1")))?;
    held.await_counted(Egress, "spoofed-source", &[3])?;
    // The same message from elsewhere takes effect.
    let outside = Sender::on(&topology.outside, "eth0")?;
    let defaults = || topology.host.output("ip", &["-6", "route", "show", "default"]);
    until("the host has a default router", || {
        outside.send(&toward(ALL_NODES_MAC, router_advertisement("fe80::99", ALL_NODES)))?;
        Ok(defaults()?.contains("fe80::99"))
    })?;
    assert!(!defaults()?.contains("fe80::9 "), "{}", defaults()?);
    test.daemon.stop()?;
    Ok(())
}

/// A host with a global address on the link may ask under that address and is answered; hosts beyond the link get no
/// answer.
#[test]
fn a_closed_task_answers_its_neighbours_and_tells_nobody_else() -> Result<()> {
    let (topology, daemon, task) = closed("ingress: [{ protocol: icmpv6, type: 128, from: any }], egress: []")?;
    topology.host.ip("address add fd88::1/64 dev tg-task nodad")?;
    let from_task = Sender::on(&task, "eth0")?;
    let host = mac(&topology.host, "tg-task")?;
    let letter = |to: &str| toward(host, advertisement("fd88::10", to, "fd88::10", NEW_MAC));
    // Until the host has spoken from its global address, it counts as a stranger.
    from_task.send(&letter("fd88::1"))?;
    from_task.send(&letter("fd99::2"))?;
    Pinger::new(&topology.host, ip("fd88::1"), ip("fd88::10"))?.echo()?;
    let known = topology
        .host
        .output("ip", &["-6", "neighbour", "show", "dev", "tg-task"])?;
    assert!(known.contains("fd88::10 lladdr"), "{known}");
    let held = MapDump::of(&daemon)?;
    from_task.send(&letter("fd99::2"))?;
    held.await_counted(Egress, "no-rule", &[3])?;
    let recorded = daemon.stop()?.ledger()?;
    let to = |peer: &str| Flow::icmp(ip("fd88::10"), ip(peer));
    assert_eq!(
        recorded.get("task-1", to("fd99::2"), Action::Reject),
        Count::new(2, 144)
    );
    assert_eq!(recorded.get("task-1", to("fd88::1"), Action::Reject), Count::new(1, 72));
    Ok(())
}

/// A gateway that moves to other hardware announces that to all, and a gated task follows at once.
#[test]
fn a_gateway_that_announces_its_new_hardware_is_heard() -> Result<()> {
    let (topology, daemon, task) = closed("egress: []")?;
    let old = "02:00:00:00:00:66";
    task.ip(&format!(
        "neighbour replace 169.254.1.1 lladdr {old} dev eth0 nud stale
         neighbour replace fd88::1 lladdr {old} dev eth0 nud stale"
    ))?;
    let from_host = Sender::on(&topology.host, "tg-task")?;
    let mut arp = toward(BROADCAST_MAC, frames::arp(1, ip("169.254.1.1"), ip("169.254.1.1")));
    arp[22..28].copy_from_slice(&NEW_MAC);
    let announced = [
        ("169.254.1.1", arp),
        (
            "fd88::1",
            toward(ALL_NODES_MAC, advertisement("fe80::1", ALL_NODES, "fd88::1", NEW_MAC)),
        ),
    ];
    for (gateway, frame) in announced {
        until("the task follows", || {
            from_host.send(&frame)?;
            let known = task.output("ip", &["neighbour", "show", gateway, "dev", "eth0"])?;
            Ok(known.contains("02:00:00:00:00:77"))
        })?;
    }
    // Other hosts' announcements of the task's own addresses are denied.
    let held = MapDump::of(&daemon)?;
    let own = toward(BROADCAST_MAC, frames::arp(2, ip("10.88.0.10"), ip("10.88.0.10")));
    from_host.send(&own)?;
    from_host.send(&toward(
        ALL_NODES_MAC,
        advertisement("fe80::1", ALL_NODES, "fd88::10", NEW_MAC),
    ))?;
    held.await_counted(Ingress, "spoofed-source", &[2])?;
    daemon.stop()?;
    Ok(())
}

/// The index and the link-local address of a link.
fn link_local(netns: &Netns, link: &str) -> Result<(u32, Ipv6Addr)> {
    let shown = netns.output("ip", &["-o", "-6", "address", "show", "dev", link, "scope", "link"])?;
    let index = shown.split(':').next().context("no address")?.trim().parse()?;
    let address = shown.split("inet6 ").nth(1).and_then(|rest| rest.split('/').next());
    Ok((index, address.context("no address")?.parse()?))
}

/// A resolver at the link-local address of the gateway, as routers announce it.
#[test]
fn a_task_asks_a_resolver_on_its_link_from_its_link_local_address() -> Result<()> {
    let (topology, daemon, task) = closed("egress: [{ protocol: udp, ports: 53, to: ['fe80::/10'] }]")?;
    let (host_index, _) = link_local(&topology.host, "tg-task")?;
    let (index, own) = link_local(&task, "eth0")?;
    let [dns, other] = [53, 54].map(|port| UdpPeer::bind(&topology.host, &format!("[fe80::1%{host_index}]:{port}")));
    let (dns, other) = (dns?, other?);
    let client = UdpPeer::bind(&task, &format!("[{own}%{index}]:0"))?;
    let gateway = |port| -> Result<SocketAddr> { Ok(format!("[fe80::1%{index}]:{port}").parse()?) };
    client.send(gateway(54)?, b"query")?;
    client.send(gateway(53)?, b"query")?;
    let from = dns.expect(b"query")?;
    dns.send(from, b"answer")?;
    client.expect(b"answer")?;
    assert!(other.is_silent()?);
    let stopped = daemon.stop()?;
    let flow = |port| Flow::udp((own, client.address().port()).into(), at("fe80::1", port));
    for (flow, action, bytes) in [
        (flow(53), Action::Accept, 53),
        (flow(53).back(), Action::Accept, 54),
        (flow(54), Action::Reject, 53),
    ] {
        let seen = RecordedFlow {
            tuple: flow,
            count: Count::new(1, bytes),
            action,
        };
        let mut records = stopped.records_of("task-1");
        assert!(records.any(|record| record.flow == Some(seen.clone())), "{seen:?}");
    }
    Ok(())
}
