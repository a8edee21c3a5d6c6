//! Compiler, image and reader against the oracle, with rule sets and packets at the edges of their intervals.
//!
//! `TASKGATE_TEST_LONG` selects 5,000 rule sets, `PROPTEST_CASES` any other number; each is tested with [`PACKETS`] packets
//! in each direction, on an image with leftovers of the rule sets before.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use taskgate_model::{IcmpMatch, PrefixListIndex};

use super::*;
use crate::oracle;

/// The number of packets that each rule set is tested with, in each direction.
const PACKETS: usize = 1000;
const GROUPS: usize = 4;
/// VPCs, where there are any. Groups and ENIs are dealt out to them in turn.
const VPCS: usize = 3;
const LISTS: usize = 3;

/// Bounds close to each other, so that intervals meet, nest and touch.
fn port() -> impl Strategy<Value = u16> {
    prop_oneof![
        Just(0),
        Just(u16::MAX),
        Just(1),
        Just(u16::MAX - 1),
        20_u16..30,
        select(vec![22, 53, 80, 443, 1023, 1024, 32767, 32768]),
        any::<u16>(),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![
        1 => Just(Ports::ALL),
        2 => port().prop_map(|port| Ports { from: port, to: port }),
        5 => (port(), port()).prop_map(|(one, other)| Ports { from: one.min(other), to: one.max(other) }),
    ]
}

fn messages() -> impl Strategy<Value = IcmpMatch> {
    let number = || prop_oneof![0_u8..4, Just(8), Just(u8::MAX), any::<u8>()];
    prop_oneof![
        Just(IcmpMatch::All),
        number().prop_map(IcmpMatch::Type),
        (number(), number()).prop_map(|(kind, code)| IcmpMatch::TypeCode(kind, code)),
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let number = prop_oneof![0_u8..=2, 46_u8..=52, Just(254), Just(255), any::<u8>()];
    prop_oneof![
        3 => Just(Protocol::All),
        8 => ports().prop_map(Protocol::Tcp),
        5 => ports().prop_map(Protocol::Udp),
        2 => messages().prop_map(Protocol::Icmp),
        2 => messages().prop_map(Protocol::Icmpv6),
        2 => number
            .prop_filter("no class of its own", |number| ![1, 6, 17, 58].contains(number))
            .prop_map(Protocol::Number),
    ]
}

/// Networks of all lengths, most of them around few addresses, so that they nest and touch.
fn v4_net() -> impl Strategy<Value = Ipv4Net> {
    let base = prop_oneof![
        Just(0),
        Just(u32::MAX),
        Just(0x0a00_0100),
        0x0a00_0100_u32..0x0a00_0110,
        0x7fff_fff0_u32..0x8000_0010,
        any::<u32>(),
    ];
    let length = prop_oneof![Just(0), Just(1), Just(8), Just(16), 24_u8..=32, Just(32), 0_u8..=32];
    (base, length).prop_map(|(base, length)| Ipv4Net::new_assert(base.into(), length).trunc())
}

fn v6_net() -> impl Strategy<Value = Ipv6Net> {
    const HERE: u128 = 0x2001_0db8_0000_0001_0000_0000_0000_0000;
    let base = prop_oneof![
        Just(0),
        Just(u128::MAX),
        HERE..HERE + 16,
        // The edge between the halves of a key.
        (0_u128..4).prop_map(|near| HERE + u128::from(u64::MAX) - 1 + near),
        any::<u128>(),
    ];
    let length = prop_oneof![
        Just(0),
        Just(1),
        Just(32),
        62_u8..=66,
        124_u8..=128,
        Just(128),
        0_u8..=128
    ];
    (base, length).prop_map(|(base, length)| Ipv6Net::new_assert(base.into(), length).trunc())
}

fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        2 => select(vec![net("0.0.0.0/0"), net("::/0")]),
        3 => v4_net().prop_map(Peer::V4),
        3 => v6_net().prop_map(Peer::V6),
        2 => (0..LISTS).prop_map(|list| Peer::PrefixList(PrefixListIndex(list))),
        3 => (0..GROUPS).prop_map(|group| Peer::Group(GroupIndex(group))),
        1 => Just(Peer::Missing("sg-missing".into())),
    ]
}

fn prefix_list() -> impl Strategy<Value = Option<Vec<IpNet>>> {
    let entry = prop_oneof![v4_net().prop_map(IpNet::V4), v6_net().prop_map(IpNet::V6)];
    prop_oneof![1 => Just(None), 5 => vec(entry, 0..6).prop_map(Some)]
}

/// The rules of one direction of a group: few, or enough for several words of bitmap.
fn rules() -> impl Strategy<Value = Vec<(Protocol, Peer)>> {
    prop_oneof![8 => vec((protocol(), peer()), 0..10), 1 => vec((protocol(), peer()), 50..150)]
}

fn eni_addresses() -> impl Strategy<Value = Vec<IpAddr>> {
    let address = prop_oneof![
        (0_u8..16).prop_map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 1, last))),
        (0_u16..16).prop_map(|last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last))),
    ];
    vec(address, 0..4)
}

/// A whole configuration; its first ENI is gated and has groups. Each rule's id contains its position.
pub(super) fn model() -> impl Strategy<Value = Model> {
    let groups = vec((rules(), rules()), GROUPS);
    let lists = vec(prefix_list(), LISTS);
    let own = Just((0..GROUPS).collect::<Vec<_>>()).prop_shuffle();
    let enis = vec(
        (
            eni_addresses(),
            proptest::sample::subsequence((0..GROUPS).collect::<Vec<_>>(), 0..=2),
        ),
        0..6,
    );
    let vpcs = (any::<bool>(), 0..=VPCS);
    (groups, lists, (own, 1..=GROUPS), enis, vpcs).prop_map(|(groups, lists, (mut own, count), enis, (vpcs, home))| {
        own.truncate(count);
        let named = |direction: &str, rules: Vec<(Protocol, Peer)>| {
            (1..)
                .zip(rules)
                .map(|(at, (protocol, peer))| rule(&format!("{direction}/{at}"), protocol, peer))
                .collect::<Vec<_>>()
        };
        let mut taken = Vec::new();
        let mut model = Model {
            groups: groups
                .into_iter()
                .enumerate()
                .map(|(at, (ingress, egress))| {
                    group(&at.to_string(), named("ingress", ingress), named("egress", egress))
                })
                .collect(),
            prefix_lists: lists
                .into_iter()
                .enumerate()
                .map(|(at, entries)| PrefixList {
                    entries,
                    ..list(&format!("pl-{at}"), &[])
                })
                .collect(),
            enis: vec![eni("eni-own", &["192.0.2.1"], &own)],
            ..Model::default()
        };
        for (at, (mut addresses, groups)) in enis.into_iter().enumerate() {
            // Addresses may repeat across VPCs, never within one.
            let vpc = vpcs.then(|| format!("vpc-{}", at % VPCS));
            addresses.sort();
            addresses.dedup();
            addresses.retain(|address| !taken.contains(&(vpc.clone(), *address)));
            taken.extend(addresses.iter().map(|address| (vpc.clone(), *address)));
            model.enis.push(Eni {
                addresses,
                vpc,
                ..member(&format!("eni-{at}"), &[], &groups)
            });
        }
        for (at, group) in model.groups.iter_mut().enumerate().filter(|_| vpcs) {
            group.vpc = Some(format!("vpc-{}", at % VPCS));
        }
        model.enis[0].vpc = (vpcs && home < VPCS).then(|| format!("vpc-{home}"));
        model
    })
}

/// A stream of choices (SplitMix64, Steele, Lea and Flood, OOPSLA 2014): shrinking a rule set keeps its packets alike.
pub(super) struct Choices(pub(super) u64);

impl Choices {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

/// The values of a packet's fields: the edges of the rules' intervals, and their neighbours on both sides.
struct Edges {
    protocols: Vec<u8>,
    ports: Vec<u16>,
    types: Vec<u8>,
    codes: Vec<u8>,
    peers: Vec<IpAddr>,
}

fn around<T: Copy>(values: &mut Vec<T>, value: T, step: impl Fn(T, bool) -> T) {
    values.extend([step(value, false), value, step(value, true)]);
}

fn around_address(peers: &mut Vec<IpAddr>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let bits = u32::from(address);
            peers.extend([bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| IpAddr::V4(bits.into())));
        }
        IpAddr::V6(address) => {
            let bits = u128::from(address);
            peers.extend([bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(|bits| IpAddr::V6(bits.into())));
        }
    }
}

impl Edges {
    fn of(model: &Model) -> Self {
        let mut edges = Self {
            protocols: vec![0, 1, 2, 6, 17, 50, 58, 255],
            ports: vec![0, 22, u16::MAX],
            types: vec![0, 8, 255],
            codes: vec![0, 255],
            peers: ["0.0.0.0", "255.255.255.255", "::", "2001:db8::1"].map(address).into(),
        };
        edges.peers.push(Ipv6Addr::from(u128::MAX).into());
        let byte = |value: u8, up| {
            if up {
                value.wrapping_add(1)
            } else {
                value.wrapping_sub(1)
            }
        };
        let word = |value: u16, up| {
            if up {
                value.wrapping_add(1)
            } else {
                value.wrapping_sub(1)
            }
        };
        for rule in model
            .groups
            .iter()
            .flat_map(|group| group.ingress.iter().chain(&group.egress))
        {
            match rule.protocol {
                Protocol::Tcp(ports) | Protocol::Udp(ports) => {
                    around(&mut edges.ports, ports.from, word);
                    around(&mut edges.ports, ports.to, word);
                }
                Protocol::Icmp(IcmpMatch::Type(kind)) | Protocol::Icmpv6(IcmpMatch::Type(kind)) => {
                    around(&mut edges.types, kind, byte);
                }
                Protocol::Icmp(IcmpMatch::TypeCode(kind, code)) | Protocol::Icmpv6(IcmpMatch::TypeCode(kind, code)) => {
                    around(&mut edges.types, kind, byte);
                    around(&mut edges.codes, code, byte);
                }
                Protocol::Number(number) => around(&mut edges.protocols, number, byte),
                _ => {}
            }
            match rule.peer {
                Peer::V4(net) => edges.add_net(&net.into()),
                Peer::V6(net) => edges.add_net(&net.into()),
                _ => {}
            }
        }
        for net in model.prefix_lists.iter().flat_map(|list| list.entries.iter().flatten()) {
            edges.add_net(net);
        }
        for &address in model.enis.iter().flat_map(|eni| &eni.addresses) {
            around_address(&mut edges.peers, address);
        }
        edges
    }

    fn add_net(&mut self, net: &IpNet) {
        around_address(&mut self.peers, net.network());
        around_address(&mut self.peers, net.broadcast());
    }

    fn packet(&self, choices: &mut Choices) -> OraclePacket {
        let peer = choices.pick(&self.peers);
        // Half of them of the protocols that have an axis.
        let protocol = match choices.next() % 8 {
            0 | 1 => 6,
            2 => 17,
            3 if peer.is_ipv4() => 1,
            3 => 58,
            _ => choices.pick(&self.protocols),
        };
        OraclePacket {
            peer,
            protocol,
            source_port: choices.pick(&self.ports),
            destination_port: choices.pick(&self.ports),
            icmp_type: choices.pick(&self.types),
            icmp_code: choices.pick(&self.codes),
        }
    }
}

/// `count` packets, alternating between ingress and egress.
pub(super) fn packets(model: &Model, seed: u64, count: usize) -> Vec<(Direction, OraclePacket)> {
    let edges = Edges::of(model);
    let mut choices = Choices(seed);
    [Direction::Ingress, Direction::Egress]
        .into_iter()
        .cycle()
        .take(count)
        .map(|direction| (direction, edges.packet(&mut choices)))
        .collect()
}

/// A rule by names that both sides know, and whether flows that it admits are untracked.
pub(super) type Named<'a> = (&'a str, Direction, &'a str, bool);

/// The oracle's answer for a packet at the gate of the model's first ENI.
fn expected<'a>(model: &'a Model, direction: Direction, packet: &OraclePacket) -> Option<Named<'a>> {
    let allowed = oracle::classify(model, &model.enis[0], direction, packet)?;
    let group = model.group(allowed.group);
    Some((&group.id, direction, &allowed.rule.id, allowed.untracked))
}

/// The image's answer, with its numbers resolved.
pub(super) fn found(rule_ids: &RuleIds, answer: Answer) -> Option<Named<'_>> {
    let (number, untracked) = answer?;
    let name = rule_ids.name(number).expect("a number that was given");
    Some((&name.group, name.direction, &name.rule, untracked))
}

/// The number of test cases.
pub(super) fn config() -> Config {
    let config = Config::default();
    match std::env::var_os("TASKGATE_TEST_LONG") {
        Some(_) => Config { cases: 5000, ..config },
        None => config,
    }
}

#[test]
fn the_image_answers_like_the_oracle() {
    let host = RefCell::new(Host::new(1));
    let [allowed, asked] = [Cell::new(0_u32), Cell::new(0_u32)];
    TestRunner::new(config())
        .run(&(model(), any::<u64>().no_shrink()), |(model, seed)| {
            let host = &mut *host.borrow_mut();
            host.apply(&model)
                .map_err(|error| TestCaseError::fail(error.to_string()))?;
            let reader = host.reader();
            let slot = host.writer.slot("eni-own").unwrap();
            for (direction, packet) in packets(&model, seed, 2 * PACKETS) {
                let found = found(&host.rule_ids, reader.classify(slot, direction, &packet));
                prop_assert_eq!(
                    found,
                    expected(&model, direction, &packet),
                    "{:?} {:?}",
                    direction,
                    packet
                );
                allowed.set(allowed.get().saturating_add(found.is_some().into()));
                asked.set(asked.get().saturating_add(1));
            }
            Ok(())
        })
        .unwrap();
    // A test whose answer is nearly always the same would prove little.
    let share = f64::from(allowed.get()) / f64::from(asked.get());
    assert!((0.1..0.9).contains(&share), "{share} of the packets were allowed");
}

#[test]
fn a_generation_in_the_making_is_not_seen() {
    let memory: Rc<[AtomicU64]> = host_image(6).into();
    let host = RefCell::new((Host::new(1), ImageWriter::new(Rc::clone(&memory)).unwrap()));
    let config = config();
    // Each case is several rule sets and switches.
    let cases = config.cases.div_ceil(4);
    TestRunner::new(Config { cases, ..config })
        .run(
            &(model(), model(), any::<u64>().no_shrink(), any::<bool>()),
            |(one, two, seed, commit)| {
                let (host, writer) = &mut *host.borrow_mut();
                let fail = |error: CompileError| TestCaseError::fail(error.to_string());
                let compiled = [
                    host.compile(&one, &[]).map_err(fail)?,
                    host.compile(&two, &[]).map_err(fail)?,
                ];
                writer.prepare(&compiled[0], &mut || ()).map_err(fail)?.commit();
                let reader = Reader::new(&memory);
                let slot = writer.slot("eni-own").unwrap();
                let prepared = writer.prepare(&compiled[1], &mut || ()).map_err(fail)?;
                let mixed: Vec<(Direction, OraclePacket)> = packets(&one, seed, PACKETS / 10)
                    .into_iter()
                    .chain(packets(&two, seed, PACKETS / 10))
                    .collect();
                for (direction, packet) in &mixed {
                    let found = found(&host.rule_ids, reader.classify(slot, *direction, packet));
                    prop_assert_eq!(
                        found,
                        expected(&one, *direction, packet),
                        "{:?} {:?}",
                        direction,
                        packet
                    );
                }
                let now = if commit {
                    prepared.commit();
                    &two
                } else {
                    drop(prepared);
                    &one
                };
                for (direction, packet) in &mixed {
                    let found = found(&host.rule_ids, reader.classify(slot, *direction, packet));
                    prop_assert_eq!(found, expected(now, *direction, packet), "{:?} {:?}", direction, packet);
                }
                Ok(())
            },
        )
        .unwrap();
}
