//! The life of a tracked connection: its state, and how long it may be idle.
//!
//! * *replied*: a packet came back to the initiator; *confirmed*: the initiator sent another packet after that.
//! * *answered*: a packet came back after that too. UDP is a stream from there on: it has seen more than one request and
//!   response (EC2 API, `ConnectionTrackingSpecificationRequest`).
//!
//! **TCP.** A peer's address can be forged, so of the two sides only the task is trusted. An entry keeps the low 16 bits of
//! the sequence number that each side sends next (RFC 9293, 3.4: SND.NXT):
//!
//! * The task's side advances with what the task sends. A retransmission does not move it back.
//! * The peer's side advances with a segment that begins exactly where the last one ended, and otherwise with what the task
//!   acknowledges: RCV.NXT of the task's stack, which has checked all 32 bits, the window and the data. That also covers
//!   segments that were lost or overtaken on their way here.
//! * A RST or FIN at any other sequence number changes nothing (RFC 5961, 3.2, has hosts do the same with a RST). While the
//!   responder has sent nothing, its RST has to acknowledge what the initiator sent (RFC 9293, 3.10.7.3).
//! * *Replied*: the responder acknowledged exactly what the initiator sent; a task as responder is trusted with any packet.
//! * *Confirmed* means established: the initiator acknowledged exactly what the responder sent, which proves that it
//!   received it; or the responder sent data or a FIN after its first packet. A bare ACK of the responder does not count:
//!   stacks answer a second SYN with one before the connection is established (RFC 5961, 4.2; Linux, `tcp_check_req`).
//! * A connection picked up midstream, without its handshake, starts with the sequence and acknowledgement numbers of its
//!   first packet, and is confirmed like any other.
//! * A SYN from the task, with or without ACK, that is not a retransmission starts a new connection: the task's stack has no
//!   connection there.
//! * TCP is closed after a FIN from both sides, or while the last packet of either side is a RST. A side that really sent a
//!   RST sends nothing afterwards (RFC 9293, 3.5.2), so any further packet from it shows that the RST was forged.
//! * After a FIN from one side the connection is half-closed: the other side may go on sending, with a timeout of minutes.
//!   If the task acknowledges more than the peer's data up to its FIN, the FIN was forged and is taken back.
//! * Once both sides have sent a FIN and the closed timeout (ten seconds by default) has passed without a packet, packets
//!   that do not open a connection are late and denied, as on AWS (VPC User Guide, flow log records: REJECT). Until then
//!   they belong to the closing: the last ACK, and retransmissions. After a RST instead, the rules decide once the timeout
//!   has passed.
//! * A SYN without ACK on a closed pair begins a new connection (RFC 9293, 3.6.1), so it is judged as one.
//!
//! 16 bits distinguish a retransmission from a new segment within 32 KiB. Beyond that, a side's position may be wrong for up
//! to 32 KiB of what it sends; a RST in that time closes nothing, and the entry ends by its timeout.

use crate::{
    abi::{Direction, image::Timeout, tables::state},
    wire::{ICMP, ICMPV6, TCP, UDP, tcp},
};

/// Whether a TCP packet with these flags opens a connection.
#[inline(always)]
pub const fn opens(protocol: u8, tcp_flags: u8) -> bool {
    protocol == TCP && tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// The state of a connection that `direction` opens.
#[inline(always)]
pub const fn opened_by(direction: Direction) -> u16 {
    match direction {
        Direction::Egress => 0,
        Direction::Ingress => state::INGRESS,
    }
}

/// The direction of the connection's first packet, from its state.
#[inline(always)]
pub const fn initiator(state: u16) -> Direction {
    if state & state::INGRESS == 0 {
        Direction::Egress
    } else {
        Direction::Ingress
    }
}

/// The tracking state of a connection: state bits, and the next sequence number of each side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// [`state`] bits.
    pub state: u16,
    /// TCP: the sequence number that each side sends next, by [`Direction`], its low 16 bits.
    pub next: [u16; 2],
}

/// A TCP segment; sequence and acknowledgement numbers by their low 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// TCP flags.
    pub flags: u8,
    /// The sequence number.
    pub sequence: u16,
    /// The acknowledgement number, valid if the segment has ACK.
    pub acknowledged: u16,
    /// Bytes of payload, of all segments together for a GSO packet.
    pub payload: u32,
}

impl Life {
    /// The same, hidden from the verifier: see [`crate::tables::Tables::opaque`].
    #[inline(always)]
    #[must_use]
    pub fn opaque(self, opaque: impl Fn(u32) -> u32) -> Self {
        let [egress, ingress] = self.next;
        let next = opaque((egress as u32) << 16 | ingress as u32);
        Self {
            state: opaque(self.state as u32) as u16,
            next: [(next >> 16) as u16, next as u16],
        }
    }
}

impl Segment {
    #[inline(always)]
    const fn has(self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    /// The length in sequence space: SYN and FIN count as a byte each (RFC 9293, 3.4).
    #[inline(always)]
    const fn length(self) -> u32 {
        self.payload + (self.flags >> 1 & 1) as u32 + (self.flags & tcp::FIN) as u32
    }

    /// The sequence number that follows the segment.
    #[inline(always)]
    const fn end(self) -> u16 {
        self.sequence.wrapping_add(self.length() as u16)
    }
}

/// The state bits for a FIN and a RST from a side.
#[inline(always)]
const fn ending(direction: Direction) -> (u16, u16) {
    match direction {
        Direction::Egress => (state::FIN_EGRESS, state::RESET_EGRESS),
        Direction::Ingress => (state::FIN_INGRESS, state::RESET_INGRESS),
    }
}

/// The next sequence number of a side after a segment at `begins` of `length`: `next`, unless the segment ends beyond it.
#[inline(always)]
const fn furthest(next: u16, begins: u16, length: u32) -> u16 {
    let ahead = begins.wrapping_sub(next).cast_signed() as i32 + length.cast_signed();
    if ahead > 0 {
        begins.wrapping_add(length as u16)
    } else {
        next
    }
}

/// The state of a connection after its first packet. `state`: [`opened_by`] its initiator, with the bits of its admission.
/// `segment`: the TCP segment, and whether it is valid.
#[inline(always)]
pub const fn begin(state: u16, protocol: u8, direction: Direction, (segment, is_known): (Segment, bool)) -> Life {
    let is_initiator = direction as u8 == initiator(state) as u8;
    let mut life = Life { state, next: [0; 2] };
    if protocol != TCP {
        life.state = exchange(state, direction);
        return life;
    }
    if !is_known {
        return life;
    }
    let (fin, reset) = ending(direction);
    life.next[direction.index()] = segment.end();
    if segment.has(tcp::ACK) {
        life.next[direction.opposite().index()] = segment.acknowledged;
        life.state |= state::KNOWN;
    }
    if !is_initiator {
        life.state |= state::KNOWN | state::REPLIED;
    }
    if segment.has(tcp::RST) {
        life.next[direction.index()] = segment.sequence;
        life.state |= reset;
    }
    if segment.has(tcp::FIN) {
        life.state |= fin;
    }
    life
}

/// The state after another packet. `segment`: the TCP segment, if it can be read. `opaque` as in [`Life::opaque`].
#[inline(always)]
pub fn advance(
    old: Life,
    protocol: u8,
    direction: Direction,
    segment: Option<Segment>,
    opaque: impl Fn(u32) -> u32,
) -> Life {
    if protocol != TCP {
        return Life {
            state: exchange(old.state, direction),
            ..old
        };
    }
    let Some(segment) = segment else { return old };
    if turns(old.state, segment) {
        turn(old, direction, segment, &opaque).opaque(opaque)
    } else {
        let mut life = old;
        match direction {
            Direction::Egress => heard(&mut life, segment),
            Direction::Ingress => claimed(&mut life, segment),
        }
        life
    }
}

/// Whether a segment may change more than the next sequence numbers.
#[inline(always)]
const fn turns(state: u16, segment: Segment) -> bool {
    const DOUBTFUL: u16 = state::RESET_EGRESS | state::RESET_INGRESS | state::FIN_INGRESS;
    segment.has(tcp::SYN | tcp::FIN | tcp::RST) || state & (state::CONFIRMED | DOUBTFUL) != state::CONFIRMED
}

/// The state bits of a protocol other than TCP after another packet.
#[inline(always)]
const fn exchange(old: u16, direction: Direction) -> u16 {
    if direction as u8 != initiator(old) as u8 {
        old | state::REPLIED
            | if old & state::CONFIRMED != 0 {
                state::ANSWERED
            } else {
                0
            }
    } else if old & state::REPLIED != 0 {
        old | state::CONFIRMED
    } else {
        old
    }
}

/// Advances the sequence numbers of both sides by a segment from the task.
#[inline(always)]
const fn heard(life: &mut Life, segment: Segment) {
    let [own, peer] = life.next;
    life.next[0] = furthest(own, segment.sequence, segment.length());
    if segment.has(tcp::ACK) {
        life.next[1] = furthest(peer, segment.acknowledged, 0);
    }
}

/// Advances the peer's sequence number by a segment with the peer's address, if it begins exactly there.
#[inline(always)]
const fn claimed(life: &mut Life, segment: Segment) {
    if segment.sequence == life.next[1] {
        life.next[1] = segment.end();
    }
}

/// Applies a segment that may change state bits: of the handshake or the end.
#[inline(always)]
fn turn(old: Life, direction: Direction, segment: Segment, opaque: &impl Fn(u32) -> u32) -> Life {
    let is_initiator = direction as u8 == initiator(old.state) as u8;
    let (own, other) = (direction.index(), direction.opposite().index());
    let (fin, reset) = ending(direction);
    let known = is_initiator || old.state & state::KNOWN != 0;
    let fits = known && segment.sequence == old.next[own];
    let answers = segment.has(tcp::ACK) && segment.acknowledged == old.next[other];
    // Hidden from the verifier: otherwise it would walk the rest once for each combination.
    let bits = opaque(known as u32 | (fits as u32) << 1 | (answers as u32) << 2);
    let (known, fits, answers) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
    let mut life = old;
    if segment.has(tcp::RST) {
        if fits || !known && answers {
            life.state |= reset;
        }
        return life;
    }
    if segment.has(tcp::FIN) && !fits {
        return old;
    }
    life.state &= !reset;
    let believed = match direction {
        Direction::Egress => {
            let syn = segment.has(tcp::SYN);
            if syn && !(known && segment.end() == old.next[own]) {
                life.state &= state::ADMISSION;
            }
            life.state = opaque(life.state as u32) as u16;
            if syn || life.state & state::CONFIRMED == 0 {
                life.next[own] = segment.end();
                if segment.has(tcp::ACK) {
                    life.next[other] = segment.acknowledged;
                }
            } else {
                heard(&mut life, segment);
                // The peer sent more after its FIN: the FIN was forged.
                if life.next[other] != old.next[other] {
                    life.state &= !state::FIN_INGRESS;
                }
            }
            true
        }
        Direction::Ingress => {
            if !known && answers || is_initiator && old.state & state::KNOWN == 0 {
                life.next[own] = segment.end();
            } else if known {
                claimed(&mut life, segment);
            }
            known || answers
        }
    };
    if believed {
        let replied = life.state & state::REPLIED != 0;
        let vouches = if is_initiator { answers } else { segment.length() != 0 };
        if replied && vouches && !segment.has(tcp::SYN) {
            life.state |= state::CONFIRMED;
        }
        if !is_initiator {
            life.state |= state::KNOWN | state::REPLIED;
        } else if matches!(direction, Direction::Egress) && segment.has(tcp::ACK) {
            life.state |= state::KNOWN;
        }
    }
    if segment.has(tcp::FIN) {
        life.state |= fin;
    }
    life
}

/// Whether both sides of a TCP connection have sent a FIN.
#[inline(always)]
pub const fn finished(state: u16) -> bool {
    const BOTH: u16 = state::FIN_EGRESS | state::FIN_INGRESS;
    state & BOTH == BOTH
}

/// Whether a TCP connection in this state is closed.
#[inline(always)]
pub const fn closed(state: u16) -> bool {
    finished(state) || state & (state::RESET_EGRESS | state::RESET_INGRESS) != 0
}

/// The idle time-out of an entry with this protocol and state.
#[inline(always)]
pub const fn timeout_of(protocol: u8, state: u16) -> Timeout {
    match protocol {
        TCP if closed(state) => Timeout::TcpClosed,
        TCP if state & state::CONFIRMED == 0 => Timeout::TcpHalfOpen,
        TCP if state & (state::FIN_EGRESS | state::FIN_INGRESS) != 0 => Timeout::TcpHalfClosed,
        TCP => Timeout::TcpEstablished,
        UDP if state & state::ANSWERED != 0 => Timeout::UdpStream,
        UDP => Timeout::Udp,
        ICMP | ICMPV6 => Timeout::Icmp,
        _ => Timeout::Other,
    }
}

/// The default of each time-out, in seconds. SG-TRACK-7 in docs/aws-semantics.md lists those that AWS documents. The others:
///
/// * Half-open and closed TCP: 60 and 10 seconds, as in many connection trackers; ICMP: 30, as for UDP.
/// * Half-closed TCP: 10 minutes, so that a server can still answer a client that has nothing more to send. Other trackers
///   wait from 2 minutes (Linux, nf_conntrack_tcp_timeout_fin_wait) to 15 (pf, tcp.closing).
/// * Fragments: as long as Linux keeps an incomplete datagram (net.ipv4.ipfrag_time, net.ipv6.ip6frag_time).
/// * Link-local addresses: active neighbours are heard every minute (RFC 4861, 10: REACHABLE_TIME).
pub const fn default_seconds(timeout: Timeout) -> u32 {
    match timeout {
        Timeout::TcpEstablished => 432_000,
        Timeout::TcpHalfOpen | Timeout::FragmentV6 => 60,
        Timeout::TcpClosed => 10,
        Timeout::Udp | Timeout::Icmp | Timeout::FragmentV4 => 30,
        Timeout::UdpStream => 180,
        Timeout::LinkLocal => 300,
        Timeout::Other | Timeout::TcpHalfClosed => 600,
    }
}

/// Whether more than `timeout` ticks have passed since `last`. Another CPU may have written a time slightly ahead of this
/// CPU's `now` (up to 4,096 ticks), which must not look like an age of 2^32.
#[inline(always)]
pub const fn idle(now: u32, last: u32, timeout: u32) -> bool {
    const AHEAD: u32 = 4096;
    now.wrapping_sub(last).wrapping_add(AHEAD) > timeout.saturating_add(AHEAD)
}

#[cfg(test)]
mod tests;
