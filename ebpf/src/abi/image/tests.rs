use proptest::prelude::*;

use super::*;
use crate::abi::{Address, LinkId};

/// The kernel program and user space of one build share the image's layout; these are its words, digit by digit.
#[test]
fn every_word_lies_as_it_is_documented() {
    let address = Address::new(0x2001_0db8_0000_0000, 7);
    let link = LinkId::branch(0x065);
    let roots = |v4, v6| PolicyRoots {
        v4: PolicyRef(v4),
        v6: PolicyRef(v6),
    };
    let slot = SlotRow {
        roots: [roots(1, 2), roots(3, 4)],
        flags: 5,
        group_set: 6,
        conn_cap: 7,
    };
    let axis = |offset, depth| AxisRef { offset, depth };
    let header = PolicyHeader {
        bitmap_words: 2,
        rule_count: 65,
        rules: 0x40,
        ports: [axis(0x250, 1), axis(0x260, 2), axis(0x280, 0), axis(0x288, 0)],
        peers: axis(0x290, 3),
        groups: axis(0x2d0, 4),
    };
    let words: [(&str, &[u64], &[u64]); 9] = [
        (
            "link",
            &[LinkRow { link, slot: 0x1fff }.to_word()],
            &[0x0000_1fff_0080_0065],
        ),
        (
            "slot",
            &slot.to_words(),
            &[0x2_0000_0001, 0x4_0000_0003, 0x6_0000_0005, 7],
        ),
        (
            "address",
            &AddressRow {
                slot: 0x0102,
                flags: 0x0304,
                group_set: 0x0506_0708,
            }
            .to_words(address),
            &[0x2001_0db8_0000_0000, 7, 0x0506_0708_0304_0102],
        ),
        ("index", &[IndexWord { tag: 1, index: 2 }.to_word()], &[0x1_0000_0002]),
        ("share", &[Share { floor: 1, pool: 2 }.to_word()], &[0x2_0000_0001]),
        (
            "policy",
            &header.to_words(),
            &[
                0x2_5447_5001,
                0x41_0000_0040,
                0x1_0000_0250,
                0x2_0000_0260,
                0x280,
                0x288,
                0x3_0000_0290,
                0x4_0000_02d0,
            ],
        ),
        (
            "interval",
            &[AxisEntry { key: 80, row: 0xa8 }.to_word()],
            &[0x50_0000_00a8],
        ),
        ("rule", &[RuleMatch { rule: 9, flags: 3 }.to_word()], &[0x3_0000_0009]),
        ("root", &[PolicyRef::new(3, 0x1f_ffc0).0.into()], &[0x1_ffff]),
    ];
    for (name, written, expected) in words {
        assert_eq!(written, expected, "{name}");
    }
}

#[test]
fn every_part_lies_where_it_always_has() {
    let offsets = [
        CONTROL_WORDS,
        TIMEOUT_TICKS,
        SHARES,
        EPOCHS,
        LINKS,
        SLOT_LINKS,
        SLOT_MACS,
        SLOT_SEGMENTS,
    ]
    .map(|region| (region.offset, region.stride, region.count));
    let expected = [
        (0, 8, 8),
        (64, 8, 16),
        (192, 8, 4),
        (0x1_0000, 8, 8192),
        (0x2_0000, 8, 16_384),
        (0x4_0000, 8, 8192),
        (0x5_0000, 8, 8192),
        (0x6_0000, 8, 8192),
    ];
    assert_eq!(offsets, expected);
    let rows = [LINK_ROWS, SLOT_ROWS, MEMBERS, ADDRESS_ROWS].map(|region| (region.offset, region.stride, region.count));
    assert_eq!(
        rows,
        [
            (0, 8, 8192),
            (0x4_0000, 32, 8192),
            (0, 8, 65_536),
            (0x8_0000, 24, 65_536)
        ]
    );
    let words = [
        ImageWord::Layout,
        ImageWord::Generation,
        ImageWord::Window,
        ImageWord::Flags,
        ImageWord::Trunk,
        ImageWord::PreviousTrunk,
        ImageWord::Uplink,
        ImageWord::MemberBanks,
    ];
    assert_eq!(words.map(ImageWord::offset), [0, 8, 16, 24, 32, 40, 48, 56]);
    assert_eq!([1, 2, 3].map(rows_bank), [2, 1, 2]);
    assert_eq!((POLICY_BANK, member_room(2), member_room(32)), (5, 65_536, 983_040));
}

proptest! {
    /// Every index stays within its region.
    #[test]
    fn an_index_stays_within_its_region(index in any::<u32>()) {
        for region in [CONTROL_WORDS, SHARES, SLOT_LINKS, MEMBERS, LINK_ROWS, SLOT_ROWS, ADDRESS_ROWS] {
            let at = region.at(index);
            prop_assert!(region.contains(at) && (at - region.offset) % region.stride == 0);
            prop_assert_eq!(at, region.end_of(index % region.count));
        }
    }

    /// Every key stays within the banks of `members`, for any control word.
    #[test]
    fn members_stay_within_their_banks(word in any::<u64>(), doubled in 1..=8_u32, key in any::<[u64; 2]>()) {
        let damaged = MemberBanks::from_word(word);
        let limit = MEMBER_BANK..policy_bank(MOST_MEMBER_BANKS);
        prop_assert!(limit.contains(&damaged.words_of(probe(key))) && limit.contains(&damaged.rows_of(probe(key), word as u32)));
        let banks = MemberBanks::of(1 << doubled);
        prop_assert_eq!((MemberBanks::from_word(banks.to_word()), banks.count()), (banks, 1 << doubled));
        let words = banks.words_of(probe(key));
        prop_assert!((MEMBER_BANK..policy_bank(1 << doubled)).contains(&words));
        for generation in [4, 5] {
            let rows = banks.rows_of(probe(key), generation);
            prop_assert_eq!(rows, words - (words - MEMBER_BANK) % 2 + generation % 2);
        }
    }

    #[test]
    fn rows_are_the_words_that_they_were_made_of(
        link in 0..1_u32 << 24, slot in any::<u16>(), words in any::<[u64; 4]>(),
    ) {
        let row = LinkRow { link: LinkId::from_number(link), slot };
        prop_assert_eq!(LinkRow::from_word(row.to_word()), row);

        let [a, b, c, d] = words;
        let cap = d & u64::from(u32::MAX);
        prop_assert_eq!(SlotRow::from_words(words).to_words(), [a, b, c, cap]);
        let (address, row) = AddressRow::from_words([a, b, c]);
        prop_assert_eq!(address.halves(), [a, b]);
        prop_assert_eq!(row.to_words(address), [a, b, c]);
    }

    #[test]
    fn words_are_the_numbers_that_they_were_made_of(word in any::<u64>()) {
        prop_assert_eq!(IndexWord::from_word(word).to_word(), word);
        prop_assert_eq!(Share::from_word(word).to_word(), word);
        prop_assert_eq!(AxisEntry::from_word(word).to_word(), word);
        prop_assert_eq!(RuleMatch::from_word(word).to_word(), word);
        prop_assert_eq!(PolicyRoots::from_word(word).to_word(), word);
        // A depth has five bits.
        prop_assert_eq!(AxisRef::from_word(word).to_word(), word & 0x1f_ffff_ffff);
    }

    #[test]
    fn a_header_is_the_words_that_it_was_made_of(
        first in any::<u32>(), rules in any::<u64>(), axes in any::<[u64; 6]>(),
    ) {
        let [a, b, c, d, e, f] = axes.map(|axis| axis & 0x1f_ffff_ffff);
        let words = [pair(first, PolicyHeader::MAGIC), rules, a, b, c, d, e, f];
        let header = PolicyHeader::from_words(words);
        prop_assert_eq!(header.map(PolicyHeader::to_words), Some(words));
        let views = (0..4).map(PolicyHeader::port_axis).chain([PolicyHeader::PEERS, PolicyHeader::GROUPS]);
        let views: Vec<u64> = views.map(|at| words[at as usize / 8]).collect();
        prop_assert_eq!(views, [a, b, c, d, e, f]);
        prop_assert_eq!(words[PolicyHeader::RULES as usize / 8], rules);
        let damaged = [words[0] ^ 1, rules, a, b, c, d, e, f];
        prop_assert_eq!(PolicyHeader::from_words(damaged), None);
    }

    #[test]
    fn a_root_names_bank_and_offset(bank in 0..1_u32 << 17, unit in 0..1_u32 << 15) {
        let root = PolicyRef::new(bank, unit << 6);
        prop_assert_eq!((root.bank(), root.offset()), (bank, unit << 6));
    }
}
