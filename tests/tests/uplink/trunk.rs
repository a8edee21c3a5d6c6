//! A trunk: the VLAN id names the branch. Every frame that comes from the wire is dropped once, counted once, and
//! leaves the same record, at the gate or at the prefilter.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, DropReason, Outcome, PassReason};
use testkit::{
    Capture, Config, Count, Counters, Daemon, Flow, Ledger, at,
    fixture::frames::{self, flags},
    ip,
};

use super::place::{Far, Judge, Place, Side, vlan};

/// The addresses of the branches and of a host on the wire, by family.
const WEB: [&str; 2] = ["10.88.1.10", "fd88:1::10"];
const DNS: [&str; 2] = ["10.88.2.10", "fd88:2::10"];
const PEER: [&str; 2] = ["10.99.0.9", "fd99::9"];
/// No task's.
const HOST: [&str; 2] = ["10.99.0.1", "fd99::1"];
const WEB_RULES: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], \
                         egress: [{ protocol: tcp, ports: 443, to: any }]";
const DNS_RULES: &str = "ingress: [{ protocol: udp, ports: 53, from: any }], egress: []";

/// Two branches with different addresses and groups.
pub(crate) fn branches(config: Config) -> Config {
    config
        .group("web", WEB_RULES)
        .group("dns", DNS_RULES)
        .vlan_task("web-1", 101, &WEB, &["web"])
        .vlan_task("dns-1", 102, &DNS, &["dns"])
}

/// How a frame ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The frame arrives, and counts in the record of a flow of this task, if there is one.
    Arrives(Option<&'static str>),
    /// The frame is dropped, and counts in a record of this task, if there is one; `early`: before the gate.
    Dropped {
        task: Option<&'static str>,
        reason: DropReason,
        early: bool,
    },
}

const fn denied(task: &'static str, reason: DropReason) -> End {
    let task = Some(task);
    let early = true;
    End::Dropped { task, reason, early }
}

const fn unseen(reason: DropReason, early: bool) -> End {
    let task = None;
    End::Dropped { task, reason, early }
}

/// Sends frames from one side, and keeps the expected outcome of each.
struct Books<'p> {
    place: &'p Place,
    side: Side,
    counters: Counters,
    /// Behind the prefilter and before the gate.
    between: Capture,
    arrivals: Capture,
    dropped: BTreeMap<DropReason, u64>,
    expected: Ledger,
    sent: u32,
}

impl<'p> Books<'p> {
    fn open(place: &'p Place, side: Side, daemon: &Daemon) -> Result<Self> {
        let other = if side == Side::Wire { Side::Inside } else { Side::Wire };
        Ok(Self {
            place,
            side,
            counters: Counters::of(daemon)?,
            between: Capture::tap(&place.topology.host, "trunk")?,
            arrivals: place.capture(other)?,
            dropped: BTreeMap::new(),
            expected: Ledger::default(),
            sent: 0,
        })
    }

    fn direction(&self) -> Direction {
        match self.side {
            Side::Wire => Direction::Ingress,
            Side::Inside => Direction::Egress,
        }
    }

    /// Sends a packet of a flow with a unique mark, and waits for its end.
    fn send(&mut self, tags: &[(u16, u16)], flow: Flow, packet: impl Fn(&[u8]) -> Vec<u8>, end: End) -> Result<()> {
        self.sent += 1;
        let mark = format!("frame {:05} of this test", self.sent);
        let frame = frames::with_checksum(packet(mark.as_bytes()));
        self.place.sender(self.side)?.send(&self.side.sends(tags, &frame))?;
        let count = Count::new(1, frame.len() as u64 - 14);
        match end {
            End::Arrives(task) => {
                self.arrivals.await_bytes(mark.as_bytes())?;
                if let Some(task) = task {
                    self.note(|ledger| ledger.accept(task, flow, count));
                }
            }
            End::Dropped { task, reason, early } => {
                let dropped = self.dropped.entry(reason).or_default();
                *dropped += 1;
                let direction = match self.side {
                    Side::Wire => Direction::Ingress,
                    Side::Inside => Direction::Egress,
                };
                self.counters.await_dropped(direction, reason, *dropped)?;
                if self.side == Side::Wire {
                    let passed_by = self.place.judge == Judge::Gate || !early;
                    assert_eq!(
                        self.between.count(mark.as_bytes())?,
                        usize::from(passed_by),
                        "{tags:x?} {flow:?} {reason:?}"
                    );
                }
                assert_eq!(self.arrivals.count(mark.as_bytes())?, 0, "{tags:x?} {flow:?}");
                if let Some(task) = task {
                    let flow = self.recorded(task, flow);
                    self.note(|ledger| ledger.reject(task, flow, count));
                }
            }
        }
        Ok(())
    }

    /// As on AWS, records have the ENI's own IPv4 address in place of another one.
    fn recorded(&self, task: &str, flow: Flow) -> Flow {
        let own = ip(if task == "web-1" { WEB[0] } else { DNS[0] });
        let with = |address: SocketAddr| {
            let own = if address.is_ipv4() { own } else { address.ip() };
            SocketAddr::new(own, address.port())
        };
        match self.side {
            Side::Wire => Flow {
                destination: with(flow.destination),
                ..flow
            },
            Side::Inside => Flow {
                source: with(flow.source),
                ..flow
            },
        }
    }

    fn note(&mut self, add: impl FnOnce(Ledger) -> Ledger) {
        self.expected = add(std::mem::take(&mut self.expected));
    }

    fn tcp(&mut self, tags: &[(u16, u16)], flow: Flow, tcp_flags: u8, end: End) -> Result<()> {
        let (from, to) = (flow.source, flow.destination);
        let packet = |mark: &[u8]| {
            let tcp = frames::tcp(from.port(), to.port(), tcp_flags, mark);
            frames::ip(from.ip(), to.ip(), 6, &tcp)
        };
        self.send(tags, flow, packet, end)
    }

    fn udp(&mut self, tags: &[(u16, u16)], flow: Flow, end: End) -> Result<()> {
        let (from, to) = (flow.source, flow.destination);
        let packet = |mark: &[u8]| {
            let udp = frames::udp(from.port(), to.port(), mark);
            frames::ip(from.ip(), to.ip(), 17, &udp)
        };
        self.send(tags, flow, packet, end)
    }

    /// Every drop counter equals the number of expected drops, and the counter of the host's packets equals `host`.
    fn close(&self, host: u64) -> Result<()> {
        for reason in DropReason::ALL {
            let expected = self.dropped.get(&reason).copied().unwrap_or_default();
            assert_eq!(self.counters.dropped(self.direction(), reason)?, expected, "{reason:?}");
        }
        let passed = self.counters.ended(self.direction(), Outcome::Pass(PassReason::Host))?;
        assert_eq!(passed, host);
        Ok(())
    }
}

/// Everything that a wire can send to a trunk.
fn from_the_wire(judge: Judge, far: Far) -> Result<()> {
    let place = Place::new(judge, far)?;
    let config = branches(place.config());
    let daemon = place.start(&config)?;
    let mut books = Books::open(&place, Side::Wire, &daemon)?;
    for family in [0, 1] {
        let to = |task: [&str; 2], port| at(task[family], port);
        let from = |port| at(PEER[family], port);
        // Each branch by its own groups.
        let web = Flow::tcp(from(40000), to(WEB, 80));
        books.tcp(&vlan(101), web, flags::SYN, End::Arrives(Some("web-1")))?;
        let closed = Flow::tcp(from(40000), to(WEB, 443));
        books.tcp(&vlan(101), closed, flags::SYN, denied("web-1", DropReason::NoRule))?;
        let query = Flow::udp(from(40000), to(DNS, 53));
        books.udp(&vlan(102), query, End::Arrives(Some("dns-1")))?;
        let query = Flow::udp(from(40000), to(WEB, 53));
        books.udp(&vlan(101), query, denied("web-1", DropReason::NoRule))?;
        let web_there = Flow::tcp(from(40000), to(DNS, 80));
        books.tcp(&vlan(102), web_there, flags::SYN, denied("dns-1", DropReason::NoRule))?;
        // Priority and drop-eligible bits are not part of a VLAN id.
        let other = Flow::tcp(from(40001), to(WEB, 80));
        books.tcp(&vlan(0xf000 + 101), other, flags::SYN, End::Arrives(Some("web-1")))?;

        // A connection continues, on its own branch only.
        books.tcp(&vlan(101), web, flags::ACK, End::Arrives(Some("web-1")))?;
        books.tcp(&vlan(102), web, flags::ACK, denied("dns-1", DropReason::NotForTask))?;
        // One branch's rules do not admit packets to another.
        books.tcp(&vlan(102), other, flags::SYN, denied("dns-1", DropReason::NotForTask))?;
        // No host on the wire has a branch's address.
        let spoofed = Flow::tcp(to(WEB, 40000), to(WEB, 80));
        books.tcp(
            &vlan(101),
            spoofed,
            flags::SYN,
            denied("web-1", DropReason::SpoofedSource),
        )?;

        // A VLAN without a task, a tag within a tag, and provider tags.
        books.tcp(&vlan(103), web, flags::SYN, unseen(DropReason::UnknownTask, true))?;
        books.tcp(&vlan(4095), web, flags::SYN, unseen(DropReason::UnknownTask, true))?;
        let twice = [(0x8100, 101), (0x8100, 101)];
        books.tcp(&twice, web, flags::SYN, unseen(DropReason::UnsupportedEthertype, true))?;
        let provider = [(0x88a8, 7), (0x8100, 101)];
        books.tcp(&provider, web, flags::SYN, unseen(DropReason::UnknownTask, false))?;
        books.tcp(
            &[(0x88a8, 101)],
            web,
            flags::SYN,
            unseen(DropReason::UnknownTask, false),
        )?;
        // The host's own, but for a branch's address.
        let hosts = Flow::tcp(from(40000), to(HOST, 80));
        books.tcp(&[], hosts, flags::SYN, End::Arrives(None))?;
        books.tcp(&vlan(0xa000), hosts, flags::SYN, End::Arrives(None))?;
        books.tcp(&vlan(0xa000), web, flags::SYN, unseen(DropReason::NotForTask, false))?;
        // Behind generic XDP some kernels (6.18) hand untagged frames to the gate without their Ethernet header.
        if judge != Judge::Generic {
            books.tcp(&[], web, flags::SYN, unseen(DropReason::NotForTask, false))?;
        }
    }
    fragments(&mut books)?;
    // ARP requests for a branch's address pass in its own VLAN only.
    for (id, end) in [
        (101, End::Arrives(None)),
        (102, unseen(DropReason::NotForTask, true)),
        (103, unseen(DropReason::UnknownTask, true)),
    ] {
        let flow = Flow::plain(ip(PEER[0]), ip(WEB[0]), 0);
        let arp = |mark: &[u8]| [frames::arp(1, flow.source.ip(), flow.destination.ip()), mark.to_vec()].concat();
        books.send(&vlan(id), flow, arp, end)?;
    }
    books.close(4)?;
    let expected = books.expected;
    assert_eq!(daemon.stop()?.ledger()?, expected);
    Ok(())
}

/// A datagram in three fragments that is let in, and fragments whose first one was never seen.
fn fragments(books: &mut Books<'_>) -> Result<()> {
    let part = |flow: Flow, word: u16, first: bool| {
        move |mark: &[u8]| {
            // A multiple of eight bytes.
            let data = if first {
                frames::udp(40000, 53, mark)
            } else {
                mark.to_vec()
            };
            let data = [data, vec![0; 64]].concat();
            let length = data.len() & !7;
            frames::ipv4(flow.source.ip(), flow.destination.ip(), 17, &[], word, &data[..length])
        }
    };
    let flow = Flow::udp(at(PEER[0], 40000), at(DNS[0], 53));
    let (more, end) = (frames::MORE_FRAGMENTS, End::Arrives(Some("dns-1")));
    books.send(&vlan(102), flow, part(flow, more, true), end)?;
    books.send(&vlan(102), flow, part(flow, more + 20, false), end)?;
    books.send(&vlan(102), flow, part(flow, 40, false), end)?;
    // The prefilter keeps no fragments, so the gate decides.
    let lost = Flow::udp(at(PEER[0], 40000), at(WEB[0], 53));
    let dropped = End::Dropped {
        task: Some("web-1"),
        reason: DropReason::FragmentWithoutFirst,
        early: false,
    };
    let plain = Flow::plain(ip(PEER[0]), ip(WEB[0]), 17);
    books.send(&vlan(101), plain, part(lost, 40, false), dropped)
}

#[test]
fn a_trunk_whose_driver_drops_early() -> Result<()> {
    from_the_wire(Judge::Native, Far::Elsewhere)
}

#[test]
fn a_trunk_on_which_the_kernel_drops_early() -> Result<()> {
    from_the_wire(Judge::Generic, Far::Elsewhere)
}

#[test]
fn a_trunk_on_which_the_gate_alone_judges() -> Result<()> {
    from_the_wire(Judge::Gate, Far::Elsewhere)
}

/// The bridge in front passes frames with the tag in metadata, until taskgate changes that.
#[test]
fn a_trunk_whose_tags_would_be_beside_its_frames() -> Result<()> {
    from_the_wire(Judge::Native, Far::Here)
}

/// Packets from branches are judged at the trunk, too.
#[test]
fn what_branches_send_is_judged_at_the_trunk() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    let daemon = place.start(&branches(place.config()))?;
    let mut books = Books::open(&place, Side::Inside, &daemon)?;
    for family in [0, 1] {
        let from = |task: [&str; 2], port| at(task[family], port);
        let to = |port| at(PEER[family], port);
        let https = Flow::tcp(from(WEB, 40000), to(443));
        books.tcp(&vlan(101), https, flags::SYN, End::Arrives(Some("web-1")))?;
        let http = Flow::tcp(from(WEB, 40000), to(80));
        books.tcp(&vlan(101), http, flags::SYN, denied("web-1", DropReason::NoRule))?;
        let shut = Flow::tcp(from(DNS, 40000), to(443));
        books.tcp(&vlan(102), shut, flags::SYN, denied("dns-1", DropReason::NoRule))?;
        // A branch sends as itself.
        books.tcp(&vlan(101), shut, flags::SYN, denied("web-1", DropReason::SpoofedSource))?;
        books.tcp(&vlan(103), https, flags::SYN, unseen(DropReason::UnknownTask, true))?;
        books.tcp(
            &[(0x88a8, 101)],
            https,
            flags::SYN,
            unseen(DropReason::UnknownTask, true),
        )?;
        books.tcp(&[], https, flags::SYN, End::Arrives(None))?;
    }
    books.close(2)?;
    let expected = books.expected;
    assert_eq!(daemon.stop()?.ledger()?, expected);
    Ok(())
}
