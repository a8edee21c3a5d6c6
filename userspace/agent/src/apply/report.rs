//! Reports about a running daemon: usage, status of destinations, counters, metrics, and the view for read-only calls.

use std::{
    io::{self, Write},
    sync::Arc,
};

use taskgate_api::{DaemonStatus, DestinationStatus, Losses, TableFill, TableFills};
use taskgate_model::Eni;
use taskgate_tables::FlowTables as _;
use tracing::error;

use super::{Daemon, sharers, timeouts};
use crate::{
    CountersForm,
    counters::{counters, unrecorded},
    live::LiveView,
    metrics::{ApplyCounts, Sample},
    reading::Source,
};

/// A task's usage of the connection and denial tables, and its losses.
#[derive(Clone, Debug)]
pub(crate) struct TaskUsage {
    pub(crate) eni: String,
    pub(crate) slot: u16,
    pub(crate) fills: TableFills,
    pub(crate) losses: Losses,
}

impl Daemon {
    /// Writes the kernel's counters.
    pub(crate) fn write_counters(&mut self, form: CountersForm, to: &mut dyn Write) {
        let generation = self.generation();
        let tasks = sharers(&self.model, &self.image);
        let written = counters(generation, &tasks, &mut self.records, form)
            .and_then(|counters| to.write_all(counters.as_bytes()));
        if let Err(error) = written {
            error!("cannot write the counters: {error}");
        }
    }

    /// A snapshot for read-only calls, which evaluate it without the agent. `source`: the configuration folder that is
    /// followed.
    pub(crate) fn live(&self, source: Source) -> LiveView {
        LiveView {
            source,
            model: Arc::clone(&self.model),
            fitting: self.tasks.fitting(),
            slots: self.image.writer().slots(),
            rules: self.rule_ids.rules().iter().map(|rule| rule.name.clone()).collect(),
            timeouts: timeouts(&self.model.settings, self.ticks),
            image: self.image.memory(),
            reader: Arc::clone(&self.reader),
        }
    }

    /// The status of each destination of flow records.
    pub(crate) fn destinations(&self) -> Vec<DestinationStatus> {
        self.records.destinations()
    }

    /// The ENI, slot and table usage of each gated task.
    pub(crate) fn usage(&mut self) -> io::Result<Vec<TaskUsage>> {
        let cap = self.model.settings.connections.per_task;
        let slots: Vec<(String, u16)> = {
            let writer = self.image.writer();
            let slot = |eni: &Eni| Some((eni.id.clone(), writer.slot(&eni.id)?));
            self.model.gated().filter_map(slot).collect()
        };
        let mut all = Vec::with_capacity(slots.len());
        for (eni, slot) in slots {
            let usage = self.records.tables().usage(slot)?;
            all.push(TaskUsage {
                eni,
                slot,
                fills: self.shares.fills(&usage, cap),
                losses: unrecorded(&mut self.records, slot, &usage),
            });
        }
        Ok(all)
    }

    /// Table usage summed over all tasks, with the capacity of each table.
    pub(crate) fn table_fills(&self, tasks: &[TaskUsage]) -> TableFills {
        let sum = |of: fn(&TableFills) -> &TableFill, limit: u32| TableFill {
            used: tasks.iter().map(|task| of(&task.fills).used).sum(),
            limit: limit.into(),
            refused: tasks.iter().map(|task| of(&task.fills).refused).sum(),
        };
        TableFills {
            connections: sum(|fills| &fills.connections, self.options.conns),
            denials: sum(|fills| &fills.denials, self.options.denials),
        }
    }

    /// All metrics, including a status that was just taken.
    pub(crate) fn sample(&mut self, status: DaemonStatus, applies: ApplyCounts) -> Sample {
        let tasks = sharers(&self.model, &self.image);
        Sample::take(&mut self.records, &tasks, status, applies)
    }
}
