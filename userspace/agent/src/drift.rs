//! Drift detection: compares the kernel's state with the desired one every two seconds and at each request for the
//! status. Deviations are repaired where possible, and logged once.
//!
//! Gates are inspected on a separate thread: there may be thousands, and neither the link guard nor the agent may wait.

use std::{collections::BTreeMap, io, mem, path::PathBuf, time::Duration};

use taskgate_api::{Deviation, DeviationKind};
use taskgate_bpf::gate::{GateFault, Inspection};
use tokio::{
    task::{JoinError, JoinHandle, spawn_blocking},
    time::Instant,
};
use tracing::{error, info, warn};

use super::{
    apply::Daemon,
    control::StatusCall,
    error::{RunningError, chain},
    guard::ObservedTask,
    unix_time,
};

/// Interval between inspections of the kernel.
const EVERY: Duration = Duration::from_secs(2);
/// Delay before the inspection that follows a repair.
const SOON: Duration = Duration::from_millis(200);
/// Minimum time between inspections, however often the status is requested.
const APART: Duration = Duration::from_millis(50);
/// How long repaired deviations are still reported, in seconds, and how many at most.
const REMEMBERED: u64 = 600;
const REMEMBERED_MOST: usize = 64;

/// A task, with an inspection of its gate in the kernel.
#[derive(Debug)]
pub(crate) struct SeenTask {
    pub(crate) held: ObservedTask,
    /// `None` if there is no gate, or its link is gone.
    pub(crate) inspection: Option<io::Result<Inspection>>,
}

/// The result of one inspection.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) tasks: Vec<SeenTask>,
    lost_names: io::Result<Vec<PathBuf>>,
    /// The uplink that lost its prefilter.
    lost_prefilter: io::Result<Option<String>>,
}

/// Identifies a deviation: kind, link or path, and whether it is on the ingress side.
type Key = (DeviationKind, String, bool);

/// The inspections of the kernel, and the deviations that they found.
pub(crate) struct Drift {
    due: Instant,
    /// The time of the last inspection.
    looked: Instant,
    looking: Option<JoinHandle<Seen>>,
    /// Status calls that wait for the next inspection, and those that the current one serves.
    waiting: Vec<StatusCall>,
    served: Vec<StatusCall>,
    found: BTreeMap<Key, Deviation>,
    /// Deviations that are over, oldest first.
    past: Vec<Deviation>,
}

impl Drift {
    pub(crate) fn new() -> Self {
        Self {
            due: Instant::now() + EVERY,
            looked: Instant::now(),
            looking: None,
            waiting: Vec::new(),
            served: Vec::new(),
            found: BTreeMap::new(),
            past: Vec::new(),
        }
    }

    /// When the next inspection is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Queues a status call and inspects the kernel for it: now, or once more if an inspection is running.
    pub(crate) fn ask(&mut self, call: StatusCall) {
        self.waiting.push(call);
        self.look_soon();
    }

    /// Takes the status calls that the finished inspection serves.
    pub(crate) fn take_waiting(&mut self) -> Vec<StatusCall> {
        mem::take(&mut self.served)
    }

    /// Schedules an early inspection, after a change that may have resolved a deviation.
    pub(crate) fn look_soon(&mut self) {
        self.due = self.due.min(self.looked + APART);
    }

    /// Starts an inspection, unless one is running.
    pub(crate) async fn look(&mut self, daemon: &Daemon) -> Result<(), RunningError> {
        if self.looking.is_some() {
            self.due = Instant::now() + APART;
            return Ok(());
        }
        self.due = Instant::now() + EVERY;
        self.looked = Instant::now();
        self.served.append(&mut self.waiting);
        let observed = daemon.gates().observe().await?;
        let lost_names = daemon.lost_names();
        let lost_prefilter = daemon.gates().lost_prefilter();
        self.looking = Some(spawn_blocking(move || {
            let inspect = |held: ObservedTask| SeenTask {
                inspection: held.gate.as_ref().and_then(|gate| gate.inspect().transpose()),
                held,
            };
            Seen {
                tasks: observed.into_iter().map(inspect).collect(),
                lost_names,
                lost_prefilter,
            }
        }));
        Ok(())
    }

    /// The result of the running inspection. Cancel safe.
    pub(crate) async fn seen(&mut self) -> Result<Seen, JoinError> {
        let Some(looking) = &mut self.looking else {
            return std::future::pending().await;
        };
        let seen = looking.await;
        self.looking = None;
        seen
    }

    /// Records the deviations of an inspection, and has them repaired.
    pub(crate) fn note(&mut self, seen: &Seen, daemon: &mut Daemon) {
        let now = unix_time().as_secs();
        let mut repairs = Vec::new();
        let mut found = BTreeMap::new();
        for task in &seen.tasks {
            let faults: &[GateFault] = match &task.inspection {
                Some(Ok(inspection)) => &inspection.faults,
                Some(Err(error)) => {
                    let (key, deviation) = unknown(task, error, now);
                    found.insert(key, deviation);
                    &[]
                }
                None => &[],
            };
            for fault in faults {
                let (key, deviation) = of_gate(task, fault, now);
                // A trunk's gate is shared by all its branches: its faults are reported once.
                found.entry(key).or_insert(deviation);
            }
            if let Some(gate) = &task.held.gate
                && faults.iter().any(GateFault::can_be_repaired)
            {
                repairs.push(gate.link().ifindex);
            }
        }
        let mut lost = false;
        match &seen.lost_names {
            Ok(paths) => {
                lost = !paths.is_empty();
                found.extend(paths.iter().map(|path| of_name(&path.display().to_string(), now)));
            }
            Err(error) => {
                let message = format!("what the next taskgate goes on with cannot be looked at: {error}");
                let kind = DeviationKind::Unknown;
                found.insert((kind, String::new(), true), deviation(kind, message, now));
            }
        }
        match &seen.lost_prefilter {
            Ok(Some(uplink)) => {
                lost = true;
                found.extend([of_prefilter(uplink, now)]);
            }
            Ok(None) => {}
            Err(error) => {
                let message = format!("the prefilter of the uplink cannot be looked at: {error}");
                let kind = DeviationKind::Unknown;
                found.insert((kind, String::new(), false), deviation(kind, message, now));
            }
        }
        let is_new = self.compare(found, now);
        if lost || !repairs.is_empty() {
            repairs.sort_unstable();
            repairs.dedup();
            let repaired = daemon.repair(repairs);
            // Only new deviations shorten the interval; failed repairs are retried at the next regular inspection.
            if is_new {
                if let Err(error) = repaired {
                    warn!("{}", chain(&error));
                }
                self.due = self.due.min(Instant::now() + SOON);
            }
        }
    }

    /// Compares the deviations with those of the last inspection, and logs the differences. Returns whether any is new.
    fn compare(&mut self, mut found: BTreeMap<Key, Deviation>, now: u64) -> bool {
        let is_new = found.keys().any(|key| !self.found.contains_key(key));
        for (key, before) in mem::take(&mut self.found) {
            if let Some(still) = found.get_mut(&key) {
                still.since = before.since;
                continue;
            }
            info!(
                task = before.task,
                link = before.link,
                "no longer so: {}",
                before.message
            );
            self.past.push(Deviation {
                repaired: Some(now),
                ..before
            });
        }
        for deviation in found.values().filter(|deviation| deviation.since == now) {
            error!(
                task = deviation.task,
                link = deviation.link,
                "the kernel does not hold what it should: {}",
                deviation.message
            );
        }
        self.found = found;
        self.past
            .retain(|past| past.repaired.is_some_and(|at| at + REMEMBERED > now));
        let surplus = self.past.len().saturating_sub(REMEMBERED_MOST);
        self.past.drain(..surplus);
        is_new
    }

    /// The current deviations, followed by those that were repaired lately.
    pub(crate) fn deviations(&self) -> Vec<Deviation> {
        self.found.values().chain(&self.past).cloned().collect()
    }

    /// Whether there is no deviation now.
    pub(crate) fn is_none(&self) -> bool {
        self.found.is_empty()
    }
}

fn deviation(kind: DeviationKind, message: String, since: u64) -> Deviation {
    Deviation {
        kind,
        task: None,
        link: None,
        message,
        since,
        repaired: None,
    }
}

fn link(task: &SeenTask) -> String {
    task.held
        .gate
        .as_ref()
        .map_or_else(String::new, |gate| gate.link().name.clone())
}

fn unknown(task: &SeenTask, error: &io::Error, now: u64) -> (Key, Deviation) {
    let link = link(task);
    let message = format!("the gate of link `{link}` cannot be looked at: {error}");
    of_link(DeviationKind::Unknown, task, link, true, message, now)
}

fn of_link(
    kind: DeviationKind,
    task: &SeenTask,
    link: String,
    ingress: bool,
    message: String,
    now: u64,
) -> (Key, Deviation) {
    let deviation = Deviation {
        task: task.held.task.clone(),
        link: Some(link.clone()),
        ..deviation(kind, message, now)
    };
    ((kind, link, ingress), deviation)
}

fn of_gate(task: &SeenTask, fault: &GateFault, now: u64) -> (Key, Deviation) {
    let link = link(task);
    let ingress = fault.ingress();
    let side = if ingress { "receives" } else { "sends" };
    let (kind, message) = match fault {
        GateFault::Missing { .. } => (
            DeviationKind::GateMissing,
            format!("link `{link}` has no gate where it {side}"),
        ),
        GateFault::Replaced { by, .. } => (
            DeviationKind::GateReplaced,
            format!("link `{link}` has program {by} in place of the gate where it {side}"),
        ),
        GateFault::Before { by, .. } => (
            DeviationKind::ProgramBefore,
            format!("on link `{link}` program {by} runs before the gate where it {side}, and may pass packets by it"),
        ),
        GateFault::Unpinned { .. } => (
            DeviationKind::PinMissing,
            format!("the gate of link `{link}` where it {side} has no name in bpffs, and would end with taskgate"),
        ),
    };
    of_link(kind, task, link, ingress, message, now)
}

fn of_prefilter(uplink: &str, now: u64) -> (Key, Deviation) {
    let message =
        format!("uplink `{uplink}` has no prefilter: what is denied is dropped by the gates behind it, later");
    let kind = DeviationKind::PrefilterMissing;
    let deviation = Deviation {
        link: Some(uplink.to_owned()),
        ..deviation(kind, message, now)
    };
    ((kind, uplink.to_owned(), true), deviation)
}

fn of_name(path: &str, now: u64) -> (Key, Deviation) {
    let message = format!("`{path}` is missing or another's: the next taskgate could not go on with it");
    let kind = DeviationKind::PinMissing;
    ((kind, path.to_owned(), true), deviation(kind, message, now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_told_of_until_it_is_over_and_a_while_after() {
        let mut drift = Drift::new();
        let at = |now| BTreeMap::from([of_name("/sys/fs/bpf/x", now)]);
        assert!(drift.compare(at(10), 10));
        assert!(!drift.compare(at(12), 12));
        let [only] = &drift.deviations()[..] else { panic!() };
        assert_eq!((only.since, only.repaired, drift.is_none()), (10, None, false));
        drift.compare(BTreeMap::new(), 14);
        let [only] = &drift.deviations()[..] else { panic!() };
        assert_eq!((only.since, only.repaired, drift.is_none()), (10, Some(14), true));
        drift.compare(BTreeMap::new(), 14 + REMEMBERED);
        assert!(drift.deviations().is_empty());

        for now in 1000..2000 {
            drift.compare(if now % 2 == 0 { at(now) } else { BTreeMap::new() }, now);
        }
        assert!(drift.deviations().len() <= REMEMBERED_MOST + 1);
    }
}
