//! Branches of a trunk.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};
use taskgate_ebpf::abi::{Direction, DropReason};

use super::{DATA, GROUP, OPEN, PACKET, SHUT, address, name, patience};
use crate::{
    Capture, Config, Count, Counters, Daemon, Flow, Ledger, Netns, Topology, fixture::frames, netns::await_up,
    traffic::Sender,
};

/// A host on the wire.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 1, 9));
const PEER_PORT: u16 = 40_000;
const UDP: u8 = 17;

/// A host whose trunk leads to `wire`, and by a bridge to `inside`, where the tasks would be.
pub struct Branches {
    topology: Topology,
    count: u16,
    sender: Sender,
    arrivals: Capture,
    _wire: Netns,
    _inside: Netns,
}

impl Branches {
    /// Makes this many branches, with VLAN ids from 1 on.
    pub fn new(count: u16) -> Result<Self> {
        let topology = Topology::new()?;
        let (wire, inside) = (Netns::new("wire")?, Netns::new("inside")?);
        let host = &topology.host;
        // The only frames are those that the test sends.
        for netns in [&wire, &inside, host] {
            netns.set("net.ipv6.conf.default.disable_ipv6", "1")?;
        }
        host.add_veth("trunk", &wire, "eth0")?;
        host.add_veth("port", &inside, "eth0")?;
        host.ip("link add name behind type bridge mcast_snooping 0
             link set dev trunk master behind
             link set dev port master behind
             link set dev trunk up
             link set dev port up
             link set dev behind up")?;
        for netns in [&wire, &inside] {
            netns.ip("link set dev eth0 up")?;
        }
        await_up(&[(host, "trunk"), (host, "port"), (&wire, "eth0"), (&inside, "eth0")])?;
        Ok(Self {
            sender: Sender::on(&wire, "eth0")?,
            arrivals: Capture::tap(&inside, "eth0")?,
            topology,
            count,
            _wire: wire,
            _inside: inside,
        })
    }

    /// The trunk and all branches, with the same group.
    pub fn config(&self) -> Config {
        let rules = format!("ingress: [{{ protocol: udp, ports: {OPEN}, from: any }}], egress: []");
        let config = self.topology.config().with("uplink: { device: trunk, mode: trunk }");
        let config = config.group(GROUP, &rules);
        (0..self.count).fold(config, |config, number| {
            config.vlan_task(&name(number), number + 1, &[&address(number).to_string()], &[GROUP])
        })
    }

    /// Starts taskgate and waits until all are gated.
    pub fn start(&self, config: &Config) -> Result<Daemon> {
        self.topology.start_patiently(config, patience(self.count / 10))
    }

    /// Sends a packet from the wire to a branch.
    fn send_packet(&self, number: u16, packet: Vec<u8>) -> Result<()> {
        const BEHIND_TAG: [u8; 6] = [2, 0, 0, 0, 0, 0x22];
        const FROM: [u8; 6] = [2, 0, 0, 0, 0, 0x11];
        let frame = frames::tagged(number + 1, &frames::with_checksum(packet));
        self.sender.send(&[&BEHIND_TAG, &FROM, &frame[12..]].concat())
    }

    /// Scans `ports` closed ports of each of `tasks` tasks. Returns the expected records.
    pub fn scan(&self, daemon: &Daemon, tasks: u16, ports: u16) -> Result<Ledger> {
        const TCP: u8 = 6;
        const FIRST: u16 = 1000;
        /// The capacity of a link's queue, in packets.
        const AT_ONCE: u64 = 250;
        let counters = Counters::of(daemon)?;
        let mut expected = Ledger::default();
        let from = SocketAddr::new(PEER, PEER_PORT);
        let mut sent = 0;
        for number in 0..tasks {
            for port in FIRST..FIRST + ports {
                let to = SocketAddr::new(address(number), port);
                let syn = frames::tcp(PEER_PORT, port, frames::flags::SYN, &[]);
                self.send_packet(number, frames::ip(PEER, to.ip(), TCP, &syn))?;
                expected = expected.reject(&name(number), Flow::tcp(from, to), Count::new(1, 40));
                sent += 1;
                if sent % AT_ONCE == 0 {
                    counters.await_dropped(Direction::Ingress, DropReason::NoRule, sent)?;
                }
            }
        }
        counters.await_dropped(Direction::Ingress, DropReason::NoRule, sent)?;
        Ok(expected)
    }

    /// Sends two frames from the wire to each task, one of which arrives. Returns the expected records.
    pub fn send(&self, daemon: &Daemon) -> Result<Ledger> {
        let mut expected = Ledger::default();
        let from = SocketAddr::new(PEER, PEER_PORT);
        for number in 0..self.count {
            for port in [OPEN, SHUT] {
                let to = SocketAddr::new(address(number), port);
                let packet = frames::ip(PEER, to.ip(), UDP, &frames::udp(PEER_PORT, port, DATA));
                self.send_packet(number, packet)?;
                let (flow, count, task) = (Flow::udp(from, to), Count::new(1, PACKET), name(number));
                expected = match port {
                    OPEN => expected.accept(&task, flow, count),
                    _ => expected.reject(&task, flow, count),
                };
            }
        }
        Counters::of(daemon)?.await_dropped(Direction::Ingress, DropReason::NoRule, self.count.into())?;
        self.arrivals.await_count(DATA, self.count.into())?;
        let arrived = self.arrivals.count(DATA)?;
        ensure!(
            arrived == usize::from(self.count),
            "{arrived} frames arrived, not {}",
            self.count
        );
        Ok(expected)
    }
}
