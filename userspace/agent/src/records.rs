//! Capture windows: closed in time, written, and what is over removed.

use std::{
    collections::{
        HashMap,
        hash_map::Entry::{Occupied, Vacant},
    },
    sync::Arc,
    time::{Duration, Instant},
};

use taskgate_api::DestinationStatus;
use taskgate_bpf::tables::KernelTables;
use taskgate_compiler::RuleIds;
use taskgate_ebpf::abi::image::TIMEOUTS;
use taskgate_flowlog::{
    DestinationState, Journal, LoggedEni, RecordError, RecordNames, RecordSettings, RecordTotals, Recorder,
    RecorderStart, RuleText, Unlogged,
};
use taskgate_model::Model;
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
    recorder: Recorder,
    /// What slots had counted before their ENIs got them: nothing, of those that had no other one.
    bases: HashMap<u16, Option<Box<CountersBase>>>,
    /// When connections were removed for want of room last.
    collected: Instant,
    /// When connections that have carried much were looked for last.
    looked: Instant,
}

impl Records {
    /// Begins where the journal ends, if it is of these tables; else anew, with window number `window`. `most`: records that are held at most, for
    /// the window that runs and for each flow log. `rules`, with the last generation: those that entries name.
    pub(super) fn begin(
        instance: &str,
        mut tables: KernelTables,
        (model, timeouts): (&Arc<Model>, [u32; TIMEOUTS]),
        most: usize,
        window: u32,
        journal: Journal,
        (rules, generation): (&RuleIds, u64),
    ) -> Result<Self, StartError> {
        let now = unix_time().as_secs();
        let start = RecorderStart { now, window, most };
        let mut names = RecordNames::default();
        names.set_rules(texts(rules), generation);
        names.set_peers(model);
        let (recorder, errors) =
            Recorder::begin(&mut tables, instance, journal, start, settings(model, timeouts), names)?;
        log(errors);
        Ok(Self {
            tables,
            recorder,
            bases: HashMap::new(),
            collected: Instant::now(),
            looked: Instant::now(),
        })
    }

    /// Takes over what a new configuration says of records.
    pub(super) fn reconfigure(&mut self, model: &Model, timeouts: [u32; TIMEOUTS]) {
        let now = unix_time().as_secs();
        log(self
            .recorder
            .reconfigure(&mut self.tables, now, settings(model, timeouts)));
    }

    /// Says which rules and which generation are in force. To be followed by [`Records::bind`].
    pub(super) fn set_rules(&mut self, rules: &RuleIds, generation: u64) {
        self.recorder.names().set_rules(texts(rules), generation);
    }

    /// Says whose addresses are whose, once the flow logs are those of the same configuration.
    pub(super) fn set_peers(&mut self, model: &Arc<Model>) {
        self.recorder.names().set_peers(model);
    }

    /// Says whose the slots are, all of them. ENIs that are not named any more are gone, and pass nothing.
    pub(super) fn bind(&mut self, enis: HashMap<u16, LoggedEni>) {
        for (slot, eni) in &enis {
            match self.bases.entry(*slot) {
                Vacant(unused) => {
                    unused.insert(None);
                }
                Occupied(mut base) if self.recorder.eni_of(*slot) != Some(eni.id()) => {
                    match CountersBase::read(&mut self.tables, *slot) {
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
        }
        log(self.recorder.bind(&mut self.tables, enis));
    }

    /// How long until the window is to be closed.
    pub(super) fn left(&self) -> Duration {
        self.recorder.time_left(unix_time())
    }

    /// Closes the window and writes its records. Failures are logged: the gates do not depend on the records.
    pub(super) fn close(&mut self) {
        self.close_as(false);
        self.gc(false);
    }

    /// Closes the window before its time, and waits until every destination has what was written.
    pub(super) fn close_final(&mut self) {
        self.close_as(true);
        for error in self.recorder.finish(PATIENCE) {
            error!("{}", chain(&error));
        }
    }

    /// Has the files of flow logs opened anew.
    pub(super) fn reopen(&self) {
        self.recorder.reopen();
    }

    /// How the destinations of flow records fare.
    pub(super) fn destinations(&self) -> Vec<DestinationStatus> {
        let status = |state: DestinationState| DestinationStatus {
            destination: state.name,
            records: state.records,
            waiting: state.waiting,
            dropped: state.dropped,
            lost: state.lost,
            failure: state.failure,
        };
        self.recorder.destinations().into_iter().map(status).collect()
    }

    /// What the records add up to.
    pub(super) fn totals(&self) -> &RecordTotals {
        self.recorder.totals()
    }

    /// Says what went wrong with destinations.
    pub(super) fn tell_troubles(&mut self) {
        log(self.recorder.troubles());
    }

    fn close_as(&mut self, last: bool) {
        let now = unix_time().as_secs();
        let closed = if last {
            self.recorder.close_final(&mut self.tables, now)
        } else {
            self.recorder.close_window(&mut self.tables, now)
        };
        match closed {
            Ok(window) => {
                if window.unattributed.flows != 0 {
                    warn!(
                        "{} packets in {} flows belong to no known ENI and leave no record",
                        window.unattributed.packets, window.unattributed.flows
                    );
                }
                log(window.errors);
            }
            Err(error) => error!(
                "a capture window is not closed, its records come with the next one: {}",
                chain(&error)
            ),
        }
    }

    /// The packets of a slot's ENI, passed and denied, whose records were given up.
    pub(super) fn given_up(&self, slot: u16) -> (u64, u64) {
        self.recorder.given_up(slot)
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
        if let Err(error) = self.recorder.read_large(&mut self.tables) {
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
        if pressure.denials {
            log(self.recorder.free_denials(&mut self.tables));
        }
        if pressure.fragments
            && let Err(error) = self.recorder.free_fragments(&mut self.tables)
        {
            error!("fragments are not forgotten: {}", chain(&error));
        }
    }

    /// Removes connections that are over by now. `unreported`: also what no window has reported yet; it is reported in the one that
    /// runs.
    pub(super) fn gc(&mut self, unreported: bool) {
        log(self.recorder.gc(&mut self.tables, unreported));
    }
}

fn texts(rules: &RuleIds) -> impl Iterator<Item = RuleText<'_>> {
    rules.rules().iter().map(|rule| RuleText {
        group: &rule.name.group,
        group_name: &rule.name.group_name,
        rule: &rule.name.rule,
    })
}

fn settings(model: &Model, timeouts: [u32; TIMEOUTS]) -> RecordSettings {
    RecordSettings {
        logs: model.flow_logs.clone(),
        unlogged: Unlogged::new(model.unlogged()),
        timeouts,
    }
}

fn log(errors: Vec<RecordError>) {
    for error in errors {
        error!("{}", chain(&error));
    }
}
