//! Writes metrics in Prometheus's text format. `docs/metrics.md` explains each metric.

use std::{fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};
use taskgate_api::{ApplyOutcome, DestinationStatus, DeviationKind, TableFill, TaskState};
use taskgate_ebpf::abi::Direction;
use taskgate_flowlog::RecordAction;

use super::Sample;

/// Label names and values.
type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Sample {
    /// The media type of [`Sample::text`].
    pub(crate) const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

    /// All metrics.
    pub(crate) fn text(self) -> Result<String, fmt::Error> {
        let mut registry = Registry::with_prefix("taskgate");
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry)?;
        Ok(text)
    }

    fn daemon(&self, families: &mut Families<'_>) -> fmt::Result {
        let status = &self.status;
        let version = status.version.as_deref().unwrap_or_default();
        families.info(
            "build",
            "Version of taskgate, and the kernel under it",
            &[("version", version), ("kernel", &status.kernel)],
        )?;
        families.gauge(
            "uptime_seconds",
            "Seconds since taskgate began",
            [([], status.uptime.unwrap_or_default())],
        )?;
        families.gauge(
            "healthy",
            "Whether all is as it should be, as taskgate status has it",
            [([], u64::from(status.healthy))],
        )?;
        families.gauge(
            "generation",
            "The generation of the configuration in force",
            [([], status.generation)],
        )?;
        let states = TaskState::ALL.map(|state| {
            let with = status.tasks.iter().filter(|task| task.state == state).count();
            ([("state", state.name())], with as u64)
        });
        families.gauge("tasks", "Tasks by whether they are gated", states)?;
        let drift = DeviationKind::ALL.map(|kind| {
            let open = status
                .drift
                .iter()
                .filter(|deviation| deviation.repaired.is_none() && deviation.kind == kind);
            ([("kind", kind.name())], open.count() as u64)
        });
        families.gauge(
            "drift",
            "Where the kernel holds something else than it should, by kind",
            drift,
        )?;
        self.applies(families)
    }

    fn applies(&self, families: &mut Families<'_>) -> fmt::Result {
        families.counter(
            "applies",
            "Configurations that were to be applied, by how that went",
            [
                ([("result", "applied")], self.applies.applied),
                ([("result", "refused")], self.applies.refused),
            ],
        )?;
        let last = || self.status.last_apply.iter();
        families.gauge(
            "last_apply_timestamp_seconds",
            "When a configuration was to be applied last, in Unix time",
            last().map(|last| ([], last.at)),
        )?;
        families.gauge(
            "last_apply_success",
            "Whether that came into force",
            last().map(|last| ([], u64::from(last.result == ApplyOutcome::Applied))),
        )?;
        families.gauge(
            "last_apply_duration_seconds",
            "How long that took once its files were read",
            last().filter_map(|last| Some(([], Duration::from_millis(last.took?).as_secs_f64()))),
        )
    }

    fn flows(&self, families: &mut Families<'_>) -> fmt::Result {
        let counts = || {
            self.tasks.iter().flat_map(|(task, totals)| {
                WAYS.map(|(direction, action)| {
                    let labels = [
                        ("task", &**task),
                        ("direction", direction.as_str()),
                        ("verdict", action.name()),
                    ];
                    (labels, totals.count(direction, action))
                })
            })
        };
        families.counter(
            "packets",
            "Packets in flow records, as of the last capture window",
            counts().map(|(labels, count)| (labels, count.packets)),
        )?;
        families.counter(
            "bytes",
            "IP bytes in flow records, as of the last capture window",
            counts().map(|(labels, count)| (labels, count.bytes)),
        )?;
        families.counter(
            "dropped_packets",
            "Packets that were dropped, by reason",
            self.dropped.iter().map(|dropped| {
                let labels = [
                    ("task", &*dropped.task),
                    ("direction", dropped.direction.as_str()),
                    ("reason", dropped.reason.name()),
                ];
                (labels, dropped.packets)
            }),
        )?;
        let rules = || {
            self.rules
                .iter()
                .map(|((group, rule), count)| ([("group", &**group), ("rule", &**rule)], *count))
        };
        families.counter(
            "rule_packets",
            "Packets of connections that a rule let in or out, as of the last capture window",
            rules().map(|(labels, count)| (labels, count.packets)),
        )?;
        families.counter(
            "rule_bytes",
            "IP bytes of connections that a rule let in or out, as of the last capture window",
            rules().map(|(labels, count)| (labels, count.bytes)),
        )
    }

    fn tables(&self, families: &mut Families<'_>) -> fmt::Result {
        let tasks = &self.status.tasks;
        families.counter(
            "unrecorded_packets",
            "Packets that are in no flow record, for want of room",
            tasks.iter().flat_map(|task| {
                let row = |verdict, packets| ([("task", &*task.task), ("verdict", verdict)], packets);
                [row("ACCEPT", task.losses.passed), row("REJECT", task.losses.denied)]
            }),
        )?;
        let each = |of: fn(&TableFill) -> u64| {
            tasks.iter().flat_map(move |task| {
                let row = |table, fill| ([("task", &*task.task), ("table", table)], of(fill));
                [
                    row("connections", &task.tables.connections),
                    row("denials", &task.tables.denials),
                ]
            })
        };
        families.gauge(
            "task_table_entries",
            "Entries of a task in a table",
            each(|fill| fill.used),
        )?;
        families.gauge(
            "task_table_limit",
            "Entries that a task may have in a table",
            each(|fill| fill.limit),
        )?;
        families.counter(
            "task_table_refused",
            "Entries that a task was refused, since there was no room for them",
            each(|fill| fill.refused),
        )?;
        let tables = &self.status.tables;
        let all = |of: fn(&TableFill) -> u64| {
            [
                ([("table", "connections")], of(&tables.connections)),
                ([("table", "denials")], of(&tables.denials)),
            ]
        };
        families.gauge(
            "table_entries",
            "Entries of all tasks in a table",
            all(|fill| fill.used),
        )?;
        families.gauge(
            "table_limit",
            "Entries that a table has room for",
            all(|fill| fill.limit),
        )
    }

    fn destinations(&self, families: &mut Families<'_>) -> fmt::Result {
        let each = |of: fn(&DestinationStatus) -> u64| {
            let all = self.status.destinations.iter();
            all.map(move |one| ([("destination", &*one.destination)], of(one)))
        };
        families.counter(
            "flow_records",
            "Flow records that were written",
            each(|one| one.records),
        )?;
        families.counter(
            "flow_records_dropped",
            "Flow records that were given up, since their reader is gone",
            each(|one| one.dropped),
        )?;
        families.counter(
            "flow_log_lost_packets",
            "Packets that are in no record of a destination, since too many records waited",
            each(|one| one.lost),
        )?;
        families.gauge(
            "flow_log_waiting_bytes",
            "Bytes of flow records that wait to be written",
            each(|one| one.waiting),
        )?;
        families.gauge(
            "flow_log_failing",
            "Whether nothing can be written to a destination",
            each(|one| u64::from(one.failure.is_some())),
        )
    }
}

impl Collector for Sample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families(encoder);
        self.daemon(&mut families)?;
        self.flows(&mut families)?;
        self.tables(&mut families)?;
        self.destinations(&mut families)
    }
}

const WAYS: [(Direction, RecordAction); 4] = [
    (Direction::Egress, RecordAction::Accept),
    (Direction::Egress, RecordAction::Reject),
    (Direction::Ingress, RecordAction::Accept),
    (Direction::Ingress, RecordAction::Reject),
];

/// Families of metrics, each with its rows.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    /// Writes an info metric. `_info` is appended to the name.
    fn info<const N: usize>(&mut self, name: &str, help: &str, labels: &Labels<'_, N>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        family.encode_info(labels)
    }

    /// Writes a family of counters. `_total` is appended to the name.
    fn counter<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, impl EncodeCounterValue)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            let mut row = family.encode_family(&labels)?;
            row.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge<'l, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<'l, N>, impl EncodeGaugeValue)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_same_in_json_and_in_metrics() {
        for state in TaskState::ALL {
            assert_eq!(serde_json::to_value(state).unwrap(), state.name());
        }
        for kind in DeviationKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
