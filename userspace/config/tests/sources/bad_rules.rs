//! Native rules that are refused.

use crate::support::refused;

#[test]
fn rules() {
    refused(&[
        (
            "no protocol",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { ports: 80, from: any }\n",
            )],
            "t.yaml:5:9: a rule has no `protocol`; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name or number, or `all`",
        ),
        (
            "unknown protocol",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: sctpp, from: any }\n",
            )],
            "t.yaml:5:21: `sctpp` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name such as `esp`, `all`, or a number from 0 to 255",
        ),
        (
            "protocol number too big",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: 256, from: any }\n",
            )],
            "t.yaml:5:21: `256` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name such as `esp`, `all`, or a number from 0 to 255",
        ),
        (
            "no peer",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, ports: 80 }\n",
            )],
            "t.yaml:5:9: a rule has no `from`; write `from: any`, or whom it allows",
        ),
        (
            "no egress peer",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    egress:\n      - { protocol: tcp, ports: 80 }\n",
            )],
            "t.yaml:5:9: a rule has no `to`; write `to: any`, or whom it allows",
        ),
        (
            "`to` in ingress",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, to: any }\n",
            )],
            "t.yaml:5:26: an ingress rule has no `to`; write `from`",
        ),
        (
            "`from` in egress",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    egress:\n      - { protocol: tcp, from: any }\n",
            )],
            "t.yaml:5:26: an egress rule has no `from`; write `to`",
        ),
        (
            "empty peers",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: [] }\n",
            )],
            "t.yaml:5:32: `from` is empty; write at least one, or take the rule away",
        ),
        (
            "a peer that is an object",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: [{group: web}] }\n",
            )],
            "t.yaml:5:33: `from` should be a single value and is an object; write one value",
        ),
        (
            "an unknown peer word",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: everyone }\n",
            )],
            "t.yaml:5:32: `everyone` is no peer; write `any`, `self`, `group:NAME`, `prefix-list:NAME`, an address or a CIDR",
        ),
        (
            "a peer group without a name",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: 'group:' }\n",
            )],
            "t.yaml:5:32: `group:` names nothing; write a name or an id after the colon",
        ),
        (
            "an unknown group",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: group:db }\n",
            )],
            "t.yaml:5:32: there is no security group named `db`; known are `web`",
        ),
        (
            "an unknown group id",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: group:sg-0dead }\n",
            )],
            "t.yaml:5:32: there is no security group `sg-0dead`; add the file that holds it, or put the id right",
        ),
        (
            "an unknown prefix list",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: prefix-list:corp }\n",
            )],
            "t.yaml:5:32: there is no prefix list named `corp`; no prefix list is known by a name: write an id",
        ),
        (
            "a bad address",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: [10.0.0.0/8, 10.0.0.300] }\n",
            )],
            "t.yaml:5:45: `10.0.0.300` is no address and no CIDR; write one such as `10.1.2.3`, `10.0.0.0/8` or `2001:db8::/32`",
        ),
        (
            "an IPv4 prefix length",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: 10.0.0.0/33 }\n",
            )],
            "t.yaml:5:32: `10.0.0.0/33` has the prefix length `33`; IPv4 prefix lengths go from 0 to 32",
        ),
        (
            "an IPv6 prefix length",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, from: '2001:db8::/129' }\n",
            )],
            "t.yaml:5:32: `2001:db8::/129` has the prefix length `129`; IPv6 prefix lengths go from 0 to 128",
        ),
        (
            "a port too big",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, ports: 65536, from: any }\n",
            )],
            "t.yaml:5:33: `65536` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
        ),
        (
            "a port that is a word",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: udp, ports: [53, domain], from: any }\n",
            )],
            "t.yaml:5:38: `domain` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
        ),
        (
            "a negative port",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: udp, ports: -1, from: any }\n",
            )],
            "t.yaml:5:33: `-1` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
        ),
        (
            "a range that ends first",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, ports: 8100-8000, from: any }\n",
            )],
            "t.yaml:5:33: the range `8100-8000` ends before it begins; write `8000-8100`",
        ),
        (
            "an open range",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, ports: 8000-, from: any }\n",
            )],
            "t.yaml:5:33: `8000-` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
        ),
        (
            "no ports in the list",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, ports: [], from: any }\n",
            )],
            "t.yaml:5:33: `ports` is empty; write at least one, or take the rule away",
        ),
        (
            "ports of ICMP",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: icmp, ports: 8, from: any }\n",
            )],
            "t.yaml:5:27: `ports` does not go with `icmp`; write `type` and `code`",
        ),
        (
            "ports of a portless protocol",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: 50, ports: 8, from: any }\n",
            )],
            "t.yaml:5:25: `ports` does not go with `esp (50)`; leave it out: all of it is allowed",
        ),
        (
            "ports of all",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: all, ports: 80, from: any }\n",
            )],
            "t.yaml:5:26: `ports` does not go with `all`; leave it out: all of it is allowed",
        ),
        (
            "a type of TCP",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, type: 8, from: any }\n",
            )],
            "t.yaml:5:26: `type` does not go with `tcp`; write `ports`",
        ),
        (
            "a code without a type",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: icmp, code: 0, from: any }\n",
            )],
            "t.yaml:5:33: `code` stands without `type`; write the type, or leave the code out",
        ),
        (
            "an ICMP type too big",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: icmpv6, type: 256, from: any }\n",
            )],
            "t.yaml:5:35: `type` is `256`; write a whole number from 0 to 255",
        ),
        (
            "an unknown key",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - { protocol: tcp, port: 80, from: any }\n",
            )],
            "t.yaml:5:26: a rule has no key `port`; its keys are `protocol`, `ports`, `type`, `code`, `from`, `to` and `description`",
        ),
        (
            "a rule that is a word",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - allow\n",
            )],
            "t.yaml:5:9: a rule should be an object and is a single value; write keys and values",
        ),
        (
            "rules that are an object",
            &[(
                "t.yaml",
                "taskgate: v1\ngroups: [{name: web, ingress: {protocol: tcp}}]\n",
            )],
            "t.yaml:2:31: `ingress` should be a list and is an object; write `[…]` around it",
        ),
    ]);
}
