//! What taskgate knows of a record beyond what AWS has fields for.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use taskgate_ebpf::abi::tables::RULE_EXEMPT;

use super::label::Label;

/// The rule behind a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRule {
    /// Its number in the kernel's tables.
    pub number: u32,
    /// The id of its group.
    pub group: Label,
    /// The name of its group.
    pub group_name: Label,
    /// Its id.
    pub rule: Label,
}

impl RecordedRule {
    /// Whether it stands for none, where none was needed.
    pub(super) fn is_exempt(&self) -> bool {
        self.number == RULE_EXEMPT
    }

    /// What stands for the rule where none was needed: never in a record as such.
    pub(super) fn exempt() -> Self {
        let none = Label::new("");
        Self {
            number: RULE_EXEMPT,
            group: none.clone(),
            group_name: none.clone(),
            rule: none,
        }
    }
}

/// The ENI with a far side's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedPeer {
    /// Its task, if it has a name.
    pub task: Option<Label>,
    /// Its groups by name, or by id where they have none; `None` if they are not known.
    pub groups: Option<Vec<Label>>,
    /// Whether it is gated on this host.
    pub here: bool,
    /// Its VPC.
    pub vpc: Option<Box<str>>,
}

/// What taskgate knows of a record beyond what AWS has fields for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// What let the packets pass; `None` for dropped ones.
    pub rule: Option<Arc<RecordedRule>>,
    /// The generation in which it did; 0 if unknown.
    pub generation: u64,
    /// The ENI with the far side's address, if it is known and somebody asks.
    pub peer: Option<Arc<RecordedPeer>>,
    /// When the flow carried a packet last, in either direction: Unix time in milliseconds; 0 if unknown.
    pub last: u64,
}

impl Attribution {
    /// The rule; `None` if none was needed, or it is not known.
    pub fn rule(&self) -> Option<&RecordedRule> {
        self.rule.as_deref().filter(|rule| !rule.is_exempt())
    }

    /// Whether the packets needed no rule.
    pub fn is_exempt(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.is_exempt())
    }

    /// Takes in that of a flow of the same record: of two the one counts that carried a packet last.
    pub(super) fn merge(&mut self, other: &Self) {
        let age = |of: &Self| (of.last, of.generation, of.rule.as_ref().map(|rule| rule.number));
        if age(other) > age(self) {
            let peer = self.peer.take();
            self.clone_from(other);
            self.peer = self.peer.take().or(peer);
        } else if self.peer.is_none() {
            self.peer.clone_from(&other.peer);
        }
    }
}
