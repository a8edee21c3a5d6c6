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
            let word = window::add(0, 1, direction, window::of_tcp(flags));
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
    fn a_new_entry_has_no_flags_in_any_window(state in any::<u16>(), number in number()) {
        let flags = Flags::new(state);
        prop_assert_eq!(flags.state(), state);
        for (direction, word) in [Egress, Ingress].into_iter().flat_map(|d| flags.windows().map(|w| (d, w))) {
            prop_assert_eq!(window::tcp_flags(word, number, direction), 0);
        }
    }

    /// Two windows are kept, each with what its own packets had, and the state is nobody's business but its own.
    #[test]
    fn a_window_has_its_own_flags(
        first in number(),
        packets in vec((any::<u16>(), any::<bool>(), any::<u8>(), any::<bool>()), 1..60),
    ) {
        let flags = Flags::new(0xffff);
        let mut number = first;
        // By parity of the window: its number and what was seen, by direction.
        let mut seen = [None, None];
        for (state, egress, tcp_flags, next) in packets {
            if next {
                number = number.wrapping_add(1);
            }
            let direction = if egress { Egress } else { Ingress };
            flags.update(state, number, direction, tcp_flags);
            let kept = match seen[(number & 1) as usize] {
                Some((kept, both)) if kept == number => both,
                _ => [0, 0],
            };
            let mut both: [u8; 2] = kept;
            both[direction.index()] |= of_packet(tcp_flags);
            seen[(number & 1) as usize] = Some((number, both));

            prop_assert_eq!(flags.state(), state);
            for (number, both) in seen.into_iter().flatten() {
                let word = flags.windows()[(number & 1) as usize];
                let read = [Egress, Ingress].map(|direction| window::tcp_flags(word, number, direction));
                prop_assert_eq!(read, both, "window {}", number);
            }
        }
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
        let conn = Conn { admitted: pair(upper, lower).into(), by: pair(lower, upper).into(), ..Conn::default() };
        prop_assert_eq!((conn.admitted(), conn.by()), ((upper, lower), (lower, upper as u16)));
    }
}
