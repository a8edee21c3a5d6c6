//! AWS's quotas, which give warnings, and taskgate's limits, which refuse a configuration.

use ipnet::IpNet;
use taskgate_model::{Direction, Family, Model, Peer, PrefixList, Rule, SecurityGroup};

use super::super::problem::{Diagnostics, Location};
use super::super::raw::{RawGroup, families};

/// AWS's default quotas, which can be raised for an account. [VPC UG quotas]
const QUOTA_GROUPS: usize = 5;
const QUOTA_RULES: usize = 60;
const QUOTA_PRODUCT: usize = 1_000;

/// Limits of one ENI.
const MAX_GROUPS: usize = 16;
const MAX_RULES: usize = 1_024;

/// Every direction and family: rules are counted separately for each.
const KINDS: [(Direction, Family); 4] = [
    (Direction::Ingress, Family::V4),
    (Direction::Ingress, Family::V6),
    (Direction::Egress, Family::V4),
    (Direction::Egress, Family::V6),
];

fn family_text(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn group_weight(group: &SecurityGroup, direction: Direction, family: Family, lists: &[PrefixList]) -> usize {
    group
        .rules(direction)
        .iter()
        .map(|rule| weight(rule, family, lists))
        .sum()
}

/// Warns about groups with more rules than AWS's quota.
pub(super) fn groups(groups: &[SecurityGroup], raw: &[RawGroup], lists: &[PrefixList], report: &mut Diagnostics) {
    for (group, raw) in groups.iter().zip(raw) {
        for (direction, family) in KINDS {
            let rules = group_weight(group, direction, family, lists);
            if rules > QUOTA_RULES {
                let message = format!(
                    "group `{}` has {rules} {direction} rules for {}, counted as AWS counts them",
                    group.name,
                    family_text(family),
                );
                report.warn(raw.location, message, format!("AWS's default quota is {QUOTA_RULES}"));
            }
        }
    }
}

/// Warns about ENIs beyond AWS's quotas and refuses those beyond taskgate's limits. `locations` has the place of each ENI.
pub(super) fn enis(model: &Model, locations: &[Location], report: &mut Diagnostics) {
    for (eni, location) in model.enis.iter().zip(locations) {
        let (name, count) = (eni.display_name(), eni.groups.len());
        if count > MAX_GROUPS {
            let message = format!("`{name}` has {count} groups");
            report.error(*location, message, format!("an ENI has at most {MAX_GROUPS}"));
            continue;
        }
        if count > QUOTA_GROUPS {
            let hint = format!("AWS's default quota is {QUOTA_GROUPS}");
            report.warn(*location, format!("`{name}` has {count} groups"), hint);
        }
        for (direction, family) in KINDS {
            let groups = || eni.groups.iter().map(|group| model.group(*group));
            let rules = groups()
                .flat_map(|group| group.rules(direction))
                .filter(|rule| rule_families(rule).contains(&family))
                .count();
            let family_name = family_text(family);
            if rules > MAX_RULES {
                let message = format!("`{name}` has {rules} {direction} rules for {family_name} in its groups");
                report.error(
                    *location,
                    message,
                    format!("an ENI has at most {MAX_RULES} by direction and family"),
                );
                continue;
            }
            let heaviest = groups()
                .map(|group| group_weight(group, direction, family, &model.prefix_lists))
                .max();
            let product = heaviest.unwrap_or(0) * count;
            if product > QUOTA_PRODUCT {
                let message = format!(
                    "`{name}` has {count} groups with up to {} {direction} rules for {family_name}: {product} together",
                    product / count,
                );
                report.warn(
                    *location,
                    message,
                    format!("AWS's quota for rules times groups is {QUOTA_PRODUCT}"),
                );
            }
        }
    }
}

/// The weights of AWS-managed prefix lists, by the ends of their names, for all Regions and families.
/// [VPC UG AWS-managed prefix lists]; `secretsmanager` means its external secrets.
const AWS_LISTS: [(&str, usize); 9] = [
    ("cloudfront.origin-facing", 55),
    ("route53-healthchecks", 25),
    ("secretsmanager", 20),
    ("vpc-lattice", 10),
    ("s3express", 6),
    ("groundstation", 5),
    ("ec2-instance-connect", 2),
    ("s3", 1),
    ("dynamodb", 1),
];

/// The common prefix of the names of AWS-managed lists.
const AWS_NAME: &str = "com.amazonaws.";

/// The address families that a rule can match.
fn rule_families(rule: &Rule) -> Vec<Family> {
    match &rule.peer {
        Peer::V4(net) => families(rule.protocol, Some(IpNet::V4(*net))).collect(),
        Peer::V6(net) => families(rule.protocol, Some(IpNet::V6(*net))).collect(),
        Peer::PrefixList(_) | Peer::Group(_) => families(rule.protocol, None).collect(),
        Peer::Missing(_) => Vec::new(),
    }
}

/// The weight of a rule in one family: a CIDR or a group 1, a prefix list its size.
fn weight(rule: &Rule, family: Family, lists: &[PrefixList]) -> usize {
    if !rule_families(rule).contains(&family) {
        return 0;
    }
    match &rule.peer {
        Peer::PrefixList(index) => list_weight(&lists[index.0], family),
        Peer::V4(_) | Peer::V6(_) | Peer::Group(_) | Peer::Missing(_) => 1,
    }
}

/// A list's fixed weight, else its maximum size, else its current size. It counts in the families of its entries.
fn list_weight(list: &PrefixList, family: Family) -> usize {
    if list.entries.as_ref().is_some_and(|entries| !entries.is_empty()) && list.entries_of(family).next().is_none() {
        return 0;
    }
    let name = list.name.as_deref().unwrap_or_default();
    let fixed = name.strip_prefix(AWS_NAME).and_then(|rest| {
        AWS_LISTS
            .iter()
            .find(|(end, _)| rest == *end || rest.ends_with(&format!(".{end}")))
            .map(|(_, weight)| *weight)
    });
    fixed
        .or(list.max_entries.map(|most| most as usize))
        .unwrap_or_else(|| list.entries_of(family).count().max(1))
}
