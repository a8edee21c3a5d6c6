//! The difference between two configurations: what comes, goes or changes, in words and as JSON.
//!
//! Objects are the same if their ids are: groups, prefix lists and ENIs have one each, rules within their group and direction
//! ([`rules`]). Positions in a model mean nothing, but for the order of rules, of an ENI's groups and of its addresses.
//! [`connections`] tells what becomes of connections that are tracked.

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

/// Everything that differs in what packets or records see of two models, kind by kind.
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
