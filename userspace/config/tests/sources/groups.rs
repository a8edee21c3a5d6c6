//! Groups that appear in several files: their rules, the rules' ids, and the peering connections that rules go over.

use taskgate_config::read;
use taskgate_model::{GroupIndex, Peer};

use crate::forms::{GROUP, RULE};
use crate::support::lines;

#[test]
fn rules_over_a_peering_that_is_not_active_match_nothing() {
    let group = |pair: &str| {
        format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-1", "GroupName": "web", "VpcId": "vpc-1", "IpPermissions": [
 {{"IpProtocol": "-1", "UserIdGroupPairs": [{pair}]}}], "IpPermissionsEgress": []}}, {{"GroupId": "sg-2", "GroupName": "far", "VpcId": "vpc-2", "IpPermissions": [], "IpPermissionsEgress": []}}]}}"#
        )
    };
    let rule = |info: &str| {
        format!(
            r#"{{"SecurityGroupRules": [{{"SecurityGroupRuleId": "sgr-1", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "-1",
 "ReferencedGroupInfo": {info}}}]}}"#
        )
    };
    let active = r#"{"GroupId": "sg-2", "VpcPeeringConnectionId": "pcx-1", "PeeringStatus": "active"}"#;
    let deleted = active.replace("active", "deleted");
    let unnamed = r#"{"GroupId": "sg-2", "PeeringStatus": "pending-acceptance"}"#;
    let reached = |files: &[(&str, &str)]| {
        let loaded = read(files).expect("only warnings");
        (loaded.model.groups[0].ingress[0].peer.clone(), lines(&loaded.warnings))
    };
    let found = Peer::Group(GroupIndex(1));
    assert_eq!(reached(&[("g.json", &group(active))]), (found, String::new()));
    let missing = Peer::Missing(String::from("sg-2"));
    let told = |place: &str, what: &str| {
        format!(
            "{place}: {what}, not `active`, so the rule that refers to a group over it matches nothing; remove what is no \
             longer of use, or print the groups again once it is active"
        )
    };
    for (files, place, what) in [
        (
            vec![group(&deleted)],
            "g0:2:44",
            "peering connection `pcx-1` is `deleted`",
        ),
        (
            vec![group(unnamed)],
            "g0:2:44",
            "the peering connection is `pending-acceptance`",
        ),
        // It is enough if either file has it.
        (
            vec![group(active), rule(&deleted)],
            "g0:2:44",
            "peering connection `pcx-1` is `deleted`",
        ),
        (
            vec![group(&deleted), rule(active)],
            "g0:2:44",
            "peering connection `pcx-1` is `deleted`",
        ),
    ] {
        let named: Vec<(String, String)> = files
            .into_iter()
            .enumerate()
            .map(|(at, text)| (format!("g{at}"), text))
            .collect();
        let named: Vec<(&str, &str)> = named
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect();
        assert_eq!(reached(&named), (missing.clone(), told(place, what)), "{named:?}");
    }
    let alone = rule(&deleted);
    let loaded = read(&[("r.json", &alone)]).expect("only warnings");
    assert_eq!(loaded.model.groups[0].ingress[0].peer, missing);
}

/// AWS keeps the rule of a deleted peering connection next to the rule of the new one.
#[test]
fn rules_of_one_group_over_two_connections_keep_their_ids() {
    let pair = |connection: &str, status: &str| {
        let told = |key: &str, value: &str| match value {
            "" => String::new(),
            value => format!(r#", "{key}": "{value}""#),
        };
        let connection = told("VpcPeeringConnectionId", connection);
        format!(r#"{{"GroupId": "sg-2"{connection}{}}}"#, told("PeeringStatus", status))
    };
    let ids = |own: [String; 2], listed: [String; 2]| {
        let groups = format!(
            r#"{{"SecurityGroups": [{{"GroupId": "sg-1", "GroupName": "web", "IpPermissionsEgress": [], "IpPermissions": [
                {{"IpProtocol": "-1", "UserIdGroupPairs": [{}]}}]}},
                {{"GroupId": "sg-2", "GroupName": "far", "IpPermissions": [], "IpPermissionsEgress": []}}]}}"#,
            own.join(", ")
        );
        let rules = listed.iter().zip(["sgr-a", "sgr-b"]).map(|(info, id)| {
            format!(
                r#"{{"SecurityGroupRuleId": "{id}", "GroupId": "sg-1", "IsEgress": false, "IpProtocol": "-1",
                    "ReferencedGroupInfo": {info}}}"#
            )
        });
        let rules = format!(
            r#"{{"SecurityGroupRules": [{}]}}"#,
            rules.collect::<Vec<_>>().join(", ")
        );
        let loaded = read(&[("g", &groups), ("r", &rules)]).expect("only warnings");
        let ingress = loaded.model.groups[0].ingress.iter();
        let ids = ingress.map(|rule| (rule.id.clone(), rule.peer == Peer::Group(GroupIndex(1))));
        ids.collect::<Vec<_>>()
    };
    let (old, new) = (pair("pcx-1", "deleted"), pair("pcx-2", "active"));
    let named =
        |first: &str, second: &str, lives: [bool; 2]| vec![(first.to_owned(), lives[0]), (second.to_owned(), lives[1])];
    for (what, own, listed, expected) in [
        (
            "another order",
            [&old, &new],
            [&new, &old],
            named("sgr-b", "sgr-a", [false, true]),
        ),
        (
            "the same order",
            [&old, &new],
            [&old, &new],
            named("sgr-a", "sgr-b", [false, true]),
        ),
        (
            "by the connection, whose status has changed",
            [&pair("pcx-1", "active"), &new],
            [&new, &old],
            named("sgr-b", "sgr-a", [false, true]),
        ),
        (
            "by the status alone",
            [&pair("", "deleted"), &pair("", "active")],
            [&new, &old],
            named("sgr-b", "sgr-a", [false, true]),
        ),
        (
            "one side says nothing of one of them",
            [&pair("", ""), &old],
            [&old, &new],
            named("sgr-b", "sgr-a", [true, false]),
        ),
    ] {
        assert_eq!(
            ids(own.map(String::clone), listed.map(String::clone)),
            expected,
            "{what}"
        );
    }
}

/// `--query 'SecurityGroups[].{GroupId: GroupId, GroupName: GroupName}'` and the like.
#[test]
fn groups_without_their_rules_are_refused_or_take_them_from_the_list() {
    let head = |more: &str| {
        format!(r#"{{"SecurityGroups": [{{"GroupId": "sg-1", "GroupName": "web", "VpcId": "vpc-1"{more}}}]}}"#)
    };
    let hint = "the rules were left out of this output; print it without `--query`, or add the output of `aws ec2 \
                describe-security-group-rules`";
    for (more, lacks) in [
        ("", "`IpPermissions` and `IpPermissionsEgress`"),
        (r#", "IpPermissions": []"#, "`IpPermissionsEgress`"),
        (r#", "IpPermissionsEgress": []"#, "`IpPermissions`"),
    ] {
        let problems = read(&[("g.json", &head(more))]).expect_err("refused");
        let told = format!("g.json:1:21: security group `web` (sg-1) has no {lacks}: {hint}");
        assert_eq!(problems.to_string(), told);
        // Its rules may be in other files.
        let rules = format!(r#"{{"SecurityGroupRules": [{RULE}]}}"#);
        let loaded = read(&[("g.json", &head(more)), ("r.json", &rules)]).expect("whole");
        assert_eq!(loaded.model.groups[0].ingress[0].id, "sgr-1");
        let whole = format!(r#"{{"SecurityGroups": [{GROUP}]}}"#);
        for files in [[head(more), whole.clone()], [whole, head(more)]] {
            let loaded = read(&[("a.json", &files[0]), ("b.json", &files[1])]).expect("whole");
            assert_eq!(loaded.model.groups.len(), 1);
        }
    }
    let two = r#"[{"GroupId": "sg-1", "GroupName": "web", "IpPermissions": []}, {"GroupId": "sg-2", "GroupName": "db", "IpPermissions": []}]"#;
    let problems = read(&[("g.json", two)]).expect_err("refused");
    assert_eq!(
        problems.to_string(),
        format!(
            "g.json:1:2: security group `web` (sg-1) has no `IpPermissionsEgress`, and neither has one other: {hint}"
        )
    );
    let nulls = head(r#", "IpPermissions": null, "IpPermissionsEgress": null"#);
    read(&[("g.json", &nulls)]).expect("empty lists of other tools");
}
