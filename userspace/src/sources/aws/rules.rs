//! `SecurityGroupRules`: one object for each rule, with its id.

use crate::model::Direction;

use super::super::object::{Object, all};
use super::super::problem::Report;
use super::super::raw::{AwsRule, RawPeer, RawRule};
use super::groups::{cidr_at, protocol};
use super::{AS_PRINTED, id};

/// The keys of which a rule has exactly one.
const PEERS: [&str; 4] = ["CidrIpv4", "CidrIpv6", "PrefixListId", "ReferencedGroupInfo"];

/// Reads one rule.
pub(super) fn read(rule: &Object<'_>, report: &mut Report) -> Option<AwsRule> {
    let group = id(rule, "GroupId", report);
    let id = rule.required_text("SecurityGroupRuleId", AS_PRINTED, report);
    let egress = rule
        .required("IsEgress", AS_PRINTED, report)
        .and_then(|_| rule.boolean("IsEgress", report));
    let protocol = protocol(rule, report);
    let peer = read_peer(rule, report);
    let description = rule.text("Description", report).unwrap_or_default().to_owned();
    let (id, direction) = (
        id?.to_owned(),
        if egress? { Direction::Egress } else { Direction::Ingress },
    );
    let (protocol, peer, spot) = (protocol?, peer?, rule.spot);
    // The number is of no use: the id names the rule.
    let rule = RawRule {
        id: Some(id.clone()),
        number: 0,
        protocol,
        peer,
        description,
        spot,
    };
    Some(AwsRule {
        id,
        group: group?,
        direction,
        rule,
    })
}

fn read_peer(rule: &Object<'_>, report: &mut Report) -> Option<RawPeer> {
    let present: Vec<&str> = PEERS.into_iter().filter(|key| rule.get(key).is_some()).collect();
    let [key] = present[..] else {
        let message = if present.is_empty() {
            String::from("the rule has no peer")
        } else {
            format!("the rule has several peers: {}", all(present.into_iter()))
        };
        report.error(
            rule.spot,
            message,
            format!("a rule has exactly one of {}", all(PEERS.into_iter())),
        );
        return None;
    };
    match key {
        "PrefixListId" => rule.text(key, report).map(|id| RawPeer::PrefixList(id.to_owned())),
        "ReferencedGroupInfo" => {
            let group = Object::of(rule.get(key)?, "`ReferencedGroupInfo`", report)?;
            group
                .required_text("GroupId", AS_PRINTED, report)
                .map(|id| RawPeer::Group(id.to_owned()))
        }
        _ => cidr_at(rule.get(key)?, key, report).map(RawPeer::Net),
    }
}
