use std::mem::offset_of;

use proptest::{collection::vec, prelude::*};

use super::{entry::word, *};
use crate::abi::{
    Address,
    Direction::{Egress, Ingress},
    LinkId,
    outcome::counters_index,
};

/// AWS's `tcp-flags` value for one packet: FIN 1, SYN 2, RST 4, SYN-ACK 18.
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

/// Window numbers, including ones in which only the upper part changes.
fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        0..4_u32,
        0xfffd..0x1_0003_u32,
        Just(u32::MAX),
        Just(28_000_000),
        any::<u32>()
    ]
}

/// Tables outlive processes, so their layout must not change within a version.
#[test]
fn an_entry_lies_in_memory_byte_by_byte_as_it_always_has() {
    let bytes = |words: &[u64]| -> Vec<u8> { words.iter().flat_map(|word| word.to_le_bytes()).collect() };
    let conn = Conn {
        packets: [0x0403_0201.into(), 0x0807_0605.into()],
        bytes: [0x1817_1615_1413_1211.into(), 0x2827_2625_2423_2221.into()],
        admitted: Admitted {
            epoch: 0x38_3736,
            code: 0x35,
            generation: 0x3433,
            slot: 0x3231,
        }
        .pack()
        .into(),
        by: Conn::pack_by(0x44_4342, 0x4100).into(),
        last: 0x4847_4645.into(),
        next: Next::new([0x5251, 0x5453]),
        flags: Flags(0x5857_5655.into()),
    };
    let expected: Vec<u8> = [
        0x01..=0x08,
        0x11..=0x18,
        0x21..=0x28,
        0x31..=0x38,
        0x41..=0x48,
        0x51..=0x58,
    ]
    .into_iter()
    .flatten()
    .collect();
    if cfg!(target_endian = "little") {
        assert_eq!(bytes(&conn.to_words()), expected);
        let denial = Denial::new(
            Totals::new(0x0807_0605_0403_0201, 0x1817_1615_1413_1211),
            0x2423_2221,
            Flags(0x2827_2625.into()),
            0x3433_3231,
        );
        let expected: Vec<u8> = [0x01..=0x08, 0x11..=0x18, 0x21..=0x28, 0x31..=0x34]
            .into_iter()
            .flatten()
            .chain([0; 20])
            .collect();
        assert_eq!(bytes(&denial.to_words()), expected);
        let key = Key4 {
            addresses: 0x0807_0605_0403_0201,
            ports: 0x0c0b_0a09,
            tag: KeyTag::from_number(0x100f_0e0d),
        };
        assert_eq!(bytes(&key.to_words()), (0x01..=0x10).collect::<Vec<u8>>());
        let key = Key6 {
            local: Address::new(0x0807_0605_0403_0201, 0x100f_0e0d_0c0b_0a09),
            remote: Address::new(0x1817_1615_1413_1211, 0x201f_1e1d_1c1b_1a19),
            ports: 0x2423_2221,
            tag: KeyTag::from_number(0x2827_2625),
        };
        assert_eq!(bytes(&key.to_words()), (0x01..=0x28).collect::<Vec<u8>>());
    }
    assert_eq!(offset_of!(Entry<Conn>, value), 0);
    assert_eq!(offset_of!(Entry<Conn>, key), 48);
    let fields = [
        offset_of!(Conn, packets),
        offset_of!(Conn, bytes),
        offset_of!(Conn, admitted),
        offset_of!(Conn, by),
        offset_of!(Conn, last),
        offset_of!(Conn, next),
        offset_of!(Conn, flags),
    ];
    assert_eq!(fields, [0, 8, 24, 32, 36, 40, 44]);
    let fields = [
        offset_of!(Denial, totals),
        offset_of!(Denial, last),
        offset_of!(Denial, flags),
        offset_of!(Denial, charge),
    ];
    assert_eq!(fields, [0, 16, 20, 24]);
}

/// The layouts of entries outside connection tables, byte by byte.
#[test]
fn fragments_link_locals_and_events_lie_in_memory_as_they_always_have() {
    let l4 = FragmentL4 {
        source_port: 0x4847,
        destination_port: 0x4645,
        slot: 0x4443,
        charge: Charge::POOL,
        exchange: 0x42,
        protocol: 0x41,
    };
    let fragment = Fragment::new(Seen::new(0x3837_3635, KeyTag::from_number(0x3433_3231)), l4, -2);
    assert_eq!(
        fragment.to_words(),
        [0x3837_3635_3433_3231, 0x4847_4645_4443_c241, u64::MAX - 1]
    );
    assert_eq!(
        LinkLocal::of_task(0x0102, 0x0304_0506).to_words(),
        [0x0102_0304_0506, 0]
    );
    assert_eq!(
        LinkLocal::of_neighbour(0x0102_0304, 0x0506_0708).to_words(),
        [0, 0x0102_0304_0506_0708]
    );
    let event = Event {
        local: Address::new(1, 2),
        remote: Address::new(3, 4),
        ports: 5,
        tag: KeyTag::from_number(6),
        rule: 7,
        time: 8,
        bytes: 9,
        tcp_flags: 10,
        generation: 11,
        spare: 12,
    };
    if cfg!(target_endian = "little") {
        let halves = [0x6_0000_0005, 0x8_0000_0007, 0xa_0000_0009, 0xc_0000_000b];
        assert_eq!(event.to_words(), [&[1, 2, 3, 4][..], &halves].concat()[..]);
    }
    let offsets = [
        offset_of!(Event, local),
        offset_of!(Event, remote),
        offset_of!(Event, ports),
        offset_of!(Event, tag),
        offset_of!(Event, rule),
        offset_of!(Event, time),
        offset_of!(Event, bytes),
        offset_of!(Event, tcp_flags),
        offset_of!(Event, generation),
        offset_of!(Event, spare),
    ];
    assert_eq!(offsets, [0, 16, 32, 36, 40, 44, 48, 52, 56, 60]);
    let offsets = [offset_of!(LinkLocalKey, interface), offset_of!(LinkLocalKey, segment)];
    assert_eq!(offsets, [0, 8]);
    assert_eq!(
        [(0, Egress), (0, Ingress), (7, Ingress)].map(|(slot, way)| counters_index(slot, way)),
        [0, 1, 15]
    );
}

/// The arrays indexed by slot, word by word.
#[test]
fn usage_and_neighbours_lie_in_memory_as_they_always_have() {
    let offsets = [
        offset_of!(EniUsage, conns_inserted),
        offset_of!(EniUsage, denials_inserted),
        offset_of!(EniUsage, fragments_inserted),
        offset_of!(EniUsage, flows_lost),
        offset_of!(EniUsage, denials_lost),
        offset_of!(EniUsage, conns_removed),
        offset_of!(EniUsage, denials_removed),
        offset_of!(EniUsage, fragments_removed),
        offset_of!(EniUsage, conns_refused),
        offset_of!(EniUsage, fragments_lost),
    ];
    assert_eq!(offsets, [0, 16, 32, 48, 56, 64, 80, 96, 112, 120]);
    assert_eq!([Charge::FLOOR, Charge::POOL].map(Charges::offset), [0, 8]);
    let usage = EniUsage::default();
    let charges = [
        &usage.conns_inserted,
        &usage.denials_inserted,
        &usage.fragments_inserted,
        &usage.conns_removed,
        &usage.denials_removed,
        &usage.fragments_removed,
    ];
    for (charges, first) in charges.into_iter().zip([1, 3, 5, 9, 11, 13]) {
        charges.of(Charge::FLOOR).set(first);
        charges.of(Charge::POOL).set(first + 1);
    }
    usage.flows_lost.set(7);
    usage.denials_lost.set(8);
    usage.conns_refused.set(15);
    usage.fragments_lost.set(16);
    assert_eq!(usage.to_words(), std::array::from_fn(|at| at as u64 + 1));
    assert_eq!(usage.moving().get(), 1);

    assert_eq!(NeighbourCache::OFFSETS, [0, 16, 24, 96]);
    let cache = NeighbourCache::default();
    cache.keep(
        Address::new(0xfe80 << 48, 5),
        NeighbourKind::Heard,
        0x0a_0b0c,
        0x0102_0304,
    );
    cache.keep(
        Address::new(0xfe80 << 48, 7),
        NeighbourKind::Probed,
        0x0d_0e0f,
        0x0506_0708,
    );
    assert!(cache.may_name_one_more(false, 2, 0x1112_1314, 9) && cache.may_name_one_more(true, 2, 0x2122_2324, 9));
    assert!(cache.may_name_one_more(true, 2, 0x2122_2325, 9));
    let (heard, probed) = (0x000a_0b0c_0102_0304, 0x010d_0e0f_0506_0708);
    assert_eq!(
        cache.to_words(),
        [[0; 3], [0xfe80 << 48, 5, heard], [0; 3], [0xfe80 << 48, 7, probed],]
            .concat()
            .into_iter()
            .chain([0x1112_1314_0000_0001, 0x2122_2324_0000_0002])
            .collect::<Vec<u64>>()[..]
    );
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

    /// The last two windows are kept, each with the flags of its own packets, and the state is independent of them.
    #[test]
    fn a_window_has_its_own_flags(
        first in number(),
        packets in vec((any::<u8>(), any::<bool>(), any::<u8>(), 0..6_u32), 1..60),
    ) {
        let flags = Flags::new(0xff, first);
        let mut number = first;
        let mut seen = std::collections::HashMap::<u32, [u8; 2]>::new();
        for (state, egress, tcp_flags, next) in packets {
            // Some windows have no packet, and a CPU may still be in the previous one.
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
    fn what_an_entry_says_of_who_admitted_it(
        rule in 0..RULES, state in any::<u16>(), epoch in any::<u32>(), code in any::<u8>(), generation in any::<u16>(),
        slot in any::<u16>(),
    ) {
        let admitted = Admitted { epoch, code, generation, slot };
        let conn = Conn {
            admitted: admitted.pack().into(),
            by: Conn::pack_by(rule, state).into(),
            flags: Flags::new(state, 0),
            ..Conn::default()
        };
        prop_assert_eq!((conn.rule(), conn.state()), (rule, state));
        prop_assert_eq!(conn.admitted(), Admitted { epoch: epoch % Admitted::EPOCHS, ..admitted });
        prop_assert!(conn.admitted().is_of(epoch) && !conn.admitted().is_of(epoch.wrapping_add(1)));
    }

    #[test]
    fn keys_and_values_are_the_words_that_they_were_made_of(
        value in any::<[u64; 6]>(), four in any::<[u64; 2]>(), six in any::<[u64; 5]>(), eight in any::<[u64; 8]>(),
    ) {
        let [a, b, c, ..] = value;
        prop_assert_eq!(Fragment::from_words([a, b, c]).to_words(), [a, b, c]);
        prop_assert_eq!(FragmentL4::of(a).pack(), a);
        prop_assert_eq!(LinkLocal::from_words([a, b]).to_words(), [a, b]);
        prop_assert_eq!(Event::from_words(eight).to_words(), eight);
        prop_assert_eq!(Conn::from_words(value).to_words(), value);
        let [packets, bytes, last_and_flags, charge, ..] = value;
        let charge = charge & word(u32::MAX, 0);
        prop_assert_eq!(Denial::from_words(value).to_words(), [packets, bytes, last_and_flags, charge, 0, 0]);
        prop_assert_eq!(Key4::from_words(four).to_words(), four);
        prop_assert_eq!(Key6::from_words(six).to_words(), six);
        let (entry, rest) = Key6::from_words(six).to_entry();
        prop_assert_eq!((entry, rest), ([six[3], six[4]], [six[0], six[1], six[2], 0]));
        prop_assert_eq!(Key6::from_entry(entry, rest).to_words(), six);
    }

    #[test]
    fn usage_and_neighbours_are_the_words_that_they_were_made_of(
        usage in any::<[u64; 16]>(), neighbours in any::<[u64; 14]>(),
    ) {
        prop_assert_eq!(EniUsage::from_words(usage).to_words(), usage);
        prop_assert_eq!(NeighbourCache::from_words(neighbours).to_words(), neighbours);
    }

    #[test]
    fn a_denials_tag_comes_apart_again(slot in any::<u16>(), protocol in any::<u8>(), ingress in any::<bool>(), reason in 0..128_u8) {
        let direction = if ingress { Ingress } else { Egress };
        let tag = KeyTag::of_denial(slot, protocol, direction, reason);
        prop_assert_eq!(tag.split_denial(), (slot, protocol, direction, reason));
    }

    #[test]
    fn a_connections_tag_comes_apart_again(link in 0..1_u32 << 24, protocol in any::<u8>()) {
        let link = LinkId::from_number(link);
        let tag = KeyTag::of_conn(link, protocol);
        prop_assert_eq!(tag.split_conn(), (link, protocol));
        prop_assert_eq!(tag.with_protocol(!protocol), KeyTag::of_conn(link, !protocol));
    }

    /// A place holds one address, with its kind, link and epoch, until another address replaces it or it is cleared.
    #[test]
    fn a_neighbour_is_kept_as_it_came(
        address in any::<[u64; 2]>(), other in any::<[u64; 2]>(), probed in any::<bool>(), link in 1..1_u32 << 24,
        epoch in any::<u32>(),
    ) {
        let (kind, wrong) = if probed {
            (NeighbourKind::Probed, NeighbourKind::Heard)
        } else {
            (NeighbourKind::Heard, NeighbourKind::Probed)
        };
        let (address, other) = (Address::from(address), Address::from(other));
        let cache = NeighbourCache::default();
        prop_assert!(!cache.has(address, kind, link, epoch));
        cache.keep(address, kind, link, epoch);
        let has = [
            cache.has(address, kind, link, epoch),
            cache.has(other, kind, link, epoch),
            cache.has(address, wrong, link, epoch),
            cache.has(address, kind, link ^ 1, epoch),
            cache.has(address, kind, link, epoch ^ 1),
        ];
        prop_assert_eq!(has, [true, other == address, false, false, false]);
        cache.forget(address);
        prop_assert!(!cache.has(address, kind, link, epoch));
    }

    #[test]
    fn two_numbers_in_one_word(upper in any::<u32>(), lower in any::<u32>()) {
        let tag = KeyTag::from_number;
        let seen = Seen::new(upper, tag(lower));
        prop_assert_eq!(seen.get(), (upper, tag(lower)));
        seen.set(lower, tag(upper));
        prop_assert_eq!(seen.get(), (lower, tag(upper)));
    }
}
