//! `taskgate check`.

use super::support::{Answer, Folder};

/// A configuration without any finding: the far side accepts what the near side may send.
const GOOD: &str = "taskgate: v1
groups:
- name: web
  ingress: [{ protocol: tcp, ports: [80, 443], from: any }]
  egress: [{ protocol: tcp, ports: 5432, to: group:db }]
- name: db
  ingress: [{ protocol: tcp, ports: 5432, from: group:web }]
  egress: []
prefix-lists:
- { name: corp, entries: [10.0.0.0/8] }
tasks:
- { name: web-1, device: veth1, addresses: [10.0.1.15, '2001:db8::15'], groups: [web] }
- { name: db-1, namespace: db-1, addresses: [10.0.1.20], groups: [db] }
members:
- { address: 10.0.7.9, groups: [db] }
";

#[test]
fn a_good_configuration_is_summed_up() {
    let folder = Folder::new(&[("t.yaml", GOOD)]);
    insta::assert_snapshot!(folder.transcript(&["check", "check -o json"]));
}

/// A floor of zero is pointed out instead of being shown as a mere number.
#[test]
fn more_tasks_than_entries_to_guarantee_are_said() {
    let task = |task| {
        let (third, fourth) = (task / 250, task % 250 + 1);
        format!("- {{ name: t{task}, namespace: t{task}, addresses: [10.9.{third}.{fourth}], groups: [web] }}\n")
    };
    let tasks = (0..300).map(task).collect::<Vec<String>>().concat();
    let text =
        format!("taskgate: v1\nsettings: {{ connections: {{ total: 1024 }} }}\ngroups:\n- name: web\ntasks:\n{tasks}");
    let folder = Folder::new(&[("t.yaml", &text)]);
    let said = folder.transcript(&["check"]);
    assert!(
        said.contains("1024: too few for a floor for each of 300 tasks, "),
        "{said}"
    );
}

#[test]
fn what_deserves_a_look_is_a_warning() {
    let folder = Folder::new(&[
        (
            "aws.json",
            r#"{"SecurityGroups": [{"GroupId": "sg-1", "GroupName": "old", "IpPermissions": [
                {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "UserIdGroupPairs": [{"GroupId": "sg-gone"},
                {"GroupId": "sg-2"}]}], "IpPermissionsEgress": []}, {"GroupId": "sg-2", "GroupName": "empty", "IpPermissions": [], "IpPermissionsEgress": []}]}"#,
        ),
        (
            "t.yaml",
            "taskgate: v1
groups:
- name: web
  ingress:
  - { protocol: tcp, ports: 80, from: any }
  - { protocol: tcp, ports: 80, from: 10.0.0.0/8 }
  - { protocol: tcp, ports: [79-81, 80], from: any }
  - { protocol: tcp, ports: 80, from: any }
  - { protocol: tcp, ports: 80, from: [10.1.2.3, prefix-list:corp] }
  - { protocol: icmp, type: 8, code: 0, from: prefix-list:corp }
  - { protocol: icmp, from: prefix-list:corp }
  - { protocol: icmp, type: 8, from: 10.7.0.0/16 }
  - { protocol: 50, from: group:nobody }
  egress:
  - { protocol: tcp, ports: [5432, 5433], to: group:db }
  - { protocol: udp, ports: 53, to: group:db }
- name: db
  ingress:
  - { protocol: tcp, ports: 5000-5432, from: 10.0.0.0/8 }
  - { protocol: udp, ports: 500, from: group:web }
  egress: []
- { name: nobody }
- name: unused
  ingress: [{ protocol: tcp, ports: 80, from: group:nobody }]
prefix-lists:
- { name: corp, entries: [10.1.0.0/16, 10.2.0.0/16] }
tasks:
- { name: web-1, device: veth1, addresses: [10.0.1.15], groups: [web, old] }
- { name: db-1, device: veth2, addresses: [10.0.1.20], groups: [db] }
",
        ),
    ]);
    insta::assert_snapshot!(folder.transcript(&["check", "check --output json"]));
}

/// The advice to remove an AWS rule is a command, unless the rule's id is in no file.
#[test]
fn a_rule_that_never_decides_is_removed_in_the_form_of_its_source() {
    let groups = r#"{"SecurityGroups": [
        {"GroupId": "sg-1", "GroupName": "ids", "IpPermissions": [
            {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "10.1.0.0/16"}]}], "IpPermissionsEgress": []},
        {"GroupId": "sg-2", "GroupName": "no ids", "IpPermissionsEgress": [
            {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 80, "IpRanges": [{"CidrIp": "10.0.0.0/8"}, {"CidrIp": "10.1.0.0/16"}]}], "IpPermissions": []}]}"#;
    let rules = r#"{"SecurityGroupRules": [
        {"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
         "CidrIpv4": "10.0.0.0/8"},
        {"SecurityGroupRuleId": "sgr-2", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "tcp", "FromPort": 80, "ToPort": 80,
         "CidrIpv4": "10.1.0.0/16"}]}"#;
    let task = "{taskgate: v1, tasks: [{name: a, device: veth1, addresses: [10.0.0.1], groups: [sg-1, sg-2]}]}";
    let folder = Folder::new(&[("groups.json", groups), ("rules.json", rules), ("t.yaml", task)]);
    let Answer { err, exit, .. } = folder.run("check");
    assert_eq!(exit, Some(0));
    assert_eq!(
        err,
        "conf/groups.json:3:104: warning: ingress rule `sgr-2` of group `ids` never decides: `sgr-1` comes first and allows all \
         of it; remove it: `aws ec2 revoke-security-group-ingress --group-id sg-1 --security-group-rule-ids sgr-2`\n\
         conf/groups.json:5:104: warning: egress rule `no ids/egress/2` of group `no ids` never decides: `no ids/egress/1` comes \
         first and allows all of it; remove it\n"
    );
}

/// A group that is in no file is reported in a single line, however many ENIs and rules refer to it.
#[test]
fn an_unknown_group_is_warned_of_once() {
    let enis: Vec<String> = (0..300)
        .map(|number| {
            format!(
                r#"{{"NetworkInterfaceId": "eni-{number}", "PrivateIpAddress": "10.0.{}.{}",
                    "Groups": [{{"GroupId": "sg-far"}}, {{"GroupId": "sg-{}"}}]}}"#,
                number / 100,
                number % 100,
                number % 2
            )
        })
        .collect();
    let pairs: Vec<String> = (0..40).map(|_| String::from(r#"{"GroupId": "sg-gone"}"#)).collect();
    let permission = |port: u16| {
        format!(
            r#"{{"IpProtocol": "tcp", "FromPort": {port}, "ToPort": {port}, "UserIdGroupPairs": [{}]}}"#,
            pairs.join(", ")
        )
    };
    let groups = format!(
        r#"{{"SecurityGroups": [{{"GroupId": "sg-0", "GroupName": "sg-0", "IpPermissions": [{}, {}], "IpPermissionsEgress": []}},
            {{"GroupId": "sg-1", "GroupName": "one", "IpPermissions": [
                {{"IpProtocol": "-1", "UserIdGroupPairs": [{{"GroupId": "sg-0"}}, {{"GroupId": "sg-gone"}}]}}], "IpPermissionsEgress": []}}]}}"#,
        permission(1),
        permission(2)
    );
    let enis = format!(r#"{{"NetworkInterfaces": [{}]}}"#, enis.join(",\n"));
    let folder = Folder::new(&[("enis.json", &enis), ("groups.json", &groups)]);
    insta::assert_snapshot!(folder.transcript(&["check"]));
}

#[test]
fn every_error_is_shown_at_once() {
    let folder = Folder::new(&[
        ("a.yaml", "taskgate: v1\ngroups:\n- { name: web, ingres: [] }\n"),
        (
            "b.yaml",
            "taskgate: v1\ntasks:\n- { name: a, device: v, addresses: [10.0.0.300], groups: [wbe] }\n",
        ),
        ("c.json", "{}"),
    ]);
    insta::assert_snapshot!(folder.transcript(&["check", "check -o json"]));
}

/// A thousand problems are shown, and all are counted.
#[test]
fn problems_that_are_not_shown_are_counted() {
    const MANY: usize = 1500;
    let rule = "  - { protocol: nonsense, from: any }\n";
    let errors = format!("taskgate: v1\ngroups:\n- name: web\n  ingress:\n{}", rule.repeat(MANY));
    let answer = Folder::new(&[("a.yaml", &errors)]).run("check");
    let lines: Vec<&str> = answer.err.lines().collect();
    let [shown @ .., more, sum] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert_eq!((answer.exit, shown.len()), (Some(3), 1000));
    assert_eq!(*more, "conf/a.yaml: error: 500 more are not shown; mend these first");
    assert_eq!(*sum, "the configuration is refused: 1500 errors, 0 warnings");

    let enis: Vec<String> = (0..MANY)
        .map(|number| {
            let (high, low) = (number / 250, number % 250);
            format!(
                r#"{{"NetworkInterfaceId": "eni-{number}", "PrivateIpAddress": "10.0.{high}.{low}",
                    "Groups": [{{"GroupId": "sg-far{number}"}}]}}"#
            )
        })
        .collect();
    let enis = format!(r#"{{"NetworkInterfaces": [{}]}}"#, enis.join(",\n"));
    let answer = Folder::new(&[("enis.json", &enis)]).run("check");
    assert!(answer.out.contains("is valid, with 1500 warnings\n"), "{}", answer.out);
}

#[test]
fn tables_are_divided_among_tasks_if_there_are_any() {
    let folder = Folder::new(&[(
        "t.yaml",
        "taskgate: v1\ngroups:\n- { name: web, ingress: [], egress: [] }\n",
    )]);
    let answer = folder.run("check");
    for line in [
        "connections   262144, no task is gated",
        "denials       65536, no task is gated",
    ] {
        assert!(answer.out.contains(line), "{}", answer.out);
    }
    let document = folder.run("check -o json").out;
    assert!(
        document.contains("\"total\": 65536,\n      \"floor\": 0,\n      \"pool\": 65536\n"),
        "{document}"
    );
}

#[test]
fn a_folder_that_is_not_there_is_an_error() {
    let folder = Folder::new(&[]);
    insta::assert_snapshot!(folder.transcript(&["check", "check --config nowhere"]));
}

#[test]
fn the_examples_are_valid() {
    let folder = Folder::new(&[]);
    for example in ["aws", "native", "trunk"] {
        let place = format!("{}/../../examples/{example}", env!("CARGO_MANIFEST_DIR"));
        let answer = folder.run(&format!("check --config {place}"));
        assert_eq!((answer.exit, &*answer.err), (Some(0), ""), "{example}: {}", answer.out);
    }
}
