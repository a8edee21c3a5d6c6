//! Native rules that are refused.

use crate::support::{V1, refused_in};

/// A group with one ingress rule.
const INGRESS: &str = "taskgate: v1\ngroups:\n  - name: web\n    ingress:\n      - @\n";

#[test]
fn rules() {
    refused_in(
        "t.yaml",
        INGRESS,
        &[
            (
                "no protocol",
                "{ ports: 80, from: any }",
                "t.yaml:5:9: a rule has no `protocol`; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name or number, or `all`",
            ),
            (
                "unknown protocol",
                "{ protocol: sctpp, from: any }",
                "t.yaml:5:21: `sctpp` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name such as `esp`, `all`, or a number from 0 to 255",
            ),
            (
                "protocol number too big",
                "{ protocol: 256, from: any }",
                "t.yaml:5:21: `256` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name such as `esp`, `all`, or a number from 0 to 255",
            ),
            (
                "no peer",
                "{ protocol: tcp, ports: 80 }",
                "t.yaml:5:9: a rule has no `from`; write `from: any`, or whom it allows",
            ),
            (
                "`to` in ingress",
                "{ protocol: tcp, to: any }",
                "t.yaml:5:26: an ingress rule has no `to`; write `from`",
            ),
            (
                "empty peers",
                "{ protocol: tcp, from: [] }",
                "t.yaml:5:32: `from` is empty; write at least one, or take the rule away",
            ),
            (
                "a peer that is an object",
                "{ protocol: tcp, from: [{group: web}] }",
                "t.yaml:5:33: `from` should be a single value and is an object; write one value",
            ),
            (
                "an unknown peer word",
                "{ protocol: tcp, from: everyone }",
                "t.yaml:5:32: `everyone` is no peer; write `any`, `self`, `group:NAME`, `prefix-list:NAME`, an address or a CIDR",
            ),
            (
                "a peer group without a name",
                "{ protocol: tcp, from: 'group:' }",
                "t.yaml:5:32: `group:` names nothing; write a name or an id after the colon",
            ),
            (
                "an unknown group",
                "{ protocol: tcp, from: group:db }",
                "t.yaml:5:32: there is no security group named `db`; known are `web`",
            ),
            (
                "an unknown group id",
                "{ protocol: tcp, from: group:sg-0dead }",
                "t.yaml:5:32: there is no security group `sg-0dead`; add the file that holds it, or put the id right",
            ),
            (
                "an unknown prefix list",
                "{ protocol: tcp, from: prefix-list:corp }",
                "t.yaml:5:32: there is no prefix list named `corp`; no prefix list is known by a name: write an id",
            ),
            (
                "a bad address",
                "{ protocol: tcp, from: [10.0.0.0/8, 10.0.0.300] }",
                "t.yaml:5:45: `10.0.0.300` is no address and no CIDR; write one such as `10.1.2.3`, `10.0.0.0/8` or `2001:db8::/32`",
            ),
            (
                "an IPv4 prefix length",
                "{ protocol: tcp, from: 10.0.0.0/33 }",
                "t.yaml:5:32: `10.0.0.0/33` has the prefix length `33`; IPv4 prefix lengths go from 0 to 32",
            ),
            (
                "an IPv6 prefix length",
                "{ protocol: tcp, from: '2001:db8::/129' }",
                "t.yaml:5:32: `2001:db8::/129` has the prefix length `129`; IPv6 prefix lengths go from 0 to 128",
            ),
            (
                "a port too big",
                "{ protocol: tcp, ports: 65536, from: any }",
                "t.yaml:5:33: `65536` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
            ),
            (
                "a port that is a word",
                "{ protocol: udp, ports: [53, domain], from: any }",
                "t.yaml:5:38: `domain` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
            ),
            (
                "a negative port",
                "{ protocol: udp, ports: -1, from: any }",
                "t.yaml:5:33: `-1` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
            ),
            (
                "a range that ends first",
                "{ protocol: tcp, ports: 8100-8000, from: any }",
                "t.yaml:5:33: the range `8100-8000` ends before it begins; write `8000-8100`",
            ),
            (
                "an open range",
                "{ protocol: tcp, ports: 8000-, from: any }",
                "t.yaml:5:33: `8000-` is no port and no range of ports; write a port from 0 to 65535, or a range such as `8000-8100`",
            ),
            (
                "no ports in the list",
                "{ protocol: tcp, ports: [], from: any }",
                "t.yaml:5:33: `ports` is empty; write at least one, or take the rule away",
            ),
            (
                "ports of ICMP",
                "{ protocol: icmp, ports: 8, from: any }",
                "t.yaml:5:27: `ports` does not go with `icmp`; write `type` and `code`",
            ),
            (
                "ports of a portless protocol",
                "{ protocol: 50, ports: 8, from: any }",
                "t.yaml:5:25: `ports` does not go with `esp (50)`; leave it out: all of it is allowed",
            ),
            (
                "ports of all",
                "{ protocol: all, ports: 80, from: any }",
                "t.yaml:5:26: `ports` does not go with `all`; leave it out: all of it is allowed",
            ),
            (
                "a type of TCP",
                "{ protocol: tcp, type: 8, from: any }",
                "t.yaml:5:26: `type` does not go with `tcp`; write `ports`",
            ),
            (
                "a code without a type",
                "{ protocol: icmp, code: 0, from: any }",
                "t.yaml:5:33: `code` stands without `type`; write the type, or leave the code out",
            ),
            (
                "an ICMP type too big",
                "{ protocol: icmpv6, type: 256, from: any }",
                "t.yaml:5:35: `type` is `256`; write a whole number from 0 to 255",
            ),
            (
                "an unknown key",
                "{ protocol: tcp, port: 80, from: any }",
                "t.yaml:5:26: a rule has no key `port`; its keys are `protocol`, `ports`, `type`, `code`, `from`, `to` and `description`",
            ),
            (
                "a rule that is a word",
                "allow",
                "t.yaml:5:9: a rule should be an object and is a single value; write keys and values",
            ),
        ],
    );
    refused_in(
        "t.yaml",
        V1,
        &[
            (
                "no egress peer",
                "groups:\n  - name: web\n    egress:\n      - { protocol: tcp, ports: 80 }\n",
                "t.yaml:5:9: a rule has no `to`; write `to: any`, or whom it allows",
            ),
            (
                "`from` in egress",
                "groups:\n  - name: web\n    egress:\n      - { protocol: tcp, from: any }\n",
                "t.yaml:5:26: an egress rule has no `from`; write `to`",
            ),
            (
                "rules that are an object",
                "groups: [{name: web, ingress: {protocol: tcp}}]\n",
                "t.yaml:2:31: `ingress` should be a list and is an object; write `[…]` around it",
            ),
        ],
    );
}
