//! Random configurations: few groups, addresses and ports, so that many packets match a rule.

use std::net::IpAddr;

use taskgate_compiler::EniLimits;
use taskgate_ebpf::abi::image::{NO_CAP, Share, Shared};
use taskgate_model::{
    AddressList, Dialect, Direction, Eni, GroupIndex, IcmpMatch, Location, Model, Peer, Ports, PrefixList,
    PrefixListIndex, Protocol, Rule, SecurityGroup,
};

use super::rng::Rng;
use testkit::fixture::model::{gated, member, peer};

const NETS: [&str; 16] = [
    "0.0.0.0/0",
    "::/0",
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/24",
    "10.0.0.0/16",
    "10.0.1.0/30",
    "203.0.113.0/24",
    "203.0.113.2/32",
    "198.51.100.7/32",
    "2001:db8::/64",
    "2001:db8:ff::/48",
    "2001:db8:ff::1/128",
    "2001:db8::100/120",
    // Halves whose highest bit is set.
    "fd00::/8",
    "2001:db8:ff:0:8000::/65",
];
const EDGES: [u16; 10] = [0, 22, 53, 67, 68, 80, 443, 547, 40000, 65535];
const GROUPS: usize = 4;
const LISTS: usize = 2;
/// ENIs on this host and elsewhere.
const GATED: usize = 4;
const MEMBERS: usize = 3;
/// A floor that few episodes reach.
const MANY: u32 = 1000;

/// A model, the gates of its ENIs, and a floor.
pub(crate) fn any_model(rng: &mut Rng) -> (Model, Vec<Option<EniLimits>>, u32) {
    let mut groups: Vec<SecurityGroup> = (0..GROUPS).map(|number| any_group(number, rng)).collect();
    let prefix_lists = (0..LISTS).map(|number| any_list(number, rng)).collect();
    // Addresses may move from one ENI to another.
    let turn = if rng.one_in(4) { rng.below(GATED) } else { 0 };
    let mut enis: Vec<Eni> = Vec::new();
    for number in 0..GATED {
        let last = 10 + (number + turn) % GATED;
        let addresses = [
            format!("10.0.0.{last}"),
            format!("2001:db8::{last}"),
            format!("10.0.0.{}", last + 10),
        ];
        let count = 1 + rng.below(3);
        let addresses: Vec<&str> = addresses.iter().take(count).map(String::as_str).collect();
        let mut eni = gated(&format!("eni-{number}"), &addresses, &any_groups(rng));
        eni.source_dest_check = !rng.one_in(6);
        // Sometimes an ENI is missing.
        if !rng.one_in(10) {
            enis.push(eni);
        }
    }
    for number in 1..=MEMBERS {
        let addresses = [format!("10.0.1.{number}"), format!("2001:db8::10{number}")];
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        enis.push(member(&format!("member-{number}"), &addresses, &any_groups(rng)));
    }
    let mut aside = rng.aside();
    if aside.one_in(3) {
        several_vpcs(&mut groups, &mut enis, &mut aside);
    }
    let mut floor = MANY;
    let gates = enis
        .iter()
        .map(|eni| {
            let (gate, other) = eni.binding.as_ref().and_then(|_| any_gate(rng))?;
            floor = other;
            Some(gate)
        })
        .collect();
    let mut model = Model {
        groups,
        prefix_lists,
        enis,
        reserved: vec![IpAddr::from([10, 0, 0, 2])],
        ..Model::default()
    };
    model.settings.exempt = match rng.below(4) {
        0 => AddressList::None,
        1 => AddressList::List(vec![IpAddr::from([203, 0, 113, 1])]),
        _ => AddressList::Aws,
    };
    (model, gates, floor)
}

/// Assigns groups and ENIs to VPCs, or to none, and adds members whose addresses overlap with those of other VPCs.
fn several_vpcs(groups: &mut [SecurityGroup], enis: &mut Vec<Eni>, rng: &mut Rng) {
    let vpcs = groups.iter_mut().map(|group| &mut group.vpc);
    for vpc in vpcs.chain(enis.iter_mut().map(|eni| &mut eni.vpc)) {
        let one = rng.of(&[None, Some("vpc-0"), Some("vpc-1"), Some("vpc-2")]);
        *vpc = one.map(str::to_owned);
    }
    for (number, vpc) in (0..).zip(["vpc-0", "vpc-1", "vpc-2", "vpc-1"]) {
        let like = rng.below(enis.len());
        let of_other_vpc = |address: &IpAddr| {
            let mut holders = enis.iter().filter(|eni| eni.addresses.contains(address));
            holders.all(|eni| eni.vpc.as_deref().is_some_and(|own| own != vpc))
        };
        let addresses: Vec<IpAddr> = enis[like].addresses.iter().copied().filter(of_other_vpc).collect();
        if addresses.is_empty() {
            continue;
        }
        let mut eni = member(&format!("overlap-{number}"), &[], &any_groups(rng));
        (eni.addresses, eni.vpc) = (addresses, Some(vpc.to_owned()));
        enis.push(eni);
    }
}

/// Random shares of tables with this much room. Where no table can become full, no pool can be used up: other tasks then
/// have no effect on a task.
pub(crate) fn any_shares(mut rng: Rng, floor: u32, room: usize) -> [Share; 3] {
    const ENDLESS: u32 = 1 << 20;
    // Connections must live long enough to be closed, too.
    if !rng.one_in(3) {
        let endless = Share {
            floor: ENDLESS,
            pool: 0,
        };
        return [endless; 3];
    }
    let pools = if room < 10_000 {
        [0, 2, 5, 20, 1000]
    } else {
        [0, 0, ENDLESS, ENDLESS, ENDLESS]
    };
    Shared::ALL.map(|table| {
        let floor = match table {
            Shared::Connections => rng.of(&[0, 2, 4, 12, MANY]),
            Shared::Denials => floor,
            Shared::Fragments => Shared::fragments(floor),
        };
        Share {
            floor,
            pool: rng.of(&pools),
        }
    })
}

fn any_gate(rng: &mut Rng) -> Option<(EniLimits, u32)> {
    if rng.one_in(30) {
        return None;
    }
    let connections = rng.of(&[0, 3, 12, 12, NO_CAP, NO_CAP, NO_CAP, NO_CAP]);
    let floor = rng.of(&[0, 3, 12, MANY, MANY, MANY]);
    let gate = EniLimits {
        connections,
        isolated: rng.one_in(30),
    };
    Some((gate, floor))
}

fn any_groups(rng: &mut Rng) -> Vec<usize> {
    let first = rng.below(GROUPS);
    let mut groups = vec![first];
    if rng.one_in(2) {
        let other = rng.below(GROUPS);
        if other != first {
            groups.push(other);
        }
    }
    groups
}

fn any_list(number: usize, rng: &mut Rng) -> PrefixList {
    let count = rng.below(5);
    let entries = (0..count).map(|_| rng.of(&NETS).parse().expect("a CIDR")).collect();
    PrefixList {
        id: format!("pl-{number}"),
        name: None,
        max_entries: None,
        entries: Some(entries),
    }
}

fn any_group(number: usize, rng: &mut Rng) -> SecurityGroup {
    let mut rules = |direction: Direction| {
        // Sometimes more than one word of a bitmap.
        let count = if rng.one_in(12) {
            60 + rng.below(80)
        } else {
            rng.below(7)
        };
        let mut rules: Vec<Rule> = (0..count).map(|at| any_rule(number, direction, at, rng)).collect();
        // As most groups: everything out, much in.
        for net in ["0.0.0.0/0", "::/0"] {
            if rng.one_in(2) {
                rules.push(Rule {
                    protocol: Protocol::All,
                    peer: peer(net),
                    ..any_rule(number, direction, rules.len(), rng)
                });
            }
        }
        rules
    };
    SecurityGroup {
        id: format!("sg-{number}"),
        name: format!("group-{number}"),
        vpc: None,
        rules_known: true,
        dialect: Dialect::Native,
        location: Location::default(),
        ingress: rules(Direction::Ingress),
        egress: rules(Direction::Egress),
    }
}

fn any_rule(group: usize, direction: Direction, at: usize, rng: &mut Rng) -> Rule {
    Rule {
        id: format!("group-{group}/{direction}/{at}"),
        protocol: any_protocol(rng),
        peer: match rng.below(10) {
            0 | 1 => Peer::Group(GroupIndex(rng.below(GROUPS))),
            2 => Peer::PrefixList(PrefixListIndex(rng.below(LISTS))),
            3 => Peer::Missing("sg-gone".into()),
            _ => peer(rng.of(&NETS)),
        },
        description: String::new(),
        location: Location::default(),
    }
}

fn any_ports(rng: &mut Rng) -> Ports {
    if rng.one_in(4) {
        return Ports::ALL;
    }
    let (one, other) = (rng.of(&EDGES), rng.of(&EDGES));
    Ports {
        from: one.min(other),
        to: one.max(other),
    }
}

fn any_icmp(kinds: &[u8], rng: &mut Rng) -> IcmpMatch {
    match rng.below(3) {
        0 => IcmpMatch::All,
        1 => IcmpMatch::Type(rng.of(kinds)),
        _ => IcmpMatch::TypeCode(rng.of(kinds), rng.below(2) as u8),
    }
}

fn any_protocol(rng: &mut Rng) -> Protocol {
    match rng.below(12) {
        0..4 => Protocol::Tcp(any_ports(rng)),
        4..7 => Protocol::Udp(any_ports(rng)),
        7 => Protocol::Icmp(any_icmp(&[8, 0, 3, 13, 9], rng)),
        8 => Protocol::Icmpv6(any_icmp(&[128, 129, 1, 2, 200], rng)),
        9 => Protocol::Number(rng.of(&[0, 2, 47, 50, 132])),
        _ => Protocol::All,
    }
}
