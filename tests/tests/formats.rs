//! Custom formats and JSON: every field compared with the packets sent, the configuration, and the default lines.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use taskgate_model::{RecordField, RecordFormat};
use testkit::{
    Config, Ledger, Topology, Wire, at,
    e2e::flow_to,
    record::Record,
    traffic::{Answer, Client, TcpEcho, UdpPeer, probe},
};

const WEB: [&str; 2] = ["10.88.0.10", "10.88.0.11"];
const DB: &str = "10.88.0.20";
const SG_WEB: &str = "sg-0123456789abcdef0";
const SG_DB: &str = "sg-0123456789abcdef1";
const ARN: &str = "arn:aws:ecs:eu-west-1:111122223333";

/// A line's values by field, `-` for missing ones.
type Values = BTreeMap<String, String>;

fn interface(task: &str, addresses: &[&str], group: &str) -> Value {
    let all: Vec<_> = addresses
        .iter()
        .map(|address| json!({ "PrivateIpAddress": address }))
        .collect();
    json!({
        "NetworkInterfaceId": Config::eni(task), "OwnerId": "111122223333", "VpcId": "vpc-01", "SubnetId": "subnet-01",
        "AvailabilityZone": "eu-west-1a", "Groups": [{ "GroupId": group }], "PrivateIpAddress": addresses[0],
        "PrivateIpAddresses": all,
    })
}

fn write_aws_files(topology: &Topology) -> Result<()> {
    let folder = topology.folder().join("main");
    fs::create_dir(&folder)?;
    let task = json!({
        "taskArn": format!("{ARN}:task/prod/0123"), "clusterArn": format!("{ARN}:cluster/prod"), "group": "service:shop",
        "taskDefinitionArn": format!("{ARN}:task-definition/shop:7"),
        "containerInstanceArn": format!("{ARN}:container-instance/prod/4567"),
        "containers": [{ "runtimeId": "c1" }, { "runtimeId": "c2" }],
        "attachments": [{ "details": [{ "name": "networkInterfaceId", "value": Config::eni("web-1") }] }],
    });
    for (file, content) in [
        (
            "interfaces.json",
            json!({ "NetworkInterfaces": [interface("web-1", &WEB, SG_WEB), interface("db-1", &[DB], SG_DB)] }),
        ),
        (
            "subnets.json",
            json!({ "Subnets": [{ "SubnetId": "subnet-01", "VpcId": "vpc-01", "CidrBlock": "10.88.0.0/16",
                "AvailabilityZone": "eu-west-1a", "AvailabilityZoneId": "euw1-az2" }] }),
        ),
        ("ecs.json", json!({ "tasks": [task], "failures": [] })),
    ] {
        fs::write(folder.join(file), content.to_string())?;
    }
    Ok(())
}

/// All fields, taskgate's first.
fn format() -> RecordFormat {
    RecordFormat::Custom(RecordField::ALL.iter().rev().copied().collect())
}

fn configured(config: Config, db_ingress: &str) -> Config {
    config
        .group("web", &format!("id: {SG_WEB}, ingress: [{{ protocol: udp, ports: 53, from: any }}]"))
        .group("db", &format!("id: {SG_DB}, ingress: [{db_ingress}], egress: []"))
        .bind("web-1")
        .bind("db-1")
        .with(&format!(
            "flow-logs: [{{ destination: stdout }}, {{ destination: stdout, format: json }}, {{ destination: stdout, format: '{}' }}]",
            format()
        ))
}

type JsonRecord = serde_json::Map<String, Value>;

/// Splits the lines of all flow logs into the default lines, the values of custom formats, and those of JSON.
fn read(lines: &[String]) -> Result<(Vec<Record>, Vec<Values>, Vec<JsonRecord>)> {
    let fields = format().fields();
    let (mut default, mut custom, mut objects) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        if line.starts_with('{') {
            objects.push(serde_json::from_str(line)?);
            continue;
        }
        let words: Vec<&str> = line.split(' ').collect();
        if words.len() == 14 {
            default.push(line.parse()?);
            continue;
        }
        ensure!(words.len() == fields.len(), "{} words: {line}", words.len());
        let values = fields
            .iter()
            .zip(words)
            .map(|(field, word)| (field.name().to_owned(), word.to_owned()));
        custom.push(values.collect());
    }
    Ok((default, custom, objects))
}

/// The default line that a line of all fields holds.
fn default_line(values: &Values) -> Result<Record> {
    let words: Vec<&str> = RecordField::default_format()
        .map(|field| match field {
            RecordField::Version => "2",
            _ => values[field.name()].as_str(),
        })
        .collect();
    words.join(" ").parse()
}

/// The only line about a flow at a task's gate.
fn about<'v>(lines: &'v [Values], task: &str, from: SocketAddr, to: SocketAddr) -> Result<&'v Values> {
    let is = |values: &&Values, field: &str, expected: String| values[field] == expected;
    let found: Vec<_> = lines
        .iter()
        .filter(|line| {
            is(line, "interface-id", Config::eni(task))
                && is(line, "srcaddr", from.ip().to_string())
                && is(line, "srcport", from.port().to_string())
                && is(line, "dstaddr", to.ip().to_string())
                && is(line, "dstport", to.port().to_string())
        })
        .collect();
    let [line] = found[..] else {
        anyhow::bail!("{} lines of {from} to {to} at {task}", found.len());
    };
    Ok(line)
}

#[track_caller]
fn assert_says(line: &Values, expected: &[(&str, &str)]) {
    let said: Vec<_> = expected
        .iter()
        .map(|(field, _)| (*field, line[*field].as_str()))
        .collect();
    assert_eq!(said, expected, "{line:?}");
}

/// AWS: FL-FORMAT-1, FL-FORMAT-2, FL-FIELD-1, FL-FIELD-2, FL-FIELD-3, FL-FIELD-4, FL-FIELD-5
#[test]
fn custom_lines_and_json_say_what_was_sent_and_what_let_it_pass() -> Result<()> {
    let begun = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    let topology = Topology::new()?;
    write_aws_files(&topology)?;
    let config = configured(topology.config(), "{ protocol: tcp, ports: 5432, from: [group:web] }");
    let mut daemon = topology.start_with(&config, Some(600))?;
    let (web, db) = (topology.task("web-1")?, topology.task("db-1")?);
    let wires = [Wire::tap(&web, "eth0")?, Wire::tap(&db, "eth0")?];
    let _echo = TcpEcho::start(&db, 5432)?;
    let mut old = Client::connect(&web, at(DB, 5432))?;
    let first = flow_to(&wires[0], at(DB, 5432))?;
    old.echo(5000)?;
    assert_eq!(probe(&web, at(DB, 5433))?, Answer::Silence);
    let denied = flow_to(&wires[0], at(DB, 5433))?;
    // To the secondary address, from outside.
    let server = UdpPeer::bind(&web, &at(WEB[1], 53).to_string())?;
    let outside = UdpPeer::bind(&topology.outside, "10.99.0.2:0")?;
    outside.converse(&server, 1)?;

    // The rule that admitted the first connection has changed, and the second connection has the new rule's name.
    let rules = "{ protocol: tcp, ports: 22, from: [group:web] }, { protocol: tcp, ports: 5432, from: [10.88.0.0/24] }";
    daemon.apply(&configured(topology.config(), rules))?;
    old.echo(100)?;
    old.finish()?;
    Client::connect(&web, at(DB, 5432))?.finish()?;
    let sent = Ledger::of_wires(&[("web-1", &wires[0])])?;
    let lines = daemon.stop_with_lines()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();

    let (default, custom, objects) = read(&lines)?;
    ensure!(default.len() >= 12, "{lines:#?}");
    let again = custom.iter().map(default_line).collect::<Result<Vec<_>>>()?;
    assert_eq!(
        again, default,
        "custom lines are in another order, or say something else"
    );
    let enis = BTreeMap::from([
        (Config::eni("web-1"), String::from("web-1")),
        (Config::eni("db-1"), String::from("db-1")),
    ]);
    let of_web: Vec<_> = default
        .iter()
        .filter(|record| record.eni == Config::eni("web-1"))
        .cloned()
        .collect();
    // On the wire the destination was the secondary address.
    let udp = outside.flow_to(at(WEB[1], 53));
    let primary = outside.flow_to(at(WEB[0], 53));
    let [request, response] = [udp, udp.back()].map(|flow| sent.get("web-1", flow, testkit::Action::Accept));
    let mut expected = Ledger::default();
    for (flow, count) in [(primary, request), (primary.back(), response)] {
        expected = expected.accept("web-1", flow, count);
    }
    let recorded = Ledger::of_records(&of_web, &enis)?;
    for flow in [primary, primary.back()] {
        assert_eq!(
            recorded.get("web-1", flow, testkit::Action::Accept),
            expected.get("web-1", flow, testkit::Action::Accept)
        );
    }
    for flow in [first, first.back(), denied] {
        let action = testkit::Action::Accept;
        assert_eq!(
            recorded.get("web-1", flow, action),
            sent.get("web-1", flow, action),
            "{flow:?}"
        );
    }

    let everywhere = [
        ("version", "11"),
        ("account-id", "111122223333"),
        ("vpc-id", "vpc-01"),
        ("subnet-id", "subnet-01"),
        ("region", "eu-west-1"),
        ("az-id", "euw1-az2"),
        ("type", "IPv4"),
        ("log-status", "OK"),
    ];
    for line in &custom {
        assert_says(line, &everywhere);
        for field in RecordField::ALL.iter().filter(|field| field.is_absent()) {
            assert_eq!(line[field.name()], "-", "{field:?}");
        }
        let last: f64 = line["taskgate-last"].parse()?;
        ensure!(
            (begun - 1.0..=now + 1.0).contains(&last),
            "{last} is not between {begun} and {now}"
        );
    }
    let of_ecs = [
        ("ecs-cluster-arn", format!("{ARN}:cluster/prod")),
        ("ecs-cluster-name", String::from("prod")),
        (
            "ecs-container-instance-arn",
            format!("{ARN}:container-instance/prod/4567"),
        ),
        ("ecs-container-instance-id", String::from("4567")),
        ("ecs-container-id", String::from("c1")),
        ("ecs-second-container-id", String::from("c2")),
        ("ecs-service-name", String::from("shop")),
        ("ecs-task-definition-arn", format!("{ARN}:task-definition/shop:7")),
        ("ecs-task-arn", format!("{ARN}:task/prod/0123")),
        ("ecs-task-id", String::from("0123")),
    ];
    let of_ecs: Vec<(&str, &str)> = of_ecs.iter().map(|(field, value)| (*field, value.as_str())).collect();
    let no_ecs: Vec<(&str, &str)> = of_ecs.iter().map(|(field, _)| (*field, "-")).collect();

    // The first connection: by the removed rule, in the first generation.
    let (client, service) = (first.source, first.destination);
    let at_web = about(&custom, "web-1", client, service)?;
    assert_says(at_web, &of_ecs);
    assert_says(
        at_web,
        &[
            ("tcp-flags", "3"),
            ("flow-direction", "egress"),
            ("traffic-path", "1"),
            ("pkt-srcaddr", WEB[0]),
            ("pkt-dstaddr", DB),
            ("taskgate-task", "web-1"),
            ("taskgate-group", "web"),
            ("taskgate-group-id", SG_WEB),
            ("taskgate-rule", "web/egress/1"),
            ("taskgate-reason", "-"),
            ("taskgate-same-host", "true"),
            ("taskgate-peer-task", "db-1"),
            ("taskgate-peer-groups", "db"),
            ("taskgate-generation", "1"),
        ],
    );
    let at_db = about(&custom, "db-1", client, service)?;
    assert_says(at_db, &no_ecs);
    let let_in = [
        ("tcp-flags", "3"),
        ("flow-direction", "ingress"),
        ("traffic-path", "-"),
        ("taskgate-task", "db-1"),
        ("taskgate-group", "db"),
        ("taskgate-group-id", SG_DB),
        ("taskgate-rule", "db/ingress/1"),
        ("taskgate-peer-task", "web-1"),
        ("taskgate-generation", "1"),
    ];
    assert_says(at_db, &let_in);
    assert_says(
        about(&custom, "db-1", service, client)?,
        &[
            ("tcp-flags", "19"),
            ("flow-direction", "egress"),
            ("traffic-path", "1"),
            ("taskgate-rule", "db/ingress/1"),
        ],
    );

    // The second connection: by the new rule.
    let second = custom
        .iter()
        .filter(|line| line["interface-id"] == Config::eni("db-1") && line["dstport"] == "5432")
        .find(|line| line["srcport"] != client.port().to_string())
        .context("the second connection")?;
    assert_says(
        second,
        &[
            ("taskgate-rule", "db/ingress/2"),
            ("taskgate-generation", "2"),
            ("taskgate-group", "db"),
        ],
    );

    let refused = about(&custom, "db-1", denied.source, denied.destination)?;
    assert_says(
        refused,
        &[
            ("action", "REJECT"),
            ("tcp-flags", "2"),
            ("reject-reason", "-"),
            ("taskgate-reason", "no-rule"),
            ("taskgate-rule", "-"),
            ("taskgate-generation", "-"),
            ("taskgate-peer-task", "web-1"),
        ],
    );
    assert_says(
        about(&custom, "web-1", primary.source, primary.destination)?,
        &[
            ("pkt-dstaddr", WEB[1]),
            ("tcp-flags", "0"),
            ("taskgate-same-host", "false"),
            ("taskgate-peer-task", "-"),
            ("taskgate-peer-groups", "-"),
            ("taskgate-rule", "web/ingress/1"),
        ],
    );

    // JSON has the same values, field by field.
    assert_eq!(objects.len(), custom.len());
    let filled: BTreeSet<&str> = RecordFormat::Json.fields().iter().map(|field| field.name()).collect();
    for (object, line) in objects.iter().zip(&custom) {
        assert_eq!(object.keys().map(String::as_str).collect::<BTreeSet<_>>(), filled);
        for (key, value) in object {
            let word = match value {
                Value::Null => String::from("-"),
                Value::String(text) => text.clone(),
                Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","),
                Value::Number(number) if key == "taskgate-last" => {
                    format!("{:.3}", number.as_f64().context("seconds")?)
                }
                other => other.to_string(),
            };
            let expected = if key == "version" { "7" } else { &line[key] };
            assert_eq!(word, expected, "{key}");
        }
        for number in [
            "version",
            "srcport",
            "dstport",
            "protocol",
            "packets",
            "bytes",
            "start",
            "end",
            "tcp-flags",
        ] {
            ensure!(object[number].is_u64(), "`{number}` is {}", object[number]);
        }
    }
    Ok(())
}
