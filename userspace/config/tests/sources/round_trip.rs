//! The same configuration has the same meaning in JSON, in YAML, and split into several files.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde::Serialize as _;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Map, Value, json};
use taskgate_config::{Loaded, read};

/// Files that are damaged on purpose.
const DAMAGED: [&str; 8] = [
    include_str!("../data/aws/describe-security-groups.json"),
    include_str!("../data/aws/describe-network-interfaces.json"),
    include_str!("../data/aws/pl-0b6c0b6c0b6c0b6c0.json"),
    crate::native::WHOLE,
    // Pages, a bare list, anchors, and an address in two VPCs.
    "- NextToken: a\n  SecurityGroups: [{GroupId: sg-1, GroupName: web, IpPermissions: []}]\n- SecurityGroups: []\n",
    r#"[{"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": true, "IpProtocol": "-1", "ReferencedGroupInfo":
     {"GroupId": "sg-1", "PeeringStatus": "deleted"}}, {"Cidr": "10.0.0.0/8"}, {"tasks": [], "Subnets": []}]"#,
    "taskgate: v1\ngroups: &g [&h {name: &n a, ingress: [&r {protocol: tcp, from: any}, *r]}]\nsettings: *g\nmembers: *h\n",
    r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.0.1", "Groups": [
     {"GroupId": "sg-1"}]}, {"NetworkInterfaceId": "eni-2", "VpcId": "vpc-2", "PrivateIpAddress": "10.0.0.1", "Groups": [
     {"GroupId": "sg-2"}]}], "Vpcs": [{"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"}]}"#,
];

/// A rule that is valid, for groups named `g0` to `g3` and the list `corp`.
fn rule(peer_key: &'static str) -> impl Strategy<Value = Value> {
    let port = (0..65_000_u32, 0..500_u32).prop_map(|(from, more)| match more {
        0..100 => json!(from),
        100..200 => json!(from.to_string()),
        _ => json!(format!("{from}-{}", from + more)),
    });
    let ports = prop_oneof![
        port.clone().prop_map(|port| json!({"ports": port})),
        vec(port, 1..4).prop_map(|ports| json!({"ports": ports})),
        Just(json!({})),
    ];
    let icmp = prop_oneof![
        Just(json!({})),
        any::<u8>().prop_map(|kind| json!({"type": kind})),
        any::<(u8, u8)>().prop_map(|(kind, code)| json!({"type": kind, "code": code})),
    ];
    let protocol = prop_oneof![
        (select(vec!["tcp", "udp", "6", "17"]), ports).prop_map(|(name, rest)| with(&rest, "protocol", &json!(name))),
        (select(vec!["icmp", "icmpv6", "1", "ipv6-icmp"]), icmp).prop_map(|(name, rest)| with(
            &rest,
            "protocol",
            &json!(name)
        )),
        any::<u8>().prop_map(|number| json!({"protocol": number})),
        select(vec!["all", "-1"]).prop_map(|name| json!({"protocol": name})),
    ];
    let peer = prop_oneof![
        Just(String::from("any")),
        Just(String::from("self")),
        Just(String::from("prefix-list:Corp")),
        (0..4).prop_map(|n| format!("group:g{n}")),
        (any::<[u8; 4]>(), 0..=32).prop_map(|([a, b, c, d], length)| format!("{a}.{b}.{c}.{d}/{length}")),
        (any::<u128>(), 0..=128).prop_map(|(bits, length)| format!("{}/{length}", std::net::Ipv6Addr::from_bits(bits))),
    ];
    let peers = prop_oneof![
        peer.clone().prop_map(|peer| json!(peer)),
        vec(peer, 1..4).prop_map(|peers| json!(peers))
    ];
    (protocol, peers, option::of("[ -~]{0,12}")).prop_map(move |(rule, peers, description)| {
        let rule = with(&rule, peer_key, &peers);
        match description {
            Some(description) => with(&rule, "description", &json!(description)),
            None => rule,
        }
    })
}

/// The object with one more key.
fn with(object: &Value, key: &str, value: &Value) -> Value {
    let mut object = object.clone();
    object[key] = value.clone();
    object
}

/// A whole configuration.
fn configuration() -> impl Strategy<Value = Value> {
    let group = (vec(rule("from"), 0..4), option::of(vec(rule("to"), 0..4)));
    let groups = vec(group, 4).prop_map(|groups| {
        let groups = groups.into_iter().enumerate().map(|(n, (ingress, egress))| {
            let group = json!({"name": format!("g{n}"), "ingress": ingress});
            egress.map_or(group.clone(), |egress| with(&group, "egress", &json!(egress)))
        });
        groups.collect::<Vec<_>>()
    });
    let tasks = vec((1..200_u8, option::of(any::<bool>()), vec(0..4, 1..5)), 0..4).prop_map(|tasks| {
        let tasks = tasks.into_iter().enumerate().map(|(n, (host, check, groups))| {
            let groups: Vec<String> = groups.into_iter().map(|group| format!("G{group}")).collect();
            let addresses = [format!("10.0.{n}.{host}"), format!("2001:db8:{n}::{host:x}")];
            let task = json!({"name": format!("t{n}"), "device": format!("v{n}"), "addresses": addresses});
            let task = with(&task, "groups", &json!(groups));
            check.map_or(task.clone(), |check| with(&task, "source-dest-check", &json!(check)))
        });
        tasks.collect::<Vec<_>>()
    });
    let settings = (60..=180_u32, select(vec!["aws", "none"]))
        .prop_map(|(stream, exempt)| json!({"exempt": exempt, "timeouts": {"udp-stream": stream}}));
    (groups, tasks, option::of(settings), "[0-9]{12}").prop_map(|(groups, tasks, settings, account)| {
        json!({
            "taskgate": "v1",
            "account": account,
            "groups": groups,
            "prefix-lists": [{"name": "corp", "entries": ["10.0.0.0/8", "2001:db8::/32"]}],
            "tasks": tasks,
            "settings": settings.unwrap_or(Value::Null),
        })
    })
}

/// Block YAML with plain scalars wherever they are unambiguous.
fn yaml(value: &Value, indent: usize) -> String {
    let pad = " ".repeat(indent);
    let deeper = |value: &Value| yaml(value, indent + 2);
    match value {
        Value::Object(entries) if !entries.is_empty() => entries
            .iter()
            .map(|(key, value)| ["\n", &pad, key, ":", &deeper(value)].concat())
            .collect(),
        Value::Array(items) if !items.is_empty() => items
            .iter()
            .map(|item| ["\n", &pad, "-", &deeper(item)].concat())
            .collect(),
        Value::String(word) if plain(word) => format!(" {word}"),
        other => format!(" {other}"),
    }
}

/// Whether a string needs no quotes.
fn plain(word: &str) -> bool {
    let harmless = word
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b".:/-".contains(&byte));
    harmless && word.starts_with(|c: char| c.is_ascii_alphanumeric()) && word != "null" && !word.ends_with(':')
}

fn loaded(files: &[(&str, &str)]) -> Result<Loaded, TestCaseError> {
    read(files).map_err(|problems| TestCaseError::fail(format!("{files:?}\n{problems}")))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_and_yaml_say_the_same(configuration in configuration()) {
        let compact = configuration.to_string();
        let tabs = PrettyFormatter::with_indent(b"\t");
        let mut pretty = Vec::new();
        configuration.serialize(&mut Serializer::with_formatter(&mut pretty, tabs)).expect("JSON");
        let pretty = String::from_utf8(pretty).expect("UTF-8");
        let block = yaml(&configuration, 0);
        let model = loaded(&[("t.json", &compact)])?.model;
        prop_assert_eq!(&model, &loaded(&[("t.json", &pretty)])?.model);
        prop_assert_eq!(&model, &loaded(&[("t.yaml", &block)])?.model, "{}", block);
    }

    #[test]
    fn files_can_be_cut_and_repeated(configuration in configuration()) {
        let whole = configuration.to_string();
        let Value::Object(keys) = configuration else { unreachable!("it is an object") };
        let parts: Vec<String> = keys
            .into_iter()
            .filter(|(key, _)| key != "taskgate")
            .map(|(key, value)| {
                let part = Map::from_iter([(String::from("taskgate"), json!("v1")), (key, value)]);
                Value::Object(part).to_string()
            })
            .collect();
        let mut files: Vec<(&str, &str)> = parts.iter().map(|part| ("part.json", part.as_str())).collect();
        let model = loaded(&[("t.json", &whole)])?.model;
        prop_assert_eq!(&model, &loaded(&files)?.model);
        files.push(("t.json", &whole));
        prop_assert_eq!(&model, &loaded(&files)?.model);
    }

    /// Reading a damaged file ends with a model or with problems, never with a panic.
    #[test]
    fn damaged_files_are_refused_or_read(
        file in 0..DAMAGED.len(),
        cuts in vec((any::<Index>(), 0..12_usize, select(vec!["", "[", "{", "\"", ": ", "-1", "null", "\n", "*a", "&a "])), 1..6),
    ) {
        let mut chars: Vec<char> = DAMAGED[file].chars().collect();
        for (at, length, put) in cuts {
            let at = at.index(chars.len());
            let end = (at + length).min(chars.len());
            chars.splice(at..end, put.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(problems) = read(&[("pl-1.yaml", &text)]) {
            prop_assert!(!problems.errors.is_empty());
        }
    }
}
