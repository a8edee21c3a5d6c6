//! The tests' tools by themselves: without taskgate everything passes, and the counts are those of the packets sent.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use testkit::{
    Count, Flow, Netns, OUTSIDE_V4, OUTSIDE_V6, Topology, Wire,
    kernel::gates,
    ledger::Action,
    traffic::{Client, Pinger, TcpEcho, UdpPeer, inject, try_connect, udp_packet},
};

const TASK_V4: &str = "10.88.0.10";
const TASK_V6: &str = "fd88::10";

struct Ungated {
    topology: Topology,
    task: Netns,
    wire: Wire,
    outside: Wire,
}

fn ungated() -> Result<Ungated> {
    let topology = Topology::new()?;
    let task = topology.device("tg-task", &[TASK_V4, TASK_V6], true)?;
    let wire = Wire::tap(&task, "eth0")?;
    let outside = Wire::tap(&topology.outside, "eth0")?;
    Ok(Ungated {
        topology,
        task,
        wire,
        outside,
    })
}

fn address(text: &str) -> Result<IpAddr> {
    Ok(text.parse()?)
}

#[test]
fn tcp_is_counted_segment_by_segment() -> Result<()> {
    let it = ungated()?;
    let _echo = TcpEcho::start(&it.task, 80)?;
    for to in [TASK_V4, TASK_V6] {
        let mut client = Client::connect(&it.topology.outside, (address(to)?, 80).into())?;
        client.echo(200_000)?;
        let flow = client.finish()?;
        let headers = if flow.source.is_ipv4() { 20 } else { 40 };
        for flow in [flow, flow.back()] {
            let (at_task, at_client) = (it.wire.flows()?, it.outside.flows()?);
            let sum = |flows: &std::collections::BTreeMap<(_, Flow), Count>| {
                flows
                    .iter()
                    .filter(|((_, of), _)| *of == flow)
                    .map(|(_, count)| *count)
                    .sum::<Count>()
            };
            let count = sum(&at_task);
            assert_eq!(count, sum(&at_client), "both ends of the way see the same of {flow:?}");
            // 1,448 or 1,428 bytes of data fit into a segment with time stamps.
            assert!(count.packets >= 200_000 / 1_448, "{count:?}");
            let data = count.bytes - count.packets * (headers + 32);
            // A SYN has eight bytes of options more. The count has the whole stream, once but for segments that a busy
            // machine was late to acknowledge.
            assert!((200_008..202_000).contains(&data), "{flow:?}: {count:?}");
        }
    }
    Ok(())
}

#[test]
fn udp_and_icmp_of_both_families_are_counted() -> Result<()> {
    let it = ungated()?;
    for (task, outside, header, any) in [
        (TASK_V4, OUTSIDE_V4, 20, "0.0.0.0:0"),
        (TASK_V6, OUTSIDE_V6, 40, "[::]:0"),
    ] {
        let server = UdpPeer::bind(&it.task, &std::net::SocketAddr::new(address(task)?, 53).to_string())?;
        let client = UdpPeer::bind(&it.topology.outside, any)?;
        client.converse(&server, 3)?;
        let flow = Flow::udp((outside, client.address().port()).into(), server.address());
        assert_eq!(it.wire.received(flow)?, Count::new(3, 3 * (header + 8 + 7)));
        assert_eq!(it.wire.sent(flow.back())?, Count::new(3, 3 * (header + 8 + 8)));

        let mut pinger = Pinger::new(&it.topology.outside, outside, address(task)?)?;
        pinger.echo()?;
        assert!(pinger.echoes()?);
        for flow in [pinger.flow(), pinger.flow().back()] {
            let count = it.wire.received(flow)? + it.wire.sent(flow)?;
            assert_eq!(count, Count::new(2, 2 * (header + 64)), "{flow:?}");
        }
    }
    Ok(())
}

#[test]
fn silence_is_told_from_refusal_and_costs_one_packet() -> Result<()> {
    let it = ungated()?;
    // Packets to an address that the other side keeps silent about.
    it.topology.outside.ip("address add 10.99.0.3/24 dev eth0
         route add blackhole 10.88.0.10/32")?;
    let to = (address("10.99.0.3")?, 80).into();
    assert!(try_connect(&it.task, to)?.is_none());
    let (_, sent) = it
        .wire
        .flows()?
        .into_iter()
        .find(|((_, flow), _)| flow.destination == to)
        .context("nothing was sent")?;
    assert_eq!(sent, Count::new(1, 60));
    it.topology.outside.ip("route delete blackhole 10.88.0.10/32")?;
    let refused = try_connect(&it.topology.outside, (address(TASK_V4)?, 81).into());
    assert!(format!("{:#}", refused.unwrap_err()).contains("refused"));
    Ok(())
}

#[test]
fn packets_of_any_source_can_be_sent() -> Result<()> {
    let it = ungated()?;
    for (source, task) in [
        ("192.0.2.7:4000", "10.88.0.10:9"),
        ("[2001:db8::7]:4000", "[fd88::10]:9"),
    ] {
        let flow = Flow::udp(source.parse()?, task.parse()?);
        inject(&it.topology.outside, &udp_packet(flow, b"anything")?)?;
        let header = if flow.source.is_ipv4() { 20 } else { 40 };
        assert_eq!(it.wire.await_received(flow, 1)?, Count::new(1, header + 8 + 8));
    }
    Ok(())
}

#[test]
fn wires_make_a_ledger() -> Result<()> {
    let it = ungated()?;
    let server = UdpPeer::bind(&it.task, "10.88.0.10:53")?;
    let client = UdpPeer::bind(&it.topology.outside, "10.99.0.2:0")?;
    let flow = client.converse(&server, 1)?;
    let ledger = testkit::Ledger::of_wires(&[("task", &it.wire)])?;
    assert_eq!(ledger.get("task", flow, Action::Accept), Count::new(1, 35));
    assert_eq!(ledger.get("task", flow.back(), Action::Accept), Count::new(1, 36));
    Ok(())
}

#[test]
fn a_link_of_nobody_has_no_gates() -> Result<()> {
    let it = ungated()?;
    assert_eq!(gates(&it.topology.host, "tg-task")?, (0, 0));
    Ok(())
}
