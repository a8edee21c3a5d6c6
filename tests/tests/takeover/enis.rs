//! ENIs that taskgate made outlive it, and the next run takes them over.

use std::fs;

use anyhow::{Context as _, Result};
use testkit::{
    Config, Daemon, Netns, Topology, at,
    kernel::gates,
    names,
    traffic::{Answer, Client, TcpEcho, probe},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

fn web(topology: &Topology) -> Config {
    topology
        .config()
        .group("http", HTTP)
        .task("web-1", &[WEB, "fd88::10"], &["http"])
}

fn two(topology: &Topology) -> Config {
    web(topology).task("db-1", &[DB], &["http"])
}

/// Both ends of a task's ENI, with names, numbers and Ethernet addresses.
fn ends(topology: &Topology, task: &str) -> Result<[String; 2]> {
    let link = topology.host_link(task)?;
    let inside = topology.task(task)?;
    let shown = |netns: &Netns, link: &str| netns.output("ip", &["-o", "link", "show", "dev", link]);
    Ok([shown(&topology.host, &link)?, shown(&inside, "eth0")?])
}

/// The links on the host that taskgate made.
fn made(topology: &Topology) -> Result<Vec<String>> {
    let mut links = topology.host.links()?;
    links.retain(|link| link.starts_with("tg-"));
    Ok(links)
}

fn has_said(daemon: &Daemon, what: &str) -> bool {
    daemon.messages().iter().any(|line| line.contains(what))
}

/// Checks that a task's gate follows the group `http`.
fn check_gate(topology: &Topology, task: &str, address: &str) -> Result<()> {
    let inside = topology.task(task)?;
    let _echo = TcpEcho::start(&inside, 80)?;
    Client::connect(&topology.outside, at(address, 80))?.finish()?;
    assert_eq!(probe(&topology.outside, at(address, 81))?, Answer::Silence);
    assert_eq!(probe(&inside, at("10.99.0.2", 80))?, Answer::Silence);
    assert_eq!(gates(&topology.host, &topology.host_link(task)?)?, (1, 1));
    Ok(())
}

#[test]
fn an_eni_is_the_same_after_a_kill_and_its_connections_go_on() -> Result<()> {
    let topology = Topology::new()?;
    let before = topology.host.links()?;
    let config = two(&topology);
    let mut daemon = topology.start(&config)?;
    let inside = topology.task("web-1")?;
    let _echo = TcpEcho::start(&inside, 80)?;
    let mut clients = [WEB, "fd88::10"].map(|address| Client::connect(&topology.outside, at(address, 80)));
    let ends_before = [ends(&topology, "web-1")?, ends(&topology, "db-1")?];
    for _ in 0..3 {
        for client in &mut clients {
            client.as_mut().ok().context("no connection")?.echo(1000)?;
        }
        daemon.kill_now()?;
        daemon = topology.start(&config)?;
        assert!(has_said(&daemon, "2 ENIs of an earlier run are taken over"));
        assert_eq!([ends(&topology, "web-1")?, ends(&topology, "db-1")?], ends_before);
    }
    for client in clients {
        let mut client = client?;
        client.echo(1000)?;
        client.finish()?;
    }
    assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
    check_gate(&topology, "db-1", DB)?;
    // The links that the first run made are removed by the last one, as are the namespaces.
    daemon.stop()?;
    assert_eq!(topology.host.links()?, before);
    assert_eq!(topology.namespaces()?, [""; 0]);
    Ok(())
}

#[test]
fn only_what_no_task_has_any_more_is_taken_away() -> Result<()> {
    let topology = Topology::new()?;
    let config = two(&topology)
        .task("renamed", &["10.88.0.30"], &["http"])
        .task("gone", &["10.88.0.40"], &["http"]);
    topology.start(&config)?.kill_now()?;
    let kept = ends(&topology, "web-1")?;
    let gone = [topology.host_link("gone")?, topology.host_link("renamed")?];
    // `db-1` has another address, and `web-1` also has the one that `db-1` had.
    let config = web(&topology)
        .task("web-1", &[WEB, DB], &["http"])
        .task("db-1", &["10.88.0.50"], &["http"])
        .task_in("new", "renamed", &["10.88.0.30"], &["http"]);
    let daemon = topology.start(&config)?;
    assert!(has_said(&daemon, "2 ENIs of an earlier run are taken over"));
    assert_eq!(ends(&topology, "web-1")?, kept);
    let links = made(&topology)?;
    assert!(
        links.len() == 3 && gone.iter().all(|link| !links.contains(link)),
        "{links:?}"
    );
    for (task, address) in [
        ("web-1", WEB),
        ("web-1", DB),
        ("db-1", "10.88.0.50"),
        ("renamed", "10.88.0.30"),
    ] {
        check_gate(&topology, task, address)?;
    }
    let shown = topology
        .task("web-1")?
        .output("ip", &["-br", "address", "show", "dev", "eth0"])?;
    assert!(!shown.contains("fd88::10"), "{shown}");
    assert!(!topology.namespaces()?.contains(&config.namespace("gone")));
    daemon.stop()?;
    assert_eq!(topology.namespaces()?, [""; 0]);
    Ok(())
}

#[test]
fn tasks_that_swap_their_namespaces_get_enis_there() -> Result<()> {
    let topology = Topology::new()?;
    topology.start(&two(&topology))?.kill_now()?;
    let swapped = topology
        .config()
        .group("http", HTTP)
        .task_in("web-1", "db-1", &[WEB], &["http"])
        .task_in("db-1", "web-1", &[DB], &["http"]);
    let daemon = topology.start(&swapped)?;
    assert_eq!(made(&topology)?.len(), 2);
    check_gate(&topology, "db-1", WEB)?;
    check_gate(&topology, "web-1", DB)?;
    daemon.stop()?;
    Ok(())
}

/// A change to an ENI while no taskgate ran, and the next run's message about it.
#[test]
fn an_eni_that_was_changed_meanwhile_is_made_anew() -> Result<()> {
    for (case, says) in [
        ("host end down", "is made anew: its link is down"),
        ("eth0 deleted", "is gated on link"),
        ("eth0 down", "is made anew: the namespace's `eth0` is down"),
        ("namespace", "is made anew: its link leads to another namespace"),
    ] {
        let topology = Topology::new()?;
        let config = two(&topology);
        let name = config.namespace("web-1");
        topology.start(&config)?.kill_now()?;
        let inside = topology.task("web-1")?;
        let link = topology.host_link("web-1")?;
        let db = ends(&topology, "db-1")?;
        match case {
            "host end down" => topology.host.ip(&format!("link set {link} down"))?,
            "eth0 deleted" => inside.ip("link delete eth0")?,
            "eth0 down" => inside.ip("link set eth0 down")?,
            _ => {
                topology.host.output("ip", &["netns", "delete", &name])?;
                topology.host.output("ip", &["netns", "add", &name])?;
            }
        }
        let daemon = topology.start(&config)?;
        assert!(has_said(&daemon, says), "{case}: {:?}", daemon.messages());
        assert!(has_said(&daemon, "1 ENI of an earlier run is taken over"), "{case}");
        check_gate(&topology, "web-1", WEB).context(case)?;
        assert_eq!(ends(&topology, "db-1")?, db, "{case}");
        assert_eq!(made(&topology)?.len(), 2, "{case}");
        daemon.stop()?;
        let left = if case == "namespace" {
            vec![name.clone()]
        } else {
            Vec::new()
        };
        assert_eq!(topology.namespaces()?, left, "{case}");
        names::remove_namespace(&name)?;
    }
    Ok(())
}

#[test]
fn an_eni_whose_record_is_damaged_is_refused_until_somebody_takes_it_away() -> Result<()> {
    let topology = Topology::new()?;
    let config = web(&topology);
    topology.start(&config)?.kill_now()?;
    let link = topology.host_link("web-1")?;
    let list = format!("/run/taskgate/{}.provisioned", topology.instance("main"));
    let mut damaged = None;
    for entry in fs::read_dir(&list)? {
        let path = entry?.path();
        if path.to_string_lossy().contains("/link-") {
            fs::write(&path, "{")?;
            damaged = Some(path);
        }
    }
    let mut daemon = topology.start(&config)?;
    assert!(has_said(&daemon, "take that away by hand, then the file"));
    assert!(has_said(&daemon, "was not made by taskgate for task `web-1`"));
    topology.host.ip(&format!("link delete {link}"))?;
    fs::remove_file(damaged.context("no record of a link")?)?;
    daemon.apply(&config)?;
    check_gate(&topology, "web-1", WEB)?;
    daemon.stop()?;
    Ok(())
}
