//! Warnings about a valid configuration: rules that match no address, shadowed rules, and one-sided pairs of rules. Only
//! groups of gated tasks are checked.

mod pairs;
mod shadow;

use std::collections::{BTreeSet, HashSet};

use taskgate_model::{Dialect, Direction, GroupIndex, Location, Model, Peer};

use super::display;

/// A warning about the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// The finding.
    pub message: String,
    /// The suggestion.
    pub hint: String,
    /// The rule that the finding is about. `None` if it concerns several.
    pub location: Option<Location>,
}

/// Both directions, in the order of messages.
const DIRECTIONS: [Direction; 2] = [Direction::Ingress, Direction::Egress];

/// All findings, by kind, in the order of the groups and rules.
pub fn lints(model: &Model) -> Vec<Lint> {
    let used: BTreeSet<GroupIndex> = model.gated().flat_map(|eni| eni.groups.iter().copied()).collect();
    let mut lints = Vec::new();
    without_members(model, &used, &mut lints);
    for &group in &used {
        for direction in DIRECTIONS {
            shadow::find(model, group, direction, &mut lints);
        }
    }
    pairs::find(model, &mut lints);
    lints
}

/// Finds rules that refer to a group without ENIs.
fn without_members(model: &Model, used: &BTreeSet<GroupIndex>, lints: &mut Vec<Lint>) {
    let members: HashSet<GroupIndex> = model.enis.iter().flat_map(|eni| eni.groups.iter().copied()).collect();
    let mut told = HashSet::new();
    for &group in used {
        for direction in DIRECTIONS {
            for rule in model.group(group).rules(direction) {
                let Peer::Group(peer) = rule.peer else { continue };
                if members.contains(&peer) || !told.insert((group, direction, &rule.id, peer)) {
                    continue;
                }
                lints.push(Lint {
                    message: format!(
                        "{} refers to group `{}`, which no known ENI has: it matches nothing",
                        rule_of(model, group, direction, &rule.id),
                        display::group_name(model, peer),
                    ),
                    hint: String::from(match model.group(peer).dialect {
                        Dialect::Native => "give the group to a task, or name its addresses under `members`",
                        Dialect::Aws => "add the output of `aws ec2 describe-network-interfaces` if some ENI has it",
                    }),
                    location: Some(rule.location),
                });
            }
        }
    }
}

/// A rule in a message.
fn rule_of(model: &Model, group: GroupIndex, direction: Direction, id: &str) -> String {
    format!(
        "{direction} rule `{id}` of group `{}`",
        display::group_name(model, group)
    )
}
