//! The difference between two configurations: added, removed and changed objects, as text and as JSON.
//!
//! Objects are identified by id: groups, prefix lists and ENIs have one each, rules within their group and direction
//! ([`rules`]). Positions in a model are ignored, except for the order of rules, of an ENI's groups and of its addresses.
//! [`connections`] computes the effect on tracked connections.

mod connections;
mod enis;
mod groups;
mod judge;
mod lost;
mod object;
mod rules;
mod settings;
#[cfg(test)]
mod tests;
mod text;

use taskgate_api::{Change, ChangeCounts, ModelDiff, ObjectKind};
use taskgate_model::Model;

pub use connections::{ConnectionFate, ConnectionsCompared, InForce, NextGates, admitting_rule};
pub use lost::{connection_lines, connections_text};
pub use text::{counts_text, lines};

/// All differences between two models that affect packets or records, by kind.
pub fn compare(before: &Model, after: &Model) -> ModelDiff {
    let mut changes = groups::compare(before, after);
    changes.extend(rules::compare(before, after));
    changes.extend(groups::compare_lists(before, after));
    changes.extend(enis::compare(before, after, ObjectKind::Task));
    changes.extend(enis::compare(before, after, ObjectKind::Member));
    changes.extend(settings::compare_uplink(before, after));
    changes.extend(settings::compare(before, after));
    changes.extend(settings::compare_flow_logs(before, after));
    let count = |change| changes.iter().filter(|of| of.change == change).count();
    let counts = ChangeCounts {
        added: count(Change::Added),
        changed: count(Change::Changed),
        removed: count(Change::Removed),
    };
    ModelDiff { changes, counts }
}
