//! Sums of passed and denied traffic: from flow records on one side, counted on wires on the other.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, ensure};

pub use crate::flow::{Action, Count, Flow, protocol};
use crate::{record::Record, wire::Wire};

/// Sums by task, flow and action.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Ledger(BTreeMap<(String, Flow, Action), Count>);

impl Ledger {
    /// The sums of records. `task_of` maps an ENI's id to its task.
    pub fn of_records(records: &[Record], task_of: &BTreeMap<String, String>) -> Result<Self> {
        let mut ledger = Self::default();
        for record in records {
            let Some(flow) = &record.flow else {
                continue;
            };
            if flow.tuple.is_chatter() {
                continue;
            }
            let task = task_of.get(&record.eni);
            ensure!(task.is_some(), "a record names `{}`, which no task has", record.eni);
            let task = task.cloned().unwrap_or_default();
            ledger.add(&task, flow.tuple, flow.action, flow.count);
        }
        Ok(ledger)
    }

    /// The expected records of tasks if all packets that crossed their links were allowed. Each wire is the task's end of
    /// its ENI.
    pub fn of_wires(wires: &[(&str, &Wire)]) -> Result<Self> {
        let mut ledger = Self::default();
        for (task, wire) in wires {
            for ((_, flow), count) in wire.flows()? {
                ledger.add(task, flow, Action::Accept, count);
            }
        }
        Ok(ledger)
    }

    /// All packets that a task sent in this flow were dropped at its gate.
    #[must_use]
    pub fn rejected(mut self, task: &str, flow: Flow) -> Self {
        if let Some(count) = self.0.remove(&(task.to_owned(), flow, Action::Accept)) {
            self.add(task, flow, Action::Reject, count);
        }
        self
    }

    /// A task's gate dropped these packets. They are not counted among those that crossed its link, or must no longer be.
    #[must_use]
    pub fn reject(mut self, task: &str, flow: Flow, count: Count) -> Self {
        self.add(task, flow, Action::Reject, count);
        self
    }

    /// Only `passed` of the packets that a task sent in this flow got through its gate.
    #[must_use]
    pub fn cut(mut self, task: &str, flow: Flow, passed: Count) -> Self {
        let key = (task.to_owned(), flow, Action::Accept);
        if let Some(sent) = self.0.remove(&key) {
            self.add(task, flow, Action::Accept, passed);
            self.add(task, flow, Action::Reject, sent - passed);
        }
        self
    }

    /// A task's gate passed these packets.
    #[must_use]
    pub fn accept(mut self, task: &str, flow: Flow, count: Count) -> Self {
        self.add(task, flow, Action::Accept, count);
        self
    }

    /// The sums of one action only.
    #[must_use]
    pub fn only(mut self, action: Action) -> Self {
        self.0.retain(|(.., of), _| *of == action);
        self
    }

    /// The sums of some flows only.
    #[must_use]
    pub fn of(mut self, flows: impl Fn(&Flow) -> bool) -> Self {
        self.0.retain(|(_, flow, _), _| flows(flow));
        self
    }

    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        for ((task, flow, action), count) in other.0 {
            self.add(&task, flow, action, count);
        }
        self
    }

    pub fn get(&self, task: &str, flow: Flow, action: Action) -> Count {
        self.0
            .get(&(task.to_owned(), flow, action))
            .copied()
            .unwrap_or_default()
    }

    /// The sum over all flows of a task with this action.
    pub fn total(&self, task: &str, action: Action) -> Count {
        self.0
            .iter()
            .filter(|((name, _, of), _)| name == task && *of == action)
            .map(|(_, count)| *count)
            .sum()
    }

    pub fn flows(&self, task: &str, action: Action) -> impl Iterator<Item = Flow> {
        self.0
            .keys()
            .filter(move |(name, _, of)| name == task && *of == action)
            .map(|(_, flow, _)| *flow)
    }

    #[must_use]
    pub fn without(mut self, mut left_out: impl FnMut(Flow) -> bool) -> Self {
        self.0.retain(|(_, flow, _), _| !left_out(*flow));
        self
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add(&mut self, task: &str, flow: Flow, action: Action, count: Count) {
        if count != Count::default() {
            *self.0.entry((task.to_owned(), flow, action)).or_default() += count;
        }
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} sums", self.0.len())?;
        for ((task, flow, action), count) in &self.0 {
            writeln!(f, "  {task}: {flow:?}: {action:?} {count:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow::udp("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:53".parse().unwrap())
    }

    #[test]
    fn a_cut_splits_what_was_sent() {
        let mut ledger = Ledger::default();
        ledger.add("web", flow(), Action::Accept, Count::new(5, 500));
        let ledger = ledger.cut("web", flow(), Count::new(2, 200));
        assert_eq!(ledger.get("web", flow(), Action::Accept), Count::new(2, 200));
        assert_eq!(ledger.get("web", flow(), Action::Reject), Count::new(3, 300));
        assert_eq!(ledger.total("web", Action::Reject), Count::new(3, 300));
        assert_eq!(ledger.total("db", Action::Reject), Count::default());
    }

    #[test]
    fn nothing_leaves_no_sum() {
        let ledger = Ledger::default().reject("web", flow(), Count::default());
        assert!(ledger.is_empty());
    }

    #[test]
    fn chatter_is_known_by_its_addresses() {
        for (source, destination, chatter) in [
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.1", "224.0.0.1", true),
            ("0.0.0.0", "255.255.255.255", true),
            ("fd00::1", "fd00::2", false),
            ("fe80::1", "fd00::2", true),
            ("fd00::1", "ff02::1:ff00:2", true),
            ("::", "ff02::16", true),
        ] {
            let flow = Flow::icmp(source.parse().unwrap(), destination.parse().unwrap());
            assert_eq!(flow.is_chatter(), chatter, "{flow:?}");
        }
    }
}
