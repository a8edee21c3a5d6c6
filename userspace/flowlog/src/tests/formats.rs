//! The value of each field, in words and in JSON, and its persistence in the journal.

use std::sync::Arc;

use bytes::BytesMut;
use proptest::{prelude::*, sample::subsequence};
use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
        tables::RULE_EXEMPT,
    },
    wire::{ICMP, TCP, UDP, tcp},
};
use taskgate_model::{
    Binding, Dialect, EcsFields, Eni, FlowLog, GroupIndex, Location, Model, RecordField, RecordFormat, SecurityGroup,
};

use super::{BEGIN, DB, Rig, WEB, db, kernel::Flow, web};
use crate::{Label, LogStatus, LoggedEni, RecordNames, RecordWriter, RuleText, Stream, Unlogged, Window, aligned};

/// The ENI `web` with all properties that a configuration can have.
fn described() -> Eni {
    let arn = |rest: &str| Some(format!("arn:aws:ecs:eu-west-1:111122223333:{rest}"));
    Eni {
        task: Some("web-1".to_owned()),
        groups: vec![GroupIndex(0)],
        binding: Some(Binding::Device("v0".to_owned())),
        vpc: Some("vpc-01".to_owned()),
        subnet: Some("subnet-01".to_owned()),
        az_id: Some("euw1-az2".to_owned()),
        region: Some("eu-west-1".to_owned()),
        ecs: EcsFields {
            cluster_arn: arn("cluster/prod"),
            service_name: Some("shop".to_owned()),
            task_arn: arn("task/prod/0123"),
            task_definition_arn: arn("task-definition/shop:7"),
            container_instance_arn: arn("container-instance/prod/4567"),
            container_id: Some("c1".to_owned()),
            second_container_id: Some("c2".to_owned()),
            ..EcsFields::default()
        }
        .completed(),
        ..web()
    }
}

fn group(id: &str, name: &str) -> SecurityGroup {
    SecurityGroup {
        id: id.to_owned(),
        name: name.to_owned(),
        vpc: None,
        rules_known: true,
        dialect: Dialect::Native,
        location: Location::default(),
        ingress: Vec::new(),
        egress: Vec::new(),
    }
}

/// A model with `web` on this host and `db` on another host of its VPC.
fn model() -> Arc<Model> {
    let peer = Eni {
        task: Some("db-1".to_owned()),
        groups: vec![GroupIndex(1), GroupIndex(2)],
        vpc: Some("vpc-01".to_owned()),
        ..db()
    };
    let format = RecordFormat::Json;
    Arc::new(Model {
        groups: vec![group("sg-web", "web"), group("sg-db", "my db"), group("sg-3", "")],
        enis: vec![described(), peer],
        flow_logs: vec![FlowLog {
            format,
            ..FlowLog::default()
        }],
        ..Model::default()
    })
}

fn rules() -> [RuleText<'static>; 2] {
    [("web/egress/1", "web"), ("sgr-2", "web")].map(|(rule, group_name)| RuleText {
        group: "sg-web",
        group_name,
        rule,
    })
}

/// The names of two rules in generation 0x10003, with `db` as a peer.
pub(super) fn names() -> RecordNames {
    let mut names = RecordNames::default();
    names.set_rules(rules().into_iter(), 0x1_0003);
    names.set_peers(&model());
    names
}

fn rig() -> Rig {
    let mut rig = Rig::with(&FlowLog::default(), Unlogged::default());
    rig.collector.bind(WEB, LoggedEni::new(described(), "111122223333"));
    *rig.collector.names() = names();
    rig
}

/// The lines of a window in a format.
fn lines(window: &Window, format: &str) -> Vec<String> {
    let format = RecordFormat::parse(format).expect("a format");
    let log = FlowLog {
        format,
        ..FlowLog::default()
    };
    let text = Stream::new(&log, aligned(BEGIN, 60), 100).push(window, true);
    let text = std::str::from_utf8(&text).expect("text");
    text.split_terminator('\n').map(str::to_owned).collect()
}

fn all_fields() -> String {
    RecordFormat::Custom(RecordField::ALL.to_vec()).to_string()
}

/// A query to `db`, allowed by the second rule in the generation before the one in force.
fn query(rig: &mut Rig) -> Flow {
    let flow = Flow::new(WEB, TCP, ("10.0.1.16", 49152), ("10.0.1.20", 5432));
    rig.kernel.state.clock += 1234;
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    let conn = rig.kernel.state.conn(&flow);
    (conn.rule, conn.generation) = (2, 2);
    flow
}

/// AWS: FL-FIELD-1, FL-FIELD-2, FL-FIELD-3, FL-FIELD-4, FL-FIELD-5
#[test]
fn every_field_says_what_is_known() {
    let mut rig = rig();
    query(&mut rig);
    let window = rig.close();
    let [line] = &lines(&window, &all_fields())[..] else {
        panic!("one line")
    };
    let words: Vec<_> = RecordField::ALL
        .iter()
        .map(|field| field.name())
        .zip(line.split(' '))
        .collect();
    let arn = "arn:aws:ecs:eu-west-1:111122223333";
    let expected = [
        ("version", "11"),
        ("account-id", "111122223333"),
        ("interface-id", "eni-00000000000000web"),
        ("srcaddr", "10.0.1.15"),
        ("dstaddr", "10.0.1.20"),
        ("srcport", "49152"),
        ("dstport", "5432"),
        ("protocol", "6"),
        ("packets", "1"),
        ("bytes", "60"),
        ("start", "1767225600"),
        ("end", "1767225660"),
        ("action", "ACCEPT"),
        ("log-status", "OK"),
        ("vpc-id", "vpc-01"),
        ("subnet-id", "subnet-01"),
        ("instance-id", "-"),
        ("tcp-flags", "2"),
        ("type", "IPv4"),
        ("pkt-srcaddr", "10.0.1.16"),
        ("pkt-dstaddr", "10.0.1.20"),
        ("region", "eu-west-1"),
        ("az-id", "euw1-az2"),
        ("sublocation-type", "-"),
        ("sublocation-id", "-"),
        ("pkt-src-aws-service", "-"),
        ("pkt-dst-aws-service", "-"),
        ("flow-direction", "egress"),
        ("traffic-path", "1"),
        ("ecs-cluster-arn", &format!("{arn}:cluster/prod")),
        ("ecs-cluster-name", "prod"),
        (
            "ecs-container-instance-arn",
            &format!("{arn}:container-instance/prod/4567"),
        ),
        ("ecs-container-instance-id", "4567"),
        ("ecs-container-id", "c1"),
        ("ecs-second-container-id", "c2"),
        ("ecs-service-name", "shop"),
        ("ecs-task-definition-arn", &format!("{arn}:task-definition/shop:7")),
        ("ecs-task-arn", &format!("{arn}:task/prod/0123")),
        ("ecs-task-id", "0123"),
        ("reject-reason", "-"),
        ("resource-id", "-"),
        ("encryption-status", "-"),
        ("instance-tag", "-"),
        ("instance-tag-2", "-"),
        ("interface-tag", "-"),
        ("interface-tag-2", "-"),
        ("asg-tag", "-"),
        ("asg-tag-2", "-"),
        ("interface-type", "-"),
        ("next-hop-interface-id", "-"),
        ("next-hop-subnet-id", "-"),
        ("next-hop-az-id", "-"),
        ("next-hop-vpc-id", "-"),
        ("next-hop-interface-type", "-"),
        ("taskgate-task", "web-1"),
        ("taskgate-group", "web"),
        ("taskgate-group-id", "sg-web"),
        ("taskgate-rule", "sgr-2"),
        ("taskgate-reason", "-"),
        ("taskgate-same-host", "false"),
        ("taskgate-peer-task", "db-1"),
        ("taskgate-peer-groups", "my%20db,sg-3"),
        ("taskgate-first", "-"),
        ("taskgate-last", "1767225601.234"),
        // Generation 0x10003 is in force, and the entry has the lower half of the generation that allowed it.
        ("taskgate-generation", "65538"),
    ];
    assert_eq!(words, expected);

    let [json] = &lines(&window, "json")[..] else {
        panic!("one line")
    };
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    let object = json.as_object().expect("an object");
    let keys: Vec<_> = object.keys().map(String::as_str).collect();
    let mut filled: Vec<_> = RecordField::ALL
        .iter()
        .filter(|field| !field.is_absent())
        .map(|field| field.name())
        .collect();
    filled.sort_unstable();
    assert_eq!(keys, filled);
    for (name, expected) in expected.into_iter().filter(|(name, _)| keys.contains(name)) {
        let expected = match (name, expected) {
            ("version", _) => serde_json::json!(7),
            ("taskgate-peer-groups", _) => serde_json::json!(["my db", "sg-3"]),
            ("taskgate-same-host", _) => serde_json::json!(false),
            ("taskgate-last", _) => serde_json::json!(1_767_225_601.234),
            (_, "-") => serde_json::Value::Null,
            ("account-id" | "ecs-task-id" | "ecs-container-instance-id", text) => text.into(),
            (_, text) => text.parse::<u64>().map_or_else(|_| text.into(), Into::into),
        };
        assert_eq!(object[name], expected, "{name}");
    }
}

/// AWS: FL-FIELD-3, FL-FIELD-4, FL-FIELD-6
#[test]
fn what_does_not_apply_is_a_dash() {
    let mut rig = rig();
    let state = &mut rig.kernel.state;
    // A flow between `web`'s own addresses, with a peer on this host; a flow denied for two reasons; an unknown peer; no TCP.
    let own = Flow::new(WEB, UDP, ("10.0.1.16", 7), ("10.0.1.15", 9));
    state.deny(&own, Ingress, DropReason::NoRule, 100, 0);
    state.deny(&own, Ingress, DropReason::ConnectionsFull, 100, 0);
    let ping = Flow::new(WEB, ICMP, ("10.0.1.15", 3), ("192.0.2.1", 0xff08));
    state.pass(&ping, Egress, 84, 0);
    let conn = state.conn(&ping);
    (conn.rule, conn.generation) = (RULE_EXEMPT, 3);
    let from_db = Flow::new(DB, TCP, ("10.0.1.20", 5432), ("10.0.1.15", 49152));
    state.pass(&from_db, Ingress, 40, tcp::ACK);
    state.conn(&from_db).rule = 9;
    let to_v6 = Flow::new(WEB, TCP, ("2001:db8:1::15", 443), ("2001:db8::1", 50000));
    state.deny(&to_v6, Egress, DropReason::NoRule, 60, tcp::SYN);
    let window = rig.close();
    let format = "${interface-id} ${type} ${tcp-flags} ${flow-direction} ${traffic-path} ${pkt-dstaddr} ${ecs-task-id} ${az-id} \
                  ${taskgate-task} ${taskgate-rule} ${taskgate-reason} ${taskgate-same-host} ${taskgate-peer-task} \
                  ${taskgate-peer-groups} ${taskgate-generation}";
    assert_eq!(
        lines(&window, format),
        [
            "eni-000000000000000db IPv4 0 ingress - 10.0.1.20 - - - - - true web-1 web 65536",
            "eni-00000000000000web IPv4 0 ingress - 10.0.1.16 0123 euw1-az2 web-1 - no-rule,connections-full true web-1 web -",
            "eni-00000000000000web IPv4 0 egress - 192.0.2.1 0123 euw1-az2 web-1 - exempt false - - 65539",
            "eni-00000000000000web IPv6 2 egress - 2001:db8::1 0123 euw1-az2 web-1 - no-rule false - - -",
        ]
    );
    let json = lines(&window, "json");
    let denied: serde_json::Value = serde_json::from_str(&json[1]).expect("JSON");
    assert_eq!(denied["taskgate-reason"], "no-rule,connections-full");
    assert_eq!(denied["taskgate-generation"], serde_json::Value::Null);
}

/// AWS: FL-LINE-3
#[test]
fn a_line_that_is_no_flow_has_what_is_its_own_and_dashes() {
    let eni = LoggedEni::new(described(), "111122223333");
    let bounds = crate::Bounds {
        start: BEGIN,
        end: BEGIN + 60,
    };
    let written = |format: &str, status| {
        let format = RecordFormat::parse(format).expect("a format");
        let mut lines = BytesMut::new();
        RecordWriter::new(&format).write_status(&mut lines, &eni, status, bounds);
        String::from_utf8(lines.to_vec()).expect("text")
    };
    assert_eq!(
        written(
            "${vpc-id} ${start} ${interface-id} ${log-status} ${tcp-flags} ${account-id} ${version} ${end} ${action} ${taskgate-task}",
            LogStatus::NoData
        ),
        "- 1767225600 eni-00000000000000web NODATA - 111122223333 3 1767225660 - web-1\n"
    );
    let json: serde_json::Value = serde_json::from_str(&written("json", LogStatus::SkipData)).expect("JSON");
    let object = json.as_object().expect("an object").iter();
    let there: Vec<_> = object
        .filter(|(_, value)| !value.is_null())
        .map(|(key, value)| format!("{key} {value}"))
        .collect();
    assert_eq!(
        there,
        [
            "account-id \"111122223333\"",
            "end 1767225660",
            "interface-id \"eni-00000000000000web\"",
            "log-status \"SKIPDATA\"",
            "start 1767225600",
            "taskgate-task \"web-1\"",
            "version 7",
        ]
    );
}

/// A record of two flows has the rule of the flow with the latest packet, and its peer if it has one.
#[test]
fn of_flows_that_are_one_record_the_last_one_names_the_rule() {
    for last in [1, 2] {
        let mut rig = rig();
        for (rule, port) in [(1, 1), (2, 2)] {
            let ping = Flow::new(WEB, ICMP, ("10.0.1.15", port), ("10.0.1.20", 0xff08));
            rig.kernel.state.clock = if rule == last { 900 } else { 300 };
            rig.kernel.state.pass(&ping, Egress, 84, 0);
            let conn = rig.kernel.state.conn(&ping);
            (conn.rule, conn.generation) = (rule, rule as u16);
        }
        let window = rig.close();
        let rule = rules()[last as usize - 1].rule;
        assert_eq!(
            lines(
                &window,
                "${packets} ${taskgate-rule} ${taskgate-generation} ${taskgate-last} ${taskgate-peer-task}"
            ),
            [format!("2 {rule} {} 1767225600.900 db-1", 0x1_0000 + last)]
        );
    }
}

/// A renamed rule does not change records that were read before; later records have the new name.
#[test]
fn a_record_names_the_rule_as_it_was_called_when_it_was_read() {
    let mut rig = rig();
    let flow = query(&mut rig);
    let before = rig.close();
    let mut renamed = rules();
    renamed[1].group_name = "shop";
    rig.collector.names().set_rules(renamed.into_iter(), 0x1_0004);
    rig.kernel.state.pass(&flow, Egress, 60, 0);
    let after = rig.close();
    let format = "${taskgate-group} ${taskgate-rule} ${taskgate-generation}";
    assert_eq!(lines(&before, format), ["web sgr-2 65538"]);
    assert_eq!(lines(&after, format), ["shop sgr-2 65538"]);
}

/// Addresses of VPCs may overlap: the peer is the task on this host, else the one in the same VPC; else it is unknown.
#[test]
fn the_peer_of_an_address_in_several_vpcs_is_the_one_that_can_be_meant() {
    let at = |id: &str, vpc: &str, here: bool| Eni {
        task: Some(id.to_owned()),
        vpc: Some(vpc.to_owned()),
        binding: here.then(|| Binding::Device("v1".to_owned())),
        ..super::eni(id, &["10.0.1.20"])
    };
    for (enis, seen_from, peer) in [
        (vec![at("a", "vpc-02", false)], "vpc-01", Some("a")),
        (
            vec![at("a", "vpc-02", false), at("b", "vpc-01", false)],
            "vpc-01",
            Some("b"),
        ),
        (vec![at("a", "vpc-02", false), at("b", "vpc-03", false)], "vpc-01", None),
        (
            vec![at("a", "vpc-01", false), at("b", "vpc-03", true)],
            "vpc-01",
            Some("b"),
        ),
        (vec![], "vpc-01", None),
    ] {
        let mut names = RecordNames::default();
        let model = Model {
            enis,
            flow_logs: model().flow_logs.clone(),
            ..Model::default()
        };
        names.set_peers(&Arc::new(model));
        let found = names.peer("10.0.1.20".parse().expect("an address"), Some(seen_from));
        assert_eq!(found.as_ref().and_then(|peer| peer.task.as_ref()).map(Label::raw), peer);
    }
    // No flow log has a field for the peer, so nothing is looked up.
    let mut names = RecordNames::default();
    names.set_peers(&Arc::new(Model {
        enis: vec![at("a", "vpc-01", true)],
        ..Model::default()
    }));
    assert_eq!(names.peer("10.0.1.20".parse().expect("an address"), None), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// With any names in the configuration, a line has as many words as fields, each the same as in a line with all fields.
    #[test]
    fn any_fields_in_any_order_are_as_many_words(
        fields in subsequence(RecordField::ALL.to_vec(), 1..=RecordField::ALL.len()).prop_shuffle(),
        name in ".{0,12}",
        denied in any::<bool>(),
    ) {
        let mut rig = Rig::with(&FlowLog::default(), Unlogged::default());
        let eni = Eni { task: Some(name.clone()), vpc: Some(name.clone()), ..described() };
        rig.collector.bind(WEB, LoggedEni::new(eni, "111122223333"));
        name_all(rig.collector.names(), &name);
        let flow = Flow::new(WEB, TCP, ("10.0.1.16", 49152), ("10.0.1.20", 5432));
        if denied {
            rig.kernel.state.deny(&flow, Egress, DropReason::NoRule, 60, tcp::SYN);
        } else {
            rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
            rig.kernel.state.conn(&flow).rule = 1;
        }
        rig.kernel.state.usage.entry(WEB).or_default().flows_lost = 1;
        let window = rig.close();
        let format = RecordFormat::Custom(fields.clone());
        for (line, all) in lines(&window, &format.to_string()).iter().zip(lines(&window, &all_fields())) {
            let words: Vec<_> = line.split(' ').collect();
            prop_assert_eq!(words.len(), fields.len(), "{}", line);
            let all: Vec<_> = all.split(' ').collect();
            for (field, word) in fields.iter().zip(words) {
                prop_assert!(!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic()), "{}", line);
                let at = RecordField::ALL.iter().position(|other| other == field).expect("a field");
                let expected = if *field == RecordField::Version { format.version().to_string() } else { all[at].to_owned() };
                prop_assert_eq!(word, expected);
            }
        }
        for line in lines(&window, "json") {
            let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            prop_assert_eq!(&json["taskgate-task"], &name);
        }
    }
}

fn name_all(names: &mut RecordNames, name: &str) {
    let rule = RuleText {
        group: name,
        group_name: name,
        rule: name,
    };
    names.set_rules([rule].into_iter(), 1);
    let mut model = Arc::unwrap_or_clone(model());
    model.groups[1].name = name.to_owned();
    names.set_peers(&Arc::new(model));
}
