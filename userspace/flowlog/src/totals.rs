//! What the records of all windows add up to since the process began.

use std::{collections::BTreeMap, sync::Arc};

use taskgate_ebpf::abi::Direction;
use taskgate_tables::FlowCount;

use super::{
    attribution::RecordedRule,
    record::{FlowRecord, RecordAction},
    window::Window,
};

/// What a task's records add up to.
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
    /// By the tasks' names: one that comes again goes on.
    tasks: BTreeMap<String, TaskTotals>,
    /// By the rules' numbers.
    rules: BTreeMap<u32, (Arc<RecordedRule>, FlowCount)>,
}

impl RecordTotals {
    /// Adds a window's records.
    pub(super) fn add(&mut self, window: &Window) {
        // They are in the order of their ENIs.
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

    /// Forgets tasks that are no more.
    pub(super) fn keep(&mut self, is_there: impl Fn(&str) -> bool) {
        self.tasks.retain(|name, _| is_there(name));
    }

    /// Those of tasks that left a record, by name.
    pub fn tasks(&self) -> &BTreeMap<String, TaskTotals> {
        &self.tasks
    }

    /// What the packets, both ways, of connections add up to that a rule let in or out: by the ids of its group and its own. A rule
    /// that says something else than it did is the same here.
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
