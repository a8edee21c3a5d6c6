//! AWS groups and rules that are refused: the AWS CLI never prints them, but files get edited and mixed up.

use crate::support::{refused, refused_in};

/// A group with one permission.
const PERMISSION: &str = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web",
 "IpPermissions": [@], "IpPermissionsEgress": []}]}"#;

/// One rule of a group.
const RULE: &str = r#"{"SecurityGroupRules": [
 {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", @}]}"#;

#[test]
fn security_groups() {
    refused_in(
        "g.json",
        PERMISSION,
        &[
            (
                "no protocol",
                r#"{"IpRanges": [{"CidrIp": "10.0.0.0/8"}]}"#,
                "g.json:2:20: a permission has no `IpProtocol`; keep the AWS CLI's output as it was printed",
            ),
            (
                "an unknown protocol",
                r#"{"IpProtocol": "http", "IpRanges": []}"#,
                "g.json:2:35: `http` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, `-1` or a number from 0 to 255",
            ),
            (
                "a protocol's name that AWS does not print",
                r#"{"IpProtocol": "esp", "IpRanges": []}"#,
                "g.json:2:35: `esp` is no protocol; write `tcp`, `udp`, `icmp`, `icmpv6`, `-1` or a number from 0 to 255",
            ),
            (
                "TCP without ports",
                r#"{"IpProtocol": "tcp", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}"#,
                "g.json:2:35: a tcp rule has no ports; write `FromPort` and `ToPort`, 0 and 65535 for every port",
            ),
            (
                "TCP with ports of -1",
                r#"{"IpProtocol": "tcp", "FromPort": -1, "ToPort": -1}"#,
                "g.json:2:54: a tcp rule has no ports; write `FromPort` and `ToPort`, 0 and 65535 for every port",
            ),
            (
                "ports that go down",
                r#"{"IpProtocol": "udp", "FromPort": 90, "ToPort": 80}"#,
                "g.json:2:54: the ports go from 90 down to 80; write the lower one as `FromPort`",
            ),
            (
                "a port too big",
                r#"{"IpProtocol": "tcp", "FromPort": 80, "ToPort": 70000}"#,
                "g.json:2:68: `ToPort` is `70000`; write a whole number from -1 to 65535",
            ),
            (
                "a port that is a word",
                r#"{"IpProtocol": "tcp", "FromPort": "http", "ToPort": 80}"#,
                "g.json:2:54: `FromPort` is `http`; write a whole number from -1 to 65535",
            ),
            (
                "an ICMP code of every type",
                r#"{"IpProtocol": "icmp", "FromPort": -1, "ToPort": 4}"#,
                "g.json:2:55: an icmp rule has code 4 of every type; write the type as `FromPort` and the code as `ToPort`, each 0 to 255, or -1 for every one",
            ),
            (
                "an ICMP type too big",
                r#"{"IpProtocol": "icmp", "FromPort": 300, "ToPort": -1}"#,
                "g.json:2:55: an icmp rule has type 300 and code -1; write the type as `FromPort` and the code as `ToPort`, each 0 to 255, or -1 for every one",
            ),
            (
                "ICMP without a type",
                r#"{"IpProtocol": "icmp"}"#,
                "g.json:2:35: an icmp rule has no type and code; write the type as `FromPort` and the code as `ToPort`, each 0 to 255, or -1 for every one",
            ),
            (
                "an IPv6 CIDR among IPv4",
                r#"{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "::/0"}]}"#,
                "g.json:2:65: `CidrIp` is `::/0`; an IPv4 CIDR belongs there",
            ),
            (
                "an IPv4 CIDR among IPv6",
                r#"{"IpProtocol": "-1", "Ipv6Ranges": [{"CidrIpv6": "0.0.0.0/0"}]}"#,
                "g.json:2:69: `CidrIpv6` is `0.0.0.0/0`; an IPv6 CIDR belongs there",
            ),
            (
                "a bad CIDR",
                r#"{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8/8"}]}"#,
                "g.json:2:65: `10.0.0.0/8/8` has the prefix length `8/8`; IPv4 prefix lengths go from 0 to 32",
            ),
            (
                "a range without a CIDR",
                r#"{"IpProtocol": "-1", "IpRanges": [{"Description": "?"}]}"#,
                "g.json:2:54: an IP range has no `CidrIp`; keep the AWS CLI's output as it was printed",
            ),
            (
                "a pair without a group",
                r#"{"IpProtocol": "-1", "UserIdGroupPairs": [{"UserId": "1"}]}"#,
                "g.json:2:62: a group has no `GroupId`; keep the AWS CLI's output as it was printed",
            ),
            (
                "ranges that are a word",
                r#"{"IpProtocol": "-1", "IpRanges": "0.0.0.0/0"}"#,
                "g.json:2:53: `IpRanges` should be a list and is a single value; write `[…]` around it",
            ),
        ],
    );
    refused(&[
        (
            "no id",
            &[("g.json", r#"{"SecurityGroups": [{"GroupName": "web"}]}"#)],
            "g.json:1:21: a security group has no `GroupId`; keep the AWS CLI's output as it was printed",
        ),
        (
            "no name",
            &[("g.json", r#"{"SecurityGroups": [{"GroupId": "sg-1"}]}"#)],
            "g.json:1:21: a security group has no `GroupName`; keep the AWS CLI's output as it was printed",
        ),
        (
            "a list of ids",
            &[("g.json", r#"{"SecurityGroups": ["sg-1"]}"#)],
            "g.json:1:21: a security group should be an object and is a single value; write keys and values",
        ),
        (
            "an object in place of the list",
            &[("g.json", r#"{"SecurityGroups": {"GroupId": "sg-1"}}"#)],
            "g.json:1:20: `SecurityGroups` should be a list and is an object; write `[…]` around it",
        ),
        (
            "the same group with other rules",
            &[
                (
                    "a.json",
                    r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web",
 "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}], "IpPermissionsEgress": []}]}"#,
                ),
                (
                    "b.json",
                    r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web",
 "IpPermissions": [{"IpProtocol": "-1", "IpRanges": [{"CidrIp": "11.0.0.0/8"}]}], "IpPermissionsEgress": []}]}"#,
                ),
            ],
            "b.json:1:21: security group `web` (sg-1) differs from the one at a.json:1:21; keep one of them",
        ),
    ]);
}

#[test]
fn security_group_rules() {
    refused_in(
        "r.json",
        RULE,
        &[
            (
                "no direction",
                r#""IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8""#,
                "r.json:2:2: a security group rule has no `IsEgress`; keep the AWS CLI's output as it was printed",
            ),
            (
                "a direction that is a word",
                r#""IsEgress": "no", "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8""#,
                "r.json:2:66: `IsEgress` is `no`; write `true` or `false`",
            ),
            (
                "no peer",
                r#""IsEgress": false, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "Description": "?""#,
                "r.json:2:2: the rule has no peer; a rule has exactly one of `CidrIpv4`, `CidrIpv6`, `PrefixListId` and `ReferencedGroupInfo`",
            ),
            (
                "two peers",
                r#""IsEgress": false, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8", "PrefixListId": "pl-1""#,
                "r.json:2:2: the rule has several peers: `CidrIpv4` and `PrefixListId`; a rule has exactly one of `CidrIpv4`, `CidrIpv6`, `PrefixListId` and `ReferencedGroupInfo`",
            ),
            (
                "a group without an id",
                r#""IsEgress": false, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "ReferencedGroupInfo": {"UserId": "1"}"#,
                "r.json:2:149: `ReferencedGroupInfo` has no `GroupId`; keep the AWS CLI's output as it was printed",
            ),
            (
                "the same id with another peer",
                r#""IsEgress": true, "IpProtocol": "-1", "CidrIpv4": "10.0.0.0/8"},
 {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": true, "IpProtocol": "-1", "CidrIpv4": "11.0.0.0/8""#,
                "r.json:3:2: security group rule `sgr-1` differs from the one at r.json:2:2; keep one of them",
            ),
        ],
    );
    refused(&[
        (
            "no id",
            &[(
                "r.json",
                r#"{"SecurityGroupRules": [
 {"GroupId": "sg-1", "IsEgress": false, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8"}]}"#,
            )],
            "r.json:2:2: a security group rule has no `SecurityGroupRuleId`; keep the AWS CLI's output as it was printed",
        ),
        (
            "a rule that the group has not",
            &[
                (
                    "g.json",
                    r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web",
 "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}], "IpPermissionsEgress": []}]}"#,
                ),
                (
                    "r.json",
                    r#"{"SecurityGroupRules": [
 {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "11.0.0.0/8"}]}"#,
                ),
            ],
            "g.json:2:87: the rule ingress tcp 443 from 10.0.0.0/8 is not among the `SecurityGroupRules` of its group at r.json:2:2; print both again, one right after the other\nr.json:2:2: rule `sgr-1` (ingress tcp 443 from 11.0.0.0/8) is not in group `sg-1` at g.json:1:21; print both again, one right after the other",
        ),
        (
            "a rule that only the group has",
            &[
                (
                    "g.json",
                    r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web",
 "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "IpRanges": [{"CidrIp": "10.0.0.0/8"}]}, {"IpProtocol": "50", "UserIdGroupPairs": [{"GroupId": "sg-1"}]}], "IpPermissionsEgress": []}]}"#,
                ),
                (
                    "r.json",
                    r#"{"SecurityGroupRules": [
 {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "tcp", "FromPort": 443, "ToPort": 443, "CidrIpv4": "10.0.0.0/8"}]}"#,
                ),
            ],
            "g.json:2:157: the rule ingress esp (50) from sg-1 is not among the `SecurityGroupRules` of its group at r.json:2:2; print both again, one right after the other",
        ),
    ]);
}
