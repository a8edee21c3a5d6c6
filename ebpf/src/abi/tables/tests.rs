use proptest::{collection::vec, prelude::*};

use super::*;
use crate::abi::Direction::{Egress, Ingress};

/// What AWS's `tcp-flags` says of one packet: FIN 1, SYN 2, RST 4, SYN-ACK 18.
fn of_packet(flags: u8) -> u8 {
    let (fin, syn, rst, ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
    u8::from(fin)
        | u8::from(rst) << 2
        | match (syn, ack) {
            (true, true) => 18,
            (true, false) => 2,
            _ => 0,
        }
}

#[test]
fn the_flags_of_one_packet() {
    for flags in 0..=u8::MAX {
        for (direction, other) in [(Egress, Ingress), (Ingress, Egress)] {
            let word = 0x100 | window::seen(direction, flags);
            assert_eq!(window::tcp_flags(word, 1, direction), of_packet(flags), "{flags:#04x}");
            assert_eq!(window::tcp_flags(word, 1, other), 0, "{flags:#04x}");
        }
    }
}

/// Whatever the number of the window, also where only its upper half counts on.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..4_u32,
        0xfffd..0x1_0003_u32,
        Just(u32::MAX),
        Just(28_000_000),
        any::<u32>()
    ]
}

proptest! {
    #[test]
    fn a_new_entry_has_no_flags_in_any_window(state in any::<u8>(), number in number()) {
        let flags = Flags::new(state.into(), number);
        prop_assert_eq!(flags.state(), u16::from(state));
        for (direction, word) in [Egress, Ingress].into_iter().flat_map(|d| flags.windows().map(|w| (d, w))) {
            prop_assert_eq!(window::tcp_flags(word, number, direction), 0);
        }
    }

    /// The last two windows are kept, each with what its own packets had, and the state is nobody's business but its own.
    #[test]
    fn a_window_has_its_own_flags(
        first in number(),
        packets in vec((any::<u8>(), any::<bool>(), any::<u8>(), 0..6_u32), 1..60),
    ) {
        let flags = Flags::new(0xff, first);
        let mut number = first;
        let mut seen = std::collections::HashMap::<u32, [u8; 2]>::new();
        for (state, egress, tcp_flags, next) in packets {
            // Now and then windows pass without a packet, and a CPU may still be in the one before.
            let late = next == 5 && seen.contains_key(&number);
            let of = if late { number.wrapping_sub(1) } else {
                number = number.wrapping_add(next % 5);
                number
            };
            let direction = if egress { Egress } else { Ingress };
            flags.update(state.into(), of, direction, tcp_flags);
            seen.entry(of).or_default()[direction.index()] |= of_packet(tcp_flags);

            prop_assert_eq!(flags.state(), u16::from(state));
            for number in [number, number.wrapping_sub(1)] {
                let word = flags.windows()[(number & 1) as usize];
                let read = [Egress, Ingress].map(|direction| window::tcp_flags(word, number, direction));
                prop_assert_eq!(read, seen.get(&number).copied().unwrap_or_default(), "window {}", number);
            }
        }
    }

    #[test]
    fn what_an_entry_says_of_who_admitted_it(rule in 0..RULES, state in any::<u16>(), code in any::<u8>(), slot in any::<u16>()) {
        let conn = Conn {
            by: Conn::pack_by(rule, state, code, slot).into(),
            flags: Flags::new(state, 0),
            ..Conn::default()
        };
        prop_assert_eq!((conn.by(), conn.code(), conn.state()), ((rule, slot), code, state));
    }

    #[test]
    fn an_entry_is_read_as_it_lies_in_memory(words in any::<[u64; 7]>(), next in any::<[u16; 2]>(), flags in any::<u32>()) {
        let [low, high] = next.map(u16::to_ne_bytes);
        let [a, b, c, d] = flags.to_ne_bytes();
        let last = u64::from_ne_bytes([low[0], low[1], high[0], high[1], a, b, c, d]);
        let conn = Conn::from([words[0], words[1], words[2], words[3], words[4], words[5], words[6], last]);
        prop_assert_eq!(conn.next.get(), next);
        prop_assert_eq!(conn.flags.0.get(), flags);
        let denial = Denial::from([words[0], words[1], words[2], u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])]);
        prop_assert_eq!(denial.flags.0.get(), flags);
    }

    #[test]
    fn a_denials_tail_comes_apart_again(slot in any::<u16>(), protocol in any::<u8>(), ingress in any::<bool>(), reason in 0..128_u8) {
        let direction = if ingress { Ingress } else { Egress };
        let tail = denial_tail(slot, protocol, direction, reason);
        prop_assert_eq!(split_denial_tail(tail), (slot, protocol, direction, reason));
    }

    #[test]
    fn two_numbers_in_one_word(upper in any::<u32>(), lower in any::<u32>()) {
        let seen = Seen::new(upper, lower);
        prop_assert_eq!(seen.get(), (upper, lower));
        seen.set(lower, upper);
        prop_assert_eq!(seen.get(), (lower, upper));
        let conn = Conn { admitted: pair(upper, lower).into(), ..Conn::default() };
        prop_assert_eq!(conn.admitted(), (upper, lower));
    }
}
