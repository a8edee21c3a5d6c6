//! Links that move to another network namespace: only a destroyed link loses its gate, and a moved one passes nothing,
//! even if another link has its ifindex.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use testkit::{
    Config, Netns, Topology, at,
    kernel::{await_gates, gates},
    ledger::Action,
    netns::await_up,
    traffic::{Answer, Client, TcpEcho, UdpPeer, probe},
};

const WEB: &str = "10.88.0.10";
const VICTIM: &str = "10.88.0.20";
const ELSEWHERE: &str = "10.77.0.1";
/// Everything.
const ALL: &str = "ingress: [{ protocol: all, from: any }]";
/// The time limit for a datagram that gets through.
const SOON: Duration = Duration::from_millis(100);

/// Whether the link keeps its ifindex in the other namespace, or another link there has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Number {
    Kept,
    Taken,
}

/// A task's link in another namespace, and the namespaces at its ends.
struct Moved {
    topology: Topology,
    task: Netns,
    elsewhere: Netns,
    ifindex: u32,
}

impl Moved {
    fn config(topology: &Topology) -> Config {
        topology
            .config()
            .group("all", ALL)
            .device_task("web-1", "tg-task", &[WEB], &["all"])
    }

    fn prepare(number: Number) -> Result<Self> {
        let topology = Topology::new()?;
        let task = topology.device("tg-task", &[WEB], true)?;
        let ifindex = topology.host.run(|| Ok(if_nametoindex("tg-task")?))?;
        let elsewhere = Netns::new("elsewhere")?;
        if number == Number::Taken {
            elsewhere.ip(&format!("link add taken index {ifindex} type bridge"))?;
        }
        Ok(Self {
            topology,
            task,
            elsewhere,
            ifindex,
        })
    }

    fn go(&self) -> Result<()> {
        self.topology
            .host
            .ip(&format!("link set tg-task netns {}", self.elsewhere.path()))
    }

    /// Sets the link up with an address and neighbour entries, so that no address has to be resolved.
    fn settle(&self) -> Result<()> {
        let mac = |netns: &Netns, link: &str| -> Result<String> {
            let shown = netns.output("ip", &["-o", "link", "show", "dev", link])?;
            let words: Vec<&str> = shown.split_whitespace().collect();
            let at = words.iter().position(|word| *word == "link/ether");
            Ok(at
                .and_then(|at| words.get(at + 1))
                .copied()
                .unwrap_or_default()
                .to_owned())
        };
        self.elsewhere.ip(&format!(
            "link set tg-task up
             address add {ELSEWHERE}/24 dev tg-task
             route add 10.88.0.0/16 dev tg-task"
        ))?;
        self.task.ip(&format!("route add {ELSEWHERE}/32 dev eth0"))?;
        await_up(&[(&self.elsewhere, "tg-task"), (&self.task, "eth0")])?;
        let (here, there) = (mac(&self.task, "eth0")?, mac(&self.elsewhere, "tg-task")?);
        self.task
            .ip(&format!("neigh replace {ELSEWHERE} lladdr {there} dev eth0"))?;
        for address in [WEB, VICTIM] {
            self.elsewhere
                .ip(&format!("neigh replace {address} lladdr {here} dev tg-task"))?;
        }
        Ok(())
    }

    /// Whether datagrams pass between the task, by this address, and the link's end, either way.
    fn passes(&self, address: &str) -> Result<[bool; 2]> {
        let ends = (
            UdpPeer::bind(&self.task, &format!("{address}:9"))?,
            UdpPeer::bind(&self.elsewhere, &format!("{ELSEWHERE}:9"))?,
        );
        let passes = |from: &UdpPeer, to: &UdpPeer| -> Result<bool> {
            from.send(to.address(), b"moved")?;
            thread::sleep(SOON);
            Ok(!to.is_silent()?)
        };
        Ok([passes(&ends.0, &ends.1)?, passes(&ends.1, &ends.0)?])
    }
}

fn passes_nothing_under_any_identity(number: Number) -> Result<()> {
    let moved = Moved::prepare(number)?;
    let topology = &moved.topology;
    let config = Moved::config(topology).device_task("victim", "tg-victim", &[VICTIM], &["all"]);
    let daemon = topology.start_with(&config, Some(600))?;
    moved.go()?;
    daemon.await_message("was moved")?;
    moved.settle()?;
    let kept = moved.elsewhere.run(|| Ok(if_nametoindex("tg-task")?))? == moved.ifindex;
    ensure!(kept == (number == Number::Kept));
    assert_eq!(moved.passes(WEB)?, [false; 2]);

    // Another task's link has its ifindex, and the moved link sends with that task's address.
    let victim = topology.numbered_device("tg-victim", Some(moved.ifindex), &[VICTIM], true)?;
    await_gates(&topology.host, "tg-victim")?;
    let _echo = TcpEcho::start(&victim, 80)?;
    Client::connect(&topology.outside, at(VICTIM, 80))?.finish()?;
    moved.task.ip(&format!("address add {VICTIM}/32 dev eth0"))?;
    for address in [WEB, VICTIM] {
        assert_eq!(moved.passes(address)?, [false; 2], "as {address}");
    }
    // A reload changes nothing about that.
    daemon.signal(nix::sys::signal::Signal::SIGHUP)?;
    daemon.await_message("reloaded: generation 2")?;
    assert_eq!(moved.passes(VICTIM)?, [false; 2]);

    let ledger = daemon.stop()?.ledger()?;
    let elsewhere = ELSEWHERE.parse()?;
    for action in [Action::Accept, Action::Reject] {
        let mut flows = ledger.flows("victim", action);
        ensure!(
            !flows.any(|flow| [flow.source.ip(), flow.destination.ip()].contains(&elsewhere)),
            "the moved link's packets are not the victim's: {ledger:?}"
        );
    }
    // Without its gate everything passes: the gate had closed the link.
    assert_eq!(moved.passes(WEB)?, [true; 2]);
    Ok(())
}

#[test]
fn a_moved_link_that_keeps_its_number_passes_nothing_under_any_identity() -> Result<()> {
    passes_nothing_under_any_identity(Number::Kept)
}

#[test]
fn a_moved_link_that_gets_another_number_passes_nothing_under_any_identity() -> Result<()> {
    passes_nothing_under_any_identity(Number::Taken)
}

#[test]
fn a_moved_link_that_comes_back_is_gated_again() -> Result<()> {
    for number in [Number::Kept, Number::Taken] {
        let moved = Moved::prepare(number)?;
        let topology = &moved.topology;
        let config = topology
            .config()
            .group("http", "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []")
            .device_task("web-1", "tg-task", &[WEB], &["http"]);
        let daemon = topology.start(&config)?;
        moved.go()?;
        daemon.await_message("was moved")?;
        let home = topology.host.path();
        moved.elsewhere.ip(&format!("link set tg-task netns {home}"))?;
        await_gates(&topology.host, "tg-task")?;
        topology.host.ip(&format!(
            "address add 169.254.1.1/32 dev tg-task
             link set tg-task up
             route add {WEB}/32 dev tg-task"
        ))?;
        await_up(&[(&topology.host, "tg-task"), (&moved.task, "eth0")])?;
        moved.task.ip("route replace default via 169.254.1.1 dev eth0 onlink")?;
        let _echo = TcpEcho::start(&moved.task, 80)?;
        Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
        assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
        assert_eq!(probe(&moved.task, at("10.99.0.2", 80))?, Answer::Silence);
        daemon.stop()?;
        assert_eq!(gates(&topology.host, "tg-task")?, (0, 0));
    }
    Ok(())
}

#[test]
fn a_link_that_taskgate_made_passes_nothing_where_it_was_moved() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology.config().group("all", ALL).task("web-1", &[WEB], &["all"]);
    let daemon = topology.start(&config)?;
    let (task, link) = (topology.task("web-1")?, topology.host_link("web-1")?);
    let elsewhere = Netns::new("elsewhere")?;
    topology
        .host
        .ip(&format!("link set {link} name tg-task netns {}", elsewhere.path()))?;
    daemon.await_message("which taskgate made, was moved to another network namespace")?;
    let moved = Moved {
        ifindex: 0,
        topology,
        task,
        elsewhere,
    };
    moved.settle()?;
    assert_eq!(moved.passes(WEB)?, [false; 2]);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_trunk_that_was_moved_passes_nothing_and_another_one_takes_its_place() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("all", ALL)
        .vlan_task("web-1", 101, &[WEB], &["all"])
        .with("uplink: { device: tg-task, mode: trunk }");
    let task = topology.device("tg-task", &[WEB], true)?;
    let daemon = topology.start(&config)?;
    let elsewhere = Netns::new("elsewhere")?;
    let moved = Moved {
        ifindex: topology.host.run(|| Ok(if_nametoindex("tg-task")?))?,
        topology,
        task,
        elsewhere,
    };
    moved.go()?;
    daemon.await_message("was moved")?;
    moved.settle()?;
    // Frames without a tag, which a trunk's gate lets through as the host's own.
    assert_eq!(moved.passes(WEB)?, [false; 2]);
    let _next = moved
        .topology
        .numbered_device("tg-task", Some(moved.ifindex), &[VICTIM], true)?;
    await_gates(&moved.topology.host, "tg-task")?;
    assert_eq!(moved.passes(WEB)?, [false; 2]);
    daemon.stop()?;
    Ok(())
}
