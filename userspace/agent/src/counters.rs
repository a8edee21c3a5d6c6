//! The kernel's counters by task and outcome, written on SIGUSR1 and, if requested, at the end.

use std::{collections::BTreeMap, fmt::Write as _, io};

use serde::Serialize;
use taskgate_api::Losses;
use taskgate_bpf::tables::KernelTables;
use taskgate_ebpf::abi::{Direction, DropReason, Outcome, PassReason};
use taskgate_tables::{FlowTables as _, UsageState, Used};

use super::{counters_base::CountersBase, records::Records, shares::Sharer};

/// The form in which counters are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CountersForm {
    /// A table for people.
    #[default]
    Text,
    /// One line of JSON.
    Json,
}

/// Packets by the name of their outcome. Packets of tracked connections are counted in flow records only.
type Packets = BTreeMap<&'static str, u64>;

/// The counters as a JSON document.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Counters<'a> {
    generation: u64,
    tasks: Vec<TaskCounters<'a>>,
    /// Packets on links that belong to no task.
    no_task: Directions,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct TaskCounters<'a> {
    task: &'a str,
    packets: Directions,
    connections: InUse,
    denials: InUse,
    fragments: InUse,
    /// Packets without a flow record, because the kernel's tables or the limit on held records had no room.
    unrecorded: Unrecorded,
}

#[derive(Debug, Serialize)]
struct Directions {
    egress: Packets,
    ingress: Packets,
}

/// Table entries by the account that they are charged to.
#[derive(Debug, Serialize)]
struct InUse {
    floor: u64,
    pool: u64,
}

#[derive(Debug, Serialize)]
struct Unrecorded {
    passed: u64,
    denied: u64,
}

impl From<Used> for InUse {
    fn from(Used { floor, pool }: Used) -> Self {
        Self { floor, pool }
    }
}

/// The counters of these tasks, as text that ends with a newline.
pub(super) fn counters(
    generation: u64,
    tasks: &[Sharer<'_>],
    records: &mut Records,
    form: CountersForm,
) -> io::Result<String> {
    let mut counters = Counters {
        generation,
        tasks: Vec::with_capacity(tasks.len()),
        no_task: directions(records.tables(), 0, &CountersBase::NONE)?,
    };
    for task in tasks {
        let slot = task.slot();
        let usage = records.tables().usage(slot)?;
        let Losses { passed, denied } = unrecorded(records, slot, &usage);
        let (tables, base) = records.tables_and_base(slot);
        counters.tasks.push(TaskCounters {
            task: task.name(),
            packets: directions(tables, slot, base)?,
            connections: usage.conns.into(),
            denials: usage.denials.into(),
            fragments: usage.fragments.into(),
            unrecorded: Unrecorded { passed, denied },
        });
    }
    match form {
        CountersForm::Text => Ok(text(&counters)),
        CountersForm::Json => {
            let mut line = serde_json::to_string(&counters).map_err(io::Error::other)?;
            line.push('\n');
            Ok(line)
        }
    }
}

/// The packets of a slot's ENI without a flow record, because the kernel's tables or the limit on held records had no
/// room.
pub(super) fn unrecorded(records: &mut Records, slot: u16, usage: &UsageState) -> Losses {
    let given_up = records.given_up(slot);
    let (_, base) = records.tables_and_base(slot);
    Losses {
        passed: usage.flows_lost.saturating_sub(base.passed) + given_up.0,
        denied: usage.denials_lost.saturating_sub(base.denied) + given_up.1,
    }
}

fn directions(tables: &KernelTables, slot: u16, base: &CountersBase) -> io::Result<Directions> {
    let packets = |direction| -> io::Result<Packets> {
        let outcomes = outcomes(tables, slot, base, direction)?;
        Ok(outcomes.map(|(outcome, packets)| (outcome.name(), packets)).collect())
    };
    Ok(Directions {
        egress: packets(Direction::Egress)?,
        ingress: packets(Direction::Ingress)?,
    })
}

/// A slot's packets in a direction by outcome, counted since its current ENI got the slot. Outcomes without packets are
/// left out.
fn outcomes(
    tables: &KernelTables,
    slot: u16,
    base: &CountersBase,
    direction: Direction,
) -> io::Result<impl Iterator<Item = (Outcome, u64)>> {
    let counts = tables.counters(slot, direction)?;
    let outcomes = PassReason::ALL
        .into_iter()
        .map(Outcome::Pass)
        .chain(DropReason::ALL.into_iter().map(Outcome::Drop));
    let base = base.packets[direction.index()];
    Ok(outcomes.filter_map(move |outcome| {
        let number = usize::from(outcome.number());
        let packets = counts[number].saturating_sub(base[number]);
        (packets != 0).then_some((outcome, packets))
    }))
}

/// The dropped packets of a task: direction, reason, number.
pub(super) fn dropped(records: &mut Records, slot: u16) -> io::Result<Vec<(Direction, DropReason, u64)>> {
    let (tables, base) = records.tables_and_base(slot);
    let mut dropped = Vec::new();
    for direction in Direction::BOTH {
        for (outcome, packets) in outcomes(tables, slot, base, direction)? {
            if let Outcome::Drop(reason) = outcome {
                dropped.push((direction, reason, packets));
            }
        }
    }
    Ok(dropped)
}

fn text(counters: &Counters<'_>) -> String {
    let mut text = format!(
        "counters, generation {}: packets by task, direction and outcome\n",
        counters.generation
    );
    let mut rows = |task: &str, packets: &Directions| {
        for (direction, packets) in [("egress", &packets.egress), ("ingress", &packets.ingress)] {
            for (outcome, packets) in packets {
                // Writing to a string cannot fail.
                writeln!(text, "  {task:<24} {direction:<7} {outcome:<24} {packets}").ok();
            }
        }
    };
    for task in &counters.tasks {
        rows(task.task, &task.packets);
    }
    rows("(no task)", &counters.no_task);
    text.push_str("entries in use, of the floor and of the pool; packets without a record, passed and denied\n");
    for task in &counters.tasks {
        let TaskCounters {
            task,
            connections,
            denials,
            fragments,
            unrecorded,
            ..
        } = task;
        let [connections, denials, fragments] =
            [connections, denials, fragments].map(|used| format!("{}+{}", used.floor, used.pool));
        writeln!(
            text,
            "  {task:<24} connections {connections}, denials {denials}, fragments {fragments}, unrecorded {}+{}",
            unrecorded.passed, unrecorded.denied
        )
        .ok();
    }
    text
}
