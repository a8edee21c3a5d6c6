//! A host with a packet filter between its tasks.
//!
//! ```text
//!   client ──┐
//!            host with the filter ──┬── a task for each protocol and family that is asked
//! ```

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use taskgate_model::Family;
use testkit::{Action, Daemon, Netns, Process, Topology, ledger::protocol, netns::PATIENCE};

use super::{
    conntrack,
    filter::{PacketFilter, configure},
    rules::{AskedTask, CLIENT_DEVICE, SHUT_PORT, Transport, client},
    workload::{Connections, Datagrams, Workload},
};
use crate::{
    exchange::{Exchange, ExchangeKind},
    rules::OPEN_PORT,
};

/// The time to wait for a connection that must be denied.
const DENIED_AFTER: Duration = Duration::from_millis(200);

/// A host, its tasks, and the filter between them.
#[derive(Debug)]
pub(super) struct FilteredHost {
    pub(super) filter: PacketFilter,
    pub(super) rules: u16,
    /// Declared before the topology, so that taskgate is stopped before its namespaces are removed.
    taskgate: Option<Daemon>,
    topology: Topology,
    client: Netns,
    /// In the order of [`AskedTask::ALL`].
    asked: [Netns; 4],
    /// The datagrams that must have been denied, for each of [`AskedTask::ALL`].
    denied: [u64; 4],
}

fn place(task: AskedTask) -> Result<usize> {
    let place = AskedTask::ALL.into_iter().position(|other| other == task);
    place.context("no such task")
}

impl FilteredHost {
    /// Sets up a host and verifies its filter. An inner error says why the filter is not available here.
    pub(super) fn new(filter: PacketFilter, rules: u16) -> Result<Result<Self, String>> {
        Self::with(filter, rules, |host| filter.set_up(host, rules))
    }

    fn with(
        filter: PacketFilter,
        rules: u16,
        set_up: impl FnOnce(&Netns) -> Result<Result<(), String>>,
    ) -> Result<Result<Self, String>> {
        let topology = Topology::new()?;
        let both = [Family::V4, Family::V6].map(|family| client(family).to_string());
        let client = topology.device(CLIENT_DEVICE, &both.each_ref().map(String::as_str), true)?;
        // A closed connection leaves no socket behind, whose timer would fire in a later slice.
        client.set("net.ipv4.tcp_max_tw_buckets", "0")?;
        let asked = AskedTask::ALL.map(|task| topology.device(&task.device(), &[&task.address().to_string()], true));
        let [a, b, c, d] = asked;
        let asked = [a?, b?, c?, d?];
        if let Err(why) = set_up(&topology.host)? {
            return Ok(Err(why));
        }
        let taskgate = match filter {
            // As users run it: records are written every minute, by default.
            PacketFilter::Taskgate => Some(topology.start_with(&configure(topology.config(), rules), None)?),
            _ => None,
        };
        let mut host = Self {
            filter,
            rules,
            taskgate,
            topology,
            client,
            asked,
            denied: [0; 4],
        };
        for family in [Family::V4, Family::V6] {
            host.verify(family)
                .with_context(|| format!("{filter} with {rules} rules does not filter {family} as it should"))?;
        }
        Ok(Ok(host))
    }

    fn datagrams(&self, task: AskedTask) -> Result<Datagrams> {
        let from = SocketAddr::new(client(task.family), 0);
        let to = SocketAddr::new(task.address(), OPEN_PORT);
        Datagrams::open(&self.client, from, &self.asked[place(task)?], to)
    }

    /// Sends traffic that must pass, traffic that must be denied if there is a filter, and traffic to the client that it
    /// did not ask for.
    fn verify(&mut self, family: Family) -> Result<()> {
        let passes = self.filter == PacketFilter::Absent;
        let tcp = AskedTask::new(Transport::Tcp, family);
        let server = &self.asked[place(tcp)?];
        Exchange::open(
            ExchangeKind::Transactions,
            &self.client,
            server,
            tcp.address(),
            OPEN_PORT,
        )
        .context("the allowed connection")?;
        let shut = SocketAddr::new(tcp.address(), SHUT_PORT);
        let patience = if passes { PATIENCE } else { DENIED_AFTER };
        let connected = self.client.run(|| Ok(TcpStream::connect_timeout(&shut, patience)))?;
        // The port has no listener: a packet that passes is answered.
        let answered = !matches!(&connected, Err(error) if error.kind() == ErrorKind::TimedOut);
        ensure!(
            answered == passes,
            "a connection to port {SHUT_PORT}, which no rule allows: {connected:?}"
        );

        let udp = AskedTask::new(Transport::Udp, family);
        let datagrams = self.datagrams(udp)?;
        let arrived = datagrams.shut_port_passes()?;
        ensure!(
            arrived == passes,
            "a datagram to port {SHUT_PORT}, which no rule allows: arrived is {arrived}"
        );
        self.denied[place(udp)?] += 1;
        let reached = datagrams.client_is_reached()?;
        ensure!(
            reached == passes,
            "a datagram that the client did not ask for: arrived is {reached}"
        );
        Ok(())
    }

    /// Whether the workload can be measured: nothing is denied without a filter.
    pub(super) fn has(&self, workload: Workload) -> bool {
        workload != Workload::Denied || self.filter != PacketFilter::Absent
    }

    /// The rate of a workload over this time, after an uncounted eighth of it.
    pub(super) fn slice(&mut self, workload: Workload, family: Family, time: Duration) -> Result<f64> {
        let task = AskedTask::new(workload.transport(), family);
        let at = SocketAddr::new(task.address(), OPEN_PORT);
        let server = &self.asked[place(task)?];
        let exchange = |kind| {
            let exchange = Exchange::open(kind, &self.client, server, at.ip(), OPEN_PORT)?;
            exchange.slice(time / 8)?;
            exchange.slice(time)
        };
        match workload {
            Workload::Throughput => exchange(ExchangeKind::Bulk),
            Workload::Transactions => exchange(ExchangeKind::Transactions),
            Workload::Connections => {
                let connections = Connections::open(server, at)?;
                connections.slice(&self.client, time / 8)?;
                let rate = connections.slice(&self.client, time);
                if self.filter.uses_netfilter() {
                    conntrack::flush(&self.topology.host)?;
                }
                rate
            }
            Workload::Datagrams => {
                let datagrams = self.datagrams(task)?;
                datagrams.pass(time / 8)?;
                datagrams.pass(time)
            }
            Workload::Denied => {
                let datagrams = self.datagrams(task)?;
                let (_, first) = datagrams.deny(time / 8)?;
                let (rate, sent) = datagrams.deny(time)?;
                self.denied[place(task)?] += first + sent;
                Ok(rate)
            }
        }
    }

    /// CPU time that taskgate's process has used up to now.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let taskgate = self.taskgate.as_ref();
        taskgate.map_or(Ok(Duration::ZERO), |daemon| Ok(Process::of(daemon)?.cpu))
    }

    /// Stops the host's filter. taskgate's records must have each denied packet.
    pub(super) fn end(mut self) -> Result<()> {
        let Some(taskgate) = self.taskgate.take() else {
            return Ok(());
        };
        let ledger = taskgate.stop()?.ledger()?;
        let recorded: [u64; 4] = AskedTask::ALL.map(|task| {
            let name = task.to_string();
            let flows = ledger.flows(&name, Action::Reject);
            // The connection that had to be denied is not part of `self.denied`, which counts datagrams.
            let denied = flows.filter(|flow| {
                let to = flow.destination;
                flow.protocol == protocol::UDP && to == SocketAddr::new(task.address(), SHUT_PORT)
            });
            denied.map(|flow| ledger.get(&name, flow, Action::Reject).packets).sum()
        });
        ensure!(
            recorded == self.denied,
            "taskgate's records have {recorded:?} denied datagrams of {:?} for udp4 and udp6",
            self.denied
        );
        Ok(())
    }
}

impl Drop for FilteredHost {
    /// When a run fails, taskgate is stopped in order as well.
    fn drop(&mut self) {
        if let Some(Err(error)) = self.taskgate.take().map(Daemon::stop) {
            eprintln!("error: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_lets_everything_through_is_not_measured() -> Result<()> {
        let nothing = |_: &Netns| Ok(Ok(()));
        let refused = FilteredHost::with(PacketFilter::NftSets, 1, nothing);
        let message = format!("{:#}", refused.err().context("it was taken for a filter")?);
        assert!(
            message.starts_with("nft sets with 1 rules does not filter IPv4 as it should: a connection to port 9"),
            "{message}"
        );
        Ok(())
    }
}
