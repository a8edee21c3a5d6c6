//! Packets that kernels send together and split late, or merge early: counted as the packets on the wire, wherever they
//! can be seen one by one.

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Config, Count, Counters, E2eTest, Flow, Ledger, Netns, Wire, at, ip,
    kernel::await_gates,
    offload::{Offload, turn},
    traffic::{Bulk, Segments, Sender, UdpPeer},
    wire::Way,
};

use super::{frames, linear, with_checksum};

const WEB: [&str; 2] = ["10.88.0.10", "fd88::10"];
const OUTSIDE: [&str; 2] = ["10.99.0.2", "fd99::2"];
const RULES: &str = "ingress: [{ protocol: tcp, ports: 5001, from: any }, { protocol: udp, ports: 53, from: any }], \
                     egress: [{ protocol: tcp, ports: 5001, to: any }, { protocol: udp, ports: 53, to: any }]";
/// Enough data for TCP to have found the largest size of its GSO packets.
const MUCH: u64 = 8 << 20;
/// A link with this option gets no GSO packets: they are split before.
const ONE_BY_ONE: &str = "gso_max_segs 1";

fn one(config: Config) -> Config {
    config.group("few", RULES).task("web-1", &WEB, &["few"])
}

/// A TCP connection from a task, as the gate sees it (segments together) and as the outside sees it (one by one).
/// `link`: the limit of the task's link.
fn tcp_from_a_task(families: &[usize], link: &str) -> Result<()> {
    let test = E2eTest::start(one)?;
    let (task, outside) = (test.task("web-1")?, &test.topology.outside);
    test.topology.host.ip(&format!("link set dev wire {ONE_BY_ONE}"))?;
    task.ip(&format!("link set dev eth0 {link}"))?;
    // Linux counts its hop-by-hop header as part of the packet to be sent, which must fit.
    for (netns, link) in [(&test.topology.host, "wire"), (outside, "eth0")] {
        netns.ip(&format!("link set dev {link} mtu 2000"))?;
    }
    let mut expected = Ledger::default();
    for family in families {
        let bulk = Bulk::rush(task, outside, at(OUTSIDE[*family], 5001))?;
        bulk.await_more(MUCH)?;
        let flow = bulk.flow();
        bulk.finish()?;
        assert!(test.wire("web-1")?.together(Way::Out, flow)? > 0);
        assert_eq!(test.outside.together(Way::In, flow)?, 0);
        expected = expected.accept("web-1", flow, test.outside.received(flow)?).accept(
            "web-1",
            flow.back(),
            test.outside.sent(flow.back())?,
        );
    }
    test.finish(&expected)?;
    Ok(())
}

/// AWS: FL-FLOW-5
#[test]
fn tcp_that_a_task_sends_together_is_counted_as_it_leaves_the_host() -> Result<()> {
    tcp_from_a_task(&[0, 1], "gso_max_size 65536")
}

/// Segments larger than an IPv6 header's length field. Linux puts a hop-by-hop header before them and removes it when it
/// splits them.
#[test]
fn tcp_that_is_larger_than_any_packet_is_counted_as_it_leaves_the_host() -> Result<()> {
    tcp_from_a_task(&[1], "gso_max_size 180000")
}

/// AWS: FL-FLOW-5
#[test]
fn tcp_that_the_host_puts_together_is_counted_as_it_came() -> Result<()> {
    let test = E2eTest::start(one)?;
    let (task, outside) = (test.task("web-1")?, &test.topology.outside);
    turn(outside, "eth0", Offload::TcpSegmentation, false)?;
    turn(&test.topology.host, "wire", Offload::GenericReceive, true)?;
    let mut expected = Ledger::default();
    for family in [0, 1] {
        let bulk = Bulk::rush(outside, task, at(WEB[family], 5001))?;
        bulk.await_more(MUCH)?;
        let flow = bulk.flow();
        bulk.finish()?;
        assert_eq!(test.outside.together(Way::Out, flow)?, 0);
        assert!(test.wire("web-1")?.together(Way::In, flow)? > 0);
        expected = expected.accept("web-1", flow, test.outside.sent(flow)?).accept(
            "web-1",
            flow.back(),
            test.outside.received(flow.back())?,
        );
    }
    test.finish(&expected)?;
    Ok(())
}

/// Twenty datagrams of 1000 bytes, and one of a single byte.
static DATA: [u8; 20_001] = [5; 20_001];
const SIZE: u16 = 1000;

fn datagrams(v6: bool) -> Count {
    let headers = if v6 { 48 } else { 28 };
    Count::new(21, DATA.len() as u64 + 21 * headers)
}

/// AWS: FL-FLOW-5
#[test]
fn datagrams_that_are_sent_together_are_counted_one_by_one() -> Result<()> {
    let test = E2eTest::start(one)?;
    let counters = Counters::of(&test.daemon)?;
    let (task, outside) = (test.task("web-1")?, &test.topology.outside);
    // Packets that leave the host are split before, packets that come to it are not.
    test.topology.host.ip(&format!("link set dev wire {ONE_BY_ONE}"))?;
    let mut expected = Ledger::default();
    for family in [0, 1] {
        for (from, to, direction) in [
            ((task, WEB), (outside, OUTSIDE), Direction::Egress),
            ((outside, OUTSIDE), (task, WEB), Direction::Ingress),
        ] {
            let bind = |(netns, addresses): (&Netns, [&str; 2]), port| {
                UdpPeer::bind(netns, &at(addresses[family], port).to_string())
            };
            let (sender, receiver) = (bind(from, 0)?, bind(to, 53)?);
            let flow = sender.send_segments(receiver.address(), &DATA, SIZE)?;
            for datagram in DATA.chunks(SIZE.into()) {
                receiver.expect(datagram)?;
            }
            let (sent, received): (&Wire, &Wire) = match direction {
                Direction::Egress => (test.wire("web-1")?, &test.outside),
                Direction::Ingress => (&test.outside, test.wire("web-1")?),
            };
            assert_eq!(sent.together(Way::Out, flow)?, 1);
            assert_eq!(received.together(Way::In, flow)?, direction as u64);
            assert_eq!(received.received(flow)?, datagrams(family == 1));
            // All segments are denied like a single datagram.
            let denied = sender.send_segments(at(to.1[family], 54), &DATA, SIZE)?;
            counters.await_dropped(direction, DropReason::NoRule, 21 * (family as u64 + 1))?;
            assert_eq!(received.received(denied)?, Count::default());
            let count = datagrams(family == 1);
            expected = expected.accept("web-1", flow, count).reject("web-1", denied, count);
        }
    }
    test.finish(&expected)?;
    Ok(())
}

/// The gate sees the segments of a packet socket's frame toward a task before the kernel has counted them.
#[test]
fn segments_that_the_kernel_has_not_counted_are_counted() -> Result<()> {
    let (topology, task) = linear::topology()?;
    let daemon = topology.start(&linear::config(&topology))?;
    await_gates(&topology.host, linear::DEVICE)?;
    let counters = Counters::of(&daemon)?;
    let wire = Wire::tap(&task, "eth0")?;
    let sender = Sender::on(&topology.host, linear::DEVICE)?;
    let mut expected = Ledger::default();
    for (family, kind) in [Segments::Tcp4, Segments::Tcp6].into_iter().enumerate() {
        let headers = [40, 60][family];
        // A last segment as large as the others, and a smaller one.
        for (number, (payload, packets)) in [(3000, 3), (2001, 3)].into_iter().enumerate() {
            let count = Count::new(packets, payload as u64 + packets * headers);
            for port in [443, 22] {
                let (from, to) = (linear::PEER[family], linear::TASK[family]);
                let segment = frames::tcp(30_000 + number as u16, port, frames::flags::ACK, &vec![9; payload]);
                let frame = with_checksum(frames::ip(ip(from), ip(to), 6, &segment));
                sender.send_segments(&frame, kind, 1000)?;
                let flow = Flow::tcp(at(from, 30_000 + number as u16), at(to, port));
                if port == 443 {
                    assert_eq!(wire.await_received(flow, packets)?, count);
                    expected = expected.accept("web-1", flow, count);
                } else {
                    expected = expected.reject("web-1", flow, count);
                }
            }
        }
    }
    counters.await_dropped(Direction::Ingress, DropReason::NoRule, 12)?;
    assert_eq!(daemon.stop()?.ledger()?, expected);
    Ok(())
}
