//! A failure of one task keeps that task closed, and no other.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use testkit::{
    Config, Netns, Topology, at,
    daemon::{Daemon, Options, binary},
    kernel::{await_gates, gates},
    names,
    netns::{PATIENCE, until},
    steps::HeldUp,
    traffic::{Answer, Client, TcpEcho, probe},
};

const GOOD: &str = "10.88.0.10";
const MADE: &str = "10.88.0.11";
const OTHER: &str = "10.88.0.20";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

/// A working task on a device, and another in a namespace.
fn good(topology: &Topology) -> Config {
    topology
        .config()
        .group("http", HTTP)
        .device_task("good", "tg-good", &[GOOD], &["http"])
        .task("made", &[MADE], &["http"])
}

/// Both work as they should.
fn are_gated(topology: &Topology, device: &Netns) -> Result<()> {
    let made = topology.task("made")?;
    let _echo = (TcpEcho::start(device, 80)?, TcpEcho::start(&made, 80)?);
    for (task, address) in [(device, GOOD), (&made, MADE)] {
        Client::connect(&topology.outside, at(address, 80))?.finish()?;
        assert_eq!(probe(&topology.outside, at(address, 81))?, Answer::Silence);
        assert_eq!(probe(task, at("10.99.0.2", 80))?, Answer::Silence);
    }
    Ok(())
}

/// Every fault that a single task can have, each with a separate task, and the message about it.
fn bad(topology: &Topology, config: Config) -> Result<(Config, Vec<(&'static str, &'static str)>)> {
    let host = &topology.host;
    let namespace = |task: &str| -> Result<(String, Netns)> {
        let name = config.namespace(task);
        host.output("ip", &["netns", "add", &name])?;
        let netns = Netns::named(&name)?;
        Ok((name, netns))
    };
    // A task may leave this in its own namespace.
    namespace("occupied")?.1.ip("link add eth0 type veth peer name left")?;
    let without_v6 = namespace("without-v6")?.1;
    without_v6.set("net.ipv6.conf.all.disable_ipv6", "1")?;
    without_v6.set("net.ipv6.conf.default.disable_ipv6", "1")?;
    fs::create_dir(names::namespace_file(&config.namespace("no-namespace")))?;
    host.ip("link add tg-macvlan link wire type macvlan
         link add tg-bridge type bridge
         link add tg-beyond index 8388608 type veth peer name beyond
         link set tg-beyond up
         link set beyond up")?;
    let config = config
        .task("occupied", &["10.88.1.1"], &["http"])
        .task("without-v6", &["fd88::1"], &["http"])
        .task("no-namespace", &["10.88.1.2"], &["http"])
        .device_task("macvlan", "tg-macvlan", &["10.88.1.3"], &["http"])
        .device_task("bridge", "tg-bridge", &["10.88.1.4"], &["http"])
        .device_task("beyond", "tg-beyond", &["10.88.1.5"], &["http"]);
    let said = vec![
        ("occupied", "already has an `eth0`"),
        ("without-v6", "IPv6 is off in that network namespace"),
        ("no-namespace", "is a directory: take it away"),
        (
            "macvlan",
            "cannot be gated, and passes nothing: link `tg-macvlan` is of kind `macvlan`",
        ),
        (
            "bridge",
            "cannot be gated, and its link is open: nothing filters it: link `tg-bridge` is of kind `bridge`",
        ),
        (
            "beyond",
            "is not gated, and passes nothing: link `tg-beyond` has ifindex 8388608",
        ),
    ];
    Ok((config, said))
}

fn are_told(daemon: &Daemon, said: &[(&str, &str)]) -> Result<()> {
    for (task, why) in said {
        let name = format!("task `{task}`");
        let messages = daemon.messages();
        let told = |line: &&String| line.contains("ERROR") && line.contains(&name) && line.contains(why);
        let told = messages.iter().filter(told).count();
        ensure!(
            told == 1,
            "{told} times, of `{task}` not `{why}`:\n{}",
            daemon.messages().join("\n")
        );
    }
    Ok(())
}

fn are_closed(topology: &Topology) -> Result<()> {
    for device in ["tg-macvlan", "tg-beyond"] {
        assert_eq!(gates(&topology.host, device)?, (1, 1), "{device}");
    }
    // Other links may be ports of the bridge.
    assert_eq!(gates(&topology.host, "tg-bridge")?, (0, 0));
    // Nothing was left in the namespaces.
    let occupied = Netns::named(&topology.config().namespace("occupied"))?;
    assert_eq!(occupied.links()?, ["eth0", "left", "lo"]);
    let without_v6 = Netns::named(&topology.config().namespace("without-v6"))?;
    assert_eq!(without_v6.links()?, ["lo"]);
    Ok(())
}

/// Takes the directory away that no namespace can be named by.
fn mend_namespace(topology: &Topology) -> Result<()> {
    Ok(fs::remove_dir(names::namespace_file(
        &topology.config().namespace("no-namespace"),
    ))?)
}

#[test]
fn at_the_start_the_others_are_gated_and_a_reload_tries_again() -> Result<()> {
    let topology = Topology::new()?;
    let device = topology.device("tg-good", &[GOOD], true)?;
    let (config, said) = bad(&topology, good(&topology))?;
    let mut daemon = topology.start(&config)?;
    daemon.await_message("gates are up: 2 tasks gated, 6 not gated because of an error")?;
    are_told(&daemon, &said)?;
    are_gated(&topology, &device)?;
    are_closed(&topology)?;
    // And not again because other namespaces came.
    are_told(&daemon, &said)?;

    // After the repair the task works from the next reload on.
    let occupied = Netns::named(&config.namespace("occupied"))?;
    occupied.ip("link delete eth0")?;
    mend_namespace(&topology)?;
    daemon.apply(&config)?;
    daemon.await_message("4 tasks gated, 4 not gated because of an error")?;
    topology.task("occupied")?;
    are_gated(&topology, &device)?;
    let stopped = daemon.stop_unhealthy()?;
    let last = stopped.messages.last().context("it says nothing")?;
    for task in ["without-v6", "macvlan", "bridge", "beyond"] {
        ensure!(last.contains(task), "{last}");
    }
    ensure!(!last.contains("occupied") && !last.contains("made"), "{last}");
    assert_eq!(gates(&topology.host, "tg-macvlan")?, (0, 0));
    Ok(())
}

/// Branches have no network device that could fail: their trunk has.
#[test]
fn a_trunk_that_cannot_be_gated_fails_its_branches() -> Result<()> {
    let topology = Topology::new()?;
    let folder = topology.folder().join("main");
    fs::create_dir_all(&folder)?;
    let text = "taskgate: v1\nuplink: { device: lo, mode: trunk }\ngroups: [{ name: g }]\ntasks:\n\
                - { name: branch, vlan: 5, mac: '02:00:00:00:00:01', addresses: [10.88.1.1], groups: [g] }\n";
    fs::write(folder.join("taskgate.yaml"), text)?;
    let instance = topology.instance("main");
    let options = Options {
        instance: &instance,
        interval: None,
        patience: PATIENCE,
        watch: false,
        drop_connections: false,
        held_up: HeldUp::Never,
    };
    let daemon = Daemon::start_in(&topology.host, &folder, BTreeMap::new(), options)?;
    daemon.await_message("gates are up: 0 tasks gated, 1 not gated because of an error")?;
    let stopped = daemon.stop_unhealthy()?;
    let last = stopped.messages.last().context("it says nothing")?;
    ensure!(last.contains("branch"), "{last}");
    Ok(())
}

#[test]
fn at_a_reload_the_rest_of_it_is_in_force() -> Result<()> {
    let topology = Topology::new()?;
    let device = topology.device("tg-good", &[GOOD], true)?;
    let other = topology.device("tg-other", &[OTHER], true)?;
    let mut daemon = topology.start(&good(&topology))?;
    let (config, said) = bad(&topology, good(&topology))?;
    let config = config.device_task("other", "tg-other", &[OTHER], &["http"]);
    daemon.apply(&config)?;
    daemon.await_message("reloaded, but not wholly: generation 2, 3 tasks gated, 6 not gated")?;
    are_told(&daemon, &said)?;
    are_gated(&topology, &device)?;
    are_closed(&topology)?;
    let _echo = TcpEcho::start(&other, 80)?;
    Client::connect(&topology.outside, at(OTHER, 80))?.finish()?;

    // A configuration without them is wholly in force.
    daemon.apply(&good(&topology))?;
    daemon.stop()?;
    mend_namespace(&topology)
}

#[test]
fn a_link_that_comes_and_cannot_be_gated_is_told_of_and_its_successor_gated() -> Result<()> {
    let topology = Topology::new()?;
    let device = topology.device("tg-good", &[GOOD], true)?;
    let config = good(&topology).device_task("other", "tg-other", &[OTHER], &["http"]);
    let daemon = topology.start(&config)?;
    topology.host.ip("link add tg-other link wire type macvlan")?;
    daemon.await_message("task `other` cannot be gated, and passes nothing: link `tg-other` is of kind `macvlan`")?;
    assert_eq!(gates(&topology.host, "tg-other")?, (1, 1));
    are_gated(&topology, &device)?;
    topology.host.ip("link delete tg-other")?;
    let other = topology.device("tg-other", &[OTHER], true)?;
    await_gates(&topology.host, "tg-other")?;
    let _echo = TcpEcho::start(&other, 80)?;
    Client::connect(&topology.outside, at(OTHER, 80))?.finish()?;
    assert_eq!(probe(&topology.outside, at(OTHER, 81))?, Answer::Silence);
    daemon.stop()?;
    Ok(())
}

/// The kernel refuses for a while, and no event says when it stops refusing.
#[test]
fn a_gate_that_the_kernel_refuses_is_tried_again_until_it_stands() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("http", HTTP)
        .device_task("other", "tg-other", &[OTHER], &["http"]);
    let daemon = topology.start(&config)?;
    let pid = daemon.pid()?.to_string();
    let limit = |files: &str| -> Result<()> {
        let limited = Command::new("prlimit").args(["--pid", &pid, files]).status()?;
        ensure!(limited.success(), "`prlimit` ended with {limited}");
        Ok(())
    };
    // Descriptors that are open stay open.
    limit("--nofile=3:")?;
    let other = topology.device("tg-other", &[OTHER], true)?;
    daemon.await_message("task `other` is not gated, and passes nothing")?;
    assert_eq!(probe(&topology.outside, at(OTHER, 80))?, Answer::Silence);
    assert_eq!(probe(&other, at("10.99.0.2", 80))?, Answer::Silence);
    limit("--nofile=1024:")?;
    daemon.await_message("task `other` is gated on link `tg-other`")?;
    let _echo = TcpEcho::start(&other, 80)?;
    until("it is bound", || {
        Ok(probe(&topology.outside, at(OTHER, 80))? == Answer::Open)
    })?;
    assert_eq!(probe(&topology.outside, at(OTHER, 81))?, Answer::Silence);
    daemon.stop()?;
    Ok(())
}

/// Some links will stay closed: at the start that is known already.
#[test]
fn too_few_open_files_for_the_tasks_are_told_of_at_the_start() -> Result<()> {
    const FILES: u64 = 100;
    let topology = Topology::new()?;
    let config = (0..40).fold(topology.config().group("http", HTTP), |config, number| {
        let (name, device) = (format!("absent-{number}"), format!("tg-no-{number}"));
        config.device_task(&name, &device, &[&format!("10.88.1.{number}")], &["http"])
    });
    let folder = topology.folder().join("main");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("taskgate.yaml"), config.to_string())?;
    let log_with = |limit: u64| -> Result<String> {
        let mut process = topology
            .host
            .command("prlimit")?
            .arg(format!("--nofile={limit}:{limit}"))
            .arg(binary()?)
            .args(["run", "--instance", &topology.instance("main"), "--config"])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = String::new();
        let mut lines = BufReader::new(process.stderr.take().context("it has no standard error")?);
        while lines.read_line(&mut log)? > 0 {
            if log.contains("gates are up") && log.ends_with('\n') {
                kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
                break;
            }
        }
        lines.read_to_string(&mut log)?;
        ensure!(process.wait()?.success(), "{log}");
        Ok(log)
    };
    let told = "may have 100 files open and takes up to 144 for 40 tasks: links for which there is none are closed";
    let few = log_with(FILES)?;
    ensure!(few.contains(told), "{few}");
    let enough = log_with(144)?;
    ensure!(!enough.contains("files open"), "{enough}");
    Ok(())
}
