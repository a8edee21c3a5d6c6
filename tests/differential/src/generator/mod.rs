//! Packets as any host may send them: valid ones of ongoing flows, odd ones, and hostile ones.

use std::{fmt, net::IpAddr};

use taskgate_ebpf::{abi::Direction, host::Left};

mod talk;

use super::{
    encapsulate::{damage, left_over, wrapped},
    naive_parser::read,
    rng::Rng,
};
use talk::{Talk, answered, farewell, numbers};
use testkit::fixture::frames;

#[derive(Clone, Debug)]
pub struct GeneratedPacket {
    pub frame: Vec<u8>,
    pub link: u32,
    pub direction: Direction,
    /// Segments, and bytes in each.
    pub segments: (u32, u32),
    /// Whether the packet came in by the uplink.
    pub from_wire: bool,
    pub left: Left,
}

impl fmt::Display for GeneratedPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            frame,
            link,
            direction,
            segments,
            from_wire,
            left,
        } = self;
        writeln!(
            f,
            "{direction:?} on link {link}, segments {segments:?}, from the wire: {from_wire}, {left:?}, read as {:?}",
            read(frame, *segments, *left)
        )?;
        write!(f, "frame ")?;
        frame.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl GeneratedPacket {
    /// A packet at a gate.
    fn new(frame: Vec<u8>, link: u32, direction: Direction) -> Self {
        Self {
            frame,
            link,
            direction,
            segments: (0, 0),
            from_wire: false,
            left: Left::NOTHING,
        }
    }
}

/// A generator of packets.
pub(crate) struct Generator {
    /// The links, with the addresses of the ENI on each.
    pub(crate) links: Vec<(u32, Vec<IpAddr>)>,
    talks: Vec<Talk>,
    /// Packets to come, last first.
    next: Vec<GeneratedPacket>,
}

const FLAGS: [u8; 10] = [2, 2, 2, 0x12, 0x12, 0x10, 0x10, 0x11, 4, 0x14];
const NEIGHBOUR_KINDS: [u8; 12] = [130, 131, 132, 143, 133, 134, 135, 135, 136, 136, 137, 151];

impl Generator {
    /// With nothing to go on yet.
    pub(crate) fn new(links: Vec<(u32, Vec<IpAddr>)>) -> Self {
        Self {
            links,
            talks: Vec::new(),
            next: Vec::new(),
        }
    }

    /// The next packet.
    pub(crate) fn throw(&mut self, rng: &mut Rng) -> GeneratedPacket {
        if let Some(next) = self.next.pop() {
            return next;
        }
        let mut thrown = match rng.below(32) {
            0 => self.arp(rng),
            1 | 2 => self.neighbour(rng),
            3 => self.dhcp(rng),
            4 => GeneratedPacket {
                frame: {
                    let length = rng.below(120);
                    let noise = rng.bytes(length);
                    let kind = rng.of(&[0x0800, 0x86dd, 0x0806, 0x8100, 0x88a8, 0x0600]);
                    frames::ethernet(kind, &noise)
                },
                link: self.any_link(rng),
                direction: any_direction(rng),
                segments: (0, 0),
                from_wire: false,
                left: Left::NOTHING,
            },
            5 | 6 => self.error(rng),
            _ => self.talk(rng),
        };
        if rng.one_in(8) && thrown.frame.len() >= 6 {
            let to = rng.of(&[[0xff; 6], [1, 0, 0x5e, 0, 0, 1], frames::OWN_MAC, [2, 0, 0, 0, 0, 9]]);
            thrown.frame[..6].copy_from_slice(&to);
        }
        if rng.one_in(16) {
            damage(&mut thrown.frame, rng);
        }
        thrown.from_wire = thrown.direction == Direction::Ingress && rng.one_in(6);
        thrown.left = left_over(&thrown.frame, thrown.segments, rng);
        thrown
    }

    fn talk(&mut self, rng: &mut Rng) -> GeneratedPacket {
        let direction = any_direction(rng);
        let at = if self.talks.len() < 4 || rng.one_in(5) {
            let talk = self.new_talk(direction, rng);
            if self.talks.len() < 12 {
                self.talks.push(talk);
                self.talks.len() - 1
            } else {
                let at = rng.below(self.talks.len());
                self.talks[at] = talk;
                at
            }
        } else {
            rng.below(self.talks.len())
        };
        let talk = &mut self.talks[at];
        let v6 = talk.local.is_ipv6();
        let ((source, destination), (from, to)) = talk.ends(direction);
        let length = if rng.one_in(8) { 0 } else { rng.below(40) };
        let body = rng.bytes(length);
        let payload = match talk.protocol {
            6 => {
                let flags = if rng.one_in(12) {
                    rng.any() as u8
                } else {
                    rng.of(&FLAGS)
                };
                let at = numbers(talk, direction, flags, length, rng);
                frames::tcp_at(from, to, flags, at, &body)
            }
            17 => frames::udp(from, to, &body),
            1 | 58 => {
                let (asks, asker) = talk.asks;
                let code = if rng.one_in(4) { rng.below(3) as u8 } else { 0 };
                frames::icmp(answered(asks, direction == asker), code, talk.ports.0, &body)
            }
            2 if !rng.one_in(3) => {
                let kind = rng.of(&[0x11, 0x11, 0x13, 0x16, 0x22, 0x30, 0x32]);
                [&[kind, 0, 0, 0, 224, 0, 0, 1][..], &body].concat()
            }
            103 if !rng.one_in(3) => [&[rng.of(&[0x20, 0x20, 0x23]), 0, 0, 0][..], &body].concat(),
            _ => body,
        };
        let (frame, jumbo) = wrapped(v6, source, destination, talk.protocol, payload, rng);
        let segments = if rng.one_in(8) || jumbo {
            (rng.below(4) as u32, 1 + rng.below(60) as u32)
        } else {
            (0, 0)
        };
        if talk.protocol == 6 && rng.one_in(12) {
            let first = farewell(talk, direction);
            self.next = vec![farewell(talk, direction.opposite()), first];
        }
        GeneratedPacket {
            segments,
            ..GeneratedPacket::new(frame, talk.link, direction)
        }
    }

    /// An ICMP error about a packet as it looks further on its path: from the peer, or from a router.
    fn error(&mut self, rng: &mut Rng) -> GeneratedPacket {
        let about = self.talk(rng);
        let v6 = about.frame[12..14] == [0x86, 0xdd];
        let length = if rng.one_in(3) { rng.below(80) } else { 48 };
        let quoted = frames::quoted(&about.frame, length);
        let direction = if rng.one_in(8) {
            about.direction
        } else {
            about.direction.opposite()
        };
        let addresses = |frame: &[u8]| -> Option<(IpAddr, IpAddr)> {
            Some(if v6 {
                let at = |at: usize| <[u8; 16]>::try_from(frame.get(at..at + 16)?).ok();
                (at(22)?.into(), at(38)?.into())
            } else {
                let at = |at: usize| <[u8; 4]>::try_from(frame.get(at..at + 4)?).ok();
                (at(26)?.into(), at(30)?.into())
            })
        };
        let Some((source, destination)) = addresses(&about.frame) else {
            return about;
        };
        let speaks = if rng.one_in(3) {
            self.anybody(v6, rng)
        } else {
            destination
        };
        let hears = if rng.one_in(12) { self.anybody(v6, rng) } else { source };
        let (kind, code) = if v6 {
            rng.of(&[(2, 0), (2, 0), (2, 1), (1, 4), (3, 0), (4, 0), (137, 0)])
        } else {
            rng.of(&[(3, 4), (3, 4), (3, 3), (11, 0), (12, 0), (5, 1), (4, 0)])
        };
        let message = frames::icmp(kind, code, 0, &quoted);
        let (frame, _) = wrapped(v6, speaks, hears, if v6 { 58 } else { 1 }, message, rng);
        GeneratedPacket::new(frame, about.link, direction)
    }

    fn arp(&self, rng: &mut Rng) -> GeneratedPacket {
        let link = self.any_link(rng);
        let (sender, target) = (self.local(link, false, rng), self.local(link, false, rng));
        let sender = if rng.one_in(4) {
            self.anybody(false, rng)
        } else {
            sender
        };
        let target = if rng.one_in(4) {
            self.anybody(false, rng)
        } else {
            target
        };
        let mut frame = frames::arp(1 + rng.below(2) as u8, sender, target);
        if rng.one_in(4) {
            let padding = rng.of(&[4, 18, 18, 19, 60]);
            frame.resize(frame.len() + padding, 0);
        }
        GeneratedPacket::new(frame, link, any_direction(rng))
    }

    fn neighbour(&mut self, rng: &mut Rng) -> GeneratedPacket {
        let link = self.any_link(rng);
        let mut address = || {
            if rng.one_in(2) {
                self.anybody(true, rng)
            } else {
                self.local(link, true, rng)
            }
        };
        let (source, destination, target) = (address(), address(), address());
        let kind = rng.of(&NEIGHBOUR_KINDS);
        let mut frame = frames::neighbour(source, destination, kind, target);
        if kind < 133 || kind == 143 {
            frame[21] = 1;
        }
        if rng.one_in(5) {
            frame[21] = rng.of(&[0, 1, 2, 64, 254, 255]);
        }
        if kind == 136 && rng.one_in(4) {
            frame[58] |= 0x80;
        }
        if rng.one_in(3) {
            // Options, in units of eight bytes: as many as are usual, or more.
            let mut options = Vec::new();
            for _ in 0..=rng.below(3) {
                let mac = rng.of(&[frames::OWN_MAC, frames::OWN_MAC, [2, 0, 0, 0, 0, 9], [0; 6]]);
                options.extend([rng.of(&[1, 2, 2, 14]), rng.of(&[1, 1, 1, 1, 1, 0, 2])]);
                options.extend(mac);
            }
            options.extend(rng.of(&[&[][..], &[], &[], &[1, 1, 0]]));
            frame[19] += options.len() as u8;
            frame.extend(options);
        }
        let (direction, next) = self.asked_first(link, kind, source, rng);
        self.next.extend(next);
        GeneratedPacket::new(frame, link, direction)
    }

    /// The direction of a message. If it asks the task, the task may answer next, or ask back.
    fn asked_first(&self, link: u32, kind: u8, source: IpAddr, rng: &mut Rng) -> (Direction, Option<GeneratedPacket>) {
        if kind != 135 || rng.one_in(3) {
            return (any_direction(rng), None);
        }
        let local = self.local(link, true, rng);
        let answer = if rng.one_in(2) {
            frames::neighbour(local, source, 136, local)
        } else {
            frames::neighbour(local, source, 135, source)
        };
        let answer = GeneratedPacket::new(answer, link, Direction::Egress);
        (Direction::Ingress, Some(answer))
    }

    fn dhcp(&self, rng: &mut Rng) -> GeneratedPacket {
        let v6 = rng.one_in(2);
        let link = self.any_link(rng);
        let (client, server) = if v6 { (546, 547) } else { (68, 67) };
        let everyone: IpAddr = if v6 { "ff02::1:2" } else { "255.255.255.255" }
            .parse()
            .expect("an address");
        let nobody: IpAddr = if v6 { "fe80::1" } else { "0.0.0.0" }.parse().expect("an address");
        let local = if rng.one_in(2) {
            nobody
        } else {
            self.local(link, v6, rng)
        };
        let remote = self.anybody(v6, rng);
        let direction = any_direction(rng);
        let frame = match direction {
            Direction::Egress => {
                let to = if rng.one_in(4) { remote } else { everyone };
                frames::ip(local, to, 17, &frames::udp(client, server, b"discover"))
            }
            Direction::Ingress => frames::ip(remote, local, 17, &frames::udp(server, client, b"offer")),
        };
        GeneratedPacket::new(frame, link, direction)
    }
}

fn any_direction(rng: &mut Rng) -> Direction {
    rng.of(&[Direction::Egress, Direction::Ingress])
}
