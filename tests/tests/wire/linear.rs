//! Non-linear frames, with as little in the readable part as a sender can arrange: judged and recorded like linear ones.

use std::collections::BTreeMap;

use anyhow::Result;
use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Capture, Config, Count, Counters, Flow, Ledger, Netns, Topology, at, ip,
    kernel::await_gates,
    ledger::protocol::{TCP, UDP},
    traffic::{Ring, Sender},
};

use super::{frames::*, with_checksum};

pub(super) const TASK: [&str; 2] = ["10.88.0.10", "fd88::10"];
pub(super) const PEER: [&str; 2] = ["10.99.0.2", "fd99::2"];
/// A router on the path, which reports packets that are too big.
const ROUTER: [&str; 2] = ["10.99.0.77", "fd99::77"];
/// The host's end of the task's link.
pub(super) const DEVICE: &str = "tg-pieces";
const RULES: &str = "ingress: [{ protocol: tcp, ports: 443, from: any }, { protocol: udp, ports: 53, from: any }], \
                     egress: [{ protocol: tcp, ports: 443, to: any }, { protocol: udp, ports: 53, to: any }]";

/// The readable bytes of a frame: only the Ethernet header, up to the middle and to the end of each header, and more than
/// the frame has.
const LINEAR: [usize; 19] = [
    14, 15, 20, 33, 34, 35, 42, 47, 53, 54, 55, 61, 62, 70, 78, 102, 118, 240, 2000,
];

/// A frame, and its expected outcome.
struct Sent {
    name: &'static str,
    frame: Vec<u8>,
    flow: Flow,
    /// The reason for a drop.
    reason: Option<DropReason>,
}

/// Frames of one direction and family, for separate flows and datagrams.
struct Script {
    direction: Direction,
    family: usize,
    number: u16,
    sent: Vec<Sent>,
}

impl Script {
    fn from(&self) -> &'static str {
        [TASK, PEER][self.direction.index()][self.family]
    }

    fn to(&self) -> &'static str {
        [PEER, TASK][self.direction.index()][self.family]
    }

    /// A flow of this script's own, to a port.
    fn flow(&self, protocol: u8, port: u16) -> Flow {
        let ports = if port == 0 { 0 } else { 20_000 + self.number };
        Flow {
            source: at(self.from(), ports),
            destination: at(self.to(), port),
            protocol,
        }
    }

    /// The mark in the data of a frame of this name, and in no other.
    fn mark(&self, name: &str) -> Vec<u8> {
        format!("{}.{}.{name}", self.family, self.number).into_bytes()
    }

    fn tcp(&self, port: u16, name: &str) -> Vec<u8> {
        tcp(20_000 + self.number, port, flags::SYN, &self.mark(name))
    }

    fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let frame = super::frames::ip(ip(self.from()), ip(self.to()), protocol, payload);
        with_checksum(frame)
    }

    fn add(&mut self, name: &'static str, flow: Flow, reason: Option<DropReason>, frame: Vec<u8>) {
        self.sent.push(Sent {
            name,
            frame,
            flow,
            reason,
        });
    }

    fn plain(&mut self) {
        let (allowed, denied) = (self.flow(TCP, 443), self.flow(TCP, 22));
        let to_443 = self.packet(6, &self.tcp(443, "tcp"));
        self.add("tcp", allowed, None, to_443);
        let to_22 = self.packet(6, &self.tcp(22, "another port"));
        self.add("another port", denied, Some(DropReason::NoRule), to_22);
        let datagram = |script: &Self, port, name| udp(20_000 + script.number, port, &script.mark(name));
        let to_53 = self.packet(17, &datagram(self, 53, "udp"));
        self.add("udp", self.flow(UDP, 53), None, to_53);
        let to_54 = self.packet(17, &datagram(self, 54, "another udp port"));
        self.add("another udp port", self.flow(UDP, 54), Some(DropReason::NoRule), to_54);
        let cut = self.packet(6, &tcp(1, 443, flags::SYN, b"")[..10]);
        self.add("cut", self.flow(TCP, 0), Some(DropReason::Malformed), cut);
        let (protocol, kind) = [(1, 8), (58, 128)][self.family];
        let echo = self.packet(protocol, &icmp(kind, 0, self.number, &self.mark("echo")));
        let flow = Flow::icmp(ip(self.from()), ip(self.to()));
        self.add("echo", flow, Some(DropReason::NoRule), echo);
    }

    /// Errors about the connection of [`Script::plain`], and about one that does not exist.
    fn errors(&mut self) {
        let source = match self.direction {
            Direction::Egress => self.from(),
            Direction::Ingress => ROUTER[self.family],
        };
        let (protocol, kind, code) = [(1, 3, 4), (58, 2, 0)][self.family];
        for (name, port, reason) in [
            ("too big", 443, None),
            ("too big for whom", 444, Some(DropReason::NoRule)),
        ] {
            let answer = tcp(port, 20_000 + self.number, flags::ACK, b"");
            let back = super::frames::ip(ip(self.to()), ip(self.from()), 6, &answer);
            let message = [icmp(kind, code, 0, &quoted(&back, 200)), self.mark(name)].concat();
            let frame = super::frames::ip(ip(source), ip(self.to()), protocol, &message);
            let flow = Flow::icmp(ip(source), ip(self.to()));
            self.add(name, flow, reason, with_checksum(frame));
        }
    }

    fn fragments(&mut self) {
        for (port, names, reasons) in [
            (53, ["first", "later"], [None, None]),
            (
                54,
                ["first of none", "later of none"],
                [Some(DropReason::NoRule), Some(DropReason::FragmentWithoutFirst)],
            ),
        ] {
            // The datagram's length is that of all its parts.
            let mut first = udp(20_000 + self.number, port, &[0; 40]);
            first.extend(self.mark(names[0]));
            first.resize(80, 0);
            let later = self.mark(names[1]);
            let datagram = self.number << 2 | u16::from(port == 54);
            for (name, offset, more, payload, reason) in [
                (names[0], 0, true, &first, reasons[0]),
                (names[1], 10, false, &later, reasons[1]),
            ] {
                let frame = self.fragment(datagram, offset, more, payload);
                let known = reason != Some(DropReason::FragmentWithoutFirst);
                let flow = self.flow(UDP, if known { port } else { 0 });
                self.add(name, flow, reason, frame);
            }
        }
    }

    fn fragment(&self, datagram: u16, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        let (from, to) = (ip(self.from()), ip(self.to()));
        let mut frame = if from.is_ipv4() {
            let word = offset | if more { MORE_FRAGMENTS } else { 0 };
            ipv4(from, to, 17, &[], word, payload)
        } else {
            ipv6(from, to, 44, 64, &fragment(17, offset, more, payload))
        };
        let identification = if from.is_ipv4() { 18 } else { 60 };
        frame[identification..][..2].copy_from_slice(&datagram.to_be_bytes());
        with_checksum(frame)
    }

    /// IPv4: as many options as there is room for, all of them without meaning.
    fn options(&mut self) {
        for (name, port, reason) in [
            ("options", 443, None),
            ("options, another port", 22, Some(DropReason::NoRule)),
        ] {
            let frame = ipv4(ip(self.from()), ip(self.to()), 6, &[1; 40], 0, &self.tcp(port, name));
            self.add(name, self.flow(TCP, port), reason, with_checksum(frame));
        }
    }

    /// IPv6: as many extension headers as the parser follows, and one more; the longest that it reads, and longer ones.
    fn extensions(&mut self) {
        const CHAIN: [u8; 9] = [0, 60, 43, 60, 44, 60, 60, 60, 60];
        for (name, kinds, port, reason) in [
            ("eight headers", 8, 443, None),
            ("eight headers, another port", 8, 22, Some(DropReason::NoRule)),
            ("nine headers", 9, 443, Some(DropReason::Malformed)),
        ] {
            let mut next = TCP;
            let mut payload = self.tcp(port, name);
            for kind in CHAIN[..kinds].iter().rev() {
                payload = match kind {
                    44 => fragment(next, 0, false, &payload),
                    _ => extension(next, 1, &payload),
                };
                next = *kind;
            }
            let flow = match reason {
                Some(DropReason::Malformed) => self.flow(60, 0),
                _ => self.flow(TCP, port),
            };
            self.add(name, flow, reason, self.packet(next, &payload));
        }
        for (name, units, port, reason) in [
            ("a long header", 23, 443, None),
            ("a long header, another port", 23, 22, Some(DropReason::NoRule)),
            ("a header that is too long", 24, 0, Some(DropReason::Malformed)),
        ] {
            let payload = extension(TCP, units, &self.tcp(port, name));
            self.add(name, self.flow(TCP, port), reason, self.packet(60, &payload));
        }
    }
}

fn script(direction: Direction, family: usize, number: u16) -> Script {
    let mut script = Script {
        direction,
        family,
        number,
        sent: Vec::new(),
    };
    script.plain();
    script.errors();
    script.fragments();
    if family == 0 {
        script.options();
    } else {
        script.extensions();
    }
    script
}

/// A topology without any other frames on the links: the host has static neighbour entries, and both ends have no
/// addresses, so that they answer nothing.
pub(super) fn topology() -> Result<(Topology, Netns)> {
    const HERE: &str = "02:00:00:00:00:02";
    const THERE: &str = "02:00:00:00:00:03";
    let topology = Topology::new()?;
    let task = topology.device(DEVICE, &TASK, true)?;
    for (netns, link, address) in [
        (&topology.host, "wire", HERE),
        (&topology.host, DEVICE, HERE),
        (&topology.outside, "eth0", THERE),
        (&task, "eth0", THERE),
    ] {
        netns.ip(&format!("link set dev {link} address {address}"))?;
    }
    for (link, addresses) in [("wire", PEER), (DEVICE, TASK)] {
        for address in addresses {
            topology
                .host
                .ip(&format!("neigh replace {address} lladdr {THERE} dev {link}"))?;
        }
    }
    for netns in [&topology.outside, &task] {
        netns.ip("address flush dev eth0")?;
    }
    Ok((topology, task))
}

/// Frames stay in order only on one CPU.
fn stay_on_this_cpu() -> Result<()> {
    let mut here = CpuSet::new();
    here.set(sched_getcpu()?)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &here)?)
}

pub(super) fn config(topology: &Topology) -> Config {
    topology
        .config()
        .group("few", RULES)
        .device_task("web-1", DEVICE, &TASK, &["few"])
}

/// Sends the script in linear frames and in frames of two parts, from one end to the other.
fn in_pieces(topology: &Topology, direction: Direction, from: (&Netns, &str), to: (&Netns, &str)) -> Result<()> {
    stay_on_this_cpu()?;
    let daemon = topology.start(&config(topology))?;
    await_gates(&topology.host, DEVICE)?;
    let counters = Counters::of(&daemon)?;
    let capture = Capture::tap(to.0, to.1)?;
    let sender = Sender::on(from.0, from.1)?;
    let mut ring = Ring::on(from.0, from.1)?;
    let mut expected = Ledger::default();
    let mut dropped = BTreeMap::<DropReason, u64>::new();
    let mut scripts = Vec::new();
    for (number, linear) in LINEAR.into_iter().map(Some).chain([None]).enumerate() {
        for family in [0, 1] {
            let script = script(direction, family, number as u16);
            for Sent {
                frame, flow, reason, ..
            } in &script.sent
            {
                match linear {
                    Some(linear) => ring.send(frame, linear)?,
                    None => sender.send(frame)?,
                }
                let count = Count::new(1, frame.len() as u64 - 14);
                expected = match reason {
                    None => expected.accept("web-1", *flow, count),
                    Some(reason) => {
                        *dropped.entry(*reason).or_default() += 1;
                        expected.reject("web-1", *flow, count)
                    }
                };
            }
            scripts.push(script);
        }
    }
    for (reason, packets) in dropped {
        counters.await_dropped(direction, reason, packets)?;
    }
    let last = scripts.last().map(|script| script.mark("later")).unwrap_or_default();
    capture.await_bytes(&last)?;
    assert_eq!(daemon.stop()?.ledger()?, expected);
    for script in &scripts {
        for sent in script.sent.iter().filter(|sent| sent.name != "cut") {
            let arrived = capture.count(&script.mark(sent.name))?;
            let expected = usize::from(sent.reason.is_none());
            assert_eq!(
                arrived,
                expected,
                "`{}` of family {}, {} bytes readable",
                sent.name,
                script.family,
                LINEAR[usize::from(script.number).min(LINEAR.len() - 1)]
            );
        }
    }
    Ok(())
}

#[test]
fn what_a_task_sends_is_judged_wherever_its_bytes_lie() -> Result<()> {
    let (topology, task) = topology()?;
    in_pieces(
        &topology,
        Direction::Egress,
        (&task, "eth0"),
        (&topology.outside, "eth0"),
    )
}

#[test]
fn what_the_host_sends_to_a_task_is_judged_wherever_its_bytes_lie() -> Result<()> {
    let (topology, task) = topology()?;
    in_pieces(&topology, Direction::Ingress, (&topology.host, DEVICE), (&task, "eth0"))
}

/// The host that forwards has read the IP header by then, and no more.
#[test]
fn what_the_host_forwards_to_a_task_is_judged_wherever_its_bytes_lie() -> Result<()> {
    let (topology, task) = topology()?;
    in_pieces(
        &topology,
        Direction::Ingress,
        (&topology.outside, "eth0"),
        (&task, "eth0"),
    )
}
