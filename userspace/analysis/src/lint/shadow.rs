//! Shadowed rules: earlier rules of the group allow everything that they allow.

use std::collections::HashSet;

use ipnet::IpNet;
use taskgate_model::{Dialect, Direction, GroupIndex, IcmpMatch, Model, Peer, Ports, Protocol, Rule};

use super::{Lint, rule_of};
use crate::display::plain_id;

/// Checks the rules of one group in one direction. Rules decide in this order: rules for particular peers before rules that
/// are open to any, then in the order of the file.
pub(super) fn find(model: &Model, group: GroupIndex, direction: Direction, lints: &mut Vec<Lint>) {
    let mut order: Vec<&Rule> = model.group(group).rules(direction).iter().collect();
    order.sort_by_key(|rule| rule.peer.is_any());
    let mut seen = HashSet::new();
    for first in model.group(group).rules(direction) {
        let id = first.id.as_str();
        if !seen.insert(id) {
            continue;
        }
        let parts = order.iter().enumerate().filter(|(_, rule)| rule.id == id);
        // Rules with an unknown peer already get a warning when they are read.
        let before: Option<Vec<&Rule>> = parts
            .map(|(at, part)| {
                let covers = |other: &&&Rule| other.id != id && covers(model, other, part);
                order[..at].iter().find(covers).copied()
            })
            .collect();
        let Some(mut before) = before else { continue };
        before.dedup_by_key(|rule| &rule.id);
        let names: Vec<String> = before.iter().map(|rule| format!("`{}`", rule.id)).collect();
        let verb = if names.len() == 1 { "comes" } else { "come" };
        lints.push(Lint {
            message: format!(
                "{} never decides: {} {verb} first and allow{} all of it",
                rule_of(model, group, direction, id),
                names.join(" and "),
                if names.len() == 1 { "s" } else { "" },
            ),
            hint: removal(model, group, direction, id),
            location: Some(first.location),
        });
    }
}

/// How to remove a rule, for the form of its group's definition.
fn removal(model: &Model, group: GroupIndex, direction: Direction, rule: &str) -> String {
    let group = model.group(group);
    let ids = plain_id(&group.id).zip(plain_id(rule).filter(|id| id.starts_with("sgr-")));
    match ids.filter(|_| group.dialect == Dialect::Aws) {
        Some((group, rule)) => format!(
            "remove it: `aws ec2 revoke-security-group-{direction} --group-id {group} --security-group-rule-ids {rule}`"
        ),
        None => String::from("remove it"),
    }
}

/// Whether one rule allows all that another allows, for any members of groups.
fn covers(model: &Model, wide: &Rule, narrow: &Rule) -> bool {
    covers_protocol(wide.protocol, narrow.protocol) && covers_peer(model, &wide.peer, &narrow.peer)
}

fn covers_protocol(wide: Protocol, narrow: Protocol) -> bool {
    match (wide, narrow) {
        (Protocol::All, _) => true,
        (Protocol::Tcp(wide), Protocol::Tcp(narrow)) | (Protocol::Udp(wide), Protocol::Udp(narrow)) => {
            covers_ports(wide, narrow)
        }
        (Protocol::Icmp(wide), Protocol::Icmp(narrow)) | (Protocol::Icmpv6(wide), Protocol::Icmpv6(narrow)) => {
            covers_icmp(wide, narrow)
        }
        (wide, narrow) => wide == narrow,
    }
}

fn covers_ports(wide: Ports, narrow: Ports) -> bool {
    wide.contains(narrow.from) && wide.contains(narrow.to)
}

fn covers_icmp(wide: IcmpMatch, narrow: IcmpMatch) -> bool {
    match (wide, narrow) {
        (IcmpMatch::All, _) => true,
        (IcmpMatch::Type(wide), IcmpMatch::Type(narrow) | IcmpMatch::TypeCode(narrow, _)) => wide == narrow,
        (wide, narrow) => wide == narrow,
    }
}

/// A group is covered only by itself, since its members change; the same holds for lists.
fn covers_peer(model: &Model, wide: &Peer, narrow: &Peer) -> bool {
    if wide == narrow {
        return true;
    }
    match (net(wide), net(narrow), wide, narrow) {
        (Some(wide), Some(narrow), ..) => wide.contains(&narrow),
        (Some(wide), None, _, Peer::PrefixList(list)) => {
            let entries = model.prefix_list(*list).entries.as_deref().unwrap_or_default();
            !entries.is_empty() && entries.iter().all(|entry| wide.contains(entry))
        }
        (None, Some(narrow), Peer::PrefixList(list), _) => {
            let entries = model.prefix_list(*list).entries.iter().flatten();
            entries.into_iter().any(|entry| entry.contains(&narrow))
        }
        _ => false,
    }
}

/// The peer's CIDR, if it is a single one.
fn net(peer: &Peer) -> Option<IpNet> {
    match peer {
        Peer::V4(net) => Some(IpNet::V4(*net)),
        Peer::V6(net) => Some(IpNet::V6(*net)),
        Peer::PrefixList(_) | Peer::Group(_) | Peer::Missing(_) => None,
    }
}
