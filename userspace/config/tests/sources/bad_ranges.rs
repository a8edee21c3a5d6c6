//! AWS ENIs, prefix lists and networks that are refused.

use crate::support::{refused, refused_in};

/// Two groups, and interfaces.
const INTERFACES: &str = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [], "IpPermissionsEgress": []}, {"GroupId": "sg-2", "GroupName": "db", "IpPermissions": [], "IpPermissionsEgress": []}],
 "NetworkInterfaces": [
@]}"#;

#[test]
fn enis_prefix_lists_and_networks() {
    refused_in(
        "e.json",
        INTERFACES,
        &[
            (
                "an ENI without an id",
                r#"{"PrivateIpAddress": "10.0.0.1"}"#,
                "e.json:3:1: a network interface has no `NetworkInterfaceId`; keep the AWS CLI's output as it was printed",
            ),
            (
                "a bad address",
                r#"{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.1.1"}"#,
                "e.json:3:53: `10.0.0.1.1` is no address; write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length",
            ),
            (
                "a bad IPv6 address",
                r#"{"NetworkInterfaceId": "eni-1", "Ipv6Addresses": [{"Ipv6Address": "2001:db8::/64"}]}"#,
                "e.json:3:67: `2001:db8::/64` is no address; write one such as `10.0.1.15` or `2001:db8::15`, without a prefix length",
            ),
            (
                "a group without an id",
                r#"{"NetworkInterfaceId": "eni-1", "Groups": [{"GroupName": "web"}]}"#,
                "e.json:3:44: a group has no `GroupId`; keep the AWS CLI's output as it was printed",
            ),
            (
                "an ENI twice",
                r#"{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.1"},
{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.2"}"#,
                "e.json:4:1: ENI `eni-1` differs from the one at e.json:3:1; keep one of them",
            ),
            (
                "an address of two ENIs with different groups",
                r#"{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.1", "Groups": [{"GroupId": "sg-1"}]},
{"NetworkInterfaceId": "eni-2", "PrivateIpAddress": "10.0.0.1", "Groups": [{"GroupId": "sg-2"}]}"#,
                "e.json:4:1: address `10.0.0.1` of `eni-2` is also that of `eni-1` at e.json:3:1, with different groups; an address belongs to one ENI of a VPC: take it away from the other",
            ),
        ],
    );
    refused(&[
        (
            "a list without an id",
            &[("l.json", r#"{"PrefixLists": [{"PrefixListName": "corp"}]}"#)],
            "l.json:1:18: a prefix list has no `PrefixListId`; keep the AWS CLI's output as it was printed",
        ),
        (
            "a bad greatest size",
            &[(
                "l.json",
                r#"{"PrefixLists": [{"PrefixListId": "pl-1", "MaxEntries": "many"}]}"#,
            )],
            "l.json:1:57: `MaxEntries` is `many`; write a whole number from 0 to 4294967295",
        ),
        (
            "entries of no list",
            &[("entries.json", r#"{"Entries": [{"Cidr": "10.0.0.0/8"}]}"#)],
            "entries.json:1:13: `Entries` does not say which prefix list it belongs to; name the file after the list: `pl-….json`",
        ),
        (
            "an entry without a CIDR",
            &[("pl-1.json", r#"{"Entries": [{"Description": "?"}]}"#)],
            "pl-1.json:1:14: an entry has no `Cidr`; keep the AWS CLI's output as it was printed",
        ),
        (
            "a bad entry",
            &[("pl-1.json", r#"{"Entries": [{"Cidr": "10.0.0.0/40"}]}"#)],
            "pl-1.json:1:23: `10.0.0.0/40` has the prefix length `40`; IPv4 prefix lengths go from 0 to 32",
        ),
        (
            "a list twice",
            &[(
                "l.json",
                r#"{"PrefixLists": [{"PrefixListId": "pl-1", "PrefixListName": "corp"},
 {"PrefixListId": "pl-1", "PrefixListName": "dorp"}]}"#,
            )],
            "l.json:2:2: prefix list `dorp` (pl-1) differs from the one at l.json:1:18; keep one of them",
        ),
        (
            "a VPC without an id",
            &[("v.json", r#"{"Vpcs": [{"CidrBlock": "10.0.0.0/16"}]}"#)],
            "v.json:1:11: a VPC has no `VpcId`; keep the AWS CLI's output as it was printed",
        ),
        (
            "a bad VPC CIDR",
            &[(
                "v.json",
                r#"{"Vpcs": [{"VpcId": "vpc-1", "CidrBlock": "10.0.0.0-10.0.255.255"}]}"#,
            )],
            "v.json:1:43: `10.0.0.0-10.0.255.255` is no address and no CIDR; write one such as `10.1.2.3`, `10.0.0.0/8` or `2001:db8::/32`",
        ),
        (
            "an IPv4 block among IPv6",
            &[(
                "s.json",
                r#"{"Subnets": [{"SubnetId": "subnet-1", "Ipv6CidrBlockAssociationSet": [{"Ipv6CidrBlock": "10.0.0.0/24"}]}]}"#,
            )],
            "s.json:1:89: `Ipv6CidrBlock` is `10.0.0.0/24`; an IPv6 CIDR belongs there",
        ),
        (
            "a subnet twice",
            &[(
                "s.json",
                r#"{"Subnets": [{"SubnetId": "subnet-1", "CidrBlock": "10.0.0.0/24"},
 {"SubnetId": "subnet-1", "CidrBlock": "10.0.1.0/24"}]}"#,
            )],
            "s.json:2:2: subnet `subnet-1` differs from the one at s.json:1:14; keep one of them",
        ),
    ]);
}
