use proptest::prelude::*;
use state::{ANSWERED, CONFIRMED, FIN_EGRESS, FIN_INGRESS, INGRESS, REPLIED, RESET_EGRESS, RESET_INGRESS};

use super::*;
use crate::abi::Direction::{Egress, Ingress};

const FIN: u8 = tcp::FIN | tcp::ACK;
const SYN: u8 = tcp::SYN;
const SYN_ACK: u8 = tcp::SYN | tcp::ACK;
const RST: u8 = tcp::RST;
const ACK: u8 = tcp::ACK;

/// One packet of a walk: who sends it with which flags, the state after it, and the time-out that then holds.
type Step = (Direction, u8, u16, Timeout);

#[track_caller]
fn walk(name: &str, protocol: u8, opener: Direction, steps: &[Step]) {
    let mut now = opened_by(opener);
    assert_eq!(initiator(now), opener, "{name}");
    for (at, (direction, flags, expected, timeout)) in steps.iter().enumerate() {
        now = advance(now, protocol, *direction, *flags);
        assert_eq!(
            (now, timeout_of(protocol, now)),
            (*expected, *timeout),
            "{name}: packet {at}"
        );
        assert_eq!(initiator(now), opener, "{name}");
    }
}

#[test]
fn tcp_that_the_task_opens() {
    const BOTH: u16 = REPLIED | CONFIRMED;
    use Timeout::{TcpClosed as Closed, TcpEstablished as Open, TcpHalfOpen as Half};
    walk(
        "shake hands, talk, close",
        TCP,
        Egress,
        &[
            (Egress, SYN, 0, Half),
            (Egress, SYN, 0, Half),
            (Ingress, SYN_ACK, REPLIED, Half),
            (Egress, ACK, BOTH, Open),
            (Ingress, ACK, BOTH, Open),
            (Egress, FIN, BOTH | FIN_EGRESS, Open),
            (Ingress, ACK, BOTH | FIN_EGRESS, Open),
            (Ingress, FIN, BOTH | FIN_EGRESS | FIN_INGRESS, Closed),
            (Egress, ACK, BOTH | FIN_EGRESS | FIN_INGRESS, Closed),
        ],
    );
    walk(
        "refused",
        TCP,
        Egress,
        &[
            (Egress, SYN, 0, Half),
            (Ingress, RST | ACK, REPLIED | RESET_INGRESS, Closed),
        ],
    );
    walk(
        "a forged RST: whoever is said to have sent it goes on",
        TCP,
        Egress,
        &[
            (Egress, SYN, 0, Half),
            (Ingress, SYN_ACK, REPLIED, Half),
            (Egress, ACK, BOTH, Open),
            (Ingress, RST, BOTH | RESET_INGRESS, Closed),
            (Egress, ACK, BOTH | RESET_INGRESS, Closed),
            (Ingress, ACK, BOTH, Open),
        ],
    );
    walk(
        "both reset",
        TCP,
        Egress,
        &[
            (Egress, RST, RESET_EGRESS, Closed),
            (Ingress, RST, REPLIED | RESET_EGRESS | RESET_INGRESS, Closed),
            (Egress, ACK, BOTH | RESET_INGRESS, Closed),
            (Ingress, ACK, BOTH, Open),
        ],
    );
}

#[test]
fn tcp_that_is_opened_from_outside() {
    const BOTH: u16 = INGRESS | REPLIED | CONFIRMED;
    use Timeout::{TcpClosed as Closed, TcpEstablished as Open, TcpHalfOpen as Half};
    walk(
        "shake hands, the task closes",
        TCP,
        Ingress,
        &[
            (Ingress, SYN, INGRESS, Half),
            (Egress, SYN_ACK, INGRESS | REPLIED, Half),
            (Egress, SYN_ACK, INGRESS | REPLIED, Half),
            (Ingress, ACK, BOTH, Open),
            (Egress, RST, BOTH | RESET_EGRESS, Closed),
        ],
    );
    walk(
        "never answered: a flood stays half-open",
        TCP,
        Ingress,
        &[
            (Ingress, SYN, INGRESS, Half),
            (Ingress, ACK, INGRESS, Half),
            (Ingress, ACK, INGRESS, Half),
        ],
    );
    walk(
        "picked up midway",
        TCP,
        Ingress,
        &[
            (Ingress, ACK, INGRESS, Half),
            (Egress, ACK, INGRESS | REPLIED, Half),
            (Ingress, ACK, BOTH, Open),
        ],
    );
}

#[test]
fn udp_is_a_stream_from_the_second_exchange() {
    let steps = [
        (Egress, 0xff, 0, Timeout::Udp),
        (Egress, 0, 0, Timeout::Udp),
        (Ingress, 0, REPLIED, Timeout::Udp),
        (Ingress, 0, REPLIED, Timeout::Udp),
        // A request, its answers and one more request are no second exchange yet.
        (Egress, 0, REPLIED | CONFIRMED, Timeout::Udp),
        (Egress, 0, REPLIED | CONFIRMED, Timeout::Udp),
        (Ingress, 0, REPLIED | CONFIRMED | ANSWERED, Timeout::UdpStream),
        (Ingress, 0, REPLIED | CONFIRMED | ANSWERED, Timeout::UdpStream),
        (Egress, 0, REPLIED | CONFIRMED | ANSWERED, Timeout::UdpStream),
    ];
    walk("UDP", UDP, Egress, &steps);
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
            (Ingress, 0, INGRESS, timeout),
            (Egress, 0, INGRESS | REPLIED, timeout),
            (Ingress, 0, INGRESS | REPLIED | CONFIRMED, timeout),
            (Egress, 0, INGRESS | REPLIED | CONFIRMED | ANSWERED, timeout),
        ];
        walk("other", protocol, Ingress, &steps);
    }
}

#[test]
fn only_a_syn_without_more_opens() {
    for flags in 0..=u8::MAX {
        let alone = flags & 0b1_0111 == tcp::SYN;
        assert_eq!(opens(TCP, flags), alone, "{flags:#04x}");
        assert!(!opens(UDP, flags));
    }
}

// Five days at 1,000 ticks a second are far from where ticks begin anew.
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

    /// No sequence of packets takes back that there was a reply, or who began.
    #[test]
    fn what_was_seen_stays_seen(
        opener in prop_oneof![Just(Egress), Just(Ingress)],
        packets in proptest::collection::vec((any::<bool>(), any::<u8>()), 0..40),
    ) {
        let mut now = opened_by(opener);
        for (egress, flags) in packets {
            let direction = if egress { Egress } else { Ingress };
            let next = advance(now, TCP, direction, flags);
            let kept = !(RESET_EGRESS | RESET_INGRESS);
            prop_assert_eq!(now & kept & next, now & kept);
            prop_assert!(next & CONFIRMED == 0 || next & REPLIED != 0);
            now = next;
        }
    }
}
