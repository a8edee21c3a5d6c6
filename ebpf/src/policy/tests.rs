use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use proptest::{collection::vec, prelude::*, strategy::ValueTree as _};

use super::*;
use crate::{
    abi::image::{BANK_BYTES, LinkRow, MEMBER_BANK, POLICY_BANK, PolicyRef, TOMBSTONE},
    host::HostTables,
};

const BANK_WORDS: usize = BANK_BYTES as usize / 8;

fn image(banks: usize) -> Vec<AtomicU64> {
    std::iter::repeat_with(AtomicU64::default)
        .take(banks * BANK_WORDS)
        .collect()
}

fn set(image: &[AtomicU64], bank: u32, offset: u32, words: &[u64]) {
    let image = &image[bank as usize * BANK_WORDS + offset as usize / 8..];
    for (there, word) in image.iter().zip(words) {
        there.store(*word, Relaxed);
    }
}

fn set_generation(image: &[AtomicU64], generation: u64) {
    set(image, CONTROL_BANK, ImageWord::Generation.offset(), &[generation]);
}

/// Edge cases of comparisons: the ends, the middle, powers of two and their neighbours, random numbers.
fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(i64::MAX as u64),
        Just(1 << 63),
        (0..64_u32, 0..3_u64).prop_map(|(bit, off)| (1_u64 << bit).wrapping_add(off).wrapping_sub(1)),
        any::<u64>(),
    ]
}

proptest! {
    #[test]
    fn borrow_is_that_of_wide_subtraction(x in edge(), y in edge(), carry in 0..2_u64) {
        let wide = u128::from(x) < u128::from(y) + u128::from(carry);
        prop_assert_eq!(less_than(x, y, carry), u64::from(wide));
    }

    #[test]
    fn two_borrows_compare_addresses(x in (edge(), edge()), y in (edge(), edge())) {
        let wide = |(hi, lo): (u64, u64)| u128::from(hi) << 64 | u128::from(lo);
        let less = less_than(x.0, y.0, less_than(x.1, y.1, 0));
        prop_assert_eq!(less, u64::from(wide(x) < wide(y)));
    }

    #[test]
    fn the_lowest_bit_is_found(value in edge()) {
        prop_assume!(value != 0);
        prop_assert_eq!(lowest_bit(value), value.trailing_zeros());
    }

    /// An axis of packed entries, padded to a power of two by repeating the last interval.
    #[test]
    fn a_narrow_key_finds_its_interval(
        starts in vec(prop_oneof![any::<u32>(), 0..300_u32], 0..70),
        keys in vec(prop_oneof![any::<u32>(), 0..300_u32], 1..20),
        offset in 0..1000_u32,
    ) {
        let starts = sorted(starts, 0);
        let (depth, entries) = padded(&starts);
        let image = image(1);
        let axis = 8 * offset;
        let entry = |(key, row)| AxisEntry { key, row: row as u32 }.to_word();
        let entries: Vec<u64> = entries.into_iter().map(entry).collect();
        set(&image, 0, axis, &entries);
        let tables = HostTables::new(&image, 0);
        let bank = tables.bank(0).unwrap();
        for key in keys.into_iter().chain(starts.iter().copied()).chain([u32::MAX]) {
            let expected = starts.partition_point(|start| *start <= key) - 1;
            prop_assert_eq!(find_narrow(bank, axis, depth, key) as usize, expected, "{} in {:?}", key, starts);
        }
    }

    /// The same for IPv6 addresses, where the rows follow the keys.
    #[test]
    fn an_address_finds_its_interval(
        starts in vec((edge(), edge()), 0..70),
        keys in vec((edge(), edge()), 1..20),
        offset in 0..1000_u32,
    ) {
        let starts = sorted(starts, (0, 0));
        let (depth, entries) = padded(&starts);
        let image = image(1);
        let axis = 8 * offset;
        let rows = axis + (16 << depth);
        for (at, ((hi, lo), row)) in entries.into_iter().enumerate() {
            let at = at as u32;
            set(&image, 0, axis + 16 * at, &[hi, lo]);
            set(&image, 0, rows + 8 * at, &[row as u64]);
        }
        let tables = HostTables::new(&image, 0);
        let bank = tables.bank(0).unwrap();
        for key in keys.into_iter().chain(starts.iter().copied()).chain([(u64::MAX, u64::MAX)]) {
            let expected = starts.partition_point(|start| *start <= key) - 1;
            let found = Peer6(Address::new(key.0, key.1)).find(bank, axis, depth);
            prop_assert_eq!(found as usize, expected, "{:x?} in {:x?}", key, starts);
        }
    }
}

/// Sorted distinct starts of intervals, with a given first one.
fn sorted<T: Ord>(mut starts: Vec<T>, first: T) -> Vec<T> {
    starts.push(first);
    starts.sort_unstable();
    starts.dedup();
    starts
}

/// Depth and entries of an axis: each start with its row's number.
fn padded<T: Copy>(starts: &[T]) -> (u32, Vec<(T, usize)>) {
    let depth = starts.len().next_power_of_two().trailing_zeros();
    let last = starts.len() - 1;
    let entries = (0..1 << depth).map(|at: usize| (starts[at.min(last)], at.min(last)));
    (depth, entries.collect())
}

/// Writes a word to the position of step `step` in the search for a key.
fn put_word(image: &[AtomicU64], bank: u32, table: Region, probe: Probe, step: u32, value: u64) {
    set(image, bank, table.at(probe.position(step)), &[value]);
}

fn word(tag: u32, index: u32) -> u64 {
    IndexWord { tag, index }.to_word()
}

/// The position of a link's word on its search path, the words before it, and whether the search finds it.
#[test]
fn a_search_passes_what_is_not_its_own_and_ends_where_nothing_is() {
    const LINK: u32 = 0x0080_0065;
    const SLOT: u16 = 5;
    let own = probe([0, LINK.into()]);
    let others = word(own.tag ^ 2, 7);
    for (name, step, before, row_link, present, found) in [
        ("at once", 0, EMPTY, LINK, slot::PRESENT, true),
        ("behind others", 3, others, LINK, slot::PRESENT, true),
        ("behind what went", 3, TOMBSTONE, LINK, slot::PRESENT, true),
        (
            "behind one with the same tag",
            3,
            word(own.tag, 7),
            LINK,
            slot::PRESENT,
            true,
        ),
        ("behind nothing", 1, EMPTY, LINK, slot::PRESENT, false),
        ("as the last one", PROBES - 1, others, LINK, slot::PRESENT, true),
        ("beyond the last one", PROBES, others, LINK, slot::PRESENT, false),
        ("its row is another link's", 0, EMPTY, LINK + 1, slot::PRESENT, false),
        ("its slot is not there", 0, EMPTY, LINK, slot::ISOLATED, false),
    ] {
        for generation in [1, 2] {
            let image = image(3);
            set_generation(&image, generation);
            for step in 0..step {
                put_word(&image, CONTROL_BANK, LINKS, own, step, before);
            }
            put_word(&image, CONTROL_BANK, LINKS, own, step, word(own.tag, 42));
            for (index, link, slot) in [(42, row_link, SLOT), (7, 1, 9)] {
                let link = LinkId::from_number(link);
                let row = LinkRow { link, slot }.to_word();
                set(&image, rows_bank(generation as u32), LINK_ROWS.at(index), &[row]);
            }
            let row = SlotRow {
                roots: [PolicyRoots::from_word(1 << 32 | 2), PolicyRoots::from_word(3 << 32 | 4)],
                flags: present,
                group_set: 77,
                conn_cap: 5,
            };
            let at = SLOT_ROWS.at(SLOT.into());
            set(&image, rows_bank(generation as u32), at, &row.to_words());
            let tables = HostTables::new(&image, 0);
            let control = Control::read(&tables).unwrap();
            let mut eni = EniRow::default();
            let result = Rows::read(&tables, control).unwrap().eni_of(LINK, &mut eni);
            let expected = EniRow {
                slot: SLOT,
                flags: present,
                roots: row.roots,
                conn_cap: 5,
            };
            let expected = if found {
                (Some(()), expected)
            } else {
                (None, EniRow::default())
            };
            assert_eq!((result, eni), expected, "{name}, generation {generation}");
        }
    }
}

#[test]
fn a_row_of_the_other_generation_is_not_seen() {
    let address = Address::new(1, 2);
    let own = probe(address.halves());
    let image = image(5);
    put_word(&image, MEMBER_BANK, MEMBERS, own, 0, word(own.tag, 3));
    let known = AddressRow {
        slot: 4,
        flags: address::PRESENT,
        group_set: 9,
    };
    set(&image, MEMBER_BANK + 1, ADDRESS_ROWS.at(3), &known.to_words(address));
    for (generation, expected) in [(1, known), (2, AddressRow::default()), (3, known)] {
        set_generation(&image, generation);
        let tables = HostTables::new(&image, 0);
        let rows = Rows::read(&tables, Control::read(&tables).unwrap()).unwrap();
        assert_eq!(rows.address(&tables, address), expected, "generation {generation}");
        assert_eq!(
            rows.address(&tables, Address::new(1, 3)),
            AddressRow::default(),
            "another address"
        );
    }
    set_generation(&image, 0);
    let tables = HostTables::new(&image, 0);
    assert!(Rows::read(&tables, Control::read(&tables).unwrap()).is_none());
}

#[test]
fn an_image_without_banks_has_nothing() {
    let tables = HostTables::new(&[], 0);
    assert!(Control::read(&tables).is_none());
    let query = PolicyQuery {
        axis: 0,
        port: 443,
        peer: Peer4(1),
        group_set: 0,
    };
    assert_eq!(
        classify(&tables, PolicyRoots::from_word(1 << 15), query),
        PolicyResult::NoPolicy
    );
}

/// A damaged image gives wrong answers, but no panic.
#[test]
fn damage_is_read_without_panic() {
    let image = image(7);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let noise = prop_oneof![any::<u64>(), edge(), any::<u32>().prop_map(u64::from)];
    for _ in 0..4 {
        for (at, word) in image.iter().enumerate() {
            // A separate strategy for each word would take minutes.
            let mixed = probe([at as u64, word.load(Relaxed)]);
            word.store(u64::from(mixed.first) << 32 | u64::from(mixed.tag), Relaxed);
        }
        let tables = HostTables::new(&image, 0);
        for _ in 0..5000 {
            let mut value = || noise.new_tree(&mut runner).unwrap().current();
            let root = PolicyRef(POLICY_BANK << 15 | value() as u32 & 0xffff);
            let mut header = [(); PolicyHeader::WORDS].map(|()| value());
            header[0] = header[0] << 32 | u64::from(PolicyHeader::MAGIC);
            set(&image, root.bank().min(6), root.offset(), &header);
            let (port, group_set) = (value() as u32, value() as u32);
            let peer = Address::new(value(), value());
            for axis in 0..4 {
                let roots = PolicyRoots { v4: root, v6: root };
                let narrow = PolicyQuery {
                    axis,
                    port,
                    peer: Peer4(peer.v4()),
                    group_set,
                };
                let wide = PolicyQuery {
                    axis,
                    port,
                    peer: Peer6(peer),
                    group_set,
                };
                let _ = (classify(&tables, roots, narrow), classify(&tables, roots, wide));
            }
            set_generation(&image, value() | 1);
            let rows = Rows::read(&tables, Control::read(&tables).unwrap()).unwrap();
            let _ = (rows.address(&tables, peer), rows.eni_of(port, &mut EniRow::default()));
        }
    }
}
