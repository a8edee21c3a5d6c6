//! One-sided pairs: a rule refers to a group whose gated tasks lack the matching rule in the other direction.
//!
//! A packet between two tasks needs an egress rule at one and an ingress rule at the other. Rules for wide ranges do not
//! concern a particular task, so only rules with a group are followed.

use std::collections::{BTreeMap, HashSet};

use ipnet::IpNet;
use taskgate_model::{Direction, Eni, GroupIndex, IcmpMatch, Model, Peer, Protocol, Rule};

use super::{Lint, rule_of};
use crate::display;

/// The most pairs of rules that are compared, so that `check` stays fast.
const BUDGET: usize = 50_000_000;

/// Gated ENIs by their groups.
type Kinds<'a> = BTreeMap<&'a [GroupIndex], Vec<&'a Eni>>;

/// Follows every rule with a group as peer, in both directions.
pub(super) fn find(model: &Model, lints: &mut Vec<Lint>) {
    let mut kinds = Kinds::new();
    for eni in model.gated() {
        kinds.entry(&eni.groups).or_default().push(eni);
    }
    let mut budget = BUDGET;
    for direction in [Direction::Egress, Direction::Ingress] {
        if follow(model, direction, &kinds, &mut budget, lints).is_none() {
            lints.push(Lint {
                message: String::from(
                    "one-sided pairs were not all looked for: the gated tasks have too many different sets of groups",
                ),
                hint: String::from("ask `taskgate explain` about the pairs that matter"),
                location: None,
            });
            return;
        }
    }
}

/// Follows the rules of one direction; `None` once the budget is spent.
fn follow(
    model: &Model,
    direction: Direction,
    kinds: &Kinds<'_>,
    budget: &mut usize,
    lints: &mut Vec<Lint>,
) -> Option<()> {
    let mut told = HashSet::new();
    for (near_groups, near) in kinds {
        for &group in *near_groups {
            for rule in model.group(group).rules(direction) {
                let Peer::Group(named) = rule.peer else { continue };
                for (far_groups, far) in kinds.iter().filter(|(groups, _)| groups.contains(&named)) {
                    let halves = rules(model, far_groups, direction.opposite());
                    *budget = budget.checked_sub(halves.len() + 1)?;
                    // A task's traffic to itself passes no gate.
                    let Some((one, other)) = distinct_pair(near, far) else {
                        continue;
                    };
                    let met = halves.iter().any(|half| {
                        overlap(rule.protocol, half.protocol) && may_be(model, &half.peer, near_groups, near)
                    });
                    if !met && told.insert((group, &rule.id, rule.protocol)) {
                        lints.push(one_sided(model, group, direction, rule, (one, other)));
                    }
                }
            }
        }
    }
    Some(())
}

fn rules<'a>(model: &'a Model, groups: &[GroupIndex], direction: Direction) -> Vec<&'a Rule> {
    groups
        .iter()
        .flat_map(|&group| model.group(group).rules(direction))
        .collect()
}

/// Two different ENIs, one from each list.
fn distinct_pair<'a>(near: &[&'a Eni], far: &[&'a Eni]) -> Option<(&'a Eni, &'a Eni)> {
    let one = *near.first()?;
    let other = far.iter().find(|eni| eni.id != one.id)?;
    Some((one, other))
}

fn one_sided(model: &Model, group: GroupIndex, direction: Direction, rule: &Rule, pair: (&Eni, &Eni)) -> Lint {
    let (near, far) = (pair.0.display_name(), pair.1.display_name());
    let what = display::protocol(rule.protocol);
    let location = Some(rule.location);
    let rule = rule_of(model, group, direction, &rule.id);
    let groups: Vec<&str> = pair
        .1
        .groups
        .iter()
        .map(|&group| display::group_name(model, group))
        .collect();
    let groups = display::either(&groups);
    let (message, hint) = match direction {
        Direction::Egress => (
            format!("{rule} lets `{near}` send {what} to `{far}`, but no ingress rule of `{far}` accepts it"),
            format!("let {groups} accept it, or remove this rule"),
        ),
        Direction::Ingress => (
            format!("{rule} lets `{near}` accept {what} from `{far}`, but no egress rule of `{far}` lets it out"),
            format!("let {groups} send it, or remove this rule"),
        ),
    };
    Lint {
        message,
        hint,
        location,
    }
}

/// Whether some packet matches both protocols.
fn overlap(a: Protocol, b: Protocol) -> bool {
    match (a, b) {
        (Protocol::All, _) | (_, Protocol::All) => true,
        (Protocol::Tcp(a), Protocol::Tcp(b)) | (Protocol::Udp(a), Protocol::Udp(b)) => a.from <= b.to && b.from <= a.to,
        (Protocol::Icmp(a), Protocol::Icmp(b)) | (Protocol::Icmpv6(a), Protocol::Icmpv6(b)) => match (a, b) {
            (IcmpMatch::All, _) | (_, IcmpMatch::All) => true,
            (IcmpMatch::TypeCode(a, c), IcmpMatch::TypeCode(b, d)) => (a, c) == (b, d),
            (IcmpMatch::Type(a) | IcmpMatch::TypeCode(a, _), IcmpMatch::Type(b) | IcmpMatch::TypeCode(b, _)) => a == b,
        },
        (a, b) => a == b,
    }
}

/// Whether a peer may match some of these ENIs.
fn may_be(model: &Model, peer: &Peer, groups: &[GroupIndex], enis: &[&Eni]) -> bool {
    let within = |net: &IpNet| {
        enis.iter()
            .any(|eni| eni.addresses.iter().any(|address| net.contains(address)))
    };
    match peer {
        Peer::Group(group) => groups.contains(group),
        Peer::V4(net) => within(&IpNet::V4(*net)),
        Peer::V6(net) => within(&IpNet::V6(*net)),
        Peer::PrefixList(list) => model.prefix_list(*list).entries.iter().flatten().any(within),
        Peer::Missing(_) => false,
    }
}
