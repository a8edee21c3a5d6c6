//! Namespaces that are deleted and made again under the name of a task while taskgate runs.

use std::os::unix::fs::{MetadataExt as _, symlink};

use anyhow::Result;
use nix::sys::signal::Signal;
use testkit::{
    Config, Daemon, Netns, Topology, at,
    kernel::gates,
    names,
    netns::until,
    traffic::{Answer, Client, TcpEcho, probe},
};

const WEB: &str = "10.88.0.10";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

fn config(topology: &Topology) -> Config {
    topology.config().group("http", HTTP).task("web-1", &[WEB], &["http"])
}

/// Waits until a namespace has the task's ENI, and checks that the task's gate judges its packets.
fn await_eni(topology: &Topology, task: &Netns) -> Result<()> {
    until("the namespace gets its ENI", || Ok(task.links()? == ["eth0", "lo"]))?;
    let _echo = TcpEcho::start(task, 80)?;
    until("the host leads there", || {
        Ok(Client::connect(&topology.outside, at(WEB, 80)).is_ok())
    })?;
    Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
    assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
    assert_eq!(probe(task, at("10.99.0.2", 80))?, Answer::Silence);
    let made: Vec<_> = made(topology)?;
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(gates(&topology.host, &made[0])?, (1, 1));
    Ok(())
}

fn made(topology: &Topology) -> Result<Vec<String>> {
    let mut links = topology.host.links()?;
    links.retain(|link| link.starts_with("tg-"));
    Ok(links)
}

fn netns(topology: &Topology, command: &str, name: &str) -> Result<()> {
    topology.host.output("ip", &["netns", command, name]).map(drop)
}

fn said(daemon: &Daemon, what: &str) -> usize {
    daemon.messages().iter().filter(|line| line.contains(what)).count()
}

#[test]
fn a_namespace_that_is_made_again_under_its_name_gets_the_eni() -> Result<()> {
    for (users, alive) in [(true, false), (true, true), (false, false), (false, true)] {
        let topology = Topology::new()?;
        let name = config(&topology).namespace("web-1");
        if users {
            netns(&topology, "add", &name)?;
        }
        let daemon = topology.start(&config(&topology))?;
        for _ in 0..2 {
            // Keeps the old namespace alive, as a process in it would.
            let old = Netns::named(&name)?;
            let old = alive.then_some(old);
            netns(&topology, "del", &name)?;
            netns(&topology, "add", &name)?;
            await_eni(&topology, &Netns::named(&name)?)?;
            if let Some(old) = old {
                assert_eq!(old.links()?, ["lo"], "users': {users}");
            }
        }
        daemon.stop()?;
        // taskgate did not make the namespace that has the name now.
        assert_eq!(
            topology.namespaces()?,
            std::slice::from_ref(&name),
            "users': {users}, alive: {alive}"
        );
        assert_eq!(made(&topology)?, [""; 0]);
        names::remove_namespace(&name)?;
    }
    Ok(())
}

#[test]
fn a_link_whose_namespace_goes_and_comes_unseen_is_made_again_by_a_reload() -> Result<()> {
    let topology = Topology::new()?;
    let name = config(&topology).namespace("web-1");
    let mut daemon = topology.start(&config(&topology))?;
    daemon.signal(Signal::SIGSTOP)?;
    netns(&topology, "del", &name)?;
    netns(&topology, "add", &name)?;
    daemon.signal(Signal::SIGCONT)?;
    daemon.apply(&config(&topology))?;
    await_eni(&topology, &Netns::named(&name)?)?;
    daemon.stop()?;
    names::remove_namespace(&name)
}

#[test]
fn whoever_is_in_a_namespace_that_lost_its_name_keeps_the_eni_until_another_has_the_name() -> Result<()> {
    let topology = Topology::new()?;
    let name = config(&topology).namespace("web-1");
    let mut daemon = topology.start(&config(&topology))?;
    let old = topology.task("web-1")?;
    let warned = format!("task `web-1`: namespace `{name}` has lost its name");
    netns(&topology, "del", &name)?;
    daemon.await_message(&warned)?;
    await_eni(&topology, &old)?;
    daemon.apply(&config(&topology))?;
    await_eni(&topology, &old)?;
    assert_eq!(said(&daemon, &warned), 2, "{:?}", daemon.messages());
    netns(&topology, "add", &name)?;
    await_eni(&topology, &Netns::named(&name)?)?;
    assert_eq!(old.links()?, ["lo"]);
    daemon.stop()?;
    names::remove_namespace(&name)
}

#[test]
fn a_name_that_is_a_symbolic_link_is_followed() -> Result<()> {
    let topology = Topology::new()?;
    let name = config(&topology).namespace("web-1");
    let containers = [Netns::new("first")?, Netns::new("second")?];
    let path = names::namespace_file(&name);
    symlink(containers[0].path(), &path)?;
    let daemon = topology.start(&config(&topology))?;
    await_eni(&topology, &containers[0])?;
    let next = path.with_extension("next");
    symlink(containers[1].path(), &next)?;
    std::fs::rename(&next, &path)?;
    await_eni(&topology, &containers[1])?;
    assert_eq!(containers[0].links()?, ["lo"]);
    daemon.stop()?;
    assert!(path.is_symlink());
    Ok(std::fs::remove_file(&path)?)
}

#[test]
fn what_cannot_be_made_in_one_namespace_is_made_in_the_next() -> Result<()> {
    let topology = Topology::new()?;
    let name = config(&topology).namespace("web-1");
    let daemon = topology.start(&config(&topology))?;
    let containers = [Netns::new("occupied")?, Netns::new("free")?];
    containers[0].ip("link add eth0 type bridge")?;
    netns(&topology, "del", &name)?;
    let path = names::namespace_file(&name);
    let error = format!("namespace `{name}` already has an `eth0`");
    symlink(containers[0].path(), &path)?;
    daemon.await_message(&error)?;
    // Logged once, whatever happens to other names.
    let other = format!("{name}-other");
    for _ in 0..3 {
        netns(&topology, "add", &other)?;
        netns(&topology, "del", &other)?;
    }
    std::fs::remove_file(&path)?;
    symlink(containers[1].path(), &path)?;
    await_eni(&topology, &containers[1])?;
    assert_eq!(said(&daemon, &error), 1, "{:?}", daemon.messages());
    daemon.stop()?;
    Ok(std::fs::remove_file(&path)?)
}

/// If an ENI cannot be made again, processes in the namespace stay in it, and get the ENI once it can.
#[test]
fn a_reload_that_fails_leaves_a_namespace_to_whoever_is_in_it() -> Result<()> {
    let topology = Topology::new()?;
    let name = config(&topology).namespace("web-1");
    let mut daemon = topology.start(&config(&topology))?;
    let task = topology.task("web-1")?;
    let inode = || -> Result<u64> { Ok(std::fs::metadata(names::namespace_file(&name))?.ino()) };
    let before = inode()?;
    task.ip("link delete eth0\nlink add eth0 type bridge")?;
    until("the host's end is gone", || Ok(made(&topology)?.is_empty()))?;
    daemon.apply(&config(&topology))?;
    assert_eq!(said(&daemon, "already has an `eth0`"), 1, "{:?}", daemon.messages());
    assert_eq!(inode()?, before, "the name leads elsewhere");
    task.ip("link delete eth0")?;
    daemon.apply(&config(&topology))?;
    assert_eq!(inode()?, before, "the name leads elsewhere");
    await_eni(&topology, &task)?;
    daemon.stop()?;
    Ok(())
}

/// taskgate owns neither such a file nor its contents.
#[test]
fn a_file_with_a_tasks_name_is_never_touched() -> Result<()> {
    let topology = Topology::new()?;
    let config = config(&topology)
        .task("empty", &["10.88.0.11"], &["http"])
        .task("dangling", &["10.88.0.12"], &["http"])
        .task("socket", &["10.88.0.13"], &["http"])
        .task("good", &["10.88.0.14"], &["http"]);
    let paths = ["web-1", "empty", "dangling", "socket"].map(|task| names::namespace_file(&config.namespace(task)));
    let [full, empty, dangling, socket] = &paths;
    std::fs::create_dir_all("/run/netns")?;
    std::fs::write(full, "somebody's")?;
    std::fs::write(empty, "")?;
    symlink("/run/netns/nowhere", dangling)?;
    let _socket = std::os::unix::net::UnixListener::bind(socket)?;
    let left = || -> Result<_> {
        let inodes: Result<Vec<u64>> = paths
            .iter()
            .map(|path| Ok(std::fs::symlink_metadata(path)?.ino()))
            .collect();
        Ok((inodes?, std::fs::read_to_string(full)?, std::fs::read_to_string(empty)?))
    };
    let before = left()?;
    let mut daemon = topology.start(&config)?;
    let ordinary = "is an ordinary file, with no network namespace on it: take it away, or name another";
    for (task, what) in [
        ("web-1", ordinary),
        ("empty", ordinary),
        (
            "dangling",
            "is a symbolic link that leads to no network namespace: take it away",
        ),
        ("socket", "is a pipe, a socket or a device: take it away"),
    ] {
        let said = daemon.messages();
        let told = |line: &&String| line.contains(&format!("task `{task}`")) && line.contains(what);
        // Once for each.
        assert_eq!(said.iter().filter(told).count(), 1, "{task}: {said:?}");
    }
    assert_eq!(topology.task("good")?.links()?, ["eth0", "lo"]);
    assert_eq!(left()?, before);
    daemon.apply(&config)?;
    daemon.stop_unhealthy()?;
    assert_eq!(left()?, before);
    for path in &paths {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

/// A pipe is not a namespace, and taskgate does not wait for its other end.
#[test]
fn a_pipe_with_a_tasks_name_fails_that_task_alone() -> Result<()> {
    let topology = Topology::new()?;
    let config = config(&topology).task("web-2", &["10.88.0.11"], &["http"]);
    let path = names::namespace_file(&config.namespace("web-1"));
    std::fs::create_dir_all("/run/netns")?;
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU)?;
    // `ip` opens every file in that folder, and would wait for the other end.
    let _other_end = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let daemon = topology.start(&config)?;
    let other = topology.task("web-2")?;
    assert_eq!(other.links()?, ["eth0", "lo"]);
    daemon.signal(Signal::SIGTERM)?;
    daemon.stop_by(Signal::SIGTERM).map(drop).or_else(|error| {
        // A task that was never gated is in the exit code.
        let code = error.to_string();
        anyhow::ensure!(code.contains("exit status: 6"), "{code}");
        Ok(())
    })?;
    std::fs::remove_file(&path).ok();
    Ok(())
}
