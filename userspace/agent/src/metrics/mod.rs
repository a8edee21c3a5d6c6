//! Metrics of a running taskgate, for Prometheus.

mod text;

use std::collections::BTreeMap;

use taskgate_api::DaemonStatus;
use taskgate_ebpf::abi::{Direction, DropReason};
use taskgate_flowlog::TaskTotals;
use taskgate_tables::FlowCount;
use tracing::error;

use super::{counters::dropped, records::Records, shares::Sharer};

/// The number of configurations to be applied since the process began, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApplyCounts {
    /// Configurations that came into force.
    pub(crate) applied: u64,
    /// Configurations that were refused.
    pub(crate) refused: u64,
}

/// A sample of all metrics.
#[derive(Debug)]
pub(crate) struct Sample {
    status: DaemonStatus,
    dropped: Vec<Dropped>,
    /// Totals of tasks by name, as of the last capture window.
    tasks: BTreeMap<String, TaskTotals>,
    /// Traffic of rules by the ids of group and rule.
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
    /// Takes a sample. Counters that cannot be read are left out, and logged as an error.
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
