//! Native groups, prefix lists and settings that are refused.

use crate::support::{V1, refused, refused_in};

#[test]
fn groups_and_prefix_lists() {
    refused_in(
        "t.yaml",
        V1,
        &[
            (
                "a group without a name",
                "groups:\n  - ingress: []\n",
                "t.yaml:3:5: a group has no `name`; give it a name",
            ),
            (
                "an empty name",
                "groups: [{name: ''}]\n",
                "t.yaml:2:17: the name is empty, too long, or has control characters; write 1 to 255 characters that do not begin with `sg-`",
            ),
            (
                "a name that reads as an id",
                "groups: [{name: SG-web}]\n",
                "t.yaml:2:17: the name `SG-web` reads as an id; write 1 to 255 characters that do not begin with `sg-`",
            ),
            (
                "a bad id",
                "groups: [{name: web, id: web}]\n",
                "t.yaml:2:26: `web` is no id; write `sg-` and lower-case letters or digits, such as `sg-0a1b2c3d4e5f60718`",
            ),
            (
                "an unknown key",
                "groups: [{name: web, rules: []}]\n",
                "t.yaml:2:22: a group has no key `rules`; its keys are `name`, `id`, `ingress` and `egress`",
            ),
            (
                "an ambiguous name",
                "groups: [{name: web}, {name: Web, id: sg-2}, {name: b, ingress: [{protocol: all, from: group:WEB}]}]\n",
                "t.yaml:2:88: `WEB` is the name of several security groups: `sg-65020594ff6180008`, `sg-2`; write the id",
            ),
            (
                "an ambiguous list",
                "prefix-lists: [{name: a, entries: []}, {name: A, entries: []}]\ngroups: [{name: b, ingress: [{protocol: all, from: prefix-list:a}]}]\n",
                "t.yaml:3:52: `a` is the name of several prefix lists: `pl-7eb915bb717165f1b`, `pl-b8151a5c3207b0533`; write the id",
            ),
            (
                "a list without entries",
                "prefix-lists: [{name: corp}]\n",
                "t.yaml:2:16: a prefix list has no `entries`; list its CIDRs, or write `entries: []`",
            ),
            (
                "a bad entry",
                "prefix-lists: [{name: corp, entries: [10.0.0.0/8, any]}]\n",
                "t.yaml:2:51: `any` is no address and no CIDR; write one such as `10.1.2.3`, `10.0.0.0/8` or `2001:db8::/32`",
            ),
            (
                "a list that differs",
                "prefix-lists: [{name: corp, entries: []}, {name: corp, entries: [10.0.0.0/8]}]\n",
                "t.yaml:2:43: prefix list `corp` (pl-c30419d7386028f34) differs from the one at t.yaml:2:16; keep one of them",
            ),
            (
                "groups that are an object",
                "groups: {web: {}}\n",
                "t.yaml:2:9: `groups` should be a list and is an object; write `[…]` around it",
            ),
        ],
    );
    refused(&[(
        "two groups of one name and id",
        &[
            ("a.yaml", "taskgate: v1\ngroups: [{name: web}]\n"),
            ("b.yaml", "taskgate: v1\ngroups: [{name: web, egress: []}]\n"),
        ],
        "b.yaml:2:10: security group `web` (sg-65020594ff6180008) differs from the one at a.yaml:2:10; keep one of them",
    )]);
}

#[test]
fn settings_and_flow_logs() {
    refused_in(
        "t.yaml",
        V1,
        &[
            (
                "an account of eleven digits",
                "account: 12345678901\n",
                "t.yaml:2:10: `12345678901` is no account; write twelve digits, such as `123456789012`",
            ),
            (
                "an unknown setting",
                "settings: { timeout: 5 }\n",
                "t.yaml:2:13: `settings` has no key `timeout`; its keys are `icmp-errors`, `on-rule-removal`, `exempt`, `unlogged`, `timeouts`, `connections` and `denials`",
            ),
            (
                "a bad word",
                "settings: { icmp-errors: some, on-rule-removal: drop }\n",
                "t.yaml:2:26: `icmp-errors` is `some`; write `pmtu`, `all` or `none`\nt.yaml:2:49: `on-rule-removal` is `drop`; write `keep` or `cut`",
            ),
            (
                "a bad address list",
                "settings: { exempt: amazon, unlogged: [169.254.0.0/16] }\n",
                "t.yaml:2:21: `exempt` is `amazon`; write `aws`, `none` or a list of addresses\nt.yaml:2:40: `169.254.0.0/16` is no address; write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length",
            ),
            (
                "an address list that is an object",
                "settings: { exempt: {} }\n",
                "t.yaml:2:21: `exempt` is an object; write `aws`, `none` or a list of addresses",
            ),
            (
                "timeouts out of AWS's ranges",
                "settings:\n  timeouts: { tcp-established: 59, udp: 61, udp-stream: 1h }\n",
                "t.yaml:3:32: `tcp-established` is `59`; write a whole number from 60 to 432000\nt.yaml:3:41: `udp` is `61`; write a whole number from 30 to 60\nt.yaml:3:57: `udp-stream` is `1h`; write a whole number from 60 to 180",
            ),
            (
                "connections",
                "settings: { connections: { total: 10, per-task: some } }\n",
                "t.yaml:2:35: `total` is `10`; write a whole number from 1024 to 16777216\nt.yaml:2:49: `per-task` is `some`; write `none` or a number from 1 to 262144",
            ),
            (
                "more for a task than there are",
                "settings: { connections: { total: 2048, per-task: 4096 } }\n",
                "t.yaml:2:51: `per-task` is `4096`; write `none` or a number from 1 to 2048",
            ),
            (
                "floors and denied flows",
                "settings:\n  connections: { total: 2048, floor: 4096 }\n  denials: { total: 12, floor: none, per-task: 5 }\n",
                "t.yaml:3:38: `floor` is `4096`; write `auto` or a number from 1 to 2048\nt.yaml:4:21: `total` is `12`; write a whole number from 1024 to 16777216\nt.yaml:4:32: `floor` is `none`; write `auto` or a number from 1 to 65536\nt.yaml:4:38: `denials` has no key `per-task`; its keys are `total` and `floor`",
            ),
            (
                "a destination that is not built",
                "flow-logs: [{ destination: file }]\n",
                "t.yaml:2:28: the destination `file` is not built yet; write `stdout`",
            ),
            (
                "a format that is not built",
                "flow-logs: [{ destination: stdout, format: '${srcaddr}' }]\n",
                "t.yaml:2:44: the format `${srcaddr}` is not built yet; write `default`",
            ),
            (
                "no destination",
                "flow-logs: [{ traffic: ALL }]\n",
                "t.yaml:2:13: a flow log has no `destination`; write `destination: stdout`",
            ),
            (
                "a flow log's values",
                "flow-logs: [{ destination: stdout, traffic: accept, interval: 601, nodata: maybe }]\n",
                "t.yaml:2:45: `traffic` is `accept`; write `ALL`, `ACCEPT` or `REJECT`\nt.yaml:2:63: `interval` is `601`; write a whole number from 1 to 600\nt.yaml:2:76: `nodata` is `maybe`; write `true` or `false`",
            ),
            (
                "no flow log in the list",
                "flow-logs: []\n",
                "t.yaml:2:12: `flow-logs` is empty; name a destination, or leave `flow-logs` out for standard output",
            ),
            (
                "half an uplink",
                "uplink: { device: eth1 }\n",
                "t.yaml:2:9: `uplink` has no `mode`; write `routed` or `trunk`",
            ),
            (
                "a bad uplink",
                "uplink: { device: 'eth1:0', mode: bridged, mtu: 1500 }\n",
                "t.yaml:2:19: `eth1:0` cannot be a link's name; a link's name has 1 to 15 bytes, no space, no `/` and no `:`\nt.yaml:2:35: `mode` is `bridged`; write `routed` or `trunk`\nt.yaml:2:44: `uplink` has no key `mtu`; its keys are `device` and `mode`",
            ),
        ],
    );
    refused(&[
        (
            "two accounts",
            &[
                ("a.yaml", "taskgate: v1\naccount: '111111111111'\n"),
                ("b.yaml", "taskgate: v1\naccount: '222222222222'\n"),
            ],
            "b.yaml:2:1: `account` differs from the one at a.yaml:2:1; keep one of them",
        ),
        (
            "settings twice",
            &[
                ("a.yaml", "taskgate: v1\nsettings: {exempt: aws}\n"),
                ("b.yaml", "taskgate: v1\nsettings: {exempt: none}\n"),
            ],
            "b.yaml:2:1: `settings` differs from the one at a.yaml:2:1; keep one of them",
        ),
        (
            "two uplinks",
            &[
                ("a.yaml", "taskgate: v1\nuplink: { device: eth1, mode: trunk }\n"),
                ("b.yaml", "taskgate: v1\nuplink: { device: eth2, mode: trunk }\n"),
            ],
            "b.yaml:2:1: `uplink` differs from the one at a.yaml:2:1; keep one of them",
        ),
    ]);
}
