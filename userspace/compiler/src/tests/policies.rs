//! Policies and compiled models: layout, sharing, order, limits.

use std::fmt::Write as _;
use std::sync::Arc;

use taskgate_ebpf::abi::image::{AxisEntry, AxisRef, PolicyHeader, RuleMatch};
use taskgate_model::{IcmpMatch, PrefixListIndex};

use super::*;

/// A policy as text: rules, then each axis with the rules that cover each interval.
fn dump(block: &[u64], wide: bool) -> String {
    let at = |offset: u32| block[offset as usize / 8];
    let mut out = String::new();
    let header = block
        .first_chunk()
        .and_then(|words| PolicyHeader::from_words(*words))
        .unwrap();
    let words = header.bitmap_words;
    writeln!(out, "{} bytes, {words} words in a bitmap", block.len() * 8).unwrap();
    let rules: Vec<(u32, u32)> = (0..header.rule_count)
        .map(|rule| RuleMatch::from_word(at(header.rules + 8 * rule)))
        .map(|RuleMatch { rule, flags }| (rule, flags))
        .collect();
    writeln!(out, "rules {rules:?}").unwrap();
    let row = |offset: u32| {
        let bits: Vec<u32> = (0..64 * words)
            .filter(|bit| at(offset + 8 + 8 * (bit / 64)) >> (bit % 64) & 1 == 1)
            .collect();
        for word in 0..words {
            let filled = bits.iter().any(|bit| bit / 64 == word);
            assert_eq!(at(offset) >> word & 1 == 1, filled, "summary of the row at {offset}");
        }
        format!("{bits:?}@{offset}")
    };
    let [tcp, udp, icmp, other] = header.ports;
    for (name, axis) in [
        ("tcp", tcp),
        ("udp", udp),
        ("icmp", icmp),
        ("other", other),
        ("peers", header.peers),
        ("sets", header.groups),
    ] {
        let AxisRef { offset, depth } = axis;
        write!(out, "{name}").unwrap();
        for entry in 0..1 << depth {
            let (key, row_at) = if wide && name == "peers" {
                let key = Address::new(at(offset + 16 * entry), at(offset + 16 * entry + 8));
                (key.to_bits(), at(offset + (16 << depth) + 8 * entry) as u32)
            } else {
                let entry = AxisEntry::from_word(at(offset + 8 * entry));
                (entry.key.into(), entry.row)
            };
            write!(out, " {key:x}:{}", row(row_at)).unwrap();
        }
        out.push('\n');
    }
    out
}

fn any4() -> Peer {
    net("0.0.0.0/0")
}

/// One gated ENI, `eni-a`, with all of these groups.
fn one(groups: Vec<SecurityGroup>) -> Model {
    let own: Vec<usize> = (0..groups.len()).collect();
    Model {
        groups,
        enis: vec![eni("eni-a", &["10.0.0.1", "2001:db8::1"], &own)],
        ..Model::default()
    }
}

/// The blocks of an ENI: egress v4, egress v6, ingress v4, ingress v6.
fn blocks(compiled: &Compiled, eni: usize) -> [Arc<[u64]>; 4] {
    compiled.slots[eni]
        .policies
        .map(|place| Arc::clone(&compiled.policies[place]))
}

#[test]
fn a_policy_lies_as_the_layout_says() {
    let mut model = one(vec![
        group(
            "web",
            vec![
                rule("open", tcp(443, 443), any4()),
                rule("open6", tcp(443, 443), net("::/0")),
                rule("corp", tcp(80, 90), Peer::PrefixList(PrefixListIndex(0))),
                rule("peers", Protocol::All, Peer::Group(GroupIndex(1))),
                rule("ping", Protocol::Icmp(IcmpMatch::Type(8)), net("10.0.0.0/8")),
                rule(
                    "ping6",
                    Protocol::Icmpv6(IcmpMatch::TypeCode(128, 0)),
                    net("2001:db8::/64"),
                ),
                rule("gone", Protocol::All, Peer::Missing("sg-gone".into())),
            ],
            vec![rule("out", Protocol::All, any4())],
        ),
        group("db", vec![], vec![]),
    ]);
    model.prefix_lists = vec![list("pl-1", &["10.0.0.0/16", "10.1.0.0/16", "2001:db8::/32"])];
    model.enis.push(member("eni-b", &["10.0.0.2"], &[1]));
    let [_, _, v4, v6] = blocks(&Host::new(1).compile(&model, &[]).unwrap(), 0);
    insta::assert_snapshot!(dump(&v4, false), @"
    400 bytes, 1 words in a bitmap
    rules [(4, 0), (5, 0), (6, 0), (2, 1)]
    tcp 0:[1]@272 50:[0, 1]@288 5b:[1]@272 1bb:[1, 3]@304 1bc:[1]@272 1bc:[1]@272 1bc:[1]@272 1bc:[1]@272
    udp 0:[1]@272
    icmp 0:[1]@272 800:[1, 2]@320 900:[1]@272 900:[1]@272
    other 0:[1]@272
    peers 0:[3]@336 a000000:[0, 2, 3]@352 a020000:[2, 3]@368 b000000:[3]@336
    sets 0:[]@384 1:[1]@272 3:[]@384 3:[]@384
    ");
    insta::assert_snapshot!(dump(&v6, true), @"
    464 bytes, 1 words in a bitmap
    rules [(4, 0), (5, 0), (7, 0), (3, 0)]
    tcp 0:[1]@336 50:[0, 1]@352 5b:[1]@336 1bb:[1, 3]@368 1bc:[1]@336 1bc:[1]@336 1bc:[1]@336 1bc:[1]@336
    udp 0:[1]@336
    icmp 0:[1]@336 8000:[1, 2]@384 8001:[1]@336 8001:[1]@336
    other 0:[1]@336
    peers 0:[3]@400 20010db8000000000000000000000000:[0, 2, 3]@416 20010db8000000010000000000000000:[0, 3]@432 20010db9000000000000000000000000:[3]@400
    sets 0:[]@448 1:[1]@336 3:[]@448 3:[]@448
    ");
}

#[test]
fn equal_groups_share_their_policies() {
    let a = || vec![rule("a", tcp(80, 80), any4())];
    let b = || vec![rule("b", tcp(81, 81), any4())];
    let model = Model {
        groups: vec![group("a", a(), vec![]), group("b", b(), vec![])],
        enis: vec![
            eni("eni-1", &["10.0.0.1"], &[0, 1]),
            eni("eni-2", &["10.0.0.2"], &[0, 1]),
            eni("eni-3", &["10.0.0.3"], &[1, 0]),
            eni("eni-4", &["10.0.0.4"], &[0]),
            member("eni-5", &["10.0.0.5"], &[0]),
        ],
        ..Model::default()
    };
    let compiled = Host::new(1).compile(&model, &[]).unwrap();
    let places: Vec<[usize; 4]> = compiled.slots.iter().map(|slot| slot.policies).collect();
    // No egress rules, and no rules for IPv6: the empty policy exists once per family. Another order of groups only changes
    // which of two rules is reported, but then the policies differ.
    assert_eq!(places, [[0, 1, 2, 1], [0, 1, 2, 1], [0, 1, 3, 1], [0, 1, 4, 1]]);
    assert_eq!(compiled.policies(), 5);
    let sets: Vec<u32> = compiled.slots.iter().map(|slot| slot.set).collect();
    assert_eq!(sets, [1, 1, 1, 2]);
    let [empty4, empty6, ..] = blocks(&compiled, 0);
    insta::assert_snapshot!(dump(&empty4, false), @"
    128 bytes, 1 words in a bitmap
    rules []
    tcp 0:[]@112
    udp 0:[]@112
    icmp 0:[]@112
    other 0:[]@112
    peers 0:[]@112
    sets 0:[]@112
    ");
    insta::assert_snapshot!(dump(&empty6, true), @"
    144 bytes, 1 words in a bitmap
    rules []
    tcp 0:[]@128
    udp 0:[]@128
    icmp 0:[]@128
    other 0:[]@128
    peers 0:[]@128
    sets 0:[]@128
    ");
}

#[test]
fn the_narrow_rule_comes_first_then_the_group_then_the_file() {
    let narrow = || net("198.51.100.0/24");
    let mut host = Host::new(1);
    let model = one(vec![
        group(
            "a",
            vec![
                rule("a-open", tcp(1, 9), any4()),
                rule("a-1", tcp(2, 3), narrow()),
                rule("a-2", tcp(2, 4), narrow()),
            ],
            vec![],
        ),
        group(
            "b",
            vec![rule("b-1", tcp(1, 5), narrow()), rule("b-open", tcp(1, 9), any4())],
            vec![],
        ),
    ]);
    host.apply(&model).unwrap();
    let slot = host.writer.slot("eni-a").unwrap();
    let named: Vec<&str> = [1, 2, 4, 5, 6]
        .into_iter()
        .map(|port| {
            let packet = tcp_packet("198.51.100.7", port);
            let (number, _) = host.reader().classify(slot, Direction::Ingress, &packet).unwrap();
            host.rule_ids.name(number).unwrap().rule.as_str()
        })
        .collect();
    assert_eq!(named, ["b-1", "a-1", "a-2", "b-1", "a-open"]);
}

/// `count` rules with different ports and peers, every tenth one open, and a prefix list for every seventh.
fn many(count: usize) -> Model {
    let rules = (0..count)
        .map(|at| {
            let port = (at * 61 % 65_000) as u16;
            let peer = match at {
                at if at % 10 == 0 => any4(),
                at if at % 7 == 0 => Peer::PrefixList(PrefixListIndex(at % 5)),
                _ => net(&format!("10.{}.{}.0/24", at % 251, at / 251)),
            };
            rule(&format!("r/{at}"), tcp(port, port + (at % 40) as u16), peer)
        })
        .collect();
    let mut model = one(vec![group("big", rules, vec![])]);
    model.prefix_lists = (0..5)
        .map(|list| PrefixList {
            entries: Some(
                (0..60)
                    .map(|at| format!("172.{list}.{at}.0/25").parse().unwrap())
                    .collect(),
            ),
            ..super::list(&format!("pl-{list}"), &[])
        })
        .collect();
    model
}

#[test]
fn a_thousand_rules_take_a_seventh_of_a_bank() {
    let compiled = Host::new(1).compile(&many(1000), &[]).unwrap();
    let sizes = blocks(&compiled, 0).map(|block| block.len() * 8);
    // Some 1,800 rows of 136 bytes, and axes of depth 11.
    assert_eq!(sizes, [128, 144, 282_808, 144]);
}

#[test]
fn rules_up_to_the_limit_and_not_beyond() {
    assert!(Host::new(1).compile(&many(1024), &[]).is_ok());
    let error = Host::new(1).compile(&many(1025), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot compile the ingress rules of `big` for IPv4: 1025 rules, at most 1024; remove rules or groups"
    );
    // Rules that cannot match in a family have no bit in its policy.
    let mut model = many(1024);
    model.groups[0].ingress.extend([
        rule("v6", tcp(1, 1), net("::/0")),
        rule("icmpv6", Protocol::Icmpv6(IcmpMatch::All), Peer::Group(GroupIndex(0))),
        rule("gone", tcp(1, 1), Peer::Missing("sg-gone".into())),
    ]);
    assert!(Host::new(1).compile(&model, &[]).is_ok());
}

#[test]
fn a_policy_longer_than_a_bank_is_refused() {
    let mut model = one(vec![group(
        "big",
        vec![
            rule("a", tcp(1, 1), Peer::PrefixList(PrefixListIndex(0))),
            rule("b", tcp(2, 2), any4()),
        ],
        vec![],
    )]);
    let entries = |count: u32| (0..count).map(|at| format!("{}/32", std::net::Ipv4Addr::from(at * 2)).parse().unwrap());
    model.prefix_lists = vec![PrefixList {
        entries: Some(entries(60_000).collect()),
        ..list("pl-1", &[])
    }];
    // 120,000 intervals: depth 17.
    let compiled = Host::new(1).compile(&model, &[]).unwrap();
    assert_eq!(blocks(&compiled, 0)[2].len() * 8, 1_048_784);
    model.prefix_lists[0].entries = Some(entries(70_000).collect());
    let error = Host::new(1).compile(&model, &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot compile the ingress rules of `big` for IPv4: they take 2097360 bytes, at most 2097152; shorten the prefix \
         lists"
    );
}

#[test]
fn an_address_is_one_eni() {
    let twice = |first: Eni, second: Eni| Model {
        groups: vec![group("a", vec![], vec![]), group("b", vec![], vec![])],
        enis: vec![first, second],
        ..Model::default()
    };
    for model in [
        twice(
            member("eni-1", &["10.0.0.1"], &[0]),
            member("eni-2", &["10.0.0.1"], &[1]),
        ),
        twice(eni("eni-1", &["10.0.0.1"], &[0]), eni("eni-2", &["10.0.0.1"], &[0])),
        // The image stores IPv4 addresses as IPv4-mapped ones.
        twice(
            member("eni-1", &["::ffff:10.0.0.1"], &[0]),
            member("eni-2", &["10.0.0.1"], &[1]),
        ),
    ] {
        let error = Host::new(1).compile(&model, &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot tell whose address 10.0.0.1 is: both `eni-1` and `eni-2` have it; give each its own"
        );
    }
    // The same groups: the ENI bound to this host counts, at any position in the list, and also if others have slots.
    for (model, gate) in
        [gate_bound, |_: &Eni| Some(NO_LIMITS)]
            .into_iter()
            .flat_map(|gate: fn(&Eni) -> Option<EniLimits>| {
                [
                    (
                        twice(member("eni-1", &["10.0.0.1"], &[0]), eni("eni-2", &["10.0.0.1"], &[0])),
                        gate,
                    ),
                    (
                        twice(eni("eni-2", &["10.0.0.1"], &[0]), member("eni-1", &["10.0.0.1"], &[0])),
                        gate,
                    ),
                ]
            })
    {
        let mut host = Host::new(1);
        let scope = CompileOptions {
            gate: &gate,
            exempt: &[],
            dhcp: false,
        };
        let compiled = Compiled::new(&model, scope, &mut host.rule_ids, &mut host.sets).unwrap();
        host.switch(&compiled).unwrap();
        assert_eq!(
            host.reader().address(address("10.0.0.1")).slot,
            host.writer.slot("eni-2").unwrap()
        );
    }
}

#[test]
fn rows_say_what_the_model_and_the_caller_say() {
    let mut host = Host::new(1);
    let mut model = one(vec![group("a", vec![], vec![])]);
    model.enis.push(Eni {
        source_dest_check: false,
        ..eni("eni-b", &["10.0.0.2"], &[0])
    });
    model.enis.push(member("eni-c", &["10.0.0.3"], &[0]));
    let gate = |eni: &Eni| match eni.id.as_str() {
        "eni-a" => Some(NO_LIMITS),
        "eni-b" => Some(EniLimits {
            connections: 7,
            isolated: true,
        }),
        _ => None,
    };
    let exempt = ["10.0.0.1", "10.0.0.3", "169.254.169.253", "fd00:ec2::253"].map(address);
    for dhcp in [false, true] {
        let scope = CompileOptions {
            gate: &gate,
            exempt: &exempt,
            dhcp,
        };
        let compiled = Compiled::new(&model, scope, &mut host.rule_ids, &mut host.sets).unwrap();
        host.switch(&compiled).unwrap();
        let reader = host.reader();
        let flags = image::slot::PRESENT | if dhcp { image::slot::EXEMPT_DHCP } else { 0 };
        let row = |slot| reader.slot(slot).map(|row| (row.flags, row.conn_cap));
        assert_eq!(
            [row(0), row(1), row(2), row(3)],
            [
                None,
                Some((flags | image::slot::SOURCE_DEST_CHECK, 1024)),
                Some((flags | image::slot::ISOLATED, 7)),
                None
            ]
        );
    }
    let reader = host.reader();
    let [present, both] = [
        image::address::PRESENT,
        image::address::PRESENT | image::address::EXEMPT,
    ];
    for (text, slot, flags, group_set) in [
        ("10.0.0.1", 1, both, 1),
        ("2001:db8::1", 1, present, 1),
        ("10.0.0.2", 2, present, 1),
        ("10.0.0.3", 0, both, 1),
        ("169.254.169.253", 0, both, 0),
        ("fd00:ec2::253", 0, both, 0),
        ("10.0.0.4", 0, 0, 0),
    ] {
        let expected = AddressRow { slot, flags, group_set };
        assert_eq!(reader.address(address(text)), expected, "{text}");
    }
}
