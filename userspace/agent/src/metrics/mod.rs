//! What a running taskgate has counted, for whoever scrapes it.

mod text;

use std::collections::BTreeMap;

use taskgate_api::DaemonStatus;
use taskgate_ebpf::abi::{Direction, DropReason};
use taskgate_flowlog::TaskTotals;
use taskgate_tables::FlowCount;
use tracing::error;

use super::{counters::dropped, records::Records, shares::Sharer};

/// How many configurations were to be applied since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApplyCounts {
    /// That came into force.
    pub(crate) applied: u64,
    /// That did not.
    pub(crate) refused: u64,
}

/// Everything at a moment.
#[derive(Debug)]
pub(crate) struct Sample {
    status: DaemonStatus,
    dropped: Vec<Dropped>,
    /// By name, as of the last capture window.
    tasks: BTreeMap<String, TaskTotals>,
    /// By the ids of group and rule.
    rules: BTreeMap<(String, String), FlowCount>,
    applies: ApplyCounts,
}

/// Packets of a task that were dropped for a reason.
#[derive(Debug)]
struct Dropped {
    task: String,
    direction: Direction,
    reason: DropReason,
    packets: u64,
}

impl Sample {
    /// Takes it. What cannot be read is missing, and an error in the log.
    pub(super) fn take(
        records: &mut Records,
        tasks: &[Sharer<'_>],
        status: DaemonStatus,
        applies: ApplyCounts,
    ) -> Self {
        let mut all = Vec::new();
        for task in tasks {
            let of_task = |(direction, reason, packets)| Dropped {
                task: task.name().to_owned(),
                direction,
                reason,
                packets,
            };
            match dropped(records, task.slot()) {
                Ok(dropped) => all.extend(dropped.into_iter().map(of_task)),
                Err(error) => error!("the counters of task `{}` cannot be read: {error}", task.name()),
            }
        }
        let totals = records.totals();
        Self {
            status,
            dropped: all,
            tasks: totals.tasks().clone(),
            rules: totals.rules(),
            applies,
        }
    }
}
