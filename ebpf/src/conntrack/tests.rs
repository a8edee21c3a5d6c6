use Timeout::{TcpClosed as Closed, TcpEstablished as Open, TcpHalfClosed as HalfClosed, TcpHalfOpen as HalfOpen};
use proptest::prelude::*;
use state::{ANSWERED, CONFIRMED, INGRESS, KNOWN, REPLIED};
use tcp::{ACK, FIN, RST, SYN};

use super::*;
use crate::abi::Direction::{Egress, Ingress};

const ANSWERED_BACK: u16 = REPLIED | KNOWN;
const UP: u16 = ANSWERED_BACK | CONFIRMED;

/// A connection of another protocol than TCP, packet by packet: the sender, the state after it, and the time-out that
/// applies.
#[track_caller]
fn others(name: &str, protocol: u8, opener: Direction, steps: &[(Direction, u16, Timeout)]) {
    let mut life = begin(opened_by(opener), protocol, steps[0].0, (Segment::default(), false));
    for (at, (direction, expected, timeout)) in steps.iter().enumerate() {
        if at > 0 {
            life = advance(life, protocol, *direction, None, |same| same);
        }
        assert_eq!(
            (life.state, timeout_of(protocol, life.state)),
            (*expected, *timeout),
            "{name}: packet {at}"
        );
        assert_eq!(initiator(life.state), opener, "{name}");
    }
}

/// A TCP connection with sequence numbers from `CLIENT` and `SERVER` on; one side is the task.
struct Tcp {
    name: &'static str,
    client: Direction,
    life: Option<Life>,
}

/// The initial sequence numbers: close to the wrap-around of 16 bits.
const CLIENT: u16 = 0xfffa;
const SERVER: u16 = 0x7ffe;

/// The sender.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}
use Side::{Client, Server};

impl Tcp {
    fn new(name: &'static str, client: Direction) -> Self {
        Self {
            name,
            client,
            life: None,
        }
    }

    fn direction(&self, side: Side) -> Direction {
        if side == Client {
            self.client
        } else {
            self.client.opposite()
        }
    }

    /// Sends a segment with relative numbers, and checks the entry's state and time-out.
    #[track_caller]
    fn sends(&mut self, side: Side, flags: u8, at: i32, acknowledges: i32, payload: u32, expected: (u16, Timeout)) {
        let direction = self.direction(side);
        let (own, other) = if side == Client {
            (CLIENT, SERVER)
        } else {
            (SERVER, CLIENT)
        };
        let segment = Segment {
            flags,
            sequence: own.wrapping_add(at.cast_unsigned() as u16),
            acknowledged: other.wrapping_add(acknowledges.cast_unsigned() as u16),
            payload,
        };
        let life = match self.life {
            None => begin(opened_by(direction), TCP, direction, (segment, true)),
            Some(life) => advance(life, TCP, direction, Some(segment), |same| same),
        };
        self.life = Some(life);
        let opened = opened_by(self.client);
        assert_eq!(
            (life.state ^ opened, timeout_of(TCP, life.state)),
            expected,
            "{}: client {:?}, {life:?}",
            self.name,
            self.client
        );
    }

    /// What has no room for a packet's other numbers.
    fn fin(&self, side: Side) -> u16 {
        ending(self.direction(side)).0
    }

    fn reset(&self, side: Side) -> u16 {
        ending(self.direction(side)).1
    }

    #[track_caller]
    fn shakes_hands(&mut self) {
        self.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        self.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        self.sends(Client, ACK, 1, 1, 0, (UP, Open));
    }
}

/// Runs a test with the task as the client, and as the server.
fn both_ways(name: &'static str, walk: impl Fn(Tcp)) {
    walk(Tcp::new(name, Egress));
    walk(Tcp::new(name, Ingress));
}

#[test]
fn hands_are_shaken_data_goes_and_both_close() {
    both_ways("shake hands, talk, close", |mut tcp| {
        let (client, server) = (tcp.fin(Client), tcp.fin(Server));
        tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        tcp.sends(Client, ACK, 1, 1, 0, (UP, Open));
        tcp.sends(Client, ACK, 1, 1, 700, (UP, Open));
        // One packet of many segments, with more bytes than 16 bits can count.
        tcp.sends(Server, ACK, 1, 701, 300_000, (UP, Open));
        tcp.sends(Client, ACK, 701, 300_001, 0, (UP, Open));
        tcp.sends(Client, FIN | ACK, 701, 300_001, 0, (UP | client, HalfClosed));
        tcp.sends(Server, ACK, 300_001, 702, 0, (UP | client, HalfClosed));
        tcp.sends(Server, ACK, 300_001, 702, 5, (UP | client, HalfClosed));
        tcp.sends(Server, FIN | ACK, 300_006, 702, 0, (UP | client | server, Closed));
        tcp.sends(Client, ACK, 702, 300_007, 0, (UP | client | server, Closed));
        tcp.sends(Server, FIN | ACK, 300_006, 702, 0, (UP | client | server, Closed));
    });
}

#[test]
fn a_rst_or_fin_counts_only_where_its_sender_goes_on() {
    for (side, other) in [(Client, Server), (Server, Client)] {
        both_ways("forged ends", |mut tcp| {
            tcp.shakes_hands();
            tcp.sends(side, ACK, 1, 1, 1000, (UP, Open));
            tcp.sends(other, ACK, 1, 1001, 0, (UP, Open));
            for at in [0, 1, 1000, 1002, 1460, 40_000, -5] {
                tcp.sends(side, RST, at, 0, 0, (UP, Open));
                tcp.sends(side, RST | ACK, at, 1, 0, (UP, Open));
            }
            for at in [1000, 1002, 40_000] {
                tcp.sends(other, FIN | ACK, at, 1001, 0, (UP, Open));
            }
            let fin = tcp.fin(other);
            tcp.sends(other, FIN | ACK, 1, 1001, 0, (UP | fin, HalfClosed));
            for at in [1000, 1002] {
                tcp.sends(side, FIN | ACK, at, 2, 0, (UP | fin, HalfClosed));
            }
            let reset = tcp.reset(side);
            tcp.sends(side, RST, 1001, 0, 0, (UP | fin | reset, Closed));
            // Either side may go on sending.
            tcp.sends(side, ACK, 1001, 2, 0, (UP | fin, HalfClosed));
        });
    }
}

#[test]
fn nobody_moves_the_peers_side_but_what_goes_on_there_and_what_the_task_acknowledges() {
    both_ways("a forged segment, then a RST behind it", |mut tcp| {
        let peer = if tcp.client == Egress { Server } else { Client };
        let task = if tcp.client == Egress { Client } else { Server };
        tcp.shakes_hands();
        for at in [500, 20_000, 40_000, -3] {
            tcp.sends(peer, ACK, at, 1, 100, (UP, Open));
            tcp.sends(peer, RST, at + 100, 0, 0, (UP, Open));
            tcp.sends(peer, SYN, at, 0, 0, (UP, Open));
            tcp.sends(peer, RST, at + 1, 0, 0, (UP, Open));
            tcp.sends(peer, SYN | ACK, at, 1, 0, (UP, Open));
            tcp.sends(peer, RST, at + 1, 0, 0, (UP, Open));
        }
        // A segment is lost before the gate, and retransmitted after the next one.
        tcp.sends(peer, ACK, 1001, 1, 1000, (UP, Open));
        tcp.sends(peer, ACK, 1, 1, 1000, (UP, Open));
        tcp.sends(task, ACK, 1, 2001, 0, (UP, Open));
        let reset = tcp.reset(peer);
        tcp.sends(peer, RST | ACK, 2001, 1, 0, (UP | reset, Closed));
    });
}

#[test]
fn what_the_task_sends_again_does_not_move_it_back() {
    both_ways("again", |mut tcp| {
        let task = if tcp.client == Egress { Client } else { Server };
        tcp.shakes_hands();
        tcp.sends(task, ACK, 1, 1, 30_000, (UP, Open));
        // A retransmission, an answer to a probe, and a retransmission with more data.
        tcp.sends(task, ACK, 1, 1, 1400, (UP, Open));
        tcp.sends(task, ACK, 30_000, 1, 0, (UP, Open));
        tcp.sends(task, ACK, 29_000, 1, 2000, (UP, Open));
        let reset = tcp.reset(task);
        tcp.sends(task, RST, 30_001, 1, 0, (UP, Open));
        tcp.sends(task, RST, 31_000, 1, 0, (UP | reset, Closed));
    });
}

#[test]
fn only_who_received_the_answer_confirms() {
    both_ways("no handshake", |mut tcp| {
        tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        // Another SYN, and the stack's answer to it: a bare ACK.
        tcp.sends(Client, SYN, 0, 0, 0, (ANSWERED_BACK, HalfOpen));
        if tcp.client == Ingress {
            tcp.sends(Client, SYN, 9, 0, 0, (ANSWERED_BACK, HalfOpen));
            tcp.sends(Server, ACK, 1, 1, 0, (ANSWERED_BACK, HalfOpen));
            for acknowledges in [0, 2, 77] {
                tcp.sends(Client, ACK, 1, acknowledges, 10, (ANSWERED_BACK, HalfOpen));
            }
        }
        tcp.sends(Client, ACK, 1, 1, 0, (UP, Open));
    });
    both_ways("the responder's data vouches", |mut tcp| {
        tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        tcp.sends(Server, ACK, 1, 1, 20, (UP, Open));
    });
}

#[test]
fn an_answer_acknowledges_what_was_asked() {
    let mut tcp = Tcp::new("forged answers", Egress);
    tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
    tcp.sends(Server, SYN | ACK, 700, 2, 0, (0, HalfOpen));
    tcp.sends(Server, RST | ACK, 0, 2, 0, (0, HalfOpen));
    tcp.sends(Server, RST, 0, 1, 0, (0, HalfOpen));
    tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
    both_ways("refused", |mut tcp| {
        tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        let reset = tcp.reset(Server);
        tcp.sends(Server, RST | ACK, -40, 1, 0, (reset, Closed));
    });
    both_ways("data with the SYN (RFC 7413), taken and not", |mut tcp| {
        for taken in [500, 0] {
            tcp.life = None;
            tcp.sends(Client, SYN, 0, 0, 500, (0, HalfOpen));
            let replied = if taken == 500 || tcp.client == Ingress {
                ANSWERED_BACK
            } else {
                0
            };
            tcp.sends(Server, SYN | ACK, 0, 1 + taken, 0, (replied, HalfOpen));
            let first = if replied == 0 { (KNOWN, HalfOpen) } else { (UP, Open) };
            tcp.sends(Client, ACK, 501, 1, 0, first);
            let second = if replied == 0 {
                (ANSWERED_BACK, HalfOpen)
            } else {
                (UP, Open)
            };
            tcp.sends(Server, ACK, 1, 501, 30, second);
            tcp.sends(Client, ACK, 501, 31, 0, (UP, Open));
        }
    });
}

#[test]
fn a_connection_that_was_picked_up_midway_is_known_by_its_first_packet() {
    both_ways("midway", |mut tcp| {
        tcp.sends(Client, ACK, 5000, 700, 10, (KNOWN, HalfOpen));
        tcp.sends(Server, ACK, 700, 5010, 40, (ANSWERED_BACK, HalfOpen));
        tcp.sends(Client, ACK, 5010, 740, 0, (UP, Open));
        let reset = tcp.reset(Server);
        tcp.sends(Server, RST, 740, 0, 0, (UP | reset, Closed));
    });
    both_ways("nobody there", |mut tcp| {
        tcp.sends(Client, ACK, 5000, 700, 10, (KNOWN, HalfOpen));
        let reset = tcp.reset(Server);
        tcp.sends(Server, RST, 700, 0, 0, (KNOWN | reset, Closed));
    });
    both_ways("both open at once (RFC 9293, 3.5)", |mut tcp| {
        let reset = tcp.reset(Client);
        tcp.sends(Client, SYN, 0, 0, 0, (0, HalfOpen));
        if tcp.client == Egress {
            tcp.sends(Server, SYN, 0, 0, 0, (0, HalfOpen));
            tcp.sends(Client, SYN | ACK, 0, 1, 0, (KNOWN, HalfOpen));
            tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        } else {
            tcp.sends(Server, SYN, 0, 0, 0, (ANSWERED_BACK, HalfOpen));
            tcp.sends(Client, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
            tcp.sends(Server, SYN | ACK, 0, 1, 0, (ANSWERED_BACK, HalfOpen));
        }
        tcp.sends(Client, ACK, 1, 1, 0, (UP, Open));
        tcp.sends(Client, RST, 1, 1, 0, (UP | reset, Closed));
    });
}

#[test]
fn a_syn_of_the_tasks_begins_anew() {
    let mut tcp = Tcp::new("the task connects again", Egress);
    tcp.shakes_hands();
    tcp.sends(Client, SYN, 9000, 0, 0, (0, HalfOpen));
    tcp.sends(Server, SYN | ACK, 400, 9001, 0, (ANSWERED_BACK, HalfOpen));
    tcp.sends(Client, ACK, 9001, 401, 0, (UP, Open));
    let mut tcp = Tcp::new("the task accepts again", Ingress);
    tcp.shakes_hands();
    // Retransmitted although its ACK has already arrived.
    tcp.sends(Server, SYN | ACK, 0, 1, 0, (UP, Open));
    tcp.sends(Client, SYN, 9000, 0, 0, (UP, Open));
    tcp.sends(Server, SYN | ACK, 400, 9001, 0, (ANSWERED_BACK, HalfOpen));
    tcp.sends(Client, ACK, 9001, 401, 0, (UP, Open));
}

#[test]
fn a_later_fragment_says_nothing() {
    both_ways("a piece", |mut tcp| {
        tcp.shakes_hands();
        let life = tcp.life.expect("a life");
        for direction in [Egress, Ingress] {
            assert_eq!(advance(life, TCP, direction, None, |same| same), life);
        }
    });
    let piece = begin(INGRESS, TCP, Ingress, (Segment::default(), false));
    assert_eq!((piece.state, piece.next), (INGRESS, [0; 2]));
}

#[test]
fn udp_is_a_stream_from_the_second_exchange() {
    let steps = [
        (Egress, 0, Timeout::Udp),
        (Egress, 0, Timeout::Udp),
        (Ingress, REPLIED, Timeout::Udp),
        (Ingress, REPLIED, Timeout::Udp),
        // A request, its responses and another request are not yet a second exchange.
        (Egress, REPLIED | CONFIRMED, Timeout::Udp),
        (Egress, REPLIED | CONFIRMED, Timeout::Udp),
        (Ingress, REPLIED | CONFIRMED | ANSWERED, Timeout::UdpStream),
        (Ingress, REPLIED | CONFIRMED | ANSWERED, Timeout::UdpStream),
        (Egress, REPLIED | CONFIRMED | ANSWERED, Timeout::UdpStream),
    ];
    others("UDP", UDP, Egress, &steps);
}

#[test]
fn other_protocols_have_one_time_out() {
    for (protocol, timeout) in [
        (ICMP, Timeout::Icmp),
        (ICMPV6, Timeout::Icmp),
        (50, Timeout::Other),
        (0, Timeout::Other),
        (255, Timeout::Other),
    ] {
        let steps = [
            (Ingress, INGRESS, timeout),
            (Egress, INGRESS | REPLIED, timeout),
            (Ingress, INGRESS | REPLIED | CONFIRMED, timeout),
            (Egress, INGRESS | REPLIED | CONFIRMED | ANSWERED, timeout),
        ];
        others("other", protocol, Ingress, &steps);
    }
}

#[test]
fn only_a_syn_without_more_opens() {
    for flags in 0..=u8::MAX {
        let alone = flags & 0b1_0111 == SYN;
        assert_eq!(opens(TCP, flags), alone, "{flags:#04x}");
        assert!(!opens(UDP, flags));
    }
}

// Five days at 1,000 ticks a second are far from the wrap-around of the tick counter.
const _: () = assert!(default_seconds(Timeout::TcpEstablished) * 1000 < u32::MAX / 4);

/// Facts: security groups, section 2 (idle timeouts).
#[test]
fn the_defaults_are_those_of_aws() {
    let seconds = [
        (Timeout::TcpEstablished, 432_000),
        (Timeout::TcpHalfOpen, 60),
        (Timeout::TcpClosed, 10),
        (Timeout::Udp, 30),
        (Timeout::UdpStream, 180),
        (Timeout::Icmp, 30),
        (Timeout::Other, 600),
        (Timeout::TcpHalfClosed, 600),
        (Timeout::LinkLocal, 300),
    ];
    for (timeout, expected) in seconds {
        assert_eq!(default_seconds(timeout), expected, "{timeout:?}");
    }
}

proptest! {
    #[test]
    fn idle_is_an_age_beyond_the_time_out(last in any::<u32>(), age in 0..=u32::MAX - 4096, timeout in 0..=u32::MAX - 4096) {
        prop_assert_eq!(idle(last.wrapping_add(age), last, timeout), age > timeout);
    }

    #[test]
    fn what_another_cpu_saw_a_moment_later_is_not_idle(now in any::<u32>(), ahead in 0..=4096_u32, timeout in any::<u32>()) {
        prop_assert!(!idle(now, now.wrapping_add(ahead), timeout));
    }

    /// No sequence of packets changes the initiator, and no connection is established without a reply.
    #[test]
    fn what_packets_do_not_change(
        opener in prop_oneof![Just(Egress), Just(Ingress)],
        packets in proptest::collection::vec((any::<bool>(), any::<u8>(), any::<u16>(), any::<u16>(), 0..70_000_u32), 1..40),
    ) {
        let mut life = Life { state: opened_by(opener) | state::UNTRACKED, next: [0; 2] };
        for (egress, flags, sequence, acknowledged, payload) in packets {
            let direction = if egress { Egress } else { Ingress };
            let segment = Segment { flags, sequence, acknowledged, payload };
            life = advance(life, TCP, direction, Some(segment), |same| same);
            prop_assert_eq!(life.state & state::ADMISSION, opened_by(opener) | state::UNTRACKED);
            prop_assert!(life.state & CONFIRMED == 0 || life.state & ANSWERED_BACK == ANSWERED_BACK);
        }
    }

    /// The next sequence number follows the last segment sent in order, whatever came before.
    #[test]
    fn a_side_in_order_is_followed(
        begins in any::<[u16; 2]>(),
        packets in proptest::collection::vec((any::<bool>(), 0..200_000_u32), 0..40),
    ) {
        let mut life = Life { state: UP, next: begins };
        let mut next = begins;
        for (egress, payload) in packets {
            let (direction, own) = if egress { (Egress, 0) } else { (Ingress, 1) };
            let segment = Segment { flags: ACK, sequence: next[own], acknowledged: next[1 - own], payload };
            life = advance(life, TCP, direction, Some(segment), |same| same);
            next[own] = next[own].wrapping_add(payload as u16);
            prop_assert_eq!(life.next, next);
        }
    }
}
