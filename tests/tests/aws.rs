//! Output of the AWS CLI, enforced: groups, rules, ENIs and prefix lists unchanged, and a single native file that binds
//! tasks.

use std::fs;

use anyhow::Result;
use serde_json::{Value, json};
use testkit::{
    Config, Ledger, Topology, Wire, at,
    e2e::flow_to,
    traffic::{Answer, Client, TcpEcho, probe, probe_for},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";

fn permission(protocol: &str, ports: (u16, u16), (kind, peer): (&str, Value)) -> Value {
    let mut permission = json!({
        "IpProtocol": protocol, "FromPort": ports.0, "ToPort": ports.1,
        "IpRanges": [], "Ipv6Ranges": [], "PrefixListIds": [], "UserIdGroupPairs": [],
    });
    permission[kind] = json!([peer]);
    permission
}

fn group(id: &str, name: &str, ingress: &[Value], egress: &[Value]) -> Value {
    json!({
        "GroupId": id, "GroupName": name, "Description": "a group", "VpcId": "vpc-01", "OwnerId": "111122223333",
        "SecurityGroupArn": format!("arn:aws:ec2:eu-west-1:111122223333:security-group/{id}"), "Tags": [],
        "IpPermissions": ingress, "IpPermissionsEgress": egress,
    })
}

fn interface(task: &str, address: &str, groups: &[(&str, &str)]) -> Value {
    let groups: Vec<_> = groups
        .iter()
        .map(|(id, name)| json!({ "GroupId": id, "GroupName": name }))
        .collect();
    json!({
        "NetworkInterfaceId": Config::eni(task), "InterfaceType": "branch", "Status": "in-use",
        "MacAddress": "0a:00:00:00:00:01", "Description": task, "OwnerId": "111122223333", "VpcId": "vpc-01",
        "SubnetId": "subnet-01", "AvailabilityZone": "eu-west-1a", "Groups": groups, "PrivateIpAddress": address,
        "PrivateIpAddresses": [{ "Primary": true, "PrivateIpAddress": address }], "Ipv6Addresses": [],
        "RequesterManaged": false, "SourceDestCheck": true, "TagSet": [],
    })
}

const SG_WEB: &str = "sg-0123456789abcdef0";
const SG_DB: &str = "sg-0123456789abcdef1";
const SG_GONE: &str = "sg-0123456789abcdeff";
const PL_CORP: &str = "pl-0123456789abcdef0";

/// AWS: SG-PEER-1, SG-PEER-2, SG-PEER-3, SG-PEER-7
#[test]
fn what_the_aws_cli_prints_is_enforced_as_it_is() -> Result<()> {
    let topology = Topology::new()?;
    let folder = topology.folder().join("main");
    fs::create_dir(&folder)?;
    let to_db = permission(
        "tcp",
        (5432, 5432),
        (
            "UserIdGroupPairs",
            json!({ "GroupId": SG_DB, "UserId": "111122223333" }),
        ),
    );
    let from_web = permission(
        "tcp",
        (5432, 5432),
        (
            "UserIdGroupPairs",
            json!({ "GroupId": SG_WEB, "UserId": "111122223333" }),
        ),
    );
    // Host bits are set: AWS would have cleared them.
    let from_net = permission(
        "tcp",
        (8000, 8080),
        ("IpRanges", json!({ "CidrIp": "10.99.0.77/24", "Description": "net" })),
    );
    let from_corp = permission("tcp", (22, 22), ("PrefixListIds", json!({ "PrefixListId": PL_CORP })));
    let from_gone = permission(
        "tcp",
        (23, 23),
        (
            "UserIdGroupPairs",
            json!({ "GroupId": SG_GONE, "UserId": "111122223333" }),
        ),
    );
    for (file, content) in [
        (
            "groups.json",
            json!({ "SecurityGroups": [
                group(SG_WEB, "web", &[from_net], &[to_db]),
                group(SG_DB, "db", &[from_web, from_corp, from_gone], &[]),
            ] }),
        ),
        (
            "interfaces.json",
            json!({ "NetworkInterfaces": [
                interface("web-1", WEB, &[(SG_WEB, "web")]),
                interface("db-1", DB, &[(SG_DB, "db")]),
            ] }),
        ),
        (
            "lists.json",
            json!({ "PrefixLists": [{
                "PrefixListId": PL_CORP, "AddressFamily": "IPv4", "State": "create-complete",
                "PrefixListArn": "arn:aws:ec2:eu-west-1:111122223333:prefix-list/pl-0123456789abcdef0",
                "PrefixListName": "corp", "MaxEntries": 20, "Version": 1, "Tags": [], "OwnerId": "111122223333",
            }] }),
        ),
        (
            "pl-0123456789abcdef0.json",
            json!({ "Entries": [{ "Cidr": "10.99.0.2/32", "Description": "the client" }] }),
        ),
    ] {
        fs::write(folder.join(file), content.to_string())?;
    }
    let config = topology.config().bind("web-1").bind("db-1");
    let daemon = topology.start(&config)?;
    let (web, db) = (topology.task("web-1")?, topology.task("db-1")?);
    let wires = [
        Wire::tap(&web, "eth0")?,
        Wire::tap(&db, "eth0")?,
        Wire::tap(&topology.outside, "eth0")?,
    ];
    let _echo = TcpEcho::start(&db, 5432)?;
    Client::connect(&web, at(DB, 5432))?.finish()?;
    let denied_in = [(DB, 23), (DB, 5432), (WEB, 443)];
    for (to, port) in [(WEB, 8000), (WEB, 8080), (DB, 22)] {
        assert_eq!(
            probe_for(&topology.outside, at(to, port), Answer::Refused)?,
            Answer::Refused,
            "{to}:{port}"
        );
    }
    for (to, port) in denied_in {
        assert_eq!(probe(&topology.outside, at(to, port))?, Answer::Silence, "{to}:{port}");
    }
    assert_eq!(probe(&web, at(DB, 22))?, Answer::Silence, "no egress rule");
    let mut expected = Ledger::of_wires(&[("web-1", &wires[0]), ("db-1", &wires[1])])?
        .rejected("web-1", flow_to(&wires[0], at(DB, 22))?);
    for (to, port) in denied_in {
        let flow = flow_to(&wires[2], at(to, port))?;
        let task = if to == WEB { "web-1" } else { "db-1" };
        expected = expected.reject(task, flow, wires[2].sent(flow)?);
    }
    let stopped = daemon.stop()?;
    assert_eq!(stopped.ledger()?, expected);
    assert!(stopped.records.iter().all(|record| record.account == "111122223333"));
    // That a rule covers nothing deserves a word.
    let said = stopped.messages.join("\n");
    assert!(said.contains(SG_GONE), "{said}");
    Ok(())
}
