//! Tasks and members that are refused.

use crate::support::{V1, refused, refused_in};

/// Two groups, and an interface with groups.
const INTERFACE: &str = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [], "IpPermissionsEgress": []}, {"GroupId": "sg-2", "GroupName": "db", "IpPermissions": [], "IpPermissionsEgress": []}],
 "NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.1", "Groups": [@]}]}"#;

/// Two groups, and tasks.
const TASKS: &str = "taskgate: v1\ngroups: [{name: web}, {name: db}]\ntasks:\n  - @\n";

#[test]
fn tasks_and_members() {
    refused_in(
        "t.yaml",
        TASKS,
        &[
            (
                "no name",
                "{device: v0, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:5: a task has no `name`; give it a name",
            ),
            (
                "a name with a blank",
                "{name: web 1, device: v0, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:12: `web 1` cannot be a task's name; write 1 to 64 letters, digits, `-`, `_` and `.`",
            ),
            (
                "a name that reads as an ENI id",
                "{name: eni-1, device: v0, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:12: the name `eni-1` reads as an ENI id or an address; write 1 to 64 letters, digits, `-`, `_` and `.`",
            ),
            (
                "a name that is an address",
                "{name: 10.0.0.1, device: v0, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:12: the name `10.0.0.1` reads as an ENI id or an address; write 1 to 64 letters, digits, `-`, `_` and `.`",
            ),
            (
                "bound to nothing",
                "{name: a, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:5: the task is bound to nothing on this host; give it exactly one of `device`, `namespace` or `vlan`",
            ),
            (
                "bound twice",
                "{name: a, device: v0, namespace: n, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:5: the task is bound by `device` and `namespace`; give it exactly one of `device`, `namespace` or `vlan`",
            ),
            (
                "a link name too long",
                "{name: a, device: tg-a-very-long-1, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:23: `tg-a-very-long-1` cannot be a link's name; a link's name has 1 to 15 bytes, no space, no `/` and no `:`",
            ),
            (
                "a namespace that is a path",
                "{name: a, namespace: /run/netns/a, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:26: `/run/netns/a` cannot be a namespace's name; it is the name of a file in `/run/netns`: 1 to 255 bytes, no `/`",
            ),
            (
                "a VLAN without a trunk",
                "{name: a, vlan: 101, mac: '0a:00:00:00:00:01', addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:5: task `a` has a `vlan`, and there is no trunk uplink; bind it by `device` or `namespace`, or add `uplink` with `mode: trunk`",
            ),
            (
                "a VLAN id too big and a bad MAC",
                "{name: a, vlan: 4095, mac: '01:00:00:00:00:01', addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:21: `vlan` is `4095`; write a whole number from 1 to 4094\nt.yaml:4:32: `01:00:00:00:00:01` is no link's MAC address; write six bytes such as `0a:1b:2c:3d:4e:5f`, no multicast address",
            ),
            (
                "a MAC without a VLAN",
                "{name: a, device: v0, mac: '0a:00:00:00:00:01', addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:27: `mac` does not go with `device`; leave it out: only a `vlan` task has one",
            ),
            (
                "an unknown key",
                "{name: a, device: v0, address: 10.0.0.1, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:27: a task has no key `address`; its keys are `name`, `eni`, `device`, `namespace`, `vlan`, `mac`, `addresses`, `groups`, `source-dest-check` and `ecs`",
            ),
            (
                "no addresses and no groups",
                "{name: a, device: v0}",
                "t.yaml:4:5: task `a` has no `addresses`; write them, at least one\nt.yaml:4:5: task `a` has no `groups`; write them, at least one",
            ),
            (
                "empty addresses and groups",
                "{name: a, device: v0, addresses: [], groups: []}",
                "t.yaml:4:38: `addresses` is empty; write at least one address\nt.yaml:4:50: `groups` is empty; name at least one group",
            ),
            (
                "an address with a prefix length",
                "{name: a, device: v0, addresses: [10.0.0.1/24], groups: [web]}",
                "t.yaml:4:39: `10.0.0.1/24` is no address; write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length",
            ),
            (
                "addresses that no ENI has",
                "{name: a, device: v0, addresses: [0.0.0.0, 127.0.0.1, 224.0.0.1, 255.255.255.255, 'fe80::1', '::ffff:10.0.0.1'], groups: [web]}",
                "t.yaml:4:39: `0.0.0.0` is the unspecified address; write an address that an ENI can have\nt.yaml:4:48: `127.0.0.1` is a loopback address; write an address that an ENI can have\nt.yaml:4:59: `224.0.0.1` is a multicast address; write an address that an ENI can have\nt.yaml:4:70: `255.255.255.255` is the broadcast address; write an address that an ENI can have\nt.yaml:4:87: `fe80::1` is a link-local address, which a task has by itself; write an address that an ENI can have\nt.yaml:4:98: `::ffff:10.0.0.1` is an IPv4 address written as IPv6; write an address that an ENI can have",
            ),
            (
                "an address twice",
                "{name: a, device: v0, addresses: [10.0.0.1, 10.0.0.1], groups: [web]}",
                "t.yaml:4:49: the address `10.0.0.1` stands twice; keep one of them",
            ),
            (
                "an unknown group",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: [web, wbe]}",
                "t.yaml:4:64: there is no security group named `wbe`; known are `web`, `db`",
            ),
            (
                "groups that are a word",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: web}",
                "t.yaml:4:58: `groups` should be a list and is a single value; write `[…]` around it",
            ),
            (
                "a check that is a word",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: [web], source-dest-check: off}",
                "t.yaml:4:84: `source-dest-check` is `off`; write `true` or `false`",
            ),
            (
                "an unknown ECS field",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: [web], ecs: {cluster: c}}",
                "t.yaml:4:71: `ecs` has no key `cluster`; its keys are `cluster-name`, `cluster-arn`, `service-name`, `task-arn`, `task-id`, `task-definition-arn`, `container-instance-arn`, `container-instance-id`, `container-id` and `second-container-id`",
            ),
            (
                "a bad ENI id",
                "{name: a, eni: 10.0.0.1, device: v0, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:4:20: `10.0.0.1` is no id; write `eni-` and lower-case letters or digits, such as `eni-0a1b2c3d4e5f60718`",
            ),
            (
                "an ENI that no file holds",
                "{name: a, eni: eni-7, device: v0, groups: [web]}",
                "t.yaml:4:5: task `a` has no `addresses`, and no `NetworkInterfaces` file holds `eni-7`; write them, or add the output of `aws ec2 describe-network-interfaces`",
            ),
            (
                "two tasks of one name",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: [web]}\n  - {name: A, device: v1, addresses: [10.0.0.2], groups: [web]}",
                "t.yaml:5:5: task `A` differs from the one at t.yaml:4:5; keep one of them",
            ),
            (
                "two tasks on one device",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: [web]}\n  - {name: b, device: v0, addresses: [10.0.0.2], groups: [web]}",
                "t.yaml:5:5: device `v0` of task `b` is also that of task `a` at t.yaml:4:5; give each task its own",
            ),
            (
                "two tasks in one namespace",
                "{name: a, namespace: n, addresses: [10.0.0.1], groups: [web]}\n  - {name: b, namespace: n, addresses: [10.0.0.2], groups: [web]}",
                "t.yaml:5:5: namespace `n` of task `b` is also that of task `a` at t.yaml:4:5; give each task its own",
            ),
            (
                "two tasks of one ENI",
                "{name: a, eni: eni-1, device: v0, addresses: [10.0.0.1], groups: [web]}\n  - {name: b, eni: eni-1, device: v1, addresses: [10.0.0.2], groups: [web]}",
                "t.yaml:5:5: ENI `eni-1` of task `b` is also that of task `a` at t.yaml:4:5; give each task its own",
            ),
            (
                "two tasks of one address",
                "{name: a, device: v0, addresses: [10.0.0.1], groups: [web]}\n  - {name: b, device: v1, addresses: [10.0.0.1], groups: [web]}",
                "t.yaml:5:5: address `10.0.0.1` of task `b` is also that of task `a` at t.yaml:4:5; give each gated task addresses of its own",
            ),
        ],
    );
    refused_in(
        "t.yaml",
        V1,
        &[
            (
                "a VLAN where the uplink is routed",
                "groups: [{name: web}, {name: db}]\nuplink: {device: eth1, mode: routed}\ntasks: [{name: a, vlan: 101, mac: 0a:00:00:00:00:01, addresses: [10.0.0.1], groups: [web]}]\n",
                "t.yaml:4:9: task `a` has a `vlan`, and there is no trunk uplink; bind it by `device` or `namespace`, or add `uplink` with `mode: trunk`",
            ),
            (
                "a VLAN on an uplink that cannot be read",
                "groups: [{name: web}, {name: db}]\nuplink: {device: eth1, mode: tagged}\ntasks: [{name: a, vlan: 101, mac: 0a:00:00:00:00:01, addresses: [10.0.0.1], groups: [web]}]\n",
                "t.yaml:3:30: `mode` is `tagged`; write `routed` or `trunk`",
            ),
            (
                "a VLAN without its MAC address",
                "groups: [{name: web}, {name: db}]\nuplink: {device: eth1, mode: trunk}\ntasks:\n  - {name: a, vlan: 101, addresses: [10.0.0.1], groups: [web]}\n",
                "t.yaml:5:5: a task has no `mac`; write the branch's MAC address as `mac`",
            ),
            (
                "two tasks on one VLAN",
                "groups: [{name: web}, {name: db}]\nuplink: {device: eth1, mode: trunk}\ntasks:\n  - {name: a, vlan: 101, mac: 0a:00:00:00:00:01, addresses: [10.0.0.1], groups: [web]}\n  - {name: b, vlan: 101, mac: 0a:00:00:00:00:02, addresses: [10.0.0.2], groups: [web]}\n",
                "t.yaml:6:5: VLAN `101` of task `b` is also that of task `a` at t.yaml:5:5; give each task its own",
            ),
            (
                "one address on two VLANs",
                "groups: [{name: web}, {name: db}]\nuplink: {device: eth1, mode: trunk}\ntasks:\n  - {name: a, vlan: 101, mac: 0a:00:00:00:00:01, addresses: [10.0.0.1], groups: [web]}\n  - {name: b, vlan: 102, mac: 0a:00:00:00:00:01, addresses: [10.0.0.1], groups: [web]}\n",
                "t.yaml:6:5: address `10.0.0.1` of task `b` is also that of task `a` at t.yaml:5:5; give each gated task addresses of its own",
            ),
            (
                "a task on the uplink",
                "groups: [{name: web}, {name: db}]\nuplink: {device: eth1, mode: routed}\ntasks:\n  - {name: a, device: eth1, addresses: [10.0.0.1], groups: [web]}\n",
                "t.yaml:5:5: device `eth1` of task `a` is also the uplink; name the host's end of the task's own link, or give it a `vlan` on a trunk",
            ),
            (
                "a member with a task's address and other groups",
                "groups: [{name: web}, {name: db}]\ntasks: [{name: a, device: v0, addresses: [10.0.0.1], groups: [web]}]\nmembers: [{address: 10.0.0.1, groups: [db]}]\n",
                "t.yaml:4:11: address `10.0.0.1` of a member is also that of task `a` at t.yaml:3:9, with different groups; an address belongs to one ENI of a VPC: take it away from the other",
            ),
            (
                "members",
                "groups: [{name: web}, {name: db}]\nmembers: [{groups: [db]}, {address: 10.0.0.1}, {address: 10.0.0.2, groups: []}, {address: x, groups: [db], name: y}]\n",
                "t.yaml:3:11: a member has no `address`; write its address\nt.yaml:3:27: a member has no `groups`; name at least one group\nt.yaml:3:76: `groups` is empty; name at least one group\nt.yaml:3:91: `x` is no address; write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length\nt.yaml:3:108: a member has no key `name`; its keys are `address` and `groups`",
            ),
            (
                "a member twice",
                "groups: [{name: web}, {name: db}]\nmembers:\n- {address: 10.0.0.1, groups: [db]}\n- {address: 10.0.0.1, groups: [web]}\n",
                "t.yaml:5:3: member `10.0.0.1` differs from the one at t.yaml:4:3; keep one of them",
            ),
            (
                "seventeen groups",
                "groups: [{name: g0}, {name: g1}, {name: g2}, {name: g3}, {name: g4}, {name: g5}, {name: g6}, {name: g7}, {name: g8}, {name: g9}, {name: g10}, {name: g11}, {name: g12}, {name: g13}, {name: g14}, {name: g15}, {name: g16}]\ntasks: [{name: a, device: v0, addresses: [10.0.0.1], groups: [g0, g1, g2, g3, g4, g5, g6, g7, g8, g9, g10, g11, g12, g13, g14, g15, g16]}]\n",
                "t.yaml:3:9: `a` has 17 groups; an ENI has at most 16",
            ),
        ],
    );
    refused(&[(
        "a MAC that is not the network interface's",
        &[
            (
                "e.json",
                r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "eni-0a1", "MacAddress": "0A:00:00:00:00:01", "PrivateIpAddress": "10.0.0.1", "Groups": [{"GroupId": "sg-0a1"}]}]}"#,
            ),
            (
                "t.yaml",
                "taskgate: v1\ngroups: [{name: web, id: sg-0a1}]\nuplink: {device: eth1, mode: trunk}\ntasks:\n  - {name: a, eni: eni-0a1, vlan: 101, mac: 0a:00:00:00:00:02}\n  - {name: b, vlan: 102, mac: 0a:00:00:00:00:01, addresses: [10.0.0.2], groups: [web]}\n",
            ),
        ],
        "t.yaml:5:5: `mac` of task `a` differs from that of `eni-0a1` at e.json:1:24, which is `0a:00:00:00:00:01`; write that one, or the `eni` that the task has",
    )]);
}

#[test]
fn tasks_of_known_enis() {
    for (what, groups, task, expected) in [
        (
            "addresses that differ",
            r#"{"GroupId": "sg-1"}"#,
            "{name: a, eni: eni-1, device: v0, addresses: [10.0.0.2]}",
            "t.yaml:3:5: `addresses` of task `a` differs from that of `eni-1` at aws.json:2:24; leave it out of the task: it is taken from there",
        ),
        (
            "groups that differ",
            r#"{"GroupId": "sg-1"}"#,
            "{name: a, eni: eni-1, device: v0, groups: [web, db]}",
            "t.yaml:3:5: `groups` of task `a` differs from that of `eni-1` at aws.json:2:24; leave it out of the task: it is taken from there",
        ),
        (
            "a check that differs",
            r#"{"GroupId": "sg-1"}"#,
            "{name: a, eni: eni-1, device: v0, source-dest-check: false}",
            "t.yaml:3:5: `source-dest-check` of task `a` differs from that of `eni-1` at aws.json:2:24; leave it out of the task: it is taken from there",
        ),
        (
            "an ENI without groups",
            "",
            "{name: a, eni: eni-1, device: v0}",
            "t.yaml:3:5: `eni-1` of task `a` has no group at aws.json:2:24; a gated ENI has at least one",
        ),
        (
            "an ENI with an unknown group",
            r#"{"GroupId": "sg-9"}"#,
            "{name: a, eni: eni-1, device: v0}",
            "aws.json:2:99: no file holds the rules of security group `sg-9`; add the output of `aws ec2 describe-security-groups` that holds it",
        ),
        (
            "the task does not say that it is the ENI",
            r#"{"GroupId": "sg-1"}"#,
            "{name: a, device: v0, addresses: [10.0.0.1], groups: [db]}",
            "aws.json:2:24: address `10.0.0.1` of `eni-1` is also that of task `a` at t.yaml:3:5, with different groups; if task `a` is that ENI, write `eni: eni-1` in the task",
        ),
    ] {
        let aws = INTERFACE.replace('@', groups);
        let native = format!("taskgate: v1\ntasks:\n  - {task}\n");
        refused(&[(what, &[("aws.json", &aws), ("t.yaml", &native)], expected)]);
    }
    refused(&[(
        "a list whose entries are not known",
        &[
            (
                "g.json",
                r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [
{"IpProtocol": "-1", "PrefixListIds": [{"PrefixListId": "pl-1"}]}], "IpPermissionsEgress": []}]}"#,
            ),
            (
                "t.yaml",
                "taskgate: v1\ntasks: [{name: a, device: v0, addresses: [10.0.0.1], groups: [web]}]\n",
            ),
        ],
        "g.json:2:40: the entries of prefix list `pl-1` are not known, and task `a` uses it; save the output of `aws ec2 get-managed-prefix-list-entries --prefix-list-id pl-1` as `pl-1.json`",
    )]);
}
