//! Switching to a configuration: compiled and written beside the one in force, then one store.

use std::{collections::HashMap, time::Duration};

use log::warn;
use taskgate_ebpf::{
    abi::image::{TIMEOUTS, Timeout, control},
    conntrack::default_seconds,
};

use super::{
    RunError,
    gates::Gates,
    records::{Records, Writer},
    sizes,
};
use crate::{
    compile::{CompileError, Compiled, Gate, GroupSets, ImageWriter, RuleBook, Scope},
    dataplane::{
        flow::FlowTables as _, link::LinkEvent, load::LoadOptions, netlink::Netlink, object::Object, raw,
        tables::KernelTables,
    },
    flowlog::LoggedEni,
    model::{Eni, IcmpErrors, Model, OnRuleRemoval, Settings},
};

/// A running taskgate.
pub(super) struct Daemon {
    model: Model,
    options: LoadOptions,
    ticks: u32,
    book: RuleBook,
    sets: GroupSets,
    writer: Writer,
    records: Records,
    gates: Gates,
}

/// Compiles a model by itself: for its size, before there is an image.
pub(super) fn compile_alone(model: &Model) -> Result<Compiled, CompileError> {
    let tables = LoadOptions::default();
    compile(model, &tables, &mut RuleBook::default(), &mut GroupSets::default())
}

fn compile(
    model: &Model,
    tables: &LoadOptions,
    book: &mut RuleBook,
    sets: &mut GroupSets,
) -> Result<Compiled, CompileError> {
    let gate = sizes::gate(model, tables);
    let exempt = model.exempt();
    let of = |eni: &Eni| -> Option<Gate> { eni.binding.is_some().then_some(gate) };
    Compiled::new(
        model,
        Scope {
            gate: &of,
            exempt: &exempt.addresses,
            dhcp: exempt.dhcp,
        },
        book,
        sets,
    )
}

impl Daemon {
    /// Brings the first configuration into force, and the gates up. Where it fails, what was made is taken away again.
    pub(super) async fn begin(
        instance: &str,
        object: Object,
        tables: KernelTables,
        netlink: Netlink,
        model: Model,
    ) -> Result<Self, RunError> {
        let options = *object.options();
        let ticks = tables.ticks_per_second();
        let writer = ImageWriter::new(object.image()?)?;
        let records = Records::begin(tables, &model, timeouts(&model.settings, ticks), options.conns)?;
        let gates = Gates::new(instance, object, netlink);
        let mut daemon = Self {
            model: Model::default(),
            options,
            ticks,
            book: RuleBook::default(),
            sets: GroupSets::default(),
            writer,
            records,
            gates,
        };
        daemon.gates.clear(model.gated()).await;
        let Err(error) = daemon.bring_up(model).await else {
            return Ok(daemon);
        };
        daemon.gates.end().await;
        Err(error)
    }

    async fn bring_up(&mut self, model: Model) -> Result<(), RunError> {
        self.gates.check(&model).await?;
        // A trunk's branches are closed as soon as can be: no configuration is in force yet.
        self.gates.uplink(model.uplink.as_ref(), &mut self.writer).await?;
        match self.apply(model).await?.into_iter().next() {
            None => Ok(()),
            Some(wrong) => Err(wrong),
        }
    }

    /// Switches to a configuration. An error leaves everything as it was. Otherwise the configuration is in force, and
    /// what is given tells of the tasks that could not be bound to their links.
    pub(super) async fn apply(&mut self, model: Model) -> Result<Vec<RunError>, RunError> {
        self.gates.check(&model).await?;
        let compiled = compile(&model, &self.options, &mut self.book, &mut self.sets)?;
        let timeouts = timeouts(&model.settings, self.ticks);
        let mut waited = Ok(());
        let mut grace = || waited = raw::wait_grace_period();
        let prepared = self.writer.prepare(&compiled, &mut grace)?;
        let slots: HashMap<String, u16> = model
            .gated()
            .filter_map(|eni| Some((eni.id.clone(), prepared.slot(&eni.id)?)))
            .collect();
        prepared.commit();
        if let Err(error) = waited {
            warn!("the kernel does not tell when old memory is free: {error}");
        }
        // What is over by the time-outs in force must not live again by longer ones.
        if model.settings.timeouts != self.model.settings.timeouts {
            self.records.sweep(true, &self.writer);
        }
        for (timeout, ticks) in Timeout::ALL.into_iter().zip(timeouts) {
            self.writer.set_timeout(timeout, u64::from(ticks));
        }
        self.writer.set_flags(control_flags(&model.settings));
        if model.settings.connections.total != self.options.conns {
            warn!(
                "`connections.total` is {} from the next start on; the tables have room for {}",
                model.settings.connections.total, self.options.conns
            );
        }
        self.bind_records(&model, &slots);
        self.records.reconfigure(&model, timeouts, &self.writer);
        self.model = model;
        let gated: Vec<(&Eni, u16)> = self
            .model
            .gated()
            .filter_map(|eni| Some((eni, *slots.get(&eni.id)?)))
            .collect();
        let uplink = self.model.uplink.as_ref();
        let wrong = self.gates.follow(uplink, &gated, &mut self.writer).await;
        settle(&mut self.writer);
        Ok(wrong)
    }

    /// Tells the records whose slots are whose; those of ENIs that are gone are drained.
    fn bind_records(&mut self, model: &Model, slots: &HashMap<String, u16>) {
        let gone = |eni: &Eni| !slots.contains_key(&eni.id);
        let retired: Vec<u16> = self
            .model
            .gated()
            .filter(|eni| gone(eni))
            .filter_map(|eni| self.writer.slot(&eni.id))
            .collect();
        self.records.retire(&retired, &self.writer);
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

    /// Follows a link that came or went.
    pub(super) async fn link_event(&mut self, event: &LinkEvent) {
        let enis: Vec<&Eni> = self.model.gated().collect();
        self.gates.event(event, &enis, &mut self.writer).await;
        settle(&mut self.writer);
    }

    /// Follows names of network namespaces that came, went, or lead elsewhere.
    pub(super) async fn namespaces_changed(&mut self) {
        let enis: Vec<&Eni> = self.model.gated().collect();
        self.gates.namespaces_changed(&enis, &mut self.writer).await;
        settle(&mut self.writer);
    }

    /// How long until the capture window is to be closed.
    pub(super) fn window_left(&self) -> Duration {
        self.records.left()
    }

    /// Closes the capture window.
    pub(super) fn close_window(&mut self) {
        self.records.close(&self.writer);
    }

    /// Removes idle connections early where there are many.
    pub(super) fn make_room(&mut self) {
        let slots: Vec<u16> = self.model.gated().filter_map(|eni| self.writer.slot(&eni.id)).collect();
        let gate = sizes::gate(&self.model, &self.options);
        self.records.make_room(&slots, gate, &self.writer);
    }

    /// The generation in force.
    pub(super) fn generation(&self) -> u64 {
        self.writer.generation()
    }

    /// How many tasks are gated, in words.
    pub(super) fn gates_summary(&self) -> String {
        let (gated, waiting) = self.gates.counts();
        let tasks = if gated == 1 { "task" } else { "tasks" };
        match waiting {
            0 => format!("{gated} {tasks} gated"),
            _ => format!("{gated} {tasks} gated, {waiting} without a link yet"),
        }
    }

    /// Takes the gates off and writes the last records, in that order: what the gates counted to the last is in them.
    pub(super) async fn end(mut self) {
        self.gates.end().await;
        self.records.close_final(&self.writer);
    }
}

/// The idle time-outs in ticks.
fn timeouts(settings: &Settings, ticks: u32) -> [u32; TIMEOUTS] {
    Timeout::ALL.map(|timeout| {
        let seconds = match timeout {
            Timeout::TcpEstablished => settings.timeouts.tcp_established,
            Timeout::Udp => settings.timeouts.udp,
            Timeout::UdpStream => settings.timeouts.udp_stream,
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

/// Waits until no packet is judged by what is gone.
pub(super) fn settle(writer: &mut Writer) {
    let mut waited = Ok(());
    writer.settle(&mut || waited = raw::wait_grace_period());
    if let Err(error) = waited {
        warn!("the kernel does not tell when old memory is free: {error}");
    }
}
