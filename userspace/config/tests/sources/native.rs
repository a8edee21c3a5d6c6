//! The native form.

use std::net::IpAddr;

use taskgate_config::{derived_id, read};
use taskgate_model::{Binding, Eni, Exempt, IcmpMatch, Ports, Protocol};

use crate::support::{lines, native, shown};

/// A configuration with every key of the native form.
pub(crate) const WHOLE: &str = r#"
taskgate: v1
account: 012345678901
groups:
  - name: web
    ingress:
      - { protocol: tcp, ports: 443, from: any, description: the world }
      - { protocol: TCP, ports: [80, 8000-8100], from: [group:alb, prefix-list:Corp, self, 10.1.2.3] }
      - { protocol: icmp, type: 8, from: [10.9.9.9/8, any] }
      - { protocol: icmpv6, type: 1, code: 3, from: any }
      - { protocol: 50, from: [10.0.0.0/8] }
      - { protocol: 17, from: [2001:db8::1] }
    egress:
      - { protocol: all, to: group:SG-0A1 }
  - { name: alb, id: sg-0a1, ingress: [] }
  - name: closed
    egress: []
prefix-lists:
  - { name: corp, entries: [10.0.0.0/8, 192.168.7.7/16, "2001:db8:1::/48"] }
tasks:
  - name: web-1
    device: tg-web-1
    addresses: [10.0.1.15, 2001:db8:1::15]
    groups: [WEB, sg-0a1, web]
  - name: db-1
    eni: eni-0a1b2c3d4e5f60718
    namespace: db-1
    addresses: ["10.0.1.20"]
    groups: [closed]
    source-dest-check: false
    ecs: { cluster-name: prod, task-id: 0123, service-name: db }
  - name: branch-1
    vlan: 101
    mac: 0A:00:00:00:00:01
    addresses: [10.0.2.15]
    groups: [web]
members:
  - { address: 10.0.7.9, groups: [web] }
  - { address: 10.0.1.20, groups: [closed] }
uplink: { device: eth1, mode: trunk }
metrics: { listen: "[::1]:9477" }
settings:
  icmp-errors: all
  on-rule-removal: cut
  exempt: [169.254.169.254, 10.0.0.2, 10.0.0.2]
  unlogged: none
  timeouts: { tcp-established: 350, udp: 60, udp-stream: 60 }
  connections: { total: 65536, floor: 128, per-task: 4096 }
  denials: { total: 8192, floor: 16 }
  attach: clsact
flow-logs:
  - { destination: stdout, format: default, traffic: REJECT, interval: 1, nodata: true }
  - { destination: stdout }
  - { destination: stdout, interval: 60 }
  - { destination: file, path: /var/log/taskgate/flows.log, rotate: { size: 100MiB, age: 1d, keep: 30 }, tasks: [WEB-1, web-1, later] }
  - { destination: file, path: /var/log/taskgate/denied.log, traffic: REJECT }
  - { destination: s3, url: "file:///srv/records", file-format: plain-text, hive-partitions: true, hourly-partitions: true, region: eu-west-1 }
"#;

#[test]
fn every_key_means_something() {
    insta::assert_snapshot!(shown(&native(WHOLE)));
}

#[test]
fn aliases_stand_for_what_they_name() {
    let written = "taskgate: v1\ngroups:\n\
        - {name: a, ingress: [{protocol: tcp, ports: 1, from: &who [10.0.0.0/8, any]}]}\n\
        - {name: b, ingress: [{protocol: tcp, ports: 2, from: *who}]}\n";
    let long = "taskgate: v1\ngroups:\n\
        - {name: a, ingress: [{protocol: tcp, ports: 1, from: [10.0.0.0/8, any]}]}\n\
        - {name: b, ingress: [{protocol: tcp, ports: 2, from: [10.0.0.0/8, any]}]}\n";
    assert_eq!(native(written), native(long));
}

/// The parsed protocols of one group's rules, and the warnings.
fn protocols(names: &[&str]) -> (Vec<Protocol>, Vec<String>) {
    let rules: Vec<String> = names
        .iter()
        .map(|name| format!("{{protocol: {name}, from: 10.0.0.1}}"))
        .collect();
    let loaded = native(&format!(
        "taskgate: v1\ngroups:\n- {{name: a, ingress: [{}]}}\n",
        rules.join(", ")
    ));
    let understood = loaded.model.groups[0]
        .ingress
        .iter()
        .map(|rule| rule.protocol)
        .collect();
    (understood, loaded.warnings.iter().map(ToString::to_string).collect())
}

#[test]
fn protocols_have_names() {
    let names = [
        "sctp", "esp", "AH", "gre", "igmp", "vrrp", "ipencap", "ospf", "OSPFIGP", "a/n", "3pc", "50", "200",
    ];
    let numbers = [132, 50, 51, 47, 2, 112, 4, 89, 89, 107, 34, 50, 200];
    let expected: Vec<Protocol> = numbers.into_iter().map(Protocol::Number).collect();
    assert_eq!(protocols(&names), (expected, Vec::new()));
    let whole = [
        Protocol::Icmp(IcmpMatch::All),
        Protocol::Icmpv6(IcmpMatch::All),
        Protocol::Udp(Ports::ALL),
    ];
    let (found, _) = protocols(&["icmp", "ipv6-icmp", "UDP"]);
    assert_eq!(found, whole);
}

#[test]
fn names_that_often_mean_something_else_are_warned_of() {
    let (found, warnings) = protocols(&["ipip", "94", "rdp", "ipv6-frag"]);
    assert_eq!(found, [94, 94, 27, 44].map(Protocol::Number));
    assert_eq!(
        warnings,
        [
            "t.yaml:3:34: `ipip` is protocol 94; tunnels of IPv4 in IPv4 (`ip tunnel … mode ipip`) are `ipencap`, \
             protocol 4; if protocol 94 is meant, write the number",
            "t.yaml:3:100: `rdp` is protocol 27; Remote Desktop is tcp and udp port 3389; if protocol 27 is meant, \
             write the number",
            "t.yaml:3:133: `ipv6-frag` is protocol 44; in IPv6 it is a header that a packet of any protocol can have, and \
             rules see the protocol behind it; if protocol 44 is meant, write the number",
        ]
    );
}

#[test]
fn derived_ids_do_not_change() {
    // printf sg:web | sha256sum, and the like.
    let ids = [("sg", "web"), ("pl", "corp"), ("eni", "web-1")].map(|(kind, name)| derived_id(kind, name));
    assert_eq!(
        ids,
        ["sg-65020594ff6180008", "pl-c30419d7386028f34", "eni-0a3b041006077e3de"]
    );
}

/// An ENI of the AWS kind with an IPv4 and an IPv6 address, and its group.
const ENI: &str = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [], "IpPermissionsEgress": []}],
    "NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "OwnerId": "210987654321", "VpcId": "vpc-1",
    "SubnetId": "subnet-1", "PrivateIpAddress": "10.0.0.9", "Ipv6Addresses": [{"Ipv6Address": "2001:db8::9"}],
    "Groups": [{"GroupId": "sg-1"}], "SourceDestCheck": false}]}"#;

fn enis(native: &str) -> Vec<Eni> {
    match read(&[("aws.json", ENI), ("t.yaml", native)]) {
        Ok(loaded) => loaded.model.enis,
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn a_task_takes_addresses_and_groups_from_its_eni() {
    let bare = enis("{taskgate: v1, tasks: [{name: a, eni: eni-1, device: veth0}]}");
    let repeated = enis(
        "{taskgate: v1, tasks: [{name: a, eni: eni-1, device: veth0, addresses: ['2001:db8::9', 10.0.0.9], \
         groups: [WEB], source-dest-check: false}]}",
    );
    assert_eq!(bare, repeated);
    let [eni] = bare.as_slice() else { panic!("{bare:?}") };
    assert_eq!(eni.binding, Some(Binding::Device(String::from("veth0"))));
    assert_eq!(
        eni.addresses,
        ["10.0.0.9", "2001:db8::9"].map(|text| text.parse::<IpAddr>().unwrap())
    );
    assert_eq!(
        (eni.account.as_deref(), eni.vpc.as_deref()),
        (Some("210987654321"), Some("vpc-1"))
    );
    assert!(!eni.source_dest_check);
}

#[test]
fn gated_enis_come_first_in_the_order_of_their_names() {
    let found = enis(
        "{taskgate: v1, members: [{address: 10.0.0.1, groups: [web]}], tasks: [\
         {name: b, device: veth1, addresses: [10.0.0.2], groups: [web]}, {name: a, eni: eni-1, device: veth0}]}",
    );
    let names: Vec<&str> = found.iter().map(Eni::display_name).collect();
    assert_eq!(names, ["a", "b", &derived_id("eni", "10.0.0.1")]);
}

#[test]
fn an_address_belongs_to_one_eni() {
    let found = enis(
        "{taskgate: v1, members: [{address: 10.0.0.9, groups: [web]}], tasks: [\
         {name: a, device: veth1, addresses: [10.0.0.9], groups: [web]}]}",
    );
    let addresses: Vec<_> = found
        .iter()
        .map(|eni| (eni.display_name(), eni.addresses.len()))
        .collect();
    assert_eq!(addresses, [("a", 1), ("eni-1", 1)]);
}

/// Groups `g0`, `g1` and so on with `rules` rules each, and a task with all groups.
fn crowded(groups: usize, rules: usize) -> String {
    let names: Vec<String> = (0..groups).map(|n| format!("g{n}")).collect();
    let rule = |port| format!("{{protocol: tcp, ports: {port}, from: 10.0.0.0/8}}");
    let rules = (1..=rules).map(rule).collect::<Vec<_>>().join(", ");
    let task = format!(
        "{{name: a, device: v, addresses: [10.0.0.1], groups: [{}]}}",
        names.join(", ")
    );
    let group = |name| format!("- {{name: {name}, ingress: [{rules}]}}");
    let groups = names.iter().map(group).collect::<Vec<_>>().join("\n");
    format!("taskgate: v1\ntasks: [{task}]\ngroups:\n{groups}\n")
}

#[test]
fn quotas_warn_and_limits_refuse() {
    let told = |groups, rules| match read(&[("t.yaml", &crowded(groups, rules))]) {
        Ok(loaded) => lines(&loaded.warnings),
        Err(problems) => lines(&problems.errors),
    };
    let many = |group: usize, rules: usize| {
        format!(
            "t.yaml:{}:3: group `g{group}` has {rules} ingress rules for IPv4, counted as AWS counts them; AWS's \
             default quota is 60",
            group + 4,
        )
    };
    assert_eq!(told(5, 60), "");
    assert_eq!(told(6, 1), "t.yaml:2:9: `a` has 6 groups; AWS's default quota is 5");
    assert_eq!(told(1, 61), many(0, 61));
    assert_eq!(told(1, 1_000), many(0, 1_000));
    let product = "t.yaml:2:9: `a` has 2 groups with up to 501 ingress rules for IPv4: 1002 together; AWS's quota for \
                   rules times groups is 1000";
    assert_eq!(told(2, 501), [product, &many(0, 501), &many(1, 501)].join("\n"));
    assert_eq!(
        told(1, 1_025),
        "t.yaml:2:9: `a` has 1025 ingress rules for IPv4 in its groups; an ENI has at most 1024 by direction and family"
    );
    assert_eq!(
        told(2, 513),
        "t.yaml:2:9: `a` has 1026 ingress rules for IPv4 in its groups; an ENI has at most 1024 by direction and family"
    );
}

#[test]
fn prefix_lists_weigh_their_greatest_size() {
    let lists = r#"{"PrefixLists": [{"PrefixListId": "pl-1", "PrefixListName": "corp", "MaxEntries": 61},
        {"PrefixListId": "pl-2", "PrefixListName": "com.amazonaws.global.cloudfront.origin-facing"}]}"#;
    let entries = r#"{"Entries": [{"Cidr": "10.0.0.0/8"}]}"#;
    let weighed = |rules: &str| {
        let groups = format!("{{taskgate: v1, groups: [{{name: a, ingress: [{rules}]}}]}}");
        let files = [
            ("l.json", lists),
            ("pl-1.json", entries),
            ("pl-2.json", entries),
            ("t.yaml", groups.as_str()),
        ];
        lines(&read(&files).expect("only warnings").warnings)
    };
    let tells = |count: usize| {
        format!(
            "t.yaml:1:25: group `a` has {count} ingress rules for IPv4, counted as AWS counts them; AWS's default quota \
             is 60"
        )
    };
    assert_eq!(weighed("{protocol: all, from: prefix-list:corp}"), tells(61));
    assert_eq!(weighed("{protocol: all, from: prefix-list:pl-2}"), "");
    let own: Vec<String> = (1..=6).map(|n| format!("10.0.0.{n}")).collect();
    let own = own.join(", ");
    assert_eq!(
        weighed(&format!("{{protocol: all, from: [prefix-list:pl-2, {own}]}}")),
        tells(61)
    );
}

#[test]
fn exempt_and_unlogged_follow_the_settings_and_the_reserved_addresses() {
    let exempt = |settings: &str| {
        let text = format!(
            "{{taskgate: v1, settings: {settings}, Vpcs: [{{VpcId: vpc-1, CidrBlock: 10.0.0.0/16}}], \
             Subnets: [{{SubnetId: subnet-1, CidrBlock: 10.0.1.0/24}}]}}"
        );
        let model = native(&text).model;
        (model.exempt(), model.unlogged())
    };
    let addresses = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
    let all = addresses(&[
        "10.0.0.2",
        "10.0.1.1",
        "169.254.169.123",
        "169.254.169.250",
        "169.254.169.251",
        "169.254.169.253",
        "169.254.169.254",
        "169.254.170.2",
        "fd00:ec2::123",
        "fd00:ec2::253",
        "fd00:ec2::254",
    ]);
    let logged = all
        .iter()
        .copied()
        .filter(|address| address.to_string() != "169.254.170.2")
        .collect();
    let (whole, silent) = (
        Exempt {
            addresses: all,
            dhcp: true,
        },
        Exempt {
            addresses: logged,
            dhcp: true,
        },
    );
    assert_eq!(exempt("{}"), (whole.clone(), silent));
    let listed = Exempt {
        addresses: addresses(&["10.0.0.1", "10.0.0.9"]),
        dhcp: false,
    };
    assert_eq!(
        exempt("{unlogged: none, exempt: [10.0.0.9, 10.0.0.1]}"),
        (listed, Exempt::default())
    );
    assert_eq!(exempt("{exempt: aws}").0, whole);
}
