//! The AWS forms: facts/security-groups section 6, as the AWS CLI prints them.

use std::path::{Path, PathBuf};

use taskgate_config::{Loaded, derived_id, load, read};
use taskgate_model::{EcsFields, GroupIndex, IcmpMatch, Peer, Ports, Protocol, Rule};

use crate::support::{lines, shown};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/aws")
}

/// The whole folder, read from the disk.
fn folder() -> Loaded {
    match load(&data()) {
        Ok(mut loaded) => {
            let folder = format!("{}/", data().display());
            for warning in &mut loaded.warnings {
                warning.file = warning.file.replace(&folder, "");
            }
            loaded
        }
        Err(problems) => panic!("{problems}"),
    }
}

#[test]
fn a_folder_of_cli_output_is_a_whole_model() {
    insta::assert_snapshot!(shown(&folder()));
}

/// The rules of one group written as `SecurityGroups`, with its id and name given.
fn rules(permissions: &str) -> Vec<Rule> {
    let text = format!(
        r#"{{"SecurityGroups": [{{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [{permissions}], "IpPermissionsEgress": []}}]}}"#
    );
    match read(&[("groups.json", &text)]) {
        Ok(loaded) => loaded.model.groups[0].ingress.clone(),
        Err(problems) => panic!("{text}\n{problems}"),
    }
}

#[test]
fn protocols_come_by_name_and_number_and_ports_in_every_shape() {
    let ports = |from, to| Ports { from, to };
    let cases = [
        (
            r#""IpProtocol":"tcp","FromPort":443,"ToPort":443"#,
            Protocol::Tcp(ports(443, 443)),
        ),
        (
            r#""IpProtocol":"6","FromPort":1,"ToPort":2"#,
            Protocol::Tcp(ports(1, 2)),
        ),
        (
            r#""IpProtocol":"udp","FromPort":0,"ToPort":65535"#,
            Protocol::Udp(Ports::ALL),
        ),
        (
            r#""IpProtocol":"17","FromPort":53,"ToPort":53"#,
            Protocol::Udp(ports(53, 53)),
        ),
        (
            r#""IpProtocol":"icmp","FromPort":-1,"ToPort":-1"#,
            Protocol::Icmp(IcmpMatch::All),
        ),
        (
            r#""IpProtocol":"1","FromPort":8,"ToPort":-1"#,
            Protocol::Icmp(IcmpMatch::Type(8)),
        ),
        (
            r#""IpProtocol":"icmp","FromPort":3,"ToPort":4"#,
            Protocol::Icmp(IcmpMatch::TypeCode(3, 4)),
        ),
        (r#""IpProtocol":"icmpv6""#, Protocol::Icmpv6(IcmpMatch::All)),
        (
            r#""IpProtocol":"58","FromPort":128,"ToPort":0"#,
            Protocol::Icmpv6(IcmpMatch::TypeCode(128, 0)),
        ),
        (r#""IpProtocol":"-1""#, Protocol::All),
        (r#""IpProtocol":"-1","FromPort":-1,"ToPort":-1"#, Protocol::All),
        (r#""IpProtocol":"-1","FromPort":80,"ToPort":80"#, Protocol::All),
        (r#""IpProtocol":"50""#, Protocol::Number(50)),
        (r#""IpProtocol":"50","FromPort":-1,"ToPort":-1"#, Protocol::Number(50)),
        (r#""IpProtocol":"47","FromPort":0,"ToPort":0"#, Protocol::Number(47)),
    ];
    for (text, protocol) in cases {
        let family = if text.contains("icmpv6") || text.contains("58") {
            r#""Ipv6Ranges":[{"CidrIpv6":"2001:db8::/32"}]"#
        } else {
            r#""IpRanges":[{"CidrIp":"10.0.0.0/8"}]"#
        };
        let found = rules(&format!("{{{text},{family}}}"));
        assert_eq!(
            found.iter().map(|rule| rule.protocol).collect::<Vec<_>>(),
            [protocol],
            "{text}"
        );
    }
}

#[test]
fn peers_are_rules_of_their_own_in_the_order_of_the_file() {
    let found = rules(
        r#"{"IpProtocol":"tcp","FromPort":22,"ToPort":22,
            "UserIdGroupPairs":[{"GroupId":"sg-1","UserId":"210987654321","Description":"own"}],
            "IpRanges":[{"CidrIp":"100.68.0.18/18"},{"CidrIp":"10.1.2.3/32","Description":"one host"}]},
           {"IpProtocol":"-1","Ipv6Ranges":[{"CidrIpv6":"2001:db8::1/32"}],"PrefixListIds":null}"#,
    );
    let shown: Vec<String> = found
        .iter()
        .map(|rule| format!("{} {:?} {:?}", rule.id, rule.peer, rule.description))
        .collect();
    assert_eq!(
        shown,
        [
            r#"web/ingress/1 Group(GroupIndex(0)) "own""#,
            r#"web/ingress/2 V4(100.68.0.0/18) """#,
            r#"web/ingress/3 V4(10.1.2.3/32) "one host""#,
            r#"web/ingress/4 V6(2001:db8::/32) """#,
        ]
    );
}

#[test]
fn missing_groups_match_nothing_and_are_told() {
    let groups = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-gone"}]},
        {"IpProtocol": "icmp", "FromPort": -1, "ToPort": -1, "Ipv6Ranges": [{"CidrIpv6": "::/0"}]}], "IpPermissionsEgress": []}]}"#;
    let enis = r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.9",
        "Groups": [{"GroupId": "sg-1"}, {"GroupId": "sg-far"}]}]}"#;
    let loaded = read(&[("enis.json", enis), ("groups.json", groups)]).expect("only warnings");
    assert_eq!(
        loaded.model.groups[0].ingress[0].peer,
        Peer::Missing(String::from("sg-gone"))
    );
    assert_eq!(
        lines(&loaded.warnings),
        "enis.json:2:41: no file holds security group `sg-far`, which `eni-1` has: rules that refer to it cover its \
         members, its own rules are not known; add the output of `aws ec2 describe-security-groups` that holds it\n\
         groups.json:2:51: there is no security group `sg-gone`, so the rule matches nothing; add the group's file if \
         it exists; a deleted group's rule can stay\n\
         groups.json:3:77: the ingress rule for `::/0` matches nothing: `icmp` is IPv4 only; write `icmpv6`, or another \
         CIDR"
    );
}

#[test]
fn a_group_that_only_enis_name_covers_its_members() {
    let groups = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "VpcId": "vpc-1", "IpPermissions": [
        {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": "sg-far"}]}], "IpPermissionsEgress": []},
        {"GroupId": "sg-2", "GroupName": "sg-2", "VpcId": "vpc-1", "IpPermissions": [], "IpPermissionsEgress": []}]}"#;
    let enis = r#"{"NetworkInterfaces": [
        {"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.0.9", "VpcId": "vpc-1",
         "Groups": [{"GroupId": "sg-far", "GroupName": "web"}, {"GroupId": "sg-far", "GroupName": "web"}]},
        {"NetworkInterfaceId": "eni-2", "PrivateIpAddress": "10.0.0.8", "VpcId": "vpc-1",
         "Groups": [{"GroupId": "sg-1"}, {"GroupId": "SG-FAR"}]}]}"#;
    let native = "taskgate: v1\ngroups: [{name: own, ingress: [{protocol: tcp, from: 'group:sg-FAR'}, {protocol: udp, from: \
                  'group:web'}], egress: []}]\nmembers: [{address: 10.0.0.7, groups: [sg-far, sg-2]}]\n";
    let files = [("enis.json", enis), ("groups.json", groups), ("t.yaml", native)];
    let loaded = read(&files).expect("only warnings");
    let shown: Vec<_> = loaded
        .model
        .groups
        .iter()
        .map(|group| (group.id.as_str(), group.rules_known))
        .collect();
    let own = derived_id("sg", "own");
    // A name refers to the group in a file, even if an ENI gives another group the same name.
    assert_eq!(
        shown,
        [("sg-1", true), ("sg-2", true), (own.as_str(), true), ("sg-far", false)]
    );
    let far = Peer::Group(GroupIndex(3));
    assert_eq!(loaded.model.groups[0].ingress[0].peer, far);
    let peers = loaded.model.groups[2].ingress.iter().map(|rule| rule.peer.clone());
    assert_eq!(peers.collect::<Vec<_>>(), [far, Peer::Group(GroupIndex(0))]);
    let enis = loaded
        .model
        .enis
        .iter()
        .map(|eni| eni.groups.iter().map(|group| group.0).collect());
    assert_eq!(enis.collect::<Vec<Vec<usize>>>(), [vec![3], vec![0, 3], vec![3, 1]]);
    assert_eq!(
        lines(&loaded.warnings),
        "enis.json:3:21: no file holds security group `web` (sg-far), which 2 ENIs have, `eni-1` first: rules that refer \
         to it cover its members, its own rules are not known; add the output of `aws ec2 describe-security-groups` \
         that holds it"
    );
}

#[test]
fn the_same_object_twice_is_one() {
    let text = std::fs::read_to_string(data().join("describe-security-groups.json")).expect("test data");
    let twice = read(&[("a.json", &text), ("b.json", &text)]).expect("identical copies");
    let once = read(&[("a.json", &text)]).expect("one copy");
    assert_eq!(twice.model, once.model);
}

#[test]
fn several_keys_in_one_file_are_all_read() {
    let text = r#"{"taskgate": "v1", "groups": [{"name": "own", "egress": []}], "SecurityGroups": [
        {"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [], "IpPermissionsEgress": []}], "Vpcs": [{"VpcId": "vpc-1", "CidrBlock": "10.0.0.0/16"}]}"#;
    let loaded = read(&[("all.json", text)]).expect("all known");
    let names: Vec<&str> = loaded.model.groups.iter().map(|group| group.name.as_str()).collect();
    assert_eq!(names, ["web", "own"]);
    assert_eq!(loaded.model.reserved, ["10.0.0.2".parse::<std::net::IpAddr>().unwrap()]);
}

#[test]
fn json_is_read_with_tabs_escapes_and_in_one_line() {
    let text = "{\n\t\"SecurityGroups\":\t[{\"GroupId\":\"sg-1\",\"GroupName\":\"w\\u0065b\",\"IpPermissions\":[{\n\t\
        \"IpProtocol\":\"-1\",\"IpRanges\":[{\"CidrIp\":\"10.0.0.0\\/8\",\"Description\":\"\\ud83d\\ude00 \\\"ok\\\"\"}]}],\"IpPermissionsEgress\":null}]\n}";
    let loaded = read(&[("g.json", text)]).expect("JSON");
    let rule = &loaded.model.groups[0].ingress[0];
    assert_eq!(
        (loaded.model.groups[0].name.as_str(), rule.description.as_str()),
        ("web", "\u{1f600} \"ok\"")
    );
}

/// Groups, an ENI in a subnet, and the task that has it.
fn ecs_files(task: &str) -> Vec<(&'static str, String)> {
    let group = r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": [], "IpPermissionsEgress": []}]}"#;
    let eni = r#"{"NetworkInterfaces": [{"NetworkInterfaceId": "eni-1", "PrivateIpAddress": "10.0.1.5", "SubnetId": "subnet-1",
        "VpcId": "vpc-1", "AvailabilityZone": "eu-west-1a", "Groups": [{"GroupId": "sg-1", "GroupName": "web"}]}]}"#;
    let subnet = r#"{"Subnets": [{"SubnetId": "subnet-1", "VpcId": "vpc-1", "CidrBlock": "10.0.1.0/24", "AvailabilityZone": "eu-west-1a",
        "AvailabilityZoneId": "euw1-az2", "SubnetArn": "arn:aws:ec2:eu-west-1:123456789012:subnet/subnet-1"}]}"#;
    let ecs = r#"{"tasks": [
        {"taskArn": "arn:aws:ecs:eu-west-1:123456789012:task/prod/0123", "clusterArn": "arn:aws:ecs:eu-west-1:123456789012:cluster/prod",
         "containerInstanceArn": "arn:aws:ecs:eu-west-1:123456789012:container-instance/prod/4567", "group": "service:shop",
         "taskDefinitionArn": "arn:aws:ecs:eu-west-1:123456789012:task-definition/shop:7", "lastStatus": "RUNNING",
         "attachments": [{"type": "ElasticNetworkInterface", "status": "ATTACHED", "details": [
            {"name": "subnetId", "value": "subnet-1"}, {"name": "networkInterfaceId", "value": "eni-1"}]}],
         "containers": [{"name": "a", "runtimeId": "c1"}, {"name": "b"}, {"name": "c", "runtimeId": "c3"}]},
        {"taskArn": "arn:aws:ecs:eu-west-1:123456789012:task/prod/bridge", "attachments": [], "group": "family:shop"}
        ], "failures": []}"#;
    vec![
        ("ecs.json", ecs.to_owned()),
        ("eni.json", eni.to_owned()),
        ("groups.json", group.to_owned()),
        ("subnets.json", subnet.to_owned()),
        (
            "tasks.yaml",
            format!("taskgate: v1\ntasks: [{{ name: web-1, eni: eni-1, device: v0{task} }}]\n"),
        ),
    ]
}

fn read_all(files: &[(&'static str, String)]) -> Result<Loaded, String> {
    let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
    read(&files).map_err(|problems| problems.to_string())
}

#[test]
fn the_ecs_task_and_the_zone_of_an_eni_are_known() {
    // The native task may repeat fields that agree.
    let loaded = read_all(&ecs_files(", ecs: { service-name: shop }")).expect("a task");
    assert_eq!(lines(&loaded.warnings), "");
    let eni = &loaded.model.enis[0];
    assert_eq!(
        (
            eni.region.as_deref(),
            eni.az_id.as_deref(),
            eni.vpc.as_deref(),
            eni.subnet.as_deref()
        ),
        (Some("eu-west-1"), Some("euw1-az2"), Some("vpc-1"), Some("subnet-1"))
    );
    let text = |text: &str| Some(text.to_owned());
    let expected = EcsFields {
        cluster_name: text("prod"),
        cluster_arn: text("arn:aws:ecs:eu-west-1:123456789012:cluster/prod"),
        service_name: text("shop"),
        task_arn: text("arn:aws:ecs:eu-west-1:123456789012:task/prod/0123"),
        task_id: text("0123"),
        task_definition_arn: text("arn:aws:ecs:eu-west-1:123456789012:task-definition/shop:7"),
        container_instance_arn: text("arn:aws:ecs:eu-west-1:123456789012:container-instance/prod/4567"),
        container_instance_id: text("4567"),
        container_id: text("c1"),
        second_container_id: text("c3"),
    };
    assert_eq!(eni.ecs, expected);
    // Bare objects, and pages as `--output yaml-stream` prints them.
    let mut files = ecs_files("");
    files[0].1 = files[0]
        .1
        .replace("{\"tasks\": [", "[")
        .replace("], \"failures\": []}", "]");
    assert_eq!(read_all(&files).expect("a bare list").model, loaded.model);
    files[0].1 = format!("[{}]", ecs_files("")[0].1);
    assert_eq!(read_all(&files).expect("a list of pages").model, loaded.model);
}

#[test]
fn what_a_task_repeats_of_its_ecs_task_has_to_agree() {
    assert_eq!(
        read_all(&ecs_files(", ecs: { cluster-name: test }")).expect_err("another cluster"),
        "tasks.yaml:2:9: `ecs.cluster-name` of `web-1` is `test`, and `prod` in ECS task \
         `arn:aws:ecs:eu-west-1:123456789012:task/prod/0123` at ecs.json:2:9; leave it out: it is taken from there"
    );
    let mut files = ecs_files("");
    files[0].1 = files[0].1.replace(
        "\"attachments\": [], ",
        "\"attachments\": [{\"details\": [{\"name\": \"networkInterfaceId\", \"value\": \"eni-1\"}]}], ",
    );
    let told = read_all(&files).expect_err("an ENI of two tasks");
    assert!(
        told.contains("ENI `eni-1` of ECS task `arn:aws:ecs:eu-west-1:123456789012:task/prod/bridge` is also that of"),
        "{told}"
    );
}

#[test]
fn an_eni_in_a_sublocation_has_no_availability_zone() {
    let mut files = ecs_files("");
    files[3].1 = files[3].1.replace("euw1-az2", "euw1-lhr1-az1");
    let loaded = read_all(&files).expect("a local zone");
    assert_eq!(
        (
            loaded.model.enis[0].az_id.as_deref(),
            loaded.model.enis[0].region.as_deref()
        ),
        (None, Some("eu-west-1"))
    );
}
