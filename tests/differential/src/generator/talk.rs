//! Flows that packets of both directions belong to: their ends, and each side's next sequence number.

use std::net::IpAddr;

use taskgate_ebpf::abi::Direction;

use super::{super::rng::Rng, GeneratedPacket, Generator};
use testkit::fixture::frames;

const PORTS: [u16; 12] = [22, 53, 67, 68, 80, 443, 546, 547, 40000, 40001, 0, 65535];
const PROTOCOLS: [u8; 15] = [6, 6, 6, 6, 17, 17, 17, 1, 58, 0, 2, 47, 50, 103, 132];
const ICMP_KINDS: [u8; 12] = [8, 8, 0, 13, 14, 3, 5, 11, 9, 255, 17, 18];
const ICMPV6_KINDS: [u8; 10] = [128, 128, 129, 1, 2, 3, 0, 200, 255, 127];

/// A flow that packets of both directions belong to.
#[derive(Clone, Debug)]
pub(super) struct Talk {
    pub(super) link: u32,
    pub(super) local: IpAddr,
    remote: IpAddr,
    pub(super) protocol: u8,
    pub(super) ports: (u16, u16),
    /// The type of the ICMP request, and the direction of requests.
    pub(super) asks: (u8, Direction),
    /// TCP: each side's next sequence number, by direction.
    next: [u32; 2],
}

impl Talk {
    /// Addresses and ports, the sender's first.
    pub(super) fn ends(&self, direction: Direction) -> ((IpAddr, IpAddr), (u16, u16)) {
        match direction {
            Direction::Egress => ((self.local, self.remote), self.ports),
            Direction::Ingress => ((self.remote, self.local), (self.ports.1, self.ports.0)),
        }
    }
}

impl Generator {
    pub(super) fn new_talk(&self, opener: Direction, rng: &mut Rng) -> Talk {
        let v6 = rng.one_in(2);
        let link = self.any_link(rng);
        let protocol = if rng.one_in(40) {
            rng.any() as u8
        } else {
            rng.of(&PROTOCOLS)
        };
        // Mostly each family's own.
        let protocol = match (protocol, v6) {
            (1, true) if !rng.one_in(6) => 58,
            (58, false) if !rng.one_in(6) => 1,
            (other, _) => other,
        };
        let kinds = if v6 { &ICMPV6_KINDS[..] } else { &ICMP_KINDS };
        Talk {
            link,
            local: self.local(link, v6, rng),
            remote: self.anybody(v6, rng),
            protocol,
            ports: (rng.of(&PORTS), rng.of(&PORTS)),
            asks: (rng.of(kinds), opener),
            next: [rng.any() as u32, rng.any() as u32],
        }
    }
}

/// A FIN from one side of a TCP connection.
pub(super) fn farewell(talk: &mut Talk, direction: Direction) -> GeneratedPacket {
    let ((source, destination), (from, to)) = talk.ends(direction);
    let at = (talk.next[direction.index()], talk.next[direction.opposite().index()]);
    talk.next[direction.index()] = at.0.wrapping_add(1);
    GeneratedPacket::new(
        frames::ip(source, destination, 6, &frames::tcp_at(from, to, 0x11, at, b"")),
        talk.link,
        direction,
    )
}

/// The sequence and acknowledgement numbers of a talk's next segment: usually the next ones, otherwise those of a
/// retransmission, of a segment after a loss, or forged ones.
pub(super) fn numbers(talk: &mut Talk, direction: Direction, flags: u8, payload: usize, rng: &mut Rng) -> (u32, u32) {
    const OFF: [u32; 10] = [
        1,
        40,
        1500,
        0x7fff,
        0x8000,
        0x1_0000,
        u32::MAX,
        40_u32.wrapping_neg(),
        0x7fff_u32.wrapping_neg(),
        0x8001_u32.wrapping_neg(),
    ];
    let (own, other) = (direction.index(), direction.opposite().index());
    if flags & 0b1_0111 == 2 && rng.one_in(3) {
        talk.next[own] = rng.any() as u32;
    }
    let acknowledged = talk.next[other];
    let acknowledged = if rng.one_in(10) {
        acknowledged.wrapping_add(rng.of(&OFF))
    } else {
        acknowledged
    };
    let sequence = talk.next[own];
    if rng.one_in(6) {
        return (sequence.wrapping_add(rng.of(&OFF)), acknowledged);
    }
    let extent = payload as u32 + u32::from(flags & 1) + u32::from(flags >> 1 & 1);
    if flags & 4 == 0 {
        talk.next[own] = sequence.wrapping_add(extent);
    }
    (sequence, acknowledged)
}

/// The ICMP type that the asking or the answering side sends.
pub(super) fn answered(asks: u8, by_asker: bool) -> u8 {
    match (asks, by_asker) {
        (8, false) => 0,
        (13 | 17 | 128, false) => asks + 1,
        (kind, _) => kind,
    }
}
