//! Capture windows: closes them on time, writes their records, and removes expired entries.

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

/// How long a reader of flow records may accept nothing before taskgate ends without writing the rest.
const PATIENCE: Duration = Duration::from_secs(5);

/// Collects and writes flow records.
pub(super) struct Records {
    tables: KernelTables,
    recorder: Recorder,
    /// The counter baselines of slots; `None` for a slot whose ENI is its first.
    bases: HashMap<u16, Option<Box<CountersBase>>>,
    /// When expired connections were last removed for want of room.
    collected: Instant,
    /// When connections with large counters were last looked for.
    looked: Instant,
}

impl Records {
    /// Continues from the journal, if it belongs to these tables; otherwise starts anew with window number `window`.
    /// `most`: the maximum number of records held, for the current window and for each flow log. `rules`, with the last
    /// generation: the rules that entries refer to.
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

    /// Applies a new configuration's settings of flow records.
    pub(super) fn reconfigure(&mut self, model: &Model, timeouts: [u32; TIMEOUTS]) {
        let now = unix_time().as_secs();
        log(self
            .recorder
            .reconfigure(&mut self.tables, now, settings(model, timeouts)));
    }

    /// Sets the rules and the generation in force. To be followed by [`Records::bind`].
    pub(super) fn set_rules(&mut self, rules: &RuleIds, generation: u64) {
        self.recorder.names().set_rules(texts(rules), generation);
    }

    /// Sets the owners of addresses, once the flow logs are those of the same configuration.
    pub(super) fn set_peers(&mut self, model: &Arc<Model>) {
        self.recorder.names().set_peers(model);
    }

    /// Sets the ENIs of all slots. ENIs that are no longer named are gone, and pass nothing.
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

    /// Time until the window has to be closed.
    pub(super) fn left(&self) -> Duration {
        self.recorder.time_left(unix_time())
    }

    /// Closes the window and writes its records. Failures are logged: the gates do not depend on the records.
    pub(super) fn close(&mut self) {
        self.close_as(false);
        self.gc(false);
    }

    /// Closes the window ahead of time, and waits until every destination has its records, as long as each reader
    /// accepts some within [`PATIENCE`].
    pub(super) fn close_final(&mut self) {
        self.close_as(true);
        for error in self.recorder.finish(PATIENCE) {
            error!("{}", chain(&error));
        }
    }

    /// Reopens the files of the flow logs.
    pub(super) fn reopen(&self) {
        self.recorder.reopen();
    }

    /// The status of each destination of flow records.
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

    /// The totals of all records.
    pub(super) fn totals(&self) -> &RecordTotals {
        self.recorder.totals()
    }

    /// Logs trouble with destinations.
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

    /// The packets of a slot's ENI, passed and denied, whose records were dropped.
    pub(super) fn given_up(&self, slot: u16) -> (u64, u64) {
        self.recorder.given_up(slot)
    }

    /// The kernel's tables, and the counter baseline of a slot.
    pub(super) fn tables_and_base(&mut self, slot: u16) -> (&mut KernelTables, &CountersBase) {
        let base = self.bases.get(&slot).and_then(Option::as_deref);
        (&mut self.tables, base.unwrap_or(&CountersBase::NONE))
    }

    /// The kernel's tables.
    pub(super) fn tables(&mut self) -> &mut KernelTables {
        &mut self.tables
    }

    /// Reads connections with large counters, at most once per [`LARGE_EVERY`].
    pub(super) fn read_large(&mut self) {
        if self.looked.elapsed() < LARGE_EVERY {
            return;
        }
        if let Err(error) = self.recorder.read_large(&mut self.tables) {
            error!("connections that carry much are not read: {}", chain(&error));
        }
        self.looked = Instant::now();
    }

    /// Removes expired entries from tables that are short of room: they already count as absent, but still occupy the
    /// room that new entries need.
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

    /// Removes expired connections. `unreported`: also those with traffic that no window has reported yet; it is
    /// reported in the current window.
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
