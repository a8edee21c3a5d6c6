//! Capture windows: closed in time, written, and what is over removed.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    time::{Duration, Instant},
};

use taskgate_bpf::tables::KernelTables;
use taskgate_ebpf::abi::image::TIMEOUTS;
use taskgate_flowlog::{Collector, LoggedEni, Outputs, Unlogged};
use taskgate_model::{FlowLog, Model};
use tracing::{error, warn};

use super::{
    counters_base::CountersBase,
    error::{StartError, chain},
    shares::Pressure,
    sizes::{GC_EVERY, LARGE_EVERY},
    unix_time,
};

/// How long a reader of flow records may take nothing before taskgate ends without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Collecting and writing flow records.
pub(super) struct Records {
    tables: KernelTables,
    collector: Collector,
    /// What slots had counted before their ENIs got them: nothing, of those that had no other one.
    bases: HashMap<u16, Option<Box<CountersBase>>>,
    outputs: Outputs,
    logs: Vec<FlowLog>,
    /// When connections were removed for want of room last.
    collected: Instant,
    /// When connections that have carried much were looked for last.
    looked: Instant,
}

impl Records {
    /// Begins the first window. `most`: records that are held at most, for the window that runs and for each flow log.
    pub(super) fn begin(
        mut tables: KernelTables,
        model: &Model,
        timeouts: [u32; TIMEOUTS],
        most: usize,
    ) -> Result<Self, StartError> {
        const FIRST_WINDOW: u32 = 1;
        let now = unix_time().as_secs();
        let mut collector = Collector::begin(
            &mut tables,
            FIRST_WINDOW,
            now,
            &model.flow_logs,
            unlogged(model),
            timeouts,
        )?;
        collector.hold_at_most(most);
        Ok(Self {
            tables,
            collector,
            bases: HashMap::new(),
            outputs: Outputs::open(&model.flow_logs, now, most)?,
            logs: model.flow_logs.clone(),
            collected: Instant::now(),
            looked: Instant::now(),
        })
    }

    /// Takes over what a new configuration says of records.
    pub(super) fn reconfigure(&mut self, model: &Model, timeouts: [u32; TIMEOUTS]) {
        if self.logs != model.flow_logs {
            // Where the window could not be closed, what it holds comes with the first one of the new logs.
            let end = self.close_as(true).unwrap_or_else(|| unix_time().as_secs());
            self.outputs.replace(&model.flow_logs, end);
            self.logs.clone_from(&model.flow_logs);
        }
        self.collector.reconfigure(&self.logs, unlogged(model), timeouts);
    }

    /// Says whose a slot is.
    pub(super) fn bind(&mut self, slot: u16, eni: LoggedEni) {
        match self.bases.entry(slot) {
            Vacant(unused) => {
                unused.insert(None);
            }
            Occupied(mut base) if self.collector.eni_of(slot) != Some(eni.id()) => {
                match CountersBase::read(&mut self.tables, slot) {
                    Ok(read) => {
                        base.insert(Some(Box::new(read)));
                    }
                    Err(error) => error!(
                        "the counters of `{}` begin with those of an earlier task: {error}",
                        eni.id()
                    ),
                }
            }
            Occupied(_) => {}
        }
        self.collector.bind(slot, eni);
    }

    /// Says that the ENIs of slots are gone, and pass nothing any more.
    pub(super) fn retire(&mut self, slots: &[u16]) {
        for slot in slots {
            self.collector.retire(*slot);
        }
        if !slots.is_empty()
            && let Err(error) = self.collector.snapshot(&mut self.tables)
        {
            error!(
                "the last packets of ENIs that are gone may be recorded for those that have their links: {}",
                chain(&error)
            );
        }
    }

    /// How long until the window is to be closed.
    pub(super) fn left(&self) -> Duration {
        self.collector.time_left(unix_time())
    }

    /// Closes the window and writes its records. Failures are logged: the gates do not depend on the records.
    pub(super) fn close(&mut self) {
        self.close_as(false);
        self.gc(false);
    }

    /// Closes the window before its time, and waits until its reader has what was written.
    pub(super) fn close_final(&mut self) {
        self.close_as(true);
        if let Err(error) = self.outputs.finish(PATIENCE) {
            error!("{}", chain(&error));
        }
    }

    /// Gives when the window ended, if it could be closed.
    fn close_as(&mut self, last: bool) -> Option<u64> {
        let now = unix_time().as_secs();
        let closed = if last {
            self.collector.close_final(&mut self.tables, now)
        } else {
            self.collector.close_window(&mut self.tables, now)
        };
        let window = match closed {
            Ok(window) => window,
            Err(error) => {
                error!(
                    "a capture window is not closed, its records come with the next one: {}",
                    chain(&error)
                );
                return None;
            }
        };
        if window.unattributed.flows != 0 {
            warn!(
                "{} packets in {} flows belong to no known ENI and leave no record",
                window.unattributed.packets, window.unattributed.flows
            );
        }
        if let Err(error) = self.outputs.write(&window) {
            error!("flow records are lost: {}", chain(&error));
        }
        Some(window.bounds.end)
    }

    /// The packets of a slot's ENI, passed and denied, whose records were given up.
    pub(super) fn given_up(&self, slot: u16) -> (u64, u64) {
        self.collector.given_up(slot)
    }

    /// The kernel's tables, and what a slot had counted there before its ENI got it.
    pub(super) fn tables_and_base(&mut self, slot: u16) -> (&mut KernelTables, &CountersBase) {
        let base = self.bases.get(&slot).and_then(Option::as_deref);
        (&mut self.tables, base.unwrap_or(&CountersBase::NONE))
    }

    /// The kernel's tables.
    pub(super) fn tables(&mut self) -> &mut KernelTables {
        &mut self.tables
    }

    /// Reads connections that have carried much, once in a while.
    pub(super) fn read_large(&mut self) {
        if self.looked.elapsed() < LARGE_EVERY {
            return;
        }
        if let Err(error) = self.collector.read_large(&mut self.tables) {
            error!("connections that carry much are not read: {}", chain(&error));
        }
        self.looked = Instant::now();
    }

    /// Removes what is over, where the tables are short of room: it counts as absent already, but whatever is new finds no
    /// room beside it.
    pub(super) fn gc_if_full(&mut self, pressure: Pressure) {
        if pressure.conns && self.collected.elapsed() >= GC_EVERY {
            self.gc(true);
            self.collected = Instant::now();
        }
        if pressure.denials
            && let Err(error) = self.collector.free_denials(&mut self.tables)
        {
            error!("denied flows are not freed: {}", chain(&error));
        }
        if pressure.fragments
            && let Err(error) = self.collector.free_fragments(&mut self.tables)
        {
            error!("fragments are not forgotten: {}", chain(&error));
        }
    }

    /// Removes connections that are over by now. `unreported`: also what no window has reported yet; it is reported in the one that
    /// runs.
    pub(super) fn gc(&mut self, unreported: bool) {
        if let Err(error) = self.collector.gc(&mut self.tables, unreported) {
            error!("idle connections are not removed: {}", chain(&error));
        }
    }
}

fn unlogged(model: &Model) -> Unlogged {
    Unlogged::new(model.unlogged())
}
