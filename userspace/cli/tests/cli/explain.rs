//! `taskgate explain`.

use super::support::{Answer, Folder};

const NATIVE: &str = "taskgate: v1
groups:
- name: web
  ingress:
  - { protocol: tcp, ports: 443, from: any }
  - { protocol: icmp, type: 8, from: 10.0.0.0/8 }
  - { protocol: icmpv6, type: 128, from: any }
  egress:
  - { protocol: tcp, ports: [5432, 6379], to: group:db }
- name: worker
- name: db
  ingress:
  - { protocol: tcp, ports: 5432, from: group:web }
  - { protocol: tcp, ports: 22, from: prefix-list:corp }
  egress: []
- { name: closed, egress: [] }
prefix-lists:
- { name: corp, entries: [10.9.0.0/16, '2001:db8:9::/48'] }
tasks:
- { name: web-1, device: veth1, addresses: [10.0.1.15, 10.0.1.16, '2001:db8::15'], groups: [web] }
- { name: worker-1, device: veth2, addresses: [10.0.1.30], groups: [worker] }
- { name: db-1, device: veth3, addresses: [10.0.1.20, '2001:db8::20'], groups: [db, closed] }
- { name: old-1, device: veth4, addresses: ['2001:db8::40'], groups: [closed] }
members:
- { address: 10.0.7.9, groups: [db] }
";

/// ENIs on other hosts, as the AWS CLI prints them.
const AWS: &str = r#"{
  "SecurityGroups": [{"GroupId": "sg-0a", "GroupName": "cache", "IpPermissions": [
    {"IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6379, "IpRanges": [{"CidrIp": "10.0.1.0/28"}]}],
    "IpPermissionsEgress": []}],
  "SecurityGroupRules": [{"SecurityGroupRuleId": "sgr-01", "GroupId": "sg-0a", "IsEgress": false,
    "IpProtocol": "tcp", "FromPort": 6379, "ToPort": 6379, "CidrIpv4": "10.0.1.0/28"}],
  "NetworkInterfaces": [
    {"NetworkInterfaceId": "eni-0123456789abcdef0", "PrivateIpAddress": "10.0.2.5",
     "Groups": [{"GroupId": "sg-0a", "GroupName": "cache"}]},
    {"NetworkInterfaceId": "eni-0123456789abcdef1", "PrivateIpAddress": "10.0.2.6", "Groups": []}]}"#;

fn folder() -> Folder {
    Folder::new(&[("aws.json", AWS), ("native.yaml", NATIVE)])
}

#[test]
fn what_passes() {
    insta::assert_snapshot!(folder().transcript(&[
        "explain --from web-1 --to db-1 --protocol tcp --port 5432",
        "explain --from web-1 --to db-1 --protocol tcp --port 5432 -6",
        "explain --from 192.0.2.7 --to 10.0.1.16 --protocol TCP --port 443",
        "explain --from worker-1 --to WEB-1 --protocol icmp",
        "explain --from old-1 --to web-1 --protocol icmpv6 --type 128 --fail-on-deny",
        "explain --from worker-1 --to 192.0.2.1 --protocol 50",
        "explain --from worker-1 --to 192.0.2.1 --protocol OSPF",
        "explain --from worker-1 --to 192.0.2.1 --protocol ipip",
        "explain --from worker-1 --to 192.0.2.1 --protocol 200",
        "explain --from 10.9.0.1 --to db-1 --protocol 6 --port 22 --source-port 1023",
    ]));
}

#[test]
fn what_is_denied() {
    insta::assert_snapshot!(folder().transcript(&[
        "explain --from worker-1 --to db-1 --protocol tcp --port 5432",
        "explain --from web-1 --to db-1 --protocol tcp --port 5433",
        "explain --from web-1 --to 10.0.7.9 --protocol tcp --port 6379 --fail-on-deny",
        "explain --from web-1 --to eni-0123456789abcdef0 --protocol tcp --port 6379",
        "explain --from old-1 --to 2001:db8:ffff::1 --protocol udp --port 53",
        "explain --from 10.8.0.1 --to db-1 --protocol tcp --port 22",
        "explain --from 10.9.0.1 --to web-1 --protocol icmp --type 13",
        "explain --from web-1 --to 10.0.2.6 --protocol udp --port 53",
        "explain --from web-1 --to 192.0.2.1 --protocol esp",
    ]));
}

/// The advice for an AWS group is a command, and ids from a file can never turn it into another command. The nearest
/// rule is one that can match the question's family.
#[test]
fn advice_has_the_form_of_the_source() {
    let aws = r#"{
  "SecurityGroups": [
    {"GroupId": "sg-0a", "GroupName": "web, inc.", "VpcId": "vpc-1", "IpPermissions": [
      {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "198.51.100.0/24"}]},
      {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "PrefixListIds": [{"PrefixListId": "pl-0c"}]}],
     "IpPermissionsEgress": []},
    {"GroupId": "sg-0b", "GroupName": "db", "VpcId": "vpc-1", "IpPermissions": [], "IpPermissionsEgress": []},
    {"GroupId": "sg-0c", "GroupName": "far", "VpcId": "vpc-2", "IpPermissions": [], "IpPermissionsEgress": []},
    {"GroupId": "sg-0d'; reboot '", "GroupName": "trap", "VpcId": "vpc-1", "IpPermissions": [], "IpPermissionsEgress": []}],
  "NetworkInterfaces": [
    {"NetworkInterfaceId": "eni-a", "OwnerId": "111111111111", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.1",
     "Ipv6Addresses": [{"Ipv6Address": "2001:db8:2::1"}], "Groups": [{"GroupId": "sg-0a"}]},
    {"NetworkInterfaceId": "eni-b", "OwnerId": "222222222222", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.2",
     "Ipv6Addresses": [{"Ipv6Address": "2001:db8:2::2"}], "Groups": [{"GroupId": "sg-0b"}]},
    {"NetworkInterfaceId": "eni-c", "OwnerId": "111111111111", "VpcId": "vpc-2", "PrivateIpAddress": "10.0.2.3",
     "Groups": [{"GroupId": "sg-0c"}]},
    {"NetworkInterfaceId": "eni-d", "OwnerId": "111111111111", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.4",
     "Groups": [{"GroupId": "sg-0d'; reboot '"}]}]}"#;
    let list = r#"{"Entries": [{"Cidr": "203.0.113.0/24"}]}"#;
    let native = "{taskgate: v1, groups: [{name: own, egress: []}], \
        tasks: [{name: own-1, device: veth1, addresses: [10.0.1.1], groups: [own]}]}";
    let folder = Folder::new(&[("aws.json", aws), ("pl-0c.json", list), ("t.yaml", native)]);
    insta::assert_snapshot!(folder.transcript(&[
        "explain --from eni-b --to eni-a --protocol tcp --port 5432",
        "explain --from eni-b --to eni-a --protocol tcp --port 443 -6",
        "explain --from eni-c --to eni-a --protocol icmp --type 3 --code 4",
        "explain --from 203.0.113.9 --to eni-a --protocol tcp --port 80",
        "explain --from own-1 --to eni-a --protocol esp",
        "explain --from eni-a --to 2001:db8::9 --protocol icmpv6",
        "explain --from 192.0.2.1 --to eni-d --protocol udp --port 53",
        "explain --from own-1 --to eni-d --protocol udp --port 53",
    ]));
}

/// A denial is reported only if everything that could allow the packet is in the files.
#[test]
fn what_the_files_do_not_say() {
    let aws = r#"{
  "SecurityGroups": [
    {"GroupId": "sg-0a", "GroupName": "web", "VpcId": "vpc-1", "IpPermissions": [
      {"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]},
      {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "PrefixListIds": [{"PrefixListId": "pl-0c"}]},
      {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "UserIdGroupPairs": [{"GroupId": "sg-0a"}, {"GroupId": "sg-gone"}]}],
     "IpPermissionsEgress": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}]}],
  "NetworkInterfaces": [
    {"NetworkInterfaceId": "eni-a", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.1", "Groups": [{"GroupId": "sg-0a"}]},
    {"NetworkInterfaceId": "eni-b", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.2", "Groups": [{"GroupId": "sg-far"}]},
    {"NetworkInterfaceId": "eni-c", "VpcId": "vpc-2", "PrivateIpAddress": "10.0.2.3",
     "Groups": [{"GroupId": "sg-0a"}, {"GroupId": "sg-far", "GroupName": "far"}, {"GroupId": "sg-off"}]},
    {"NetworkInterfaceId": "eni-d", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.4", "Groups": []},
    {"NetworkInterfaceId": "eni-e", "VpcId": "vpc-1", "PrivateIpAddress": "10.0.2.5"}]}"#;
    let native = "{taskgate: v1, groups: [{name: own, egress: [], ingress: [{protocol: tcp, from: 'group:sg-0a'}]}], \
        tasks: [{name: own-1, device: veth1, addresses: [10.0.1.1], groups: [own]}]}";
    let folder = Folder::new(&[("aws.json", aws), ("t.yaml", native)]);
    insta::assert_snapshot!(folder.transcript(&[
        // Groups whose rules are in no file; a known group allows the packet nevertheless.
        "explain --from eni-a --to eni-b --protocol tcp --port 5432 --fail-on-deny",
        "explain --from eni-a --to eni-c --protocol tcp --port 443 --fail-on-deny",
        "explain --from eni-a --to eni-c --protocol tcp --port 5432",
        "explain --from eni-b --to eni-e --protocol udp --port 53 -o json --fail-on-deny",
        // A gate that certainly denies the packet.
        "explain --from own-1 --to eni-b --protocol tcp --port 5432 --fail-on-deny",
        // An ENI without groups, and one whose groups are in no file.
        "explain --from eni-a --to eni-d --protocol tcp --port 5432 --fail-on-deny",
        "explain --from eni-e --to eni-a --protocol tcp --port 80",
        "explain --from eni-e --to 169.254.169.254 --protocol tcp --port 80",
        // Unknown entries of a prefix list, and unknown groups of an address: at a remote gate, and at a gate here, for
        // which only the files count.
        "explain --from 192.0.2.1 --to eni-a --protocol tcp --port 22",
        "explain --from 10.0.9.9 --to eni-a --protocol tcp --port 80",
        "explain --from 192.0.2.1 --to eni-a --protocol tcp --port 80",
        "explain --from 10.0.9.9 --to own-1 --protocol tcp --port 80",
        "explain --from 192.0.2.1 --to 192.0.2.2 --protocol tcp --port 80",
        "check",
    ]));
}

#[test]
fn what_no_rule_decides() {
    insta::assert_snapshot!(folder().transcript(&[
        "explain --from db-1 --to 169.254.169.254 --protocol tcp --port 80",
        "explain --from 169.254.169.254 --to db-1 --protocol tcp --port 80",
        "explain --from old-1 --to ff02::1:2 --protocol udp --port 547 --source-port 546",
        "explain --from worker-1 --to worker-1 --protocol tcp --port 80",
        "explain --from worker-1 --to 192.0.2.1 --protocol icmp --type 255",
    ]));
}

#[test]
fn json_is_one_document() {
    insta::assert_snapshot!(folder().transcript(&[
        "explain --from web-1 --to db-1 --protocol tcp --port 5432 -o json",
        "explain --from web-1 --to eni-0123456789abcdef0 --protocol tcp --port 6379 -o json --fail-on-deny",
        "explain --from db-1 --to 169.254.169.254 --protocol tcp --port 80 -o json",
        "explain --from worker-1 --to worker-1 --protocol tcp --port 80 -o json",
    ]));
}

#[test]
fn questions_without_an_answer() {
    insta::assert_snapshot!(folder().transcript(&[
        "explain --from wbe-1 --to db-1 --protocol tcp --port 5432",
        "explain --from web --to db-1 --protocol tcp --port 5432",
        "explain --from web-1 --to db --protocol tcp --port 5432",
        "explain --from web-1 --to eni-0123456789abcdef --protocol tcp --port 5432",
        "explain --from web-1 --to somewhere.example.com --protocol tcp --port 5432",
        "explain --from 192.0.2.1 --to 192.0.2.2 --protocol tcp --port 5432",
        "explain --from web-1 --to db-1 --protocol tcp",
        "explain --from web-1 --to db-1 --protocol icmp --port 8",
        "explain --from web-1 --to db-1 --protocol tcp --port 1 --type 8",
        "explain --from web-1 --to db-1 --protocol 50 --port 1",
        "explain --from worker-1 --to old-1 --protocol tcp --port 80",
        "explain --from worker-1 --to db-1 --protocol tcp --port 80 -6",
        "explain --from worker-1 --to db-1 --protocol icmpv6",
        "explain --from web-1 --to db-1 --protocol icmp -6",
        "explain --from 10.0.1.15 --to 2001:db8::20 --protocol tcp --port 80",
        "explain --from web-1 --to db-1 --protocol icmpv6 --type 135",
        "explain --from web-1 --to db-1 --protocol ipv6-frag -6",
        "explain --from web-1 --to db-1 --protocol foo",
    ]));
}

#[test]
fn a_refused_configuration_answers_nothing() {
    let folder = Folder::new(&[("t.yaml", "taskgate: v1\ngrops: []\n")]);
    insta::assert_snapshot!(folder.transcript(&["explain --from a --to b --protocol tcp --port 1 -o json"]));
}

#[test]
fn an_answer_is_coloured_for_nobody_but_a_terminal() {
    let Answer { out, err, exit } = folder().run("explain --from web-1 --to db-1 --protocol tcp --port 1");
    assert!(
        !out.contains('\u{1b}') && !err.contains('\u{1b}') && exit == Some(0),
        "{out}{err}"
    );
}

/// A branch of a trunk is a task like any other.
#[test]
fn branches_of_a_trunk_are_explained() {
    let example = include_str!("../../../../examples/trunk/tasks.yaml");
    let folder = Folder::new(&[("tasks.yaml", example)]);
    insta::assert_snapshot!(folder.transcript(&[
        "explain --from web --to db --protocol tcp --port 5432",
        "explain --from 192.0.2.7 --to db --protocol tcp --port 5432",
        "check",
    ]));
}

#[test]
fn an_address_in_several_vpcs_is_that_of_the_other_ends_vpc() {
    let group = |letter: char| {
        format!(
            r#"{{"GroupId": "sg-{letter}", "GroupName": "{letter}", "VpcId": "vpc-{letter}",
                "IpPermissions": [{{"IpProtocol": "-1", "UserIdGroupPairs": [{{"GroupId": "sg-{letter}"}}]}}],
                "IpPermissionsEgress": [{{"IpProtocol": "-1", "IpRanges": [{{"CidrIp": "0.0.0.0/0"}}]}}]}}"#
        )
    };
    let eni = |id: &str, letter: char, address: &str| {
        format!(
            r#"{{"NetworkInterfaceId": "{id}", "VpcId": "vpc-{letter}", "PrivateIpAddress": "{address}",
                "Groups": [{{"GroupId": "sg-{letter}"}}]}}"#
        )
    };
    let enis = [
        eni("eni-1", 'a', "10.0.0.1"),
        eni("eni-2", 'b', "10.0.0.1"),
        eni("eni-3", 'a', "10.0.0.2"),
        eni("eni-4", 'b', "10.0.0.2"),
    ];
    let folder = Folder::new(&[
        (
            "aws.json",
            &format!(
                "{{\"SecurityGroups\": [{}, {}], \"NetworkInterfaces\": [{}]}}",
                group('a'),
                group('b'),
                enis.join(", ")
            ),
        ),
        (
            "tasks.yaml",
            "taskgate: v1\ntasks: [{name: t, eni: eni-1, device: v}]\n",
        ),
    ]);
    let gates = |question: &str| {
        let answer = folder.run(&format!("explain --protocol tcp --port 80 -o json {question}"));
        let answer: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
        let gates = answer["gates"].as_array().unwrap().iter();
        let gates: Vec<String> = gates
            .map(|gate| {
                format!(
                    "{} {}",
                    gate["eni"].as_str().unwrap(),
                    gate["verdict"].as_str().unwrap()
                )
            })
            .collect();
        gates.join(", ")
    };
    assert_eq!(gates("--from 10.0.0.2 --to t"), "eni-3 ACCEPT, eni-1 ACCEPT");
    assert_eq!(gates("--from t --to 10.0.0.2"), "eni-1 ACCEPT, eni-3 ACCEPT");
    assert_eq!(gates("--from eni-4 --to eni-2"), "eni-4 ACCEPT, eni-2 ACCEPT");
    // Seen from there, the same address belongs to another ENI.
    assert_eq!(gates("--from eni-4 --to 10.0.0.1"), "eni-4 ACCEPT, eni-2 ACCEPT");
    let answer = folder.run("explain --from 10.0.0.2 --to 10.0.0.1 --protocol tcp --port 80");
    assert_eq!(
        (answer.exit, answer.err.lines().next().unwrap_or_default()),
        (
            Some(2),
            "error: 10.0.0.2 is an address of several ENIs: `eni-3` in vpc-a, `eni-4` in vpc-b; name the one that is meant"
        )
    );
}

/// A rule that names a group does not cover an address that may belong to another ENI: advice has to work nevertheless.
#[test]
fn advice_holds_where_an_address_is_in_several_vpcs() {
    let group = |letter: char| {
        format!(
            r#"{{"GroupId": "sg-{letter}", "GroupName": "{letter}", "VpcId": "vpc-{letter}", "IpPermissions": [],
                "IpPermissionsEgress": [{{"IpProtocol": "-1", "IpRanges": [{{"CidrIp": "0.0.0.0/0"}}]}}]}}"#
        )
    };
    let eni = |id: &str, letter: char| {
        format!(
            r#"{{"NetworkInterfaceId": "{id}", "VpcId": "vpc-{letter}", "PrivateIpAddress": "10.0.0.2",
                "Groups": [{{"GroupId": "sg-{letter}"}}]}}"#
        )
    };
    let aws = format!(
        r#"{{"SecurityGroups": [{}, {}], "NetworkInterfaces": [{}, {}]}}"#,
        group('b'),
        group('c'),
        eni("eni-b", 'b'),
        eni("eni-c", 'c')
    );
    let native = |rules: &str| {
        format!(
            "taskgate: v1\ngroups:\n- name: g\n  ingress: []\n  egress: [{rules}]\ntasks:\n- {{ name: t, device: d, addresses: \
             [10.0.0.1], groups: [g] }}\n"
        )
    };
    let ask = |rules: &str, from: &str, to: &str| {
        let folder = Folder::new(&[("aws.json", &aws), ("native.yaml", &native(rules))]);
        folder
            .run(&format!("explain --from {from} --to {to} --protocol tcp --port 80"))
            .out
    };
    let first = ask("", "t", "eni-b");
    let advice = "{ protocol: tcp, ports: 80, to: [10.0.0.2] }";
    assert!(first.contains(&format!("\n  - {advice}\n")), "{first}");
    let obeyed = ask(advice, "t", "eni-b");
    assert!(
        obeyed.contains("egress  t (") && obeyed.contains("here): ACCEPT by rule `g/egress/1`"),
        "{obeyed}"
    );
    // Each gate knows its own address, even if other ENIs have it too.
    let same = ask("", "eni-b", "eni-c");
    assert!(
        same.contains("egress  eni-b (not gated here): ACCEPT by rule `b/egress/1`"),
        "{same}"
    );
}

/// Files do not say which services the gate of another host exempts, nor whether an address of a `members` entry has a
/// gate at all.
#[test]
fn settings_of_this_host_are_not_those_of_others() {
    let folder = |exempt: &str| {
        Folder::new(&[
            (
                "aws.json",
                r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "far", "IpPermissions": [], "IpPermissionsEgress": []}],
                    "NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.2",
                    "Groups": [{"GroupId": "sg-1"}]}]}"#,
            ),
            (
                "native.yaml",
                &format!(
                    "taskgate: v1\nsettings: {{ exempt: {exempt} }}\ngroups: [{{ name: g, egress: [] }}]\nmembers: [{{ address: 10.0.0.3, \
                     groups: [g] }}]\ntasks: [{{ name: t, device: d, addresses: [10.0.0.1], groups: [g] }}]\n"
                ),
            ),
        ])
    };
    for (exempt, here) in [("aws", "ACCEPT exempt"), ("none", "REJECT no-rule")] {
        let folder = folder(exempt);
        let says = |question: &str| {
            let answer = folder.run(&format!("explain --protocol tcp --port 80 -o json {question}"));
            let answer: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
            let gate = &answer["gates"][0];
            format!(
                "{} {}",
                gate["verdict"].as_str().unwrap(),
                gate["reason"].as_str().unwrap()
            )
        };
        assert_eq!(says("--from t --to 169.254.169.254"), here);
        assert_eq!(says("--from eni-1 --to 169.254.169.254"), "UNKNOWN exempt-unknown");
        assert_eq!(says("--from eni-1 --to 192.0.2.1"), "REJECT no-rule");
        assert_eq!(says("--from 10.0.0.3 --to 192.0.2.1"), "UNKNOWN gate-unknown");
    }
}

#[test]
fn an_address_of_several_hosts_is_answered_for_the_sender_and_says_how_to_ask_for_receivers() {
    let rules = "egress: [{ protocol: udp, ports: 5353, to: [224.0.0.0/24, 'ff02::/16'] }]";
    let folder = Folder::new(&[(
        "tasks.yaml",
        &format!(
            "taskgate: v1\ngroups: [{{ name: g, {rules} }}]\ntasks:\n  - {{ name: t, device: d, addresses: [10.0.0.1, 'fd00::1'], groups: [g] }}\n"
        ),
    )]);
    for (to, verdict) in [
        ("224.0.0.251", "ACCEPT"),
        ("ff02::fb", "ACCEPT"),
        ("255.255.255.255", "REJECT"),
    ] {
        let answer = folder.run(&format!("explain --from t --to {to} --protocol udp --port 5353"));
        assert!(answer.out.contains(verdict), "{to}: {}", answer.out);
        assert!(answer.err.contains("means several hosts"), "{to}: {}", answer.err);
    }
    let answer = folder.run("explain --from 10.0.0.9 --to 224.0.0.251 --protocol udp --port 5353");
    assert_eq!(answer.exit, Some(5));
    assert!(
        answer.err.contains("ask with `--to` and the task's name"),
        "{}",
        answer.err
    );
}
