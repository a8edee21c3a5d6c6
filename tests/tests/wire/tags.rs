//! VLAN tags on links that are not trunks, in the frame and in the metadata. A bridge would carry all of them: the gate
//! stops them.

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Capture, Config, Count, Counters, Flow, Ledger, Netns, Topology, at, ip, kernel::await_gates, netns::await_up,
    traffic::Sender,
};

use super::{frames, with_checksum};

const TASK: &str = "10.88.0.10";
const TASK6: &str = "fd88::10";
const PEER: &str = "10.88.0.99";
const PEER6: &str = "fd88::99";
const HTTPS: &str = "ingress: [{ protocol: tcp, ports: 443, from: any }], \
                     egress: [{ protocol: tcp, ports: 443, to: any }]";

/// A task and a peer on the two ports of a bridge.
struct Bridged {
    topology: Topology,
    task: Netns,
    peer: Netns,
}

impl Bridged {
    fn new() -> Result<Self> {
        let topology = Topology::new()?;
        let task = topology.device("tg-tagged", &[TASK, TASK6], true)?;
        let peer = Netns::new("peer")?;
        topology.host.add_veth("port", &peer, "eth0")?;
        topology.host.ip("link add name bridge type bridge mcast_snooping 0
             link set dev tg-tagged master bridge
             link set dev port master bridge
             link set dev port up
             link set dev bridge up")?;
        peer.ip("link set dev eth0 up")?;
        await_up(&[(&topology.host, "port"), (&peer, "eth0")])?;
        Ok(Self { topology, task, peer })
    }

    fn config(&self) -> Config {
        self.topology
            .config()
            .group("https", HTTPS)
            .device_task("web-1", "tg-tagged", &[TASK, TASK6], &["https"])
    }
}

/// A SYN to port 443, which both directions allow, with a mark in its data.
fn syn(source: &str, destination: &str, mark: &[u8]) -> Vec<u8> {
    let tcp = frames::tcp(40000, 443, frames::flags::SYN, mark);
    with_checksum(frames::ip(ip(source), ip(destination), 6, &tcp))
}

/// A frame with tags of these EtherTypes and control words, the outermost first.
fn with_tags(tags: &[(u16, u16)], frame: &[u8]) -> Vec<u8> {
    let tags = tags
        .iter()
        .flat_map(|(kind, control)| [kind.to_be_bytes(), control.to_be_bytes()].concat());
    [&frame[..12], &tags.collect::<Vec<_>>(), &frame[12..]].concat()
}

const DOT1Q: u16 = 0x8100;
const DOT1AD: u16 = 0x88a8;
/// Priority 5, and no VLAN.
const PRIORITY: u16 = 0xa000;

const TAGS: [(&str, &[(u16, u16)]); 12] = [
    ("802.1Q", &[(DOT1Q, 101)]),
    ("802.1Q, the last VLAN", &[(DOT1Q, 4095)]),
    ("802.1Q, drop eligible", &[(DOT1Q, 0x1065)]),
    // Hosts accept these as if they had no tag.
    ("a priority tag", &[(DOT1Q, PRIORITY)]),
    ("nothing but a tag", &[(DOT1Q, 0)]),
    ("an empty tag in an empty tag", &[(DOT1Q, 0), (DOT1Q, 0)]),
    ("802.1ad", &[(DOT1AD, 101)]),
    ("802.1ad, a priority tag", &[(DOT1AD, PRIORITY)]),
    ("QinQ", &[(DOT1AD, 7), (DOT1Q, 101)]),
    ("QinQ, priority tags", &[(DOT1AD, PRIORITY), (DOT1Q, PRIORITY)]),
    ("three tags", &[(DOT1AD, 7), (DOT1AD, 8), (DOT1Q, 101)]),
    ("QinQ before it was a standard", &[(0x9100, 7), (DOT1Q, 101)]),
];

/// Sends every frame from `from` with each set of tags. None arrives, each is counted, and none leaves a record; the same
/// frame without tags arrives.
fn tagged(bridged: &Bridged, direction: Direction, from: (&Netns, &str), to: (&Netns, &str)) -> Result<()> {
    let daemon = bridged.topology.start(&bridged.config())?;
    await_gates(&bridged.topology.host, "tg-tagged")?;
    let counters = Counters::of(&daemon)?;
    let (sender, capture) = (Sender::on(from.0, from.1)?, Capture::tap(to.0, to.1)?);
    let pairs = match direction {
        Direction::Egress => [(TASK, PEER), (TASK6, PEER6)],
        Direction::Ingress => [(PEER, TASK), (PEER6, TASK6)],
    };
    let mark = |name: &str, source: &str| format!("{name} from {source}");
    let mut sent = 0;
    for (name, tags) in TAGS {
        for (source, destination) in pairs {
            let frame = syn(source, destination, mark(name, source).as_bytes());
            sender.send(&with_tags(tags, &frame))?;
            sent += 1;
            counters.await_dropped(direction, DropReason::UnsupportedEthertype, sent)?;
        }
        // Neighbour discovery in a tagged frame is dropped too.
        let (source, destination) = pairs[0];
        sender.send(&with_tags(tags, &frames::arp(1, ip(source), ip(destination))))?;
        sent += 1;
        counters.await_dropped(direction, DropReason::UnsupportedEthertype, sent)?;
    }
    let mut expected = Ledger::default();
    for (source, destination) in pairs {
        let plain = mark("no tag", source);
        sender.send(&syn(source, destination, plain.as_bytes()))?;
        capture.await_bytes(plain.as_bytes())?;
        let headers = if ip(source).is_ipv6() { 60 } else { 40 };
        let flow = Flow::tcp(at(source, 40000), at(destination, 443));
        expected = expected.accept("web-1", flow, Count::new(1, headers + plain.len() as u64));
        for (name, _) in TAGS {
            assert_eq!(capture.count(mark(name, source).as_bytes())?, 0, "{name}, {source}");
        }
    }
    assert_eq!(counters.dropped(direction, DropReason::UnsupportedEthertype)?, sent);
    assert_eq!(daemon.stop()?.ledger()?, expected);
    Ok(())
}

/// The outer tag is in the metadata, as in any received frame: the kernel has taken it out of the data.
#[test]
fn a_task_sends_no_tagged_frames() -> Result<()> {
    let bridged = Bridged::new()?;
    let (task, peer) = ((&bridged.task, "eth0"), (&bridged.peer, "eth0"));
    tagged(&bridged, Direction::Egress, task, peer)
}

/// The bridge received it, and sends it on with the tag in the metadata.
#[test]
fn a_task_gets_no_tagged_frames_from_a_bridge() -> Result<()> {
    let bridged = Bridged::new()?;
    let (task, peer) = ((&bridged.task, "eth0"), (&bridged.peer, "eth0"));
    tagged(&bridged, Direction::Ingress, peer, task)
}

/// The tag is in the data: no link received the frame before the gate.
#[test]
fn a_task_gets_no_tagged_frames_from_the_host() -> Result<()> {
    let bridged = Bridged::new()?;
    let (task, host) = ((&bridged.task, "eth0"), (&bridged.topology.host, "tg-tagged"));
    tagged(&bridged, Direction::Ingress, host, task)
}

/// The control: without gates all of these frames arrive.
#[test]
fn without_a_gate_a_bridge_carries_every_tagged_frame() -> Result<()> {
    let bridged = Bridged::new()?;
    for (from, to) in [(&bridged.task, &bridged.peer), (&bridged.peer, &bridged.task)] {
        let (sender, capture) = (Sender::on(from, "eth0")?, Capture::tap(to, "eth0")?);
        for (name, tags) in TAGS {
            sender.send(&with_tags(tags, &syn(TASK, PEER, name.as_bytes())))?;
            capture.await_bytes(name.as_bytes())?;
        }
    }
    Ok(())
}
