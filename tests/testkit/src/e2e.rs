//! The usual test: taskgate runs on a topology's host, made an ENI for each of its tasks, and every wire is listened on.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

use crate::{
    config::Config,
    control::ControlSocket,
    daemon::{Daemon, Stopped},
    ledger::{Action, Count, Flow, Ledger},
    netns::Netns,
    record::{Record, join_runs},
    topology::Topology,
    wire::{Way, Wire},
};

/// A running taskgate, its tasks, and the traffic on their links.
#[derive(Debug)]
pub struct E2eTest {
    /// taskgate. Declared before the topology, so that it is stopped before its namespaces are removed.
    pub daemon: Daemon,
    /// The configuration in force.
    pub config: Config,
    /// The outside's link.
    pub outside: Wire,
    /// The host and the client outside of it.
    pub topology: Topology,
    interval: Option<u32>,
    /// The records of the earlier processes.
    earlier: Vec<Vec<Record>>,
    tasks: BTreeMap<String, (Netns, Wire)>,
}

impl E2eTest {
    /// Starts taskgate with a configuration whose tasks all are in namespaces.
    pub fn start(configure: impl FnOnce(Config) -> Config) -> Result<Self> {
        Self::in_topology(Topology::new()?, configure)
    }

    /// As [`E2eTest::start`], in a topology that is prepared.
    pub fn in_topology(topology: Topology, configure: impl FnOnce(Config) -> Config) -> Result<Self> {
        Self::set(topology, Some(1), configure)
    }

    /// [`E2eTest::start`] with records every `interval` seconds, or at the configuration's interval.
    pub fn start_with(interval: Option<u32>, configure: impl FnOnce(Config) -> Config) -> Result<Self> {
        Self::set(Topology::new()?, interval, configure)
    }

    fn set(topology: Topology, interval: Option<u32>, configure: impl FnOnce(Config) -> Config) -> Result<Self> {
        let config = configure(topology.config());
        let outside = Wire::tap(&topology.outside, "eth0")?;
        let daemon = topology.start_with(&config, interval)?;
        let mut test = Self {
            daemon,
            config,
            outside,
            topology,
            interval,
            earlier: Vec::new(),
            tasks: BTreeMap::new(),
        };
        test.meet_tasks()?;
        Ok(test)
    }

    /// Reloads a configuration that must be accepted.
    pub fn reload(&mut self, change: impl FnOnce(Config) -> Config) -> Result<()> {
        self.config = change(self.config.clone());
        self.daemon.apply(&self.config)?;
        self.meet_tasks()
    }

    /// Kills taskgate. No process runs until [`E2eTest::restart`].
    pub fn kill(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGKILL)?;
        self.daemon.await_end()
    }

    /// Stops taskgate with SIGTERM; its gates stay attached. No process runs until [`E2eTest::restart`].
    pub fn leave(&self) -> Result<()> {
        self.daemon.signal(Signal::SIGTERM)?;
        self.daemon.await_end()
    }

    /// Starts taskgate after it was killed or stopped, with a configuration that may have changed.
    pub fn restart(&mut self, change: impl FnOnce(Config) -> Config) -> Result<()> {
        self.config = change(self.config.clone());
        let next = self.topology.start_with(&self.config, self.interval)?;
        self.succeed(next)?;
        self.meet_tasks()
    }

    /// Continues with a process that was started after the previous one was killed or stopped.
    pub fn succeed(&mut self, next: Daemon) -> Result<()> {
        let killed = std::mem::replace(&mut self.daemon, next).kill_now()?;
        self.earlier.push(killed.records);
        Ok(())
    }

    /// Opens the namespaces of tasks that are new.
    fn meet_tasks(&mut self) -> Result<()> {
        for task in self.config.made_tasks() {
            if !self.tasks.contains_key(task) {
                let netns = self.topology.task(task)?;
                let wire = Wire::tap(&netns, "eth0")?;
                self.tasks.insert(task.to_owned(), (netns, wire));
            }
        }
        Ok(())
    }

    /// taskgate's control socket.
    pub fn control(&self) -> ControlSocket {
        ControlSocket::of(&self.topology.instance("main"))
    }

    /// A task's namespace.
    pub fn task(&self, task: &str) -> Result<&Netns> {
        Ok(&self.tasks.get(task).with_context(|| format!("no task `{task}`"))?.0)
    }

    /// A task's end of its ENI.
    pub fn wire(&self, task: &str) -> Result<&Wire> {
        Ok(&self.tasks.get(task).with_context(|| format!("no task `{task}`"))?.1)
    }

    /// The expected records if nothing was denied.
    pub fn passed(&self) -> Result<Ledger> {
        let wires: Vec<_> = self
            .tasks
            .iter()
            .map(|(task, (_, wire))| (task.as_str(), wire))
            .collect();
        Ledger::of_wires(&wires)
    }

    /// Packets from `sender` to `receiver`'s addresses that `receiver`'s gate did not let in. The sender's gate must
    /// have passed them. `outside` is a sender, too.
    pub fn not_let_in(&self, sender: &str, receiver: &str) -> Result<Vec<(Flow, Count)>> {
        let from = if sender == "outside" {
            &self.outside
        } else {
            self.wire(sender)?
        };
        let to = self.wire(receiver)?;
        let addresses = self.config.addresses(receiver);
        let mut missing = Vec::new();
        for ((way, flow), sent) in from.flows()? {
            if way == Way::Out && addresses.contains(&flow.destination.ip()) {
                let lost = sent - to.received(flow)?;
                missing.push((flow, lost));
            }
        }
        Ok(missing)
    }

    /// The expected records if the gates of these receivers denied every packet that did not arrive, and no other packet
    /// was denied.
    pub fn denied_in(&self, pairs: &[(&str, &str)]) -> Result<Ledger> {
        let mut ledger = self.passed()?;
        for (sender, receiver) in pairs {
            for (flow, count) in self.not_let_in(sender, receiver)? {
                ledger = ledger.reject(receiver, flow, count);
            }
        }
        Ok(ledger)
    }

    /// The expected records if the gates of these tasks denied every packet that they sent outside and that did not
    /// arrive there, and no other packet was denied.
    pub fn kept_in(&self, senders: &[&str]) -> Result<Ledger> {
        self.keep_in(self.passed()?, senders)
    }

    /// The expected records if a task's gate denied every packet to and from outside that did not arrive, and no other
    /// packet was denied.
    pub fn denied_at(&self, task: &str) -> Result<Ledger> {
        self.keep_in(self.denied_in(&[("outside", task)])?, &[task])
    }

    fn keep_in(&self, mut ledger: Ledger, senders: &[&str]) -> Result<Ledger> {
        let arrived = self.outside.flows()?;
        for sender in senders {
            for (way, flow) in self.wire(sender)?.flows()?.into_keys() {
                if way == Way::Out && !self.is_tasks(flow.destination.ip()) {
                    let passed = arrived.get(&(Way::In, flow)).copied().unwrap_or_default();
                    ledger = ledger.cut(sender, flow, passed);
                }
            }
        }
        Ok(ledger)
    }

    fn is_tasks(&self, address: IpAddr) -> bool {
        self.config
            .tasks()
            .any(|task| self.config.addresses(task).contains(&address))
    }

    /// Waits until the records have this many denied packets of a task, so that no denial is missing later.
    pub fn await_denials(&self, task: &str, packets: u64) -> Result<()> {
        self.daemon
            .await_ledger(|ledger| ledger.total(task, Action::Reject).packets >= packets)
            .with_context(|| format!("the records tell of fewer than {packets} denied packets of `{task}`"))?;
        Ok(())
    }

    /// Stops taskgate and compares the sums of all records, including those of earlier processes, with the expected ones.
    pub fn finish(mut self, expected: &Ledger) -> Result<Stopped> {
        let mut stopped = self.daemon.stop()?;
        self.earlier.push(std::mem::take(&mut stopped.records));
        stopped.records = join_runs(self.earlier);
        let recorded = stopped.ledger()?;
        ensure!(
            recorded == *expected,
            "the records say {recorded:?}but it was {expected:?}taskgate said:\n{}",
            stopped.messages.join("\n")
        );
        Ok(stopped)
    }
}

/// The only flow from a wire to an address and port.
pub fn flow_to(wire: &Wire, to: SocketAddr) -> Result<Flow> {
    let flows: Vec<_> = wire
        .flows()?
        .into_keys()
        .filter(|(way, flow)| *way == Way::Out && flow.destination == to)
        .collect();
    match flows[..] {
        [(_, flow)] => Ok(flow),
        _ => bail!("{} flows go to {to}: {flows:?}", flows.len()),
    }
}

/// An address from its text.
pub fn ip(text: &str) -> IpAddr {
    text.parse()
        .unwrap_or_else(|error| panic!("`{text}` is no address: {error}"))
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}
