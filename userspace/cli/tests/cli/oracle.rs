//! `explain` agrees with the naive oracle, for many configurations and questions.

use std::net::IpAddr;

use proptest::{prelude::*, sample::select};
use taskgate_analysis::explain::{End, Explainer, Explanation, GateVerdict, Message, Question, Verdict};
use taskgate_compiler::oracle::{OraclePacket, classify};
use taskgate_model::{
    AddressList, Binding, Dialect, Direction, EcsFields, Eni, GroupIndex, IcmpMatch, Location, Model, Peer, Ports,
    PrefixList, PrefixListIndex, Protocol, Rule, SecurityGroup, Settings,
};

const GROUPS: usize = 4;

/// Addresses of ENIs: each ENI has one of each family.
const OWN: [[&str; 2]; 4] = [
    ["10.0.0.1", "2001:db8::1"],
    ["10.0.0.2", "2001:db8::2"],
    ["10.0.1.1", "2001:db8:1::1"],
    ["192.168.0.1", "2001:db8:2::1"],
];
/// Addresses of peers outside; the first one of each family is exempt.
const OUTSIDE: [[&str; 2]; 3] = [
    ["169.254.169.254", "fd00:ec2::254"],
    ["10.0.0.3", "2001:db8::3"],
    ["198.51.100.1", "2001:db8:ffff::1"],
];

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn protocol() -> impl Strategy<Value = Protocol> {
    let port = || select(vec![0, 79, 80, 81, 443, u16::MAX]);
    let ports = || {
        (port(), port()).prop_map(|(a, b)| Ports {
            from: a.min(b),
            to: a.max(b),
        })
    };
    let icmp = || {
        prop_oneof![
            Just(IcmpMatch::All),
            select(vec![0, 3, 8, 128]).prop_map(IcmpMatch::Type),
            (select(vec![0, 3, 8, 128]), 0..2u8).prop_map(|(kind, code)| IcmpMatch::TypeCode(kind, code)),
        ]
    };
    prop_oneof![
        1 => Just(Protocol::All),
        4 => ports().prop_map(Protocol::Tcp),
        2 => ports().prop_map(Protocol::Udp),
        2 => icmp().prop_map(Protocol::Icmp),
        2 => icmp().prop_map(Protocol::Icmpv6),
        1 => select(vec![47, 50]).prop_map(Protocol::Number),
    ]
}

fn peer() -> impl Strategy<Value = Peer> {
    let v4 = [
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.0.0.0/30",
        "10.0.0.2/32",
        "198.51.100.0/24",
    ];
    let v6 = ["::/0", "2001:db8::/32", "2001:db8::/64", "2001:db8:1::1/128"];
    prop_oneof![
        3 => select(v4.to_vec()).prop_map(|net| Peer::V4(net.parse().unwrap())),
        3 => select(v6.to_vec()).prop_map(|net| Peer::V6(net.parse().unwrap())),
        3 => (0..GROUPS).prop_map(|group| Peer::Group(GroupIndex(group))),
        1 => Just(Peer::PrefixList(PrefixListIndex(0))),
        1 => Just(Peer::Missing(String::from("sg-gone"))),
    ]
}

fn rules() -> impl Strategy<Value = Vec<(Protocol, Peer)>> {
    prop::collection::vec((protocol(), peer()), 0..6)
}

fn groups() -> impl Strategy<Value = Vec<SecurityGroup>> {
    let named = |name: usize, direction: Direction, rules: Vec<(Protocol, Peer)>| {
        let rule = |(at, (protocol, peer))| Rule {
            id: format!("g{name}/{direction}/{at}"),
            protocol,
            peer,
            description: String::new(),
            location: Location::default(),
        };
        rules.into_iter().enumerate().map(rule).collect()
    };
    let known = prop::bool::weighted(0.8);
    prop::collection::vec((known, rules(), rules()), GROUPS).prop_map(move |groups| {
        let no_rules = Vec::new();
        let group = |(name, (known, ingress, egress))| SecurityGroup {
            id: format!("sg-{name}"),
            name: format!("g{name}"),
            vpc: None,
            rules_known: known,
            dialect: Dialect::Native,
            location: Location::default(),
            ingress: named(name, Direction::Ingress, if known { ingress } else { no_rules.clone() }),
            egress: named(name, Direction::Egress, if known { egress } else { no_rules.clone() }),
        };
        groups.into_iter().enumerate().map(group).collect()
    })
}

prop_compose! {
    fn model()(
        groups in groups(),
        members in prop::collection::vec((select((0..=GROUPS).collect::<Vec<_>>()), any::<u8>(), any::<bool>()), OWN.len()),
        exempt in any::<bool>(),
        list_known in prop::bool::weighted(0.7),
    ) -> Model {
        let eni = |(at, (count, first, bound)): (usize, (usize, u8, bool))| {
            let of: Vec<usize> = (0..count).map(|step| (usize::from(first) + step) % GROUPS).collect();
            // Everything that gates on this host depend on is known.
            let here = bound && count > 0 && list_known && of.iter().all(|&group| groups[group].rules_known);
            Eni {
                id: format!("eni-{at}"),
                task: bound.then(|| format!("task-{at}")),
                account: None,
                addresses: OWN[at].map(address).to_vec(),
                groups: of.into_iter().map(GroupIndex).collect(),
                groups_known: count > 0 || first % 3 > 0,
                gate_known: here || first % 7 > 0,
                binding: here.then(|| Binding::Device(format!("veth{at}"))),
                source_dest_check: first % 2 == 0,
                vpc: None,
                subnet: None,
                az_id: None,
                region: None,
                ecs: EcsFields::default(),
            }
        };
        let enis = members.into_iter().enumerate().map(eni).collect();
        Model {
            groups,
            prefix_lists: vec![PrefixList {
                id: String::from("pl-1"),
                name: None,
                max_entries: None,
                entries: list_known.then(|| ["10.0.1.0/24", "2001:db8:1::/48"].map(|net| net.parse().unwrap()).to_vec()),
            }],
            enis,
            settings: Settings {
                exempt: if exempt { AddressList::Aws } else { AddressList::None },
                ..Settings::default()
            },
            ..Model::default()
        }
    }
}

/// Sender and receiver (an ENI, or a peer outside), address family, and message.
type Asked = (usize, usize, usize, Message);

fn asked() -> impl Strategy<Value = Asked> {
    let ends = OWN.len() + OUTSIDE.len();
    let port = || select(vec![0, 78, 79, 80, 81, 82, 443, u16::MAX]);
    let source = 49152;
    let kind = || select(vec![0, 3, 8, 9, 128]);
    let message = prop_oneof![
        3 => port().prop_map(move |port| Message::Tcp { source, port }),
        2 => port().prop_map(move |port| Message::Udp { source, port }),
        2 => (kind(), 0..3u8).prop_map(|(kind, code)| Message::Icmp { kind, code }),
        1 => select(vec![4, 47, 50, 132]).prop_map(Message::Other),
    ];
    (0..ends, 0..ends, 0..2usize, message).prop_map(|(from, to, family, message)| match message {
        Message::Icmp { kind, code } if family == 1 => (from, to, family, Message::Icmpv6 { kind, code }),
        message => (from, to, family, message),
    })
}

fn end(model: &Model, at: usize, family: usize) -> End<'_> {
    let text = OWN.iter().chain(&OUTSIDE).nth(at).unwrap()[family];
    End {
        address: address(text),
        eni: model.enis.get(at),
    }
}

/// Configurations that complete `model` in every way that matters, each with the reason why a differing answer is
/// unknown in `model`, and its ENI.
fn completions(model: &Model, eni: &Eni, far: IpAddr) -> Vec<(&'static str, Model, Eni)> {
    let everything = |group: &mut SecurityGroup| {
        for direction in [&mut group.ingress, &mut group.egress] {
            *direction = ["0.0.0.0/0", "::/0"]
                .map(|net| Rule {
                    id: String::from("completed"),
                    protocol: Protocol::All,
                    peer: match net.parse().unwrap() {
                        ipnet::IpNet::V4(net) => Peer::V4(net),
                        ipnet::IpNet::V6(net) => Peer::V6(net),
                    },
                    description: String::new(),
                    location: Location::default(),
                })
                .to_vec();
        }
    };
    let mut found = Vec::new();
    let mut with_rules = model.clone();
    with_rules
        .groups
        .iter_mut()
        .filter(|group| !group.rules_known)
        .for_each(everything);
    let mut with_groups = eni.clone();
    if !eni.groups_known {
        let mut group = model.groups[0].clone();
        everything(&mut group);
        with_groups.groups.push(GroupIndex(with_rules.groups.len()));
        with_rules.groups.push(group);
    }
    found.push(("groups-unknown", with_rules, with_groups));
    let mut with_entries = model.clone();
    for list in with_entries
        .prefix_lists
        .iter_mut()
        .filter(|list| list.entries.is_none())
    {
        list.entries = Some(["0.0.0.0/0", "::/0"].map(|net| net.parse().unwrap()).to_vec());
    }
    found.push(("prefix-list-unknown", with_entries, eni.clone()));
    // For remote gates, any private address that is in no file, and any ENI whose groups are in no file, may have every
    // group.
    let nowhere = ["10.0.0.3", "2001:db8::3", "2001:db8:ffff::1"].map(address);
    let mut with_members = model.clone();
    let all: Vec<GroupIndex> = (0..model.groups.len()).map(GroupIndex).collect();
    let open = match with_members.enis.iter_mut().find(|eni| eni.addresses.contains(&far)) {
        Some(far) if !far.groups_known => {
            far.groups = all;
            true
        }
        None if nowhere.contains(&far) => {
            let stranger = Eni {
                id: String::from("eni-stranger"),
                addresses: vec![far],
                groups: all,
                ..eni.clone()
            };
            with_members.enis.push(stranger);
            true
        }
        Some(_) | None => false,
    };
    if open && eni.binding.is_none() {
        // A group that is in no file may be one of its groups too.
        for rule in with_members
            .groups
            .iter_mut()
            .flat_map(|group| group.ingress.iter_mut().chain(&mut group.egress))
        {
            if matches!(rule.peer, Peer::Missing(_)) {
                rule.peer = Peer::Group(GroupIndex(0));
            }
        }
        found.push(("peer-unknown", with_members, eni.clone()));
    }
    found
}

/// A gate's expected answer: verdict, reason, group and rule.
type Said = (Verdict, &'static str, Option<String>, Option<String>);

fn said(gate: &GateVerdict) -> Said {
    (gate.verdict, gate.reason, gate.group.clone(), gate.rule.clone())
}

/// A gate's possible answers: several reasons for `unknown` can hold at once.
fn expected(model: &Model, question: &Question<'_>, direction: Direction, eni: &Eni) -> Vec<Said> {
    let far = match direction {
        Direction::Egress => question.to.address,
        Direction::Ingress => question.from.address,
    };
    if direction == Direction::Ingress && eni.addresses.contains(&far) {
        return vec![(Verdict::Reject, "spoofed-source", None, None)];
    }
    // Redirects and router advertisements never come from a task.
    if direction == Direction::Egress && matches!(question.message, Message::Icmp { kind: 5 | 9, .. }) {
        return vec![(Verdict::Reject, "spoofed-source", None, None)];
    }
    let here = eni.binding.is_some();
    if direction == Direction::Egress && here && model.exempt().addresses.contains(&far) {
        return vec![(Verdict::Accept, "exempt", None, None)];
    }
    let mut packet = OraclePacket {
        peer: far,
        protocol: question.message.protocol(),
        source_port: 0,
        destination_port: 0,
        icmp_type: 0,
        icmp_code: 0,
    };
    match question.message {
        Message::Tcp { source, port } | Message::Udp { source, port } => {
            (packet.source_port, packet.destination_port) = (source, port);
        }
        Message::Icmp { kind, code } | Message::Icmpv6 { kind, code } => {
            (packet.icmp_type, packet.icmp_code) = (kind, code);
        }
        Message::Other(_) => {}
    }
    if let Some(allowed) = classify(model, eni, direction, &packet) {
        let group = model.group(allowed.group).id.clone();
        return vec![(Verdict::Accept, "rule", Some(group), Some(allowed.rule.id.clone()))];
    }
    // The exemptions of the gate's host are in no file; AWS's services are not addresses of ENIs.
    let settings = Settings::default();
    let services = Model {
        settings,
        ..model.clone()
    }
    .exempt()
    .addresses;
    let exempt = direction == Direction::Egress && !here && services.contains(&far);
    let exempt = exempt.then_some((Verdict::Unknown, "exempt-unknown", None, None));
    let open: Vec<Said> = completions(model, eni, far)
        .into_iter()
        .filter(|(_, model, eni)| classify(model, eni, direction, &packet).is_some())
        .map(|(reason, ..)| (Verdict::Unknown, reason, None, None))
        .chain(exempt)
        .collect();
    if open.is_empty() {
        vec![(Verdict::Reject, "no-rule", None, None)]
    } else {
        open
    }
}

/// As [`expected`], if it is unknown whether there is a gate: only packets that a gate would allow are known to pass.
fn expected_of_any(model: &Model, question: &Question<'_>, direction: Direction, eni: &Eni) -> Vec<Said> {
    let said = expected(model, question, direction, eni);
    if eni.gate_known || said.iter().all(|(verdict, ..)| *verdict == Verdict::Accept) {
        return said;
    }
    vec![(Verdict::Unknown, "gate-unknown", None, None)]
}

fn agrees(model: &Model, explainer: &Explainer<'_>, question: &Question<'_>) {
    let Explanation { verdict, gates } = explainer.explain(question);
    let ends = [
        (Direction::Egress, question.from.eni),
        (Direction::Ingress, question.to.eni),
    ];
    let way: Vec<(Direction, &Eni)> = ends
        .into_iter()
        .filter_map(|(direction, eni)| {
            Some((
                direction,
                eni.filter(|eni| !eni.groups.is_empty() || !eni.groups_known)?,
            ))
        })
        .collect();
    assert_eq!(gates.len(), way.len());
    for (gate, &(direction, eni)) in gates.iter().zip(&way) {
        assert_eq!((&gate.eni, &gate.task, gate.direction), (&eni.id, &eni.task, direction));
        assert_eq!(gate.here, eni.binding.is_some());
        let expected = expected_of_any(model, question, direction, eni);
        let v6 = question.from.address.is_ipv6();
        let mut rules = eni.groups.iter().flat_map(|&group| model.group(group).rules(direction));
        // The prefix list may have entries of both families.
        let comparable = rules.any(|rule| {
            !matches!((&rule.peer, v6), (Peer::V4(_), true) | (Peer::V6(_), false))
                && !matches!(
                    (rule.protocol, v6),
                    (Protocol::Icmp(_), true) | (Protocol::Icmpv6(_), false)
                )
        });
        assert_eq!(gate.nearest.is_some(), gate.reason == "no-rule" && comparable);
        assert!(
            expected.contains(&said(gate)),
            "{:?} is none of {expected:?}",
            said(gate)
        );
    }
    let any = |verdict| gates.iter().any(|gate| gate.verdict == verdict);
    let overall = match (any(Verdict::Reject), any(Verdict::Unknown)) {
        (true, _) => Verdict::Reject,
        (false, true) => Verdict::Unknown,
        (false, false) => Verdict::Accept,
    };
    assert_eq!(verdict, overall);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn explain_agrees_with_the_oracle(model in model(), questions in prop::collection::vec(asked(), 64)) {
        let explainer = Explainer::new(&model, &model.enis).unwrap();
        for (from, to, family, message) in questions {
            let question = Question {
                from: end(&model, from, family),
                to: end(&model, to, family),
                message,
            };
            agrees(&model, &explainer, &question);
        }
    }
}
