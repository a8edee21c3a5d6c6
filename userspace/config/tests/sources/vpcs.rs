//! VPCs with overlapping address ranges.

use taskgate_config::{Loaded, read};

use crate::support::{lines, refused};

/// Groups `sg-a` of `vpc-a`, and so on for these letters; `sg-a`'s rules are given.
fn groups(letters: &str, rules: &str) -> String {
    let group = |letter: char| {
        let rules = if letter == 'a' { rules } else { "" };
        format!(
            r#"{{"GroupId": "sg-{letter}", "GroupName": "{letter}", "VpcId": "vpc-{letter}", "IpPermissions": [{rules}], "IpPermissionsEgress": []}}"#
        )
    };
    let groups: Vec<String> = letters.chars().map(group).collect();
    format!("{{\"SecurityGroups\": [{}]}}", groups.join(",\n"))
}

/// A rule that refers to a group.
fn refers(letter: char) -> String {
    format!(r#"{{"IpProtocol": "-1", "UserIdGroupPairs": [{{"GroupId": "sg-{letter}"}}]}}"#)
}

/// Interfaces, each `ID VPC ADDRESS GROUP` by its letters.
fn enis(list: &[(&str, &str, &str)]) -> String {
    let eni = |(id, letter, address): &(&str, &str, &str)| {
        let (vpc, group) = letter.split_once('/').unwrap_or((letter, letter));
        let vpc = if vpc == "-" {
            String::new()
        } else {
            format!("vpc-{vpc}")
        };
        format!(
            r#"{{"NetworkInterfaceId": "{id}", "VpcId": "{vpc}", "PrivateIpAddress": "{address}", "Groups": [{{"GroupId": "sg-{group}"}}]}}"#
        )
    };
    let enis: Vec<String> = list.iter().map(eni).collect();
    format!("{{\"NetworkInterfaces\": [\n{}]}}", enis.join(",\n"))
}

fn load(groups: &str, enis: &str, tasks: &str) -> Loaded {
    match read(&[("e.json", enis), ("g.json", groups), ("t.yaml", tasks)]) {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{problems}"),
    }
}

const TASK: &str = "taskgate: v1\ntasks: [{name: t, eni: eni-1, device: v}]\n";

#[test]
fn vpcs_may_overlap() {
    let groups = groups("ab", &[refers('a'), refers('b')].join(","));
    let enis = enis(&[
        ("eni-1", "a", "10.0.0.1"),
        ("eni-2", "b", "10.0.0.1"),
        ("eni-3", "a", "10.0.0.2"),
        ("eni-4", "b", "10.0.0.2"),
    ]);
    // The task may name its ENI, or have all fields itself: its VPC is then its groups' VPC.
    for tasks in [
        TASK,
        "taskgate: v1\ntasks: [{name: t, device: v, addresses: [10.0.0.9], groups: [sg-a]}]\n",
    ] {
        let loaded = load(&groups, &enis, tasks);
        assert_eq!(lines(&loaded.warnings), "", "{tasks}");
        let gate = loaded.model.gated().next().expect("a task");
        assert_eq!(gate.vpc.as_deref(), Some("vpc-a"));
        let member = |group| {
            loaded
                .model
                .is_member(gate, "10.0.0.2".parse().expect("an address"), group)
        };
        assert_eq!(
            [0, 1].map(|group| member(taskgate_model::GroupIndex(group))),
            [true, false]
        );
    }
}

#[test]
fn what_may_be_someone_elses_is_told() {
    let left_out = |who: &str, address: &str, enis: &str| {
        format!(
            "rules of task `{who}` that refer to groups do not cover {address} which stands in several VPCs: it is {enis}, \
             and which of them is reached from the task is not known; leave out the interfaces of the VPC that the task \
             does not talk to"
        )
    };
    // Two peered VPCs with one address.
    let both = groups("abc", &[refers('b'), refers('c')].join(","));
    let found = load(
        &both,
        &enis(&[
            ("eni-1", "a", "10.0.0.1"),
            ("eni-2", "b", "10.1.0.1"),
            ("eni-3", "c", "10.1.0.1"),
            ("eni-4", "b", "10.1.0.2"),
            ("eni-5", "c", "10.1.0.2"),
        ]),
        TASK,
    );
    let two = left_out(
        "t",
        "2 addresses, `10.1.0.1` first,",
        "`eni-2` in `vpc-b` and `eni-3` in `vpc-c`",
    );
    assert_eq!(lines(&found.warnings), format!("t.yaml:2:9: {two}"));
    // An unrelated VPC does not matter.
    let found = load(
        &groups("abc", &refers('b')),
        &enis(&[
            ("eni-1", "a", "10.0.0.1"),
            ("eni-2", "b", "10.1.0.1"),
            ("eni-3", "c", "10.1.0.1"),
        ]),
        TASK,
    );
    assert_eq!(lines(&found.warnings), "");
    // Tasks of two VPCs on one host: the address of one of them refers to no other ENI.
    let found = load(
        &groups("ab", &refers('a')),
        &enis(&[
            ("eni-1", "a", "10.0.0.1"),
            ("eni-2", "b", "10.0.0.2"),
            ("eni-3", "a", "10.0.0.2"),
        ]),
        "taskgate: v1\ntasks:\n- {name: t, eni: eni-1, device: v}\n- {name: u, eni: eni-2, device: w}\n",
    );
    let one = left_out("t", "`10.0.0.2`", "`u` in `vpc-b` and `eni-3` in `vpc-a`");
    assert_eq!(lines(&found.warnings), format!("t.yaml:3:3: {one}"));
}

#[test]
fn one_address_in_one_vpc_or_of_two_tasks_is_refused() {
    let known = groups("ab", "");
    let file = |list: &[(&str, &str, &str)]| enis(list);
    let same = file(&[("eni-1", "a", "10.0.0.1"), ("eni-2", "a/b", "10.0.0.1")]);
    let unknown = file(&[("eni-1", "b", "10.0.0.1"), ("eni-2", "a", "10.0.0.1")]);
    let gated = file(&[("eni-1", "a", "10.0.0.1"), ("eni-2", "b", "10.0.0.1")]);
    let own =
        "taskgate: v1\ngroups: [{name: own}]\ntasks: [{name: t, device: v, addresses: [10.0.0.1], groups: [own]}]\n";
    let two = "taskgate: v1\ntasks:\n- {name: t, eni: eni-1, device: v}\n- {name: u, eni: eni-2, device: w}\n";
    refused(&[
        (
            "other groups in one VPC",
            &[("e.json", &same), ("g.json", &known)],
            "e.json:3:1: address `10.0.0.1` of `eni-2` is also that of `eni-1` at e.json:2:1, with different groups; an address belongs to one ENI of a VPC: take it away from the other",
        ),
        (
            "a task whose VPC is not known",
            &[("e.json", &unknown), ("g.json", &known), ("t.yaml", own)],
            "e.json:2:1: address `10.0.0.1` of `eni-1` is also that of task `t` at t.yaml:3:9, with different groups; if task `t` is that ENI, write `eni: eni-1` in the task; if it is not in `vpc-b`, write the `eni` that it is, or leave out the interfaces of `vpc-b`\n\
             e.json:3:1: address `10.0.0.1` of `eni-2` is also that of task `t` at t.yaml:3:9, with different groups; if task `t` is that ENI, write `eni: eni-2` in the task; if it is not in `vpc-a`, write the `eni` that it is, or leave out the interfaces of `vpc-a`",
        ),
        (
            "two tasks of two VPCs",
            &[("e.json", &gated), ("g.json", &known), ("t.yaml", two)],
            "t.yaml:4:3: address `10.0.0.1` of task `u` is also that of task `t` at t.yaml:3:3; give each gated task addresses of its own",
        ),
    ]);
    let many: Vec<String> = (0..66)
        .map(|vpc| {
            format!(r#"{{"NetworkInterfaceId": "eni-{vpc}", "VpcId": "vpc-{vpc}", "PrivateIpAddress": "10.0.0.1"}}"#)
        })
        .collect();
    let many = format!("{{\"NetworkInterfaces\": [{}]}}", many.join(",\n"));
    refused(&[(
        "an address in too many VPCs",
        &[("e.json", &many)],
        "e.json:65:1: address `10.0.0.1` stands in more than 64 VPCs; leave out the VPCs that no task here needs\n\
         e.json:66:1: address `10.0.0.1` stands in more than 64 VPCs; leave out the VPCs that no task here needs",
    )]);
}

#[test]
fn what_aws_keeps_is_kept_in_the_vpcs_of_the_tasks() {
    let networks = r#"{"Vpcs": [{"VpcId": "vpc-a", "CidrBlock": "10.0.0.0/16"}, {"VpcId": "vpc-b", "CidrBlock": "10.1.0.0/16"}],
        "Subnets": [{"SubnetId": "subnet-a", "VpcId": "vpc-a", "CidrBlock": "10.0.3.0/24"},
        {"SubnetId": "subnet-b", "VpcId": "vpc-b", "CidrBlock": "10.0.0.0/24"}]}"#;
    let groups = groups("ab", "");
    let reserved = |enis: &str, tasks: &str| {
        let files = [
            ("e.json", enis),
            ("g.json", &groups),
            ("n.json", networks),
            ("t.yaml", tasks),
        ];
        let loaded = read(&files).expect("a configuration");
        let shown: Vec<String> = loaded.model.reserved.iter().map(ToString::to_string).collect();
        (shown.join(" "), lines(&loaded.warnings))
    };
    let of_a = enis(&[("eni-1", "a", "10.0.0.9"), ("eni-2", "b", "10.0.0.2")]);
    assert_eq!(
        reserved(&of_a, TASK),
        (String::from("10.0.0.2 10.0.3.1"), String::new())
    );
    assert_eq!(
        reserved(&of_a, "taskgate: v1\n"),
        (
            String::from("10.0.0.1 10.0.3.1 10.1.0.2"),
            String::from(
                "n.json:1:11: `10.0.0.2`, which AWS keeps in VPC `vpc-a`, is an address of `eni-2`, so rules decide about it; \
                 right where VPCs overlap; else put the address of the ENI right"
            )
        )
    );
}
