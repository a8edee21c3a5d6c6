//! taskgate's additions to AWS's record fields: the rule, the generation and the peer.

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
    /// The id of the rule.
    pub rule: Label,
}

impl RecordedRule {
    /// Whether this is the placeholder for packets that needed no rule.
    pub(super) fn is_exempt(&self) -> bool {
        self.number == RULE_EXEMPT
    }

    /// The placeholder for packets that needed no rule. Records show no rule instead.
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

/// taskgate's additions to AWS's fields of a record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attribution {
    /// The rule that allowed the packets; `None` for dropped ones, or if unknown.
    pub rule: Option<Arc<RecordedRule>>,
    /// The generation in which the rule allowed them; 0 if unknown.
    pub generation: u64,
    /// The ENI with the far side's address, if it is known and a flow log has a field for it.
    pub peer: Option<Arc<RecordedPeer>>,
    /// When the flow carried a packet last, in either direction: Unix time in milliseconds; 0 if unknown.
    pub last: u64,
}

impl Attribution {
    /// The rule; `None` if none was needed or the rule is unknown.
    pub fn rule(&self) -> Option<&RecordedRule> {
        self.rule.as_deref().filter(|rule| !rule.is_exempt())
    }

    /// Whether the packets needed no rule.
    pub fn is_exempt(&self) -> bool {
        self.rule.as_ref().is_some_and(|rule| rule.is_exempt())
    }

    /// Merges the attribution of another flow of the same record: the flow with the latest packet wins.
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
