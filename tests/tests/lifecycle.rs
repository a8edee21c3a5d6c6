//! From start to end: gates before traffic, and nothing left behind.

use std::process::Stdio;

use anyhow::Result;
use nix::sys::signal::Signal;
use testkit::{
    Config, E2eTest, Ledger, Netns, Topology, Wire, at,
    kernel::{await_gates, gates},
    ledger::Action,
    names,
    traffic::{Answer, Client, TcpEcho, probe, probe_for},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

fn two(config: Config) -> Config {
    config
        .group("http", HTTP)
        .task("web-1", &[WEB, "fd88::10"], &["http"])
        .task("db-1", &[DB], &["http"])
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let topology = Topology::new()?;
        let before = topology.host.links()?;
        let daemon = topology.start(&two(topology.config()))?;
        assert_eq!(topology.host.links()?.len(), before.len() + 2);
        assert_eq!(topology.namespaces()?.len(), 2);
        let objects = daemon.objects()?;
        assert!(!objects.programs.is_empty() && !objects.maps.is_empty(), "{objects}");
        assert_eq!(objects.remaining()?, objects);

        let stopped = daemon.stop_by(signal)?;
        assert_eq!(topology.host.links()?, before, "{signal}");
        assert_eq!(topology.namespaces()?, [""; 0]);
        objects.await_gone()?;
        let said = stopped.cleaned;
        assert!(said.contains("gates are off"), "{said}");
    }
    Ok(())
}

/// The loaded objects do not include programs that only tests and benchmarks run.
#[test]
fn only_what_runs_is_loaded() -> Result<()> {
    let topology = Topology::new()?;
    let daemon = topology.start(&two(topology.config()))?;
    let expected = ["clock", "drop_all", "from_task", "to_task"];
    assert_eq!(daemon.objects()?.program_names()?, expected.map(str::to_owned).into());
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_gate_stands_until_it_is_taken_off() -> Result<()> {
    let topology = Topology::new()?;
    let task = topology.device("tg-task", &[WEB], true)?;
    let config = topology
        .config()
        .group("closed", "egress: []")
        .device_task("web-1", "tg-task", &[WEB], &["closed"]);
    let outside = at("10.99.0.2", 80);
    assert_eq!(probe_for(&task, outside, Answer::Refused)?, Answer::Refused);
    for _ in 0..2 {
        let daemon = topology.start(&config)?;
        assert_eq!(gates(&topology.host, "tg-task")?, (1, 1));
        assert_eq!(probe(&task, outside)?, Answer::Silence);
        let said = daemon.leave()?.messages.join("\n");
        assert!(said.contains("gates go on judging and counting"), "{said}");
        assert_eq!(gates(&topology.host, "tg-task")?, (1, 1));
        assert_eq!(probe(&task, outside)?, Answer::Silence);
    }
    let said = topology.start(&config)?.stop()?.cleaned;
    assert!(
        said.contains("gates are off: nothing is filtered any more on `tg-task`"),
        "{said}"
    );
    assert_eq!(gates(&topology.host, "tg-task")?, (0, 0));
    assert_eq!(probe_for(&task, outside, Answer::Refused)?, Answer::Refused);
    Ok(())
}

#[test]
fn a_device_that_comes_later_is_gated_when_it_comes() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("http", HTTP)
        .device_task("web-1", "tg-late", &[WEB], &["http"]);
    let daemon = topology.start(&config)?;
    for _ in 0..2 {
        let task = topology.device("tg-late", &[WEB], true)?;
        await_gates(&topology.host, "tg-late")?;
        let wire = Wire::tap(&task, "eth0")?;
        let _echo = TcpEcho::start(&task, 80)?;
        let mut client = Client::connect(&topology.outside, at(WEB, 80))?;
        client.echo(100)?;
        let flow = client.finish()?;
        assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
        assert_eq!(probe(&task, at("10.99.0.2", 80))?, Answer::Silence);
        let passed = Ledger::of_wires(&[("web-1", &wire)])?.get("web-1", flow, Action::Accept);
        daemon.await_ledger(|ledger| ledger.get("web-1", flow, Action::Accept) == passed)?;
        // The link is deleted, and may come again as another link of the same name.
        topology.host.ip("link delete tg-late")?;
    }
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_namespace_of_the_users_is_used_and_stays() -> Result<()> {
    let topology = Topology::new()?;
    let config = two(topology.config());
    let name = config.namespace("web-1");
    topology.host.output("ip", &["netns", "add", &name])?;
    let daemon = topology.start(&config)?;
    let task = topology.task("web-1")?;
    let _echo = TcpEcho::start(&task, 80)?;
    Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
    daemon.stop()?;
    assert_eq!(topology.namespaces()?, std::slice::from_ref(&name));
    assert_eq!(Netns::named(&name)?.links()?, ["lo"]);
    names::remove_namespace(&name)
}

#[test]
fn what_a_killed_taskgate_left_is_taken_over_by_the_next() -> Result<()> {
    let topology = Topology::new()?;
    let before = topology.host.links()?;
    let config = two(topology.config());
    topology.start(&config)?.kill_now()?;
    assert_eq!(topology.namespaces()?.len(), 2, "it could not clean up");
    let daemon = topology.start(&config)?;
    let task = topology.task("web-1")?;
    let _echo = TcpEcho::start(&task, 80)?;
    Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
    assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
    daemon.stop()?;
    assert_eq!(topology.host.links()?, before);
    assert_eq!(topology.namespaces()?, [""; 0]);
    Ok(())
}

#[test]
fn what_others_name_after_taskgate_outlives_its_runs() -> Result<()> {
    let topology = Topology::new()?;
    let config = two(topology.config());
    let theirs = config.namespace("theirs");
    let alias = format!("taskgate {}", topology.instance("main"));
    topology.host.output("ip", &["netns", "add", &theirs])?;
    Netns::named(&theirs)?.output("ip", &["link", "set", "lo", "alias", &alias])?;
    topology.host.ip("link add theirs type veth peer name other")?;
    let web = format!("{alias} web-1");
    topology.host.output("ip", &["link", "set", "theirs", "alias", &web])?;
    let before = topology.host.links()?;

    topology.start(&config)?.kill_now()?;
    // A task may change anything in its namespace; taskgate knows the ENI by its host end.
    let task = Netns::named(&config.namespace("web-1"))?;
    task.output("ip", &["link", "set", "lo", "alias", "mine"])?;
    let db_1 = config.namespace("db-1");
    let daemon = topology.start(&config.without_task("web-1"))?;
    let said = daemon.messages().join("\n");
    assert!(
        said.contains("what an earlier run made and no task takes over is taken away"),
        "{said}"
    );
    let mut expected = [theirs.clone(), db_1];
    expected.sort();
    assert_eq!(topology.namespaces()?, expected);
    assert_eq!(topology.host.links()?.len(), before.len() + 1);
    daemon.stop()?;
    assert_eq!(topology.host.links()?, before);
    assert_eq!(topology.namespaces()?, std::slice::from_ref(&theirs));
    names::remove_namespace(&theirs)
}

#[test]
fn two_instances_stand_side_by_side() -> Result<()> {
    let topology = Topology::new()?;
    let group = |config: Config| config.group("http", HTTP);
    let first = group(topology.config()).task("web-1", &[WEB], &["http"]);
    // To the other instance, web is a host outside.
    let second = group(topology.config())
        .task("db-1", &[DB], &["http"])
        .group("http", "ingress: [{ protocol: tcp, ports: 80, from: [10.88.0.10] }]");
    let one = topology.start_as("one", &first, Some(1))?;
    let two = topology.start_as("two", &second, Some(1))?;
    let (web, db) = (topology.task("web-1")?, topology.task("db-1")?);
    let wires = [Wire::tap(&web, "eth0")?, Wire::tap(&db, "eth0")?];
    let _echo = (TcpEcho::start(&web, 80)?, TcpEcho::start(&db, 80)?);
    Client::connect(&db, at(WEB, 80))?.finish()?;
    // web has no egress rules, and db admits no other host.
    assert_eq!(probe(&web, at(DB, 80))?, Answer::Silence);
    assert_eq!(probe(&topology.outside, at(DB, 80))?, Answer::Silence);
    let denied_out = testkit::e2e::flow_to(&wires[0], at(DB, 80))?;
    let at_web = Ledger::of_wires(&[("web-1", &wires[0])])?.rejected("web-1", denied_out);
    assert_eq!(one.stop()?.ledger()?, at_web);
    // The gate of one task is gone, that of the other is up.
    assert_eq!(probe(&topology.outside, at(DB, 80))?, Answer::Silence);
    let mut at_db = Ledger::of_wires(&[("db-1", &wires[1])])?;
    let outside = two.await_ledger(|ledger| ledger.total("db-1", Action::Reject).packets >= 2)?;
    assert_eq!(
        outside.total("db-1", Action::Accept),
        at_db.total("db-1", Action::Accept)
    );
    let stopped = two.stop()?.ledger()?;
    at_db = at_db.and(stopped.clone().only(Action::Reject));
    assert_eq!(stopped, at_db);
    assert_eq!(topology.namespaces()?, [""; 0]);
    Ok(())
}

#[test]
fn of_two_instances_on_one_link_the_last_one_opens_it() -> Result<()> {
    let topology = Topology::new()?;
    let device = |name, device, addresses: &[&str]| {
        let config = topology.config().group("closed", "egress: []");
        config.device_task(name, device, addresses, &["closed"])
    };
    let task = topology.device("tg-both", &[WEB], true)?;
    let alone = topology.device("tg-alone", &[DB], true)?;
    let one = topology.start_as("one", &device("web-1", "tg-both", &[WEB]), Some(1))?;
    let both = device("web-1", "tg-both", &[WEB]).device_task("db-1", "tg-alone", &[DB], &["closed"]);
    let two = topology.start_as("two", &both, Some(1))?;
    assert_eq!(gates(&topology.host, "tg-both")?, (2, 2));
    let said = two.stop()?.cleaned;
    assert!(
        said.contains("gates are off on `tg-both`, which another taskgate still filters")
            && said.contains("nothing is filtered any more on `tg-alone`"),
        "{said}"
    );
    assert_eq!(probe(&task, at("10.99.0.2", 80))?, Answer::Silence);
    assert_eq!(
        probe_for(&alone, at("10.99.0.2", 80), Answer::Refused)?,
        Answer::Refused
    );
    let said = one.stop()?.cleaned;
    assert!(said.contains("nothing is filtered any more on `tg-both`"), "{said}");
    assert_eq!(probe_for(&task, at("10.99.0.2", 80), Answer::Refused)?, Answer::Refused);
    Ok(())
}

#[test]
fn an_instance_runs_once() -> Result<()> {
    let topology = Topology::new()?;
    let config = two(topology.config());
    let daemon = topology.start(&config)?;
    let output = topology.run_command("main")?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&format!("pid {}", daemon.pid()?)), "{said}");
    // The first instance is not affected.
    let task = topology.task("web-1")?;
    let _echo = TcpEcho::start(&task, 80)?;
    Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
    assert_eq!(gates(&topology.host, &topology.host_link("web-1")?)?, (1, 1));
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_bad_configuration_never_starts_and_touches_nothing() -> Result<()> {
    let topology = Topology::new()?;
    let before = topology.host.links()?;
    let folder = topology.folder().join("bad");
    std::fs::create_dir(&folder)?;
    let bad = two(topology.config()).to_string().replace("ports: 80", "ports: eighty");
    std::fs::write(folder.join("taskgate.yaml"), bad)?;
    let output = topology.run_command("bad")?.stdout(Stdio::piped()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("taskgate.yaml:3:") && said.contains("eighty"), "{said}");
    assert!(output.stdout.is_empty());
    assert_eq!(topology.host.links()?, before);
    assert_eq!(topology.namespaces()?, [""; 0]);
    Ok(())
}

/// Everything of a topology is removed with it, also what taskgate could not remove.
#[test]
fn a_lab_takes_everything_with_it() -> Result<()> {
    let test = E2eTest::start(two)?;
    let (unique, objects) = (test.topology.unique().to_owned(), test.daemon.objects()?);
    let folder = test.topology.folder().to_owned();
    test.daemon.signal(Signal::SIGKILL)?;
    drop(test);
    assert_eq!(names::namespaces(&unique)?, [""; 0]);
    assert!(!folder.exists());
    objects.await_gone()
}
