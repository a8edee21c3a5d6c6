//! What a rule weighs against AWS's quotas.

use ipnet::IpNet;

use crate::model::{Family, Peer, PrefixList, Rule};

use super::super::raw::families;

/// What AWS's own prefix lists weigh, by the end of their names, whatever the Region and family.
/// [VPC UG AWS-managed prefix lists]; `secretsmanager` stands for its external secrets.
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

/// What every name of AWS's own lists begins with.
const AWS_NAME: &str = "com.amazonaws.";

/// Which families a rule can match.
pub(super) fn rule_families(rule: &Rule) -> Vec<Family> {
    match &rule.peer {
        Peer::V4(net) => families(rule.protocol, Some(IpNet::V4(*net))).collect(),
        Peer::V6(net) => families(rule.protocol, Some(IpNet::V6(*net))).collect(),
        Peer::PrefixList(_) | Peer::Group(_) => families(rule.protocol, None).collect(),
        Peer::Missing(_) => Vec::new(),
    }
}

/// What a rule counts for in one family: a CIDR or a group 1, a prefix list its size.
pub(super) fn weight(rule: &Rule, family: Family, lists: &[PrefixList]) -> usize {
    if !rule_families(rule).contains(&family) {
        return 0;
    }
    match &rule.peer {
        Peer::PrefixList(index) => list_weight(&lists[index.0], family),
        Peer::V4(_) | Peer::V6(_) | Peer::Group(_) | Peer::Missing(_) => 1,
    }
}

/// A list's fixed weight, else its greatest size, else its present one. It counts in the families of its entries.
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
