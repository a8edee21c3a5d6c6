//! Work that a task leaves to the kernel for the time after the verdict: it must not change what was judged. The link to
//! the outside fills in checksums itself, as a link without hardware for that does.

use anyhow::{Result, ensure};
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Capture, Counters, Daemon, E2eTest, Flow, Netns, Topology, at, ip,
    kernel::await_gates,
    offload::{Offload, turn},
    traffic::{Bulk, Segments, Sender, Unsummed},
    wire::{Way, Wire},
};

use super::{
    frames::{self, flags, icmp, tcp, udp},
    linear::{self, DEVICE, PEER, TASK},
    with_checksum,
};

const RULES: &str = "egress: [{ protocol: udp, ports: 443, to: any }, { protocol: tcp, ports: 443, to: any }, \
                     { protocol: icmp, to: any }, { protocol: icmpv6, to: any }, { protocol: 47, to: any }]";
const ETHERNET: u16 = 14;
/// Bytes of an IP header without options, by family.
const HEADER: [u16; 2] = [20, 40];

fn topology() -> Result<(Topology, Netns)> {
    let (topology, task) = linear::topology()?;
    turn(&topology.host, "wire", Offload::TransmitChecksum, false)?;
    Ok((topology, task))
}

/// The same with a gate, which is up.
fn gated() -> Result<(Topology, Netns, Daemon, Counters)> {
    let (topology, task) = topology()?;
    let config = topology.config().group("few", RULES);
    let daemon = topology.start(&config.device_task("web-1", DEVICE, &TASK, &["few"]))?;
    await_gates(&topology.host, DEVICE)?;
    let counters = Counters::of(&daemon)?;
    Ok((topology, task, daemon, counters))
}

fn packet(family: usize, protocol: u8, payload: &[u8]) -> Vec<u8> {
    with_checksum(frames::ip(ip(TASK[family]), ip(PEER[family]), protocol, payload))
}

/// The checksum of some words, as the kernel fills it in.
fn sum(words: &[u8]) -> u16 {
    let sum: u64 = words
        .chunks(2)
        .map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or_default()])))
        .sum();
    let mut folded = sum;
    while folded > 0xffff {
        folded = (folded & 0xffff) + (folded >> 16);
    }
    !(folded as u16)
}

/// The frame with its last two bytes chosen so that the sum from `start` on is `wanted`.
fn summing_to(mut frame: Vec<u8>, start: u16, wanted: u16) -> Vec<u8> {
    let at = frame.len() - 2;
    assert!((at - usize::from(start)).is_multiple_of(2), "whole words are summed");
    let last = (0..=u16::MAX).find(|last| {
        frame[at..].copy_from_slice(&last.to_be_bytes());
        sum(&frame[usize::from(start)..]) == wanted
    });
    assert!(last.is_some(), "no last word gives {wanted}");
    frame
}

/// A frame, the checksum that is to be written into it, and the flow that it belongs to afterwards.
fn attacks() -> Vec<(Vec<u8>, Unsummed, Flow)> {
    let mut attacks = Vec::new();
    for family in [0, 1] {
        let transport = ETHERNET + HEADER[family];
        let plain = packet(family, 17, &udp(4000, 443, &[7; 20]));
        // The bytes in its place are summed too: the last word makes up for them.
        let port = Unsummed {
            start: transport + 2,
            offset: 0,
        };
        attacks.push((
            summing_to(plain.clone(), port.start, 22),
            port,
            Flow::udp(at(TASK[family], 4000), at(PEER[family], 22)),
        ));
        // The last word of the source address, with the sum from there on.
        let address = Unsummed {
            start: transport - [6, 18][family],
            offset: 0,
        };
        let stranger = ["10.88.0.99", "fd88::99"][family];
        let last = [0x0063, 0x0099][family];
        attacks.push((
            summing_to(plain, address.start, last),
            address,
            Flow::udp(at(stranger, 4000), at(PEER[family], 443)),
        ));
    }
    attacks
}

/// Without a gate each attack works, so the tests that follow test the gate and not the kernel.
#[test]
fn a_checksum_that_is_filled_in_late_makes_another_packet() -> Result<()> {
    let (topology, task) = topology()?;
    let outside = Wire::tap(&topology.outside, "eth0")?;
    let sender = Sender::on(&task, "eth0")?;
    for (frame, unsummed, flow) in attacks() {
        ensure!(sender.send_unsummed(&frame, unsummed)?, "{unsummed:?} is not sent");
        outside.await_received(flow, 1)?;
    }
    Ok(())
}

#[test]
fn a_gate_lets_no_packet_out_that_becomes_another() -> Result<()> {
    let (topology, task, daemon, counters) = gated()?;
    let outside = Wire::tap(&topology.outside, "eth0")?;
    let sender = Sender::on(&task, "eth0")?;
    let attacks = attacks();
    // Twice: as the first packet of a flow, and as part of a tracked one.
    for round in 1..=2 {
        for (frame, unsummed, _) in &attacks {
            ensure!(sender.send_unsummed(frame, *unsummed)?, "{unsummed:?} is not sent");
        }
        counters.await_dropped(Direction::Egress, DropReason::Malformed, round * attacks.len() as u64)?;
        for family in [0, 1] {
            let allowed = Flow::udp(at(TASK[family], 4000), at(PEER[family], 443));
            sender.send(&packet(family, 17, &udp(4000, 443, &[8; 20])))?;
            outside.await_received(allowed, round)?;
        }
    }
    for (_, _, flow) in attacks {
        assert_eq!(outside.received(flow)?.packets, 0, "{flow:?}");
    }
    let malformed = daemon.stop()?.ledger()?;
    assert_eq!(
        malformed.flows("web-1", testkit::ledger::Action::Reject).count(),
        2,
        "each is recorded as what it was: {malformed:?}"
    );
    Ok(())
}

/// A protocol and its payload, the place of the checksum in its header, and the place where a tunnel's inner packet may
/// begin.
type Payload = (u8, Vec<u8>, Option<u16>, Option<u16>);

fn payloads(family: usize) -> Vec<Payload> {
    let (echo, kind) = [(1, 8), (58, 128)][family];
    let body = [0x55; 64];
    vec![
        (6, tcp(4000, 443, flags::ACK, &body), Some(16), None),
        (17, udp(4000, 443, &body), Some(6), Some(8)),
        (echo, icmp(kind, 0, 1, &body), Some(2), None),
        (47, [&[0, 0, 0x08, 0], &body[..]].concat(), None, Some(0)),
    ]
}

/// The judged part of a frame, which must arrive unchanged: without the hop limit, and without the checksum written.
fn judged_part(family: usize, frame: &[u8], place: u16) -> Vec<u8> {
    let mut part = frame[..usize::from(ETHERNET + HEADER[family] + 8)].to_vec();
    let changes: &[usize] = [&[22, 24, 25][..], &[21]][family];
    for at in changes.iter().copied().chain([place.into(), usize::from(place) + 1]) {
        if let Some(byte) = part.get_mut(at) {
            *byte = 0;
        }
    }
    part.split_off(12)
}

/// A frame with a checksum to be written into it, and whether its place is allowed.
#[derive(Debug)]
struct Sent {
    passes: bool,
    place: u16,
    mark: Vec<u8>,
    frame: Vec<u8>,
}

/// Every place from the Ethernet header to behind the transport header, expressed in several ways.
#[test]
fn a_checksum_is_written_only_where_no_gate_looks() -> Result<()> {
    let (topology, task, daemon, counters) = gated()?;
    let arrived = Capture::tap(&topology.outside, "eth0")?;
    let sender = Sender::on(&task, "eth0")?;
    let mut refused = 0;
    for family in [0, 1] {
        let transport = ETHERNET + HEADER[family];
        for (protocol, payload, field, tunnel) in payloads(family) {
            let mut number = 0_u16;
            let mut sent = Vec::new();
            for start in [ETHERNET, 22, transport - 2, transport, transport + 1, transport + 8] {
                for place in start..transport + 24 {
                    number += 1;
                    // At the end, where nothing is written.
                    let mark = [b"mark", &[family as u8, protocol][..], &number.to_be_bytes()].concat();
                    let payload = [&payload[..], &mark].concat();
                    let frame = packet(family, protocol, &payload);
                    let unsummed = Unsummed {
                        start,
                        offset: place - start,
                    };
                    if !sender.send_unsummed(&frame, unsummed)? {
                        continue;
                    }
                    let own = start == transport && field == Some(unsummed.offset);
                    sent.push(Sent {
                        passes: own || tunnel.is_some_and(|behind| start >= transport + behind),
                        place,
                        mark,
                        frame,
                    });
                }
            }
            refused += sent.iter().filter(|sent| !sent.passes).count() as u64;
            counters.await_dropped(Direction::Egress, DropReason::Malformed, refused)?;
            for sent in sent {
                if sent.passes {
                    let came = arrived.frame(&sent.mark)?;
                    let same = judged_part(family, &came, sent.place) == judged_part(family, &sent.frame, sent.place);
                    assert!(same, "{protocol}, {sent:?}: {came:02x?}");
                } else {
                    assert_eq!(arrived.count(&sent.mark)?, 0, "{protocol}, {sent:?}");
                }
            }
        }
    }
    assert!(refused > 500, "{refused}");
    daemon.stop()?;
    Ok(())
}

/// GSO packets carry such a checksum too, and their lengths must be true.
#[test]
fn what_is_cut_late_is_cut_as_it_was_judged() -> Result<()> {
    let (topology, task, daemon, counters) = gated()?;
    let outside = Wire::tap(&topology.outside, "eth0")?;
    let sender = Sender::on(&task, "eth0")?;
    turn(&topology.host, "wire", Offload::TcpSegmentation, false)?;
    let mut refused = 0;
    for (family, kind) in [Segments::Tcp4, Segments::Tcp6].into_iter().enumerate() {
        let transport = ETHERNET + HEADER[family];
        let frame = packet(family, 6, &tcp(4000, 443, flags::ACK, &[5; 3000]));
        let unsummed = |start| Unsummed { start, offset: 16 };
        ensure!(sender.send_unsummed_segments(&frame, kind, 1000, unsummed(transport))?);
        let flow = Flow::tcp(at(TASK[family], 4000), at(PEER[family], 443));
        outside.await_received(flow, 3)?;
        assert_eq!(outside.together(Way::In, flow)?, 0);
        // The first word of TCP's ports, in every segment.
        if sender.send_unsummed_segments(&frame, kind, 1000, unsummed(transport - 14))? {
            refused += 1;
        }
        // The header claims a short packet, which would be split into three long ones.
        let mut short = frame.clone();
        let length = [16, 18][family];
        short[length..length + 2].copy_from_slice(&60_u16.to_be_bytes());
        if sender.try_segments(&with_checksum(short), kind, 1000)? {
            refused += 1;
        }
    }
    counters.await_dropped(Direction::Egress, DropReason::Malformed, refused)?;
    for family in [0, 1] {
        let flow = Flow::tcp(at(TASK[family], 4000), at(PEER[family], 443));
        assert_eq!(outside.received(flow)?.packets, 3);
    }
    daemon.stop()?;
    Ok(())
}

/// The checksums of a tunnel's packets are filled in late, and the packets are split late, behind the header that a gate
/// judges.
#[test]
fn a_tunnel_out_of_a_task_carries_what_is_finished_late() -> Result<()> {
    const TUNNEL: &str = "ingress: [{ protocol: udp, ports: 4789, from: any }], \
                          egress: [{ protocol: udp, ports: 4789, to: any }]";
    const MUCH: u64 = 4 << 20;
    let test = E2eTest::start(|config| config.group("tunnel", TUNNEL).task("web-1", &TASK, &["tunnel"]))?;
    turn(&test.topology.host, "wire", Offload::TransmitChecksum, false)?;
    let counters = Counters::of(&test.daemon)?;
    let (task, outside) = (test.task("web-1")?, &test.topology.outside);
    for family in [0, 1] {
        for (netns, there, own) in [(task, PEER, 1), (outside, TASK, 2)] {
            netns.ip(&format!(
                "link add vx{family} type vxlan id {family} remote {} dstport 4789 dev eth0 udp6zerocsumtx udp6zerocsumrx
                 address add 10.77.{family}.{own}/24 dev vx{family}
                 address add fd77:{family}::{own}/64 dev vx{family} nodad
                 link set vx{family} up",
                there[family]
            ))?;
        }
        for to in [format!("10.77.{family}.2"), format!("fd77:{family}::2")] {
            let bulk = Bulk::rush(task, outside, at(&to, 5001))?;
            bulk.await_more(MUCH)?;
            bulk.finish()?;
        }
    }
    assert_eq!(counters.dropped(Direction::Egress, DropReason::Malformed)?, 0);
    test.daemon.stop()?;
    Ok(())
}
