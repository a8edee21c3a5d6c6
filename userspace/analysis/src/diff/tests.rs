use taskgate_model::Model;

use super::{compare, lines as told, rules::places};

const BASE: &str = "\
taskgate: v1
groups:
- name: web
  id: sg-web
  ingress:
  - { protocol: tcp, ports: 443, from: any }
  - { protocol: tcp, ports: [80, 8000-8100], from: [10.0.0.0/8, group:web] }
  - { protocol: icmp, type: 8, from: [10.0.0.0/8] }
- { name: db, id: sg-db, ingress: [{ protocol: tcp, ports: 5432, from: [group:web, prefix-list:corp] }], egress: [] }
prefix-lists:
- { name: corp, id: pl-corp, entries: [10.0.0.0/8, 192.168.0.0/16] }
tasks:
- { name: web-1, eni: eni-1, device: tg-web-1, addresses: [10.0.1.15], groups: [web] }
- { name: db-1, eni: eni-2, namespace: db-1, addresses: [10.0.1.20], groups: [db] }
members:
- { address: 10.0.7.9, groups: [db] }
settings: { on-rule-removal: keep }
flow-logs: [{ destination: stdout, interval: 60 }]
";

fn model(text: &str) -> Model {
    match taskgate_config::read(&[("t.yaml", text)]) {
        Ok(loaded) => loaded.model,
        Err(error) => panic!("{error:?}\n{text}"),
    }
}

/// The lines of the difference after replacing texts.
fn lines(changes: &[(&str, &str)]) -> Vec<String> {
    let mut text = String::from(BASE);
    for (was, is) in changes {
        assert!(text.contains(was), "`{was}` is not there");
        text = text.replacen(was, is, 1);
    }
    let (before, after) = (model(BASE), model(&text));
    let there: Vec<String> = told(&compare(&before, &after)).collect();
    assert_eq!(compare(&after, &before).changes.len(), there.len(), "{there:?}");
    assert!(compare(&after, &after).is_empty());
    there
}

/// Replaced texts, and the expected lines.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn each_kind_of_change_has_its_line() {
    let cases: [Case<'_>; 16] = [
        (&[], &[]),
        (
            &[("ports: 443, from: any", "ports: 444, from: any")],
            &[
                "~ rule web/ingress/1: +tcp port 444 from 0.0.0.0/0, +tcp port 444 from ::/0, -tcp port 443 from 0.0.0.0/0, -tcp port 443 from ::/0",
            ],
        ),
        (
            &[("  - { protocol: tcp, ports: 443, from: any }\n", "")],
            &[
                "~ rule web/ingress/1: rule web/ingress/2 -> web/ingress/1",
                "~ rule web/ingress/2: rule web/ingress/3 -> web/ingress/2",
                "- rule web/ingress/1: tcp port 443 from 0.0.0.0/0, tcp port 443 from ::/0",
            ],
        ),
        (
            &[(
                "{ protocol: icmp, type: 8, from: [10.0.0.0/8] }",
                "{ protocol: icmp, from: [10.0.0.0/8], description: all }",
            )],
            &["~ rule web/ingress/3: icmp type 8 from 10.0.0.0/8 -> icmp from 10.0.0.0/8; description none -> all"],
        ),
        (
            &[("from: [10.0.0.0/8, group:web]", "from: [10.0.0.0/8]")],
            &["~ rule web/ingress/2: -tcp port 80 from group web, -tcp ports 8000-8100 from group web"],
        ),
        (
            &[("egress: [] }", "}")],
            &["+ rule db/egress/1: all traffic to 0.0.0.0/0, all traffic to ::/0"],
        ),
        (
            &[("192.168.0.0/16]", "192.168.0.0/24, 172.16.0.0/12]")],
            &["~ prefix list corp (pl-corp): entries +172.16.0.0/12, +192.168.0.0/24, -192.168.0.0/16"],
        ),
        (&[("[10.0.0.0/8, 192.168.0.0/16]", "[192.168.0.0/16, 10.0.0.0/8]")], &[]),
        (
            &[(
                "addresses: [10.0.1.15], groups: [web]",
                "addresses: [10.0.1.15, 10.0.1.16], groups: [db, web]",
            )],
            &["~ task web-1 (eni-1): addresses +10.0.1.16; groups +db"],
        ),
        (
            &[("device: tg-web-1", "namespace: web-1")],
            &["~ task web-1 (eni-1): on device tg-web-1 -> namespace web-1"],
        ),
        (
            &[(
                "name: web-1, eni: eni-1",
                "name: web-9, eni: eni-1, source-dest-check: false",
            )],
            &["~ task web-9 (eni-1): name web-1 -> web-9; source-dest-check none -> false"],
        ),
        (
            &[(
                "- { name: db-1, eni: eni-2, namespace: db-1, addresses: [10.0.1.20], groups: [db] }\n",
                "",
            )],
            &["- task db-1 (eni-2): addresses 10.0.1.20; groups db; on namespace db-1"],
        ),
        (
            &[(
                "{ address: 10.0.7.9, groups: [db] }",
                "{ address: 10.0.7.9, groups: [web] }",
            )],
            &["~ member eni-"],
        ),
        (
            &[(
                "on-rule-removal: keep",
                "on-rule-removal: cut, exempt: none, timeouts: { udp: 40 }",
            )],
            &[
                "~ setting on-rule-removal: keep -> cut",
                "~ setting exempt: aws -> none",
                "~ setting timeouts.udp: 30 -> 40",
            ],
        ),
        (
            &[(
                "{ destination: stdout, interval: 60 }",
                "{ destination: stdout, interval: 10, format: json }, { destination: stdout, traffic: REJECT }",
            )],
            &[
                "~ flow log 1: format default -> json; interval 60 -> 10",
                "+ flow log 2: destination stdout; format default; traffic REJECT; interval 60; nodata false",
            ],
        ),
        (
            &[("settings:", "uplink: { device: eth1, mode: routed }\nsettings:")],
            &["+ uplink eth1: device eth1; mode routed"],
        ),
    ];
    for (changes, expected) in cases {
        let there = lines(changes);
        assert_eq!(there.len(), expected.len(), "{changes:?}: {there:#?}");
        for (line, expected) in there.iter().zip(expected) {
            assert!(
                line.starts_with(expected) || line.contains(expected),
                "{changes:?}: {line}"
            );
        }
    }
}

#[test]
fn a_group_that_goes_or_comes_has_its_rules_with_it() {
    let without = BASE.replace("from: [group:web, prefix-list:corp]", "from: [10.9.0.0/16]");
    let (before, after) = (model(BASE), model(&without));
    assert_eq!(compare(&before, &after).changes.len(), 1);
    let more = format!(
        "{}\n",
        BASE.replace(
            "prefix-lists:",
            "- { name: new, id: sg-new, egress: [] }\n- { name: other, id: sg-other }\nprefix-lists:"
        )
    );
    let lines: Vec<String> = told(&compare(&before, &model(&more))).collect();
    assert_eq!(
        lines,
        [
            "+ group new (sg-new)",
            "+ group other (sg-other)",
            "+ rule other/egress/1: all traffic to 0.0.0.0/0, all traffic to ::/0",
        ]
    );
    let gone: Vec<String> = told(&compare(&model(&more), &before)).collect();
    assert_eq!(gone.len(), 3);
    assert!(gone.iter().all(|line| line.starts_with("- ")), "{gone:?}");
}

/// Records name the first matching rule, so the order of rules is visible.
#[test]
fn rules_that_change_places_are_a_change() {
    let swapped = BASE.replace(
        "  - { protocol: tcp, ports: 443, from: any }
  - { protocol: tcp, ports: [80, 8000-8100], from: [10.0.0.0/8, group:web] }
",
        "  - { protocol: tcp, ports: [80, 8000-8100], from: [10.0.0.0/8, group:web] }
  - { protocol: tcp, ports: 443, from: any }
",
    );
    let lines: Vec<String> = told(&compare(&model(BASE), &model(&swapped))).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("place ")), "{lines:?}");
}

#[test]
fn only_the_fewest_rules_move() {
    let some = |places: &[[Option<usize>; 2]]| places.iter().filter(|place| place[0].is_some()).count();
    assert_eq!(some(&places(&[(0, 0), (1, 4), (2, 5)])), 0);
    let moved = places(&[(0, 3), (1, 0), (2, 1), (3, 2)]);
    assert_eq!(moved, [[Some(1), Some(4)], [None; 2], [None; 2], [None; 2]]);
    assert_eq!(some(&places(&[(0, 2), (1, 1), (2, 0)])), 2);
}

#[test]
fn its_json_is_read_back() {
    let text = BASE
        .replace("on-rule-removal: keep", "on-rule-removal: cut")
        .replace("ports: 443", "ports: 444");
    let diff = compare(&model(BASE), &model(&text));
    let json = serde_json::to_string_pretty(&diff).unwrap();
    assert_eq!(serde_json::from_str::<taskgate_api::ModelDiff>(&json).unwrap(), diff);
    for part in [
        r#""kind": "setting""#,
        r#""change": "changed""#,
        r#""id": "on-rule-removal""#,
        r#""direction": "ingress""#,
        r#""counts": {"#,
    ] {
        assert!(json.contains(part), "{part} is missing in {json}");
    }
}

#[test]
fn a_rule_whose_peering_ends_is_a_change() {
    let with = |status: &str| {
        let groups = format!(
            r#"{{ "SecurityGroups": [
                {{ "GroupId": "sg-0a", "GroupName": "a", "OwnerId": "1", "VpcId": "vpc-1", "IpPermissionsEgress": [],
                   "IpPermissions": [{{ "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [
                       {{ "GroupId": "sg-0b", "VpcPeeringConnectionId": "pcx-1", "PeeringStatus": "{status}" }}] }}] }},
                {{ "GroupId": "sg-0b", "GroupName": "b", "OwnerId": "1", "VpcId": "vpc-2",
                   "IpPermissions": [], "IpPermissionsEgress": [] }}] }}"#
        );
        match taskgate_config::read(&[("groups.json", &*groups)]) {
            Ok(loaded) => loaded.model,
            Err(error) => panic!("{error:?}\n{groups}"),
        }
    };
    let there: Vec<String> = told(&compare(&with("active"), &with("deleted"))).collect();
    let [only] = &there[..] else { panic!("{there:?}") };
    assert!(
        only.starts_with("~ rule") && only.ends_with("-> tcp port 80 from sg-0b, which is not known"),
        "{only}"
    );
    assert!(compare(&with("deleted"), &with("deleted")).is_empty());
}
