//! Tasks whose ENIs taskgate makes.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use anyhow::{Context as _, Result, ensure};
use taskgate_ebpf::abi::{Direction, DropReason};

use super::{DATA, GROUP, OPEN, PACKET, SHUT, address, name, patience};
use crate::{
    Config, Count, Counters, Daemon, Flow, Ledger, Netns, OUTSIDE_V4, Topology,
    netns::{PATIENCE, until},
};

/// The source port of each task's requests.
const ASKS_FROM: u16 = 40_000;

/// A host with many tasks, and a server outside.
pub struct Tasks {
    topology: Topology,
    count: u16,
    server: UdpSocket,
    /// The socket of each task, once it has sent a request.
    clients: Vec<UdpSocket>,
    expected: Ledger,
    rounds: u64,
}

impl Tasks {
    /// Prepares this many tasks; none of them runs yet.
    pub fn new(count: u16) -> Result<Self> {
        let topology = Topology::new()?;
        let server = topology.outside.bind(|| UdpSocket::bind((OUTSIDE_V4, OPEN)))?;
        server.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            topology,
            count,
            server,
            clients: Vec::new(),
            expected: Ledger::default(),
            rounds: 0,
        })
    }

    /// All tasks with one group. `asks`: whether the group's rules allow requests to the server.
    pub fn config(&self, asks: bool) -> Config {
        self.config_with(asks, "")
    }

    /// [`Tasks::config`] with more `settings`, each followed by a comma.
    pub fn config_with(&self, asks: bool, settings: &str) -> Config {
        let port = if asks { OPEN } else { SHUT };
        let rules = format!(
            "ingress: [{{ protocol: udp, ports: {OPEN}, from: 10.99.0.0/16 }}], \
             egress: [{{ protocol: udp, ports: {port}, to: 10.99.0.0/16 }}]"
        );
        let config = self.topology.config().group(GROUP, &rules);
        // As long as can be: the connections are to last until the last task has used its own.
        let config = config.with(&format!("settings: {{ {settings} timeouts: {{ udp: 60 }} }}"));
        (0..self.count).fold(config, |config, number| {
            config.task(&name(number), &[&address(number).to_string()], &[GROUP])
        })
    }

    /// The name of the instance.
    pub fn instance(&self) -> String {
        self.topology.instance("main")
    }

    /// Starts taskgate and waits until all are gated.
    pub fn start(&self, config: &Config) -> Result<Daemon> {
        self.topology.start_patiently(config, patience(self.count))
    }

    /// Each task sends a request to the server, which answers; its first request comes from a new socket.
    pub fn ask(&mut self) -> Result<()> {
        let server = SocketAddr::new(OUTSIDE_V4, OPEN);
        for number in 0..self.count {
            let from = SocketAddr::new(address(number), ASKS_FROM);
            if self.clients.len() == usize::from(number) {
                let netns = Netns::named(&self.topology.config().namespace(&name(number)))?;
                let client = netns.bind(|| UdpSocket::bind(from))?;
                client.set_read_timeout(Some(PATIENCE))?;
                self.clients.push(client);
            }
            let client = &self.clients[usize::from(number)];
            let exchange = || -> io::Result<SocketAddr> {
                let mut buffer = [0; 64];
                client.send_to(DATA, server)?;
                let (_, asked) = self.server.recv_from(&mut buffer)?;
                self.server.send_to(DATA, asked)?;
                client.recv_from(&mut buffer)?;
                Ok(asked)
            };
            let asked = exchange().with_context(|| format!("`{}` gets no answer", name(number)))?;
            ensure!(asked == from, "{asked} asked, not {from}");
        }
        self.rounds += 1;
        Ok(())
    }

    /// The server sends a packet to each task that is denied.
    pub fn intrude(&mut self, daemon: &Daemon) -> Result<()> {
        for number in 0..self.count {
            self.server.send_to(DATA, (address(number), SHUT))?;
        }
        Counters::of(daemon)?.await_dropped(Direction::Ingress, DropReason::NoRule, self.count.into())?;
        let server = SocketAddr::new(OUTSIDE_V4, OPEN);
        for number in 0..self.count {
            let flow = Flow::udp(server, SocketAddr::new(address(number), SHUT));
            let expected = std::mem::take(&mut self.expected);
            self.expected = expected.reject(&name(number), flow, Count::new(1, PACKET));
        }
        Ok(())
    }

    /// The expected records.
    pub fn expected(&self) -> Ledger {
        let server = SocketAddr::new(OUTSIDE_V4, OPEN);
        let count = Count::new(self.rounds, self.rounds * PACKET);
        (0..self.count).fold(self.expected.clone(), |ledger, number| {
            let flow = Flow::udp(SocketAddr::new(address(number), ASKS_FROM), server);
            let task = name(number);
            ledger.accept(&task, flow, count).accept(&task, flow.back(), count)
        })
    }

    /// Waits until nothing that taskgate made is left.
    pub fn await_gone(&self) -> Result<()> {
        until("what taskgate made goes", || {
            let links = self.topology.host.links()?;
            Ok(self.topology.namespaces()?.is_empty() && links.iter().all(|link| !link.starts_with("tg-")))
        })
    }
}
