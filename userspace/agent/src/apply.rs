//! Switching to a configuration: compiled and written beside the one in force, then one store.

use std::{collections::HashMap, io::Write, sync::Arc, time::Duration};

use taskgate_bpf::{load::LoadOptions, object::BpfObject, sys, tables::KernelTables};
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
    counters::counters,
    error::{AttachError, ConfigurationError, RunError, RunningError, StartError},
    gates::Gates,
    guard::Notice,
    image::SharedImage,
    records::Records,
    shares::{Pressure, Sharer, Shares},
    sizes,
};

/// A running taskgate.
pub(super) struct Daemon {
    model: Model,
    options: LoadOptions,
    ticks: u32,
    rule_ids: RuleIds,
    sets: GroupSetIds,
    image: Arc<SharedImage>,
    records: Records,
    gates: Gates,
    shares: Shares,
}

/// Compiles a model by itself: for its size, before there is an image.
pub(super) fn compile_alone(model: &Model) -> Result<Compiled, ConfigurationError> {
    compile(model, &mut RuleIds::default(), &mut GroupSetIds::default())
}

fn compile(model: &Model, rule_ids: &mut RuleIds, sets: &mut GroupSetIds) -> Result<Compiled, ConfigurationError> {
    let gate = sizes::gate(model);
    let exempt = model.exempt();
    let of = |eni: &Eni| -> Option<EniLimits> { eni.binding.is_some().then_some(gate) };
    let options = CompileOptions {
        gate: &of,
        exempt: &exempt.addresses,
        dhcp: exempt.dhcp,
    };
    Ok(Compiled::new(model, options, rule_ids, sets)?)
}

impl Daemon {
    /// Brings the first configuration into force, and the gates up. Gives what went wrong beside: the tasks that could not
    /// be gated, which is tried again. Where it fails, what was made is taken away again.
    pub(super) async fn begin(
        instance: &str,
        object: BpfObject,
        tables: KernelTables,
        netlink: Netlink,
        model: Model,
    ) -> Result<(Self, Vec<AttachError>), RunError> {
        let options = *object.options();
        let ticks = tables.ticks_per_second();
        let image =
            Arc::new(SharedImage::new(object.image().map_err(StartError::from)?).map_err(ConfigurationError::from)?);
        let timeouts = timeouts(&model.settings, ticks);
        let records = Records::begin(tables, &model, timeouts, sizes::records(&options))?;
        let gates = Gates::begin(instance, object, netlink, Arc::clone(&image))?;
        let mut daemon = Self {
            model: Model::default(),
            options,
            ticks,
            rule_ids: RuleIds::default(),
            sets: GroupSetIds::default(),
            image,
            records,
            gates,
            shares: Shares::default(),
        };
        daemon.gates.clear(model.gated()).await;
        match daemon.bring_up(model).await {
            Ok(wrong) => Ok((daemon, wrong)),
            Err(error) => {
                daemon.gates.end().await;
                Err(error)
            }
        }
    }

    async fn bring_up(&mut self, model: Model) -> Result<Vec<AttachError>, RunError> {
        // A trunk's branches are closed as soon as can be: no configuration is in force yet.
        let mut wrong = self.gates.reconcile(model.uplink.as_ref(), &[]).await?;
        wrong.append(&mut self.switch(model).await?);
        Ok(wrong)
    }

    /// Switches to a configuration. An error leaves everything as it was. Otherwise the configuration is in force, and
    /// what is given tells of the tasks that could not be bound to their links.
    pub(super) async fn apply(&mut self, model: Model) -> Result<Vec<AttachError>, RunError> {
        self.gates.check(&model).await?;
        self.switch(model).await
    }

    async fn switch(&mut self, model: Model) -> Result<Vec<AttachError>, RunError> {
        let compiled = compile(&model, &mut self.rule_ids, &mut self.sets)?;
        let timeouts = timeouts(&model.settings, self.ticks);
        let slots = self.commit(&model, &compiled)?;
        // What is over by the time-outs in force must not live again by longer ones.
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
                warn!("`{key}.total` is {total} from the next start on; the tables have room for {room}");
            }
        }
        if let Some(few) = sizes::too_few_files(&model, sys::open_files_limit()) {
            warn!("{few}");
        }
        self.bind_records(&model, &slots);
        self.records.reconfigure(&model, timeouts);
        self.model = model;
        // What comes over a link at once has its share.
        self.share(true);
        let gated: Vec<(&Eni, u16)> = self
            .model
            .gated()
            .filter_map(|eni| Some((eni, *slots.get(&eni.id)?)))
            .collect();
        let wrong = self.gates.reconcile(self.model.uplink.as_ref(), &gated).await;
        self.image.synchronize();
        self.share(false);
        Ok(wrong?)
    }

    /// Divides the tables among the tasks that are present, or, with `all`, among all that are named. Gives which tables
    /// are short of room.
    fn share(&mut self, all: bool) -> Pressure {
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

    /// Writes the next generation and switches to it. Gives the slots of the gated ENIs.
    fn commit(&self, model: &Model, compiled: &Compiled) -> Result<HashMap<String, u16>, ConfigurationError> {
        // Links may come and go meanwhile; the writer is not kept from them while a grace period is waited for.
        self.image.synchronize();
        let mut waited = Ok(());
        let mut grace = || waited = sys::wait_grace_period();
        let mut writer = self.image.writer();
        let prepared = writer.prepare(compiled, &mut grace)?;
        let slots = model
            .gated()
            .filter_map(|eni| Some((eni.id.clone(), prepared.slot(&eni.id)?)))
            .collect();
        prepared.commit();
        drop(writer);
        if let Err(error) = waited {
            warn!("the kernel does not tell when old memory is free: {error}");
        }
        Ok(slots)
    }

    /// Writes what the kernel counted.
    pub(super) fn write_counters(&mut self, form: CountersForm, to: &mut dyn Write) {
        let generation = self.generation();
        let tasks = sharers(&self.model, &self.image);
        let written = counters(generation, &tasks, &mut self.records, form)
            .and_then(|counters| to.write_all(counters.as_bytes()));
        if let Err(error) = written {
            error!("cannot write the counters: {error}");
        }
    }

    /// Tells the records whose slots are whose; those of ENIs that are gone are drained.
    fn bind_records(&mut self, model: &Model, slots: &HashMap<String, u16>) {
        let gone = |eni: &Eni| !slots.contains_key(&eni.id);
        let writer = self.image.writer();
        let retired: Vec<u16> = self
            .model
            .gated()
            .filter(|eni| gone(eni))
            .filter_map(|eni| writer.slot(&eni.id))
            .collect();
        drop(writer);
        self.records.retire(&retired);
        for eni in model.gated() {
            if let Some(slot) = slots.get(&eni.id) {
                self.records.bind(*slot, LoggedEni::new(eni.clone(), &model.account));
            }
        }
    }

    /// The configuration in force.
    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    /// What the link guard has to say next.
    pub(super) async fn notice(&mut self) -> Option<Notice> {
        self.gates.notice().await
    }

    /// Follows what the link guard said.
    pub(super) fn noticed(&mut self, notice: Notice) -> Result<(), RunningError> {
        self.gates.noticed(notice)
    }

    /// Follows names of network namespaces that came, went, or lead elsewhere.
    pub(super) async fn namespaces_changed(&mut self) {
        let enis: Vec<&Eni> = self.model.gated().collect();
        self.gates.namespaces_changed(&enis).await;
        self.image.synchronize();
    }

    /// How long until the capture window is to be closed.
    pub(super) fn window_left(&self) -> Duration {
        self.records.left()
    }

    /// Closes the capture window.
    pub(super) fn close_window(&mut self) {
        self.records.close();
    }

    /// Removes early what is over where there is much of it.
    pub(super) fn gc_if_full(&mut self) {
        let pressure = self.share(false);
        self.records.read_large();
        self.records.gc_if_full(pressure);
    }

    /// The generation in force.
    pub(super) fn generation(&self) -> u64 {
        self.image.writer().generation()
    }

    /// How many tasks are gated, in words.
    pub(super) async fn gates_summary(&self) -> Result<String, RunningError> {
        self.gates.summary().await
    }

    /// Takes the gates off and writes the last records, in that order: what the gates counted to the last is in them. Gives
    /// the names of the tasks that were not gated because of an error. `counters`: how these are written, if they are.
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
            // Not longer than what is not half-closed.
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
