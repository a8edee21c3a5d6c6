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
                "t.yaml:2:13: `settings` has no key `timeout`; its keys are `icmp-errors`, `on-rule-removal`, `exempt`, `unlogged`, `timeouts`, `connections`, `denials` and `attach`",
            ),
            (
                "a bad word",
                "settings: { icmp-errors: some, on-rule-removal: drop, attach: xdp }\n",
                "t.yaml:2:26: `icmp-errors` is `some`; write `pmtu`, `all` or `none`\nt.yaml:2:49: `on-rule-removal` is `drop`; write `keep` or `cut`\nt.yaml:2:63: `attach` is `xdp`; write `auto`, `tcx` or `clsact`",
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
                "a destination that is not built, and one that is none",
                "flow-logs:\n  - { destination: otlp, url: 'http://127.0.0.1:4318' }\n  - { destination: syslog }\n",
                "t.yaml:3:20: the destination `otlp` is not built yet; write `stdout`, `file` or `s3`\nt.yaml:4:20: `syslog` is no destination; write `stdout`, `file` or `s3`",
            ),
            (
                "files without a place",
                "flow-logs:\n  - { destination: file }\n  - { destination: file, path: flows.log }\n  - { destination: file, path: /var/log/../flows.log }\n  - { destination: file, path: / }\n",
                "t.yaml:3:5: a flow log has no `path`; write the file's whole path, such as `/var/log/taskgate/flows.log`\nt.yaml:4:32: `flows.log` is no whole path; write the file's whole path, such as `/var/log/taskgate/flows.log`\nt.yaml:5:32: `/var/log/../flows.log` has `..` or control characters in it; write the file's whole path, such as `/var/log/taskgate/flows.log`\nt.yaml:6:32: `/` names no file or folder; write the file's whole path, such as `/var/log/taskgate/flows.log`",
            ),
            (
                "keys of another destination",
                "flow-logs:\n  - { destination: stdout, path: /a }\n  - { destination: file, path: /a, region: local }\n",
                "t.yaml:3:28: a flow log has no key `path`; its keys are `destination`, `format`, `traffic`, `tasks`, `interval` and `nodata`\nt.yaml:4:36: a flow log has no key `region`; its keys are `destination`, `format`, `traffic`, `tasks`, `interval`, `nodata`, `path` and `rotate`",
            ),
            (
                "rotation",
                "flow-logs:\n  - { destination: file, path: /a, rotate: { keep: 3 } }\n  - { destination: file, path: /b, rotate: { size: 100MB, age: 1y, keep: 0 } }\n  - { destination: file, path: /c, rotate: { size: 1KiB, age: 10s } }\n",
                "t.yaml:3:44: `rotate` has neither `size` nor `age`; write `size`, `age` or both, such as `{ size: 100MiB, age: 1d, keep: 7 }`\nt.yaml:4:52: `size` is `100MB`; write one such as `100MiB`, from 4KiB to 1024GiB, with KiB, MiB or GiB\nt.yaml:4:64: `age` is `1y`; write one such as `1d`, from 1m to 3650d, with s, m, h or d\nt.yaml:4:74: `keep` is `0`; write a whole number from 1 to 1000\nt.yaml:5:52: `size` is `1KiB`; write one such as `100MiB`, from 4KiB to 1024GiB, with KiB, MiB or GiB\nt.yaml:5:63: `age` is `10s`; write one such as `1d`, from 1m to 3650d, with s, m, h or d",
            ),
            (
                "folders",
                "flow-logs:\n  - { destination: s3 }\n  - { destination: s3, url: 's3://bucket/a', endpoint: 'http://a', file-format: parquet }\n  - { destination: s3, url: /var/log, region: EU }\n  - { destination: s3, url: 'file://host/a' }\n",
                "t.yaml:3:5: a flow log has no `url`; write `file:///` and the folder's whole path, such as `file:///var/log/taskgate`\nt.yaml:4:29: `s3://bucket/a` is a bucket, which is not built yet; write `file:///` and the folder's whole path, such as `file:///var/log/taskgate`\nt.yaml:4:56: buckets, and with them `endpoint`, are not built yet; leave `endpoint` out, and write `url: file:///…`: a folder\nt.yaml:4:81: the file-format `parquet` is not built yet; write `plain-text`\nt.yaml:5:29: `/var/log` is no folder's URL; write `file:///` and the folder's whole path, such as `file:///var/log/taskgate`\nt.yaml:6:29: `host/a` is no whole path; write `file:///` and the folder's whole path, such as `file:///var/log/taskgate`",
            ),
            (
                "two that write to one place",
                "flow-logs:\n  - { destination: file, path: /a/flows.log, rotate: { age: 1d } }\n  - { destination: file, path: //a/./flows.log, traffic: REJECT }\n  - { destination: file, path: /a/flows.log.1 }\n  - { destination: s3, url: 'file:///a' }\n  - { destination: s3, url: 'file:///a', interval: 10 }\n",
                "t.yaml:4:5: `/a/flows.log` is written by the flow log at t.yaml:3:5 too; give each its own path\nt.yaml:5:5: `/a/flows.log.1` is written by the flow log at t.yaml:3:5 too; give each its own path\nt.yaml:7:5: `/a` is written by the flow log at t.yaml:6:5 too; give each its own path",
            ),
            (
                "tasks of a flow log",
                "flow-logs:\n  - { destination: stdout, tasks: [] }\n  - { destination: stdout, tasks: ['a b'] }\n",
                "t.yaml:3:35: `tasks` is empty; name tasks, or leave it out for all of them\nt.yaml:4:36: `a b` cannot be a task's name; write 1 to 64 letters, digits, `-`, `_` and `.`",
            ),
            (
                "a format with a field that does not exist",
                "flow-logs: [{ destination: stdout, format: '${dstaddr} ${srcadr}' }]\n",
                "t.yaml:2:44: flow records have no field `srcadr`, at character 12 of the format; write `${srcaddr}`",
            ),
            (
                "a format with a field twice",
                "flow-logs: [{ destination: stdout, format: '${dstaddr} ${dstaddr}' }]\n",
                "t.yaml:2:44: `dstaddr` is twice in the format, again at character 12; keep one of them",
            ),
            (
                "a format with literal text",
                "flow-logs: [{ destination: stdout, format: '${dstaddr} srcaddr' }]\n",
                "t.yaml:2:44: `srcaddr` at character 12 of the format is no `${field}`; write `${srcaddr}`",
            ),
            (
                "no destination",
                "flow-logs: [{ traffic: ALL }]\n",
                "t.yaml:2:13: a flow log has no `destination`; write `stdout`, `file` or `s3`",
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
                "metrics for nobody",
                "metrics: {}\n",
                "t.yaml:2:10: `metrics` has no `listen`; write a loopback address and a port: \"127.0.0.1:9477\"",
            ),
            (
                "metrics for everybody",
                "metrics: { listen: '0.0.0.0:9477', port: 1 }\n",
                "t.yaml:2:20: nothing is served on `0.0.0.0:9477`; write a loopback address and a port, as 127.0.0.1:9477 or [::1]:9477: whoever is on this host may read there\nt.yaml:2:36: `metrics` has no key `port`; its keys are `listen`",
            ),
            (
                "metrics without a port",
                "metrics: { listen: localhost }\n",
                "t.yaml:2:20: `localhost` is no address with a port; write a loopback address and a port, as 127.0.0.1:9477 or [::1]:9477: whoever is on this host may read there",
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
