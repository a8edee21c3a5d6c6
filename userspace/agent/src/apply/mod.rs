//! Switches to a configuration: compiles it, writes it as the next generation, and puts that in force with a single
//! store.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use taskgate_bpf::{load::LoadOptions, object::BpfObject, reader::ConnReader, sys, tables::KernelTables};
use taskgate_compiler::{CompileOptions, Compiled, EniLimits, GroupSetIds, RuleIds};
use taskgate_ebpf::{
    abi::image::{TIMEOUTS, Timeout, control},
    conntrack::default_seconds,
};
use taskgate_flowlog::LoggedEni;
use taskgate_model::{Eni, IcmpErrors, Model, OnRuleRemoval, Settings};
use taskgate_net::netlink::Netlink;
use taskgate_tables::FlowTables as _;
use tracing::{error, warn};

use super::{
    CountersForm,
    error::{AttachError, ConfigurationError, RunError, RunningError, StartError},
    gates::Gates,
    guard::{Counts, Notice},
    image::SharedImage,
    journal,
    records::Records,
    shares::{Pressure, Sharer, Shares},
    sizes,
    state::{State, StateFile},
    takeover::Takeover,
    tasks::Tasks,
};

mod report;

pub(super) use report::TaskUsage;

/// A running taskgate.
pub(super) struct Daemon {
    pub(super) tasks: Tasks,
    model: Arc<Model>,
    options: LoadOptions,
    ticks: u32,
    pub(super) rule_ids: RuleIds,
    sets: GroupSetIds,
    pub(super) image: Arc<SharedImage>,
    records: Records,
    reader: Arc<ConnReader>,
    pub(super) gates: Gates,
    shares: Shares,
    pub(super) file: StateFile,
    pub(super) state: State,
}

/// Compiles a model with fresh rule and group-set numbers, to learn its size before an image exists.
pub(super) fn compile_alone(model: &Model) -> Result<Compiled, ConfigurationError> {
    compile(model, &mut RuleIds::default(), &mut GroupSetIds::default(), &|_| false)
}

/// `isolated`: whether an ENI is isolated, so that it passes nothing.
fn compile(
    model: &Model,
    rule_ids: &mut RuleIds,
    sets: &mut GroupSetIds,
    isolated: &dyn Fn(&Eni) -> bool,
) -> Result<Compiled, ConfigurationError> {
    let gate = sizes::gate(model);
    let exempt = model.exempt();
    let of = |eni: &Eni| -> Option<EniLimits> {
        let isolated = isolated(eni);
        eni.binding.is_some().then_some(EniLimits { isolated, ..gate })
    };
    let options = CompileOptions {
        gate: &of,
        exempt: &exempt.addresses,
        dhcp: exempt.dhcp,
    };
    Ok(Compiled::new(model, options, rule_ids, sets)?)
}

impl Daemon {
    /// Brings the first configuration into force and attaches the gates. Returns the errors of the tasks that could not
    /// be gated; gating these is retried.
    pub(super) async fn begin(
        instance: &str,
        object: BpfObject,
        tables: KernelTables,
        netlink: Netlink,
        (tasks, model): (Tasks, Model),
        (file, takeover): (StateFile, Option<Takeover>),
    ) -> Result<(Self, Vec<AttachError>), RunError> {
        let options = *object.options();
        let ticks = tables.ticks_per_second();
        let reader = ConnReader::new(&object, tables.ages()).map_err(StartError::from)?;
        let reader = Arc::new(reader);
        let memory = object.image().map_err(StartError::from)?;
        let image = Arc::new(
            SharedImage::new(memory, options.member_banks, takeover.as_ref()).map_err(ConfigurationError::from)?,
        );
        let model = Arc::new(model);
        let timeouts = timeouts(&model.settings, ticks);
        let window = takeover
            .as_ref()
            .map_or(1, |takeover| takeover.window().wrapping_add(1));
        let state = match &takeover {
            Some(takeover) => takeover.state.clone(),
            None => State::of(&object, file.boot()),
        };
        let rule_ids = state.rule_ids();
        let journal = journal::open(instance, object.seed())?;
        let records = Records::begin(
            instance,
            tables,
            (&model, timeouts),
            sizes::records(&options),
            window,
            journal,
            (&rule_ids, state.generation),
        )?;
        file.write(&state).map_err(StartError::from)?;
        let trunks = takeover.as_ref().map(Takeover::trunks);
        let gates = Gates::begin(instance, object, netlink, Arc::clone(&image), trunks)?;
        let mut daemon = Self {
            tasks,
            model: Arc::default(),
            reader,
            options,
            ticks,
            rule_ids,
            sets: GroupSetIds::default(),
            image,
            records,
            gates,
            shares: Shares::default(),
            file,
            state,
        };
        let wrong = match takeover {
            Some(_) => daemon.take_over(model).await?,
            None => daemon.bring_up(model).await?,
        };
        Ok((daemon, wrong))
    }

    /// The paths that the next process needs and that are missing or replaced: pins in bpffs, and the state file.
    pub(super) fn lost_names(&self) -> io::Result<Vec<PathBuf>> {
        let mut lost = self.gates.lost_names()?;
        if !self.file.path().exists() {
            lost.push(self.file.path().to_owned());
        }
        Ok(lost)
    }

    /// Repairs the gates of these links, the prefilter, and the pins and the state file that the next process needs.
    pub(super) fn repair(&mut self, ifindexes: Vec<u32>) -> Result<(), StartError> {
        let repaired = self.gates.repair(ifindexes);
        if !self.file.path().exists() {
            self.file.write(&self.state)?;
        }
        repaired
    }

    async fn bring_up(&mut self, model: Arc<Model>) -> Result<Vec<AttachError>, RunError> {
        // Close a trunk's branches as early as possible: no configuration is in force yet.
        let mut wrong = self.gates.close_trunk(model.uplink.as_ref()).await?;
        wrong.append(&mut self.switch(model).await?);
        self.gates.close_inherited();
        Ok(wrong)
    }

    /// Switches the gates of an earlier process to a configuration. Until its turn, each gate judges by the earlier
    /// image.
    async fn take_over(&mut self, model: Arc<Model>) -> Result<Vec<AttachError>, RunError> {
        // An ENI that was isolated when the process ended may still have tracked connections, so its epoch is bumped
        // too.
        let passes = model.gated().filter(|eni| !self.tasks.is_isolated(eni.display_name()));
        let wanted: HashSet<&str> = passes.map(|eni| eni.id.as_str()).collect();
        {
            let mut writer = self.image.writer();
            for (slot, eni) in writer.slots() {
                if !wanted.contains(eni.as_str()) {
                    writer.bump_epoch(slot).map_err(ConfigurationError::from)?;
                }
            }
        }
        let wrong = self.switch(model).await?;
        self.gates.close_inherited();
        Ok(wrong)
    }

    /// Switches to a model. An error leaves everything as it was. Otherwise the model is in force, and the returned
    /// errors are about tasks that could not be bound to their links.
    pub(super) async fn switch(&mut self, model: impl Into<Arc<Model>>) -> Result<Vec<AttachError>, RunError> {
        let model = model.into();
        self.gates.check_hook(model.settings.attach)?;
        if let Some(slots) = self.change_one(&model)? {
            return self.follow_one(model, &slots).await;
        }
        let isolated = |eni: &Eni| self.tasks.is_isolated(eni.display_name());
        let compiled = compile(&model, &mut self.rule_ids, &mut self.sets, &isolated)?;
        let timeouts = timeouts(&model.settings, self.ticks);
        let slots = self.commit(&model, &compiled)?;
        // Expire entries under the old timeouts first, so that longer new ones cannot revive them.
        if model.settings.timeouts != self.model.settings.timeouts {
            self.records.gc(true);
        }
        {
            let writer = self.image.writer();
            let control = writer.control();
            for (timeout, ticks) in Timeout::ALL.into_iter().zip(timeouts) {
                control.set_timeout(timeout, ticks);
            }
            control.set_flags(control_flags(&model.settings));
        }
        for (key, total, room) in [
            ("connections", model.settings.connections.total, self.options.conns),
            ("denials", model.settings.denials.total, self.options.denials),
        ] {
            if total != room {
                warn!(
                    "the tables have room for {room}: `{key}.total` is {total} once `taskgate cleanup` has taken them away and \
                     taskgate is started anew"
                );
            }
        }
        if let Some(few) = sizes::too_few_files(&model, sys::open_files_limit()) {
            warn!("{few}");
        }
        self.bind_records(&model, &slots);
        self.records.reconfigure(&model, timeouts);
        let wrong = self.follow(model, &slots).await;
        self.image.synchronize();
        self.share(false);
        Ok(wrong?)
    }

    /// Reconciles the gates with a model that is already in the image. `slots`: the slots of the gated ENIs, by ENI id.
    pub(super) async fn follow(
        &mut self,
        model: Arc<Model>,
        slots: &HashMap<String, u16>,
    ) -> Result<Vec<AttachError>, RunningError> {
        self.model = model;
        self.records.set_peers(&self.model);
        // Set the shares first, so that the first packets on a new link already find their task's share.
        self.share(true);
        let gated: Vec<(&Eni, u16)> = self
            .model
            .gated()
            .filter_map(|eni| Some((eni, *slots.get(&eni.id)?)))
            .collect();
        self.gates.reconcile(&self.model, &gated).await
    }

    /// Divides the tables among the tasks that are present or, with `all`, among all gated tasks. Returns which tables
    /// are short of room.
    pub(super) fn share(&mut self, all: bool) -> Pressure {
        let sharers = sharers(&self.model, &self.image);
        let (tables, control) = (self.records.tables(), self.image.control());
        let updated = self
            .shares
            .update(&self.model.settings, &self.options, &sharers, all, tables, &control);
        updated.unwrap_or_else(|error| {
            error!("cannot read what tasks use of the tables, their shares stay as they were: {error}");
            Pressure::default()
        })
    }

    /// Writes the next generation and switches to it. Returns the slots of the gated ENIs.
    fn commit(&mut self, model: &Model, compiled: &Compiled) -> Result<HashMap<String, u16>, ConfigurationError> {
        // Wait for the grace period before taking the writer, so that the link guard can bind and unbind links
        // meanwhile.
        self.image.synchronize();
        let mut waited = Ok(());
        let mut grace = || waited = sys::wait_grace_period();
        let mut writer = self.image.writer();
        let prepared = writer.prepare(compiled, &mut grace)?;
        let slots = model
            .gated()
            .filter_map(|eni| Some((eni.id.clone(), prepared.slot(&eni.id)?)))
            .collect();
        // The state file has to be written before any entry can carry one of the new numbers.
        self.state
            .update(prepared.generation(), prepared.slots(), &self.rule_ids);
        self.file.write(&self.state)?;
        prepared.commit();
        drop(writer);
        if let Err(error) = waited {
            warn!("the kernel does not tell when old memory is free: {error}");
        }
        Ok(slots)
    }

    /// Binds slots to ENIs in the flow records. Slots of ENIs that are gone are drained.
    pub(super) fn bind_records(&mut self, model: &Model, slots: &HashMap<String, u16>) {
        let slot = |eni: &Eni| Some((*slots.get(&eni.id)?, LoggedEni::new(eni.clone(), &model.account)));
        let generation = self.generation();
        self.records.set_rules(&self.rule_ids, generation);
        self.records.bind(model.gated().filter_map(slot).collect());
    }

    /// The configuration in force.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// The link guard's next notice.
    pub(super) async fn notice(&mut self) -> Option<Notice> {
        self.gates.notice().await
    }

    /// Acts on a notice of the link guard.
    pub(super) fn noticed(&mut self, notice: Notice) -> Result<(), RunningError> {
        self.gates.noticed(notice)
    }

    /// Handles names of network namespaces that appeared, disappeared, or now refer to another namespace.
    pub(super) async fn namespaces_changed(&mut self) {
        let enis: Vec<&Eni> = self.model.gated().collect();
        self.gates.namespaces_changed(&enis).await;
        self.image.synchronize();
    }

    /// Time until the capture window has to be closed.
    pub(super) fn window_left(&self) -> Duration {
        self.records.left()
    }

    /// Closes the capture window.
    pub(super) fn close_window(&mut self) {
        self.records.close();
    }

    /// Updates the shares, reads connections with large counters, frees expired entries early where a table is short of
    /// room, and logs trouble with destinations.
    pub(super) fn gc_if_full(&mut self) {
        let pressure = self.share(false);
        self.records.read_large();
        self.records.gc_if_full(pressure);
        self.records.tell_troubles();
    }

    /// Reopens the files of the flow logs.
    pub(super) fn reopen_records(&self) {
        self.records.reopen();
    }

    /// The generation in force.
    pub(super) fn generation(&self) -> u64 {
        self.image.writer().generation()
    }

    /// The gates.
    pub(super) fn gates(&self) -> &Gates {
        &self.gates
    }

    /// The numbers of gated tasks and of all tasks, and the names of the failed ones.
    pub(super) async fn counts(&self) -> Result<Counts, RunningError> {
        self.gates.counts().await
    }

    /// Shuts down and writes the records up to now; the gates stay attached and keep judging and counting. Returns the
    /// names of the tasks that are not gated because of an error. `counters`: the form in which to write the counters,
    /// if at all.
    pub(super) async fn end(mut self, counters: Option<CountersForm>, to: &mut dyn Write) -> Vec<String> {
        let failed = self.gates.end().await;
        self.records.close_final();
        if let Some(form) = counters {
            self.write_counters(form, to);
        }
        failed
    }
}

/// The gated tasks that have a slot.
fn sharers<'a>(model: &'a Model, image: &SharedImage) -> Vec<Sharer<'a>> {
    let writer = image.writer();
    let sharer = |eni: &'a Eni| Some(Sharer::new(eni, writer.slot(&eni.id)?));
    model.gated().filter_map(sharer).collect()
}

/// The idle time-outs in ticks.
fn timeouts(settings: &Settings, ticks: u32) -> [u32; TIMEOUTS] {
    Timeout::ALL.map(|timeout| {
        let seconds = match timeout {
            Timeout::TcpEstablished => settings.timeouts.tcp_established,
            Timeout::Udp => settings.timeouts.udp,
            Timeout::UdpStream => settings.timeouts.udp_stream,
            // Not longer than the timeout of established connections.
            Timeout::TcpHalfClosed => default_seconds(timeout).min(settings.timeouts.tcp_established),
            _ => default_seconds(timeout),
        };
        seconds * ticks
    })
}

fn control_flags(settings: &Settings) -> u64 {
    let icmp = match settings.icmp_errors {
        IcmpErrors::Pmtu => control::ICMP_PMTU,
        IcmpErrors::All => control::ICMP_PMTU | control::ICMP_ALL,
        IcmpErrors::None => 0,
    };
    let cut = match settings.on_rule_removal {
        OnRuleRemoval::Keep => 0,
        OnRuleRemoval::Cut => control::CUT,
    };
    icmp | cut
}
