//! Sums over the records of all windows since the process began.

use std::{collections::BTreeMap, sync::Arc};

use taskgate_ebpf::abi::Direction;
use taskgate_tables::FlowCount;

use super::{
    attribution::RecordedRule,
    record::{FlowRecord, RecordAction},
    window::Window,
};

/// The sums of a task's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskTotals {
    /// By [`Direction`] and [`RecordAction`].
    counts: [[FlowCount; 2]; 2],
}

impl TaskTotals {
    /// Packets and bytes in a direction that were let through, or dropped.
    pub const fn count(&self, direction: Direction, action: RecordAction) -> FlowCount {
        self.counts[direction.index()][action as usize]
    }
}

/// The sums.
#[derive(Debug, Default)]
pub struct RecordTotals {
    /// By task name: a task that returns before it is forgotten continues its sums.
    tasks: BTreeMap<String, TaskTotals>,
    /// By the rules' numbers.
    rules: BTreeMap<u32, (Arc<RecordedRule>, FlowCount)>,
}

impl RecordTotals {
    /// Adds a window's records.
    pub(super) fn add(&mut self, window: &Window) {
        // Records are sorted by ENI.
        for records in window.records.chunk_by(|one, next| Arc::ptr_eq(&one.eni, &next.eni)) {
            let Some(first) = records.first() else { continue };
            let name = first.eni.eni().display_name();
            if !self.tasks.contains_key(name) {
                self.tasks.insert(name.to_owned(), TaskTotals::default());
            }
            let Some(task) = self.tasks.get_mut(name) else {
                continue;
            };
            for record in records {
                add(
                    &mut task.counts[record.direction.index()][record.action as usize],
                    record,
                );
                if let Some(rule) = record.attribution.rule.as_ref().filter(|rule| !rule.is_exempt()) {
                    let of_rule = self.rules.entry(rule.number);
                    let (_, count) = of_rule.or_insert_with(|| (Arc::clone(rule), FlowCount::default()));
                    add(count, record);
                }
            }
        }
    }

    /// Forgets tasks that no longer exist.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.tasks.retain(|name, _| is_there(name));
    }

    /// The sums of tasks with records, by name.
    pub fn tasks(&self) -> &BTreeMap<String, TaskTotals> {
        &self.tasks
    }

    /// The sums of both directions of connections that a rule allowed, by group id and rule id. A rule that is changed and keeps its
    /// ids continues its sums.
    pub fn rules(&self) -> BTreeMap<(String, String), FlowCount> {
        let mut rules = BTreeMap::<_, FlowCount>::new();
        for (rule, count) in self.rules.values() {
            let sum = rules
                .entry((rule.group.raw().to_owned(), rule.rule.raw().to_owned()))
                .or_default();
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
        rules
    }
}

fn add(sum: &mut FlowCount, record: &FlowRecord) {
    sum.packets += record.count.packets;
    sum.bytes += record.count.bytes;
}
