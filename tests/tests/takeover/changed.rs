//! Configurations that changed while no taskgate ran.

use anyhow::Result;
use testkit::{
    E2eTest, Topology, at,
    kernel::gates,
    traffic::{Client, TcpEcho, try_connect},
};

use crate::{DB, SERVER, WEB, check_denials, check_gate, check_open, server};

const NOTHING: &str = "egress: []";

#[test]
fn rules_that_came_and_went_meanwhile_hold() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let outside = test.topology.outside.try_clone()?;
    check_gate(&outside, test.task("web-1")?, WEB)?;
    for rounds in 0..2 {
        test.kill()?;
        check_gate(&outside, test.task("web-1")?, WEB)?;
        test.restart(|config| config.group("server", NOTHING))?;
        assert!(try_connect(&outside, at(WEB, 80))?.is_none(), "{rounds}");

        test.kill()?;
        assert!(try_connect(&outside, at(WEB, 80))?.is_none(), "{rounds}");
        let more = SERVER.replace("ports: [80,", "ports: [80, 443,");
        test.restart(|config| config.group("server", &more))?;
        check_gate(&outside, test.task("web-1")?, WEB)?;
        check_open(&outside, WEB, 443)?;

        test.kill()?;
        test.restart(|config| config.group("server", SERVER))?;
        check_gate(&outside, test.task("web-1")?, WEB)?;
        assert!(try_connect(&outside, at(WEB, 443))?.is_none(), "{rounds}");
    }
    let expected = test.denied_at("web-1")?;
    test.finish(&expected)?;
    Ok(())
}

/// The groups of a task, and the groups of peers that a rule names.
#[test]
fn groups_that_changed_meanwhile_hold() -> Result<()> {
    let from_web = "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []";
    let mut test = E2eTest::start(|config| {
        config
            .group("web", "")
            .group("other", "")
            .group("db", from_web)
            .task("web-1", &[WEB], &["web"])
            .task("db-1", &[DB], &["db"])
    })?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut live = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    test.kill()?;
    test.restart(|config| config.task("web-1", &[WEB], &["other"]))?;
    assert!(try_connect(test.task("web-1")?, at(DB, 5432))?.is_none());
    live.echo(1000)?;
    test.kill()?;
    test.restart(|config| config.task("web-1", &[WEB], &["other", "web"]))?;
    Client::connect(test.task("web-1")?, at(DB, 5432))?.finish()?;
    test.kill()?;
    test.restart(|config| config.task("db-1", &[DB], &["other"]))?;
    assert!(try_connect(test.task("web-1")?, at(DB, 5432))?.is_none());
    live.echo(1000)?;
    live.finish()?;
    let expected = test.denied_in(&[("web-1", "db-1")])?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn tasks_that_came_and_went_meanwhile() -> Result<()> {
    let mut test = E2eTest::start(|config| server(config).task("db-1", &[DB], &["server"]))?;
    let outside = test.topology.outside.try_clone()?;
    let echo = TcpEcho::start(test.task("db-1")?, 80)?;
    let mut live = Client::connect(&outside, at(DB, 80))?;
    live.echo(1000)?;
    test.kill()?;
    test.restart(|config| config.without_task("db-1").task("new-1", &["10.88.0.30"], &["server"]))?;
    assert!(!live.echoes()?, "its ENI is gone");
    live.abort()?;
    drop(echo);
    let _echo = TcpEcho::start(test.task("new-1")?, 80)?;
    check_gate(&outside, test.task("new-1")?, "10.88.0.30")?;
    // The removed task had traffic.
    let gone = test.wire("db-1")?.flows()?;
    assert!(!gone.is_empty());
    test.daemon.stop()?;
    Ok(())
}

/// A link that no longer has a task passes nothing, and its connections do not go on with the next task.
#[test]
fn devices_that_lost_their_tasks_or_swapped_them_meanwhile() -> Result<()> {
    let topology = Topology::new()?;
    let (a, b) = (
        topology.device("tg-a", &[WEB], true)?,
        topology.device("tg-b", &[DB], true)?,
    );
    let group = topology.config().group("server", SERVER);
    let both = |of_a: &str, of_b: &str| {
        let config = group.clone().device_task(of_a, "tg-a", &[WEB], &["server"]);
        config.device_task(of_b, "tg-b", &[DB], &["server"])
    };
    let _echo = [TcpEcho::start(&a, 80)?, TcpEcho::start(&b, 80)?];
    let daemon = topology.start(&both("one", "two"))?;
    let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    daemon.kill_now()?;
    live.echo(1000)?;
    // The other ENI now has the link: the first ENI's connections are not those of the other.
    let closed = group.clone().group("server", NOTHING);
    let swapped = closed
        .clone()
        .device_task("two", "tg-a", &[WEB], &["server"])
        .device_task("one", "tg-b", &[DB], &["server"]);
    let daemon = topology.start(&swapped)?;
    assert!(!live.echoes()?);
    assert!(try_connect(&topology.outside, at(WEB, 80))?.is_none());
    daemon.kill_now()?;
    let daemon = topology.start(&both("one", "two"))?;
    for (task, address) in [(&a, WEB), (&b, DB)] {
        check_gate(&topology.outside, task, address)?;
    }
    let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    daemon.kill_now()?;
    let daemon = topology.start(&group.clone().device_task("two", "tg-b", &[DB], &["server"]))?;
    assert!(!live.echoes()?);
    check_denials(&topology.outside, &a, WEB)?;
    assert!(try_connect(&topology.outside, at(WEB, 80))?.is_none());
    assert_eq!(gates(&topology.host, "tg-a")?, (1, 1));
    check_gate(&topology.outside, &b, DB)?;
    // The traffic of task `one` up to its removal is recorded, too.
    let stopped = daemon.stop()?;
    for task in ["one", "two"] {
        assert!(stopped.records_of(task).any(|record| record.flow.is_some()), "{task}");
    }
    Ok(())
}
