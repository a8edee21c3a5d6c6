//! Links and addresses that change under a running taskgate.

use std::{fmt::Write as _, thread, time::Duration};

use anyhow::Result;
use nix::{net::if_::if_nametoindex, sys::signal::Signal};
use testkit::{
    Action, Config, E2eTest, Topology, Wire, at,
    kernel::await_gates,
    netns::await_up,
    traffic::{Answer, Client, TcpEcho, UdpPeer, probe},
};

const WEB: &str = "10.88.0.10";
const SECOND: &str = "10.88.0.11";
const DB: &str = "10.88.0.20";
const V6: &str = "fd88::10";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";
const OPEN: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }]";

fn one(config: Config) -> Config {
    config.group("http", HTTP).task("web-1", &[WEB], &["http"])
}

#[test]
fn a_link_that_takes_name_and_number_of_another_unseen_is_gated() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology.config().group("http", HTTP);
    let daemon = topology.start(&config.device_task("web-1", "tg-same", &[WEB], &["http"]))?;
    let first = topology.device("tg-same", &[WEB], true)?;
    await_gates(&topology.host, "tg-same")?;
    let ifindex = topology.host.run(|| Ok(if_nametoindex("tg-same")?))?;

    // More messages than a socket has room for: those about the change are lost.
    daemon.signal(Signal::SIGSTOP)?;
    let mut batch = String::new();
    for number in 0..2000 {
        writeln!(batch, "link set lo alias {number}")?;
    }
    topology.host.ip(&batch)?;
    topology.host.ip("link delete tg-same")?;
    drop(first);
    let task = topology.numbered_device("tg-same", Some(ifindex), &[WEB], true)?;
    daemon.signal(Signal::SIGCONT)?;
    await_gates(&topology.host, "tg-same")?;

    let _echo = TcpEcho::start(&task, 80)?;
    Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
    assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
    assert_eq!(probe(&task, at("10.99.0.2", 80))?, Answer::Silence);
    daemon.stop()?;
    Ok(())
}

/// Attaching a gate takes up to a tenth of a second, in which the link may disappear: that is not an error, and nothing
/// is open.
#[test]
fn a_link_that_goes_while_it_is_gated_is_no_error() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology.config().group("http", HTTP);
    let daemon = topology.start(&config.device_task("web-1", "tg-brief", &[WEB], &["http"]))?;
    for round in 0..20 {
        topology.host.ip("link add tg-brief type veth peer name brief
                     link set tg-brief up")?;
        thread::sleep(Duration::from_millis(5 * round));
        topology.host.ip("link delete tg-brief")?;
    }
    let _last = topology.device("tg-brief", &[WEB], true)?;
    await_gates(&topology.host, "tg-brief")?;
    let stopped = daemon.stop()?;
    let wrong: Vec<_> = stopped.messages.iter().filter(|line| line.contains("ERROR")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    Ok(())
}

#[test]
fn what_taskgate_made_is_its_tasks_under_any_name() -> Result<()> {
    let test = E2eTest::start(one)?;
    let made: Vec<_> = test
        .topology
        .host
        .links()?
        .into_iter()
        .filter(|link| link.starts_with("tg-"))
        .collect();
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    let host = &test.topology.host;
    // Before 6.2 only a link that is down can get another name, and its routes go with that.
    if host.ip(&format!("link set {} name renamed", made[0])).is_err() {
        host.ip(&format!(
            "link set {0} down
             link set {0} name renamed
             link set renamed up
             route add {WEB}/32 dev renamed",
            made[0]
        ))?;
        await_up(&[(host, "renamed")])?;
    }
    live.echo(100)?;
    live.finish()?;
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    let E2eTest { daemon, topology, .. } = test;
    daemon.stop()?;
    assert_eq!(topology.namespaces()?, [""; 0]);
    assert!(!topology.host.links()?.contains(&String::from("renamed")));
    Ok(())
}

#[test]
fn of_what_was_taken_away_nothing_stays_and_a_reload_makes_it_again() -> Result<()> {
    let topology = Topology::new()?;
    let config = one(topology.config());
    let before = topology.host.links()?;
    for again in [false, true] {
        let mut daemon = topology.start(&config)?;
        let made: Vec<_> = topology
            .host
            .links()?
            .into_iter()
            .filter(|link| link.starts_with("tg-"))
            .collect();
        topology.host.ip(&format!("link delete {}", made[0]))?;
        daemon.await_message("was taken away")?;
        if again {
            daemon.apply(&config)?;
            let task = topology.task("web-1")?;
            let _echo = TcpEcho::start(&task, 80)?;
            Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
        }
        daemon.stop()?;
        assert_eq!(topology.namespaces()?, [""; 0], "made again: {again}");
        assert_eq!(topology.host.links()?, before);
    }
    Ok(())
}

#[test]
fn an_eni_gets_its_addresses_while_its_task_runs() -> Result<()> {
    let mut test = E2eTest::start(one)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(100)?;
    test.reload(|config| config.task("web-1", &[WEB, SECOND, V6], &["http"]))?;
    live.echo(100)?;
    for address in [WEB, SECOND, V6] {
        Client::connect(&test.topology.outside, at(address, 80))?.finish()?;
    }
    live.finish()?;

    // Another primary address, without the first one.
    test.reload(|config| config.task("web-1", &[SECOND], &["open"]).group("open", OPEN))?;
    Client::connect(&test.topology.outside, at(SECOND, 80))?.finish()?;
    let _outside = TcpEcho::start(&test.topology.outside, 80)?;
    let client = Client::connect(test.task("web-1")?, at("10.99.0.2", 80))?;
    assert_eq!(client.flow().source.ip(), testkit::ip(SECOND));
    client.finish()?;
    test.daemon.stop()?;
    Ok(())
}

#[test]
fn addresses_move_between_enis_with_what_they_may() -> Result<()> {
    let members = |config: Config, web: &str, other: &str| {
        config
            .task("web-1", &[web], &["web"])
            .task("other-1", &[other], &["other"])
    };
    let mut test = E2eTest::start(|config| {
        let config = config
            .group("web", "")
            .group("other", "")
            .group(
                "db",
                "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []",
            )
            .task("db-1", &[DB], &["db"]);
        members(config, WEB, SECOND)
    })?;
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    for (web, other) in [(WEB, SECOND), (SECOND, WEB), (WEB, SECOND)] {
        test.reload(|config| members(config, web, other))?;
        let client = Client::connect(test.task("web-1")?, at(DB, 5432))?;
        assert_eq!(client.flow().source.ip(), testkit::ip(web));
        client.finish()?;
        assert_eq!(probe(test.task("other-1")?, at(DB, 5432))?, Answer::Silence);
    }
    test.daemon.stop()?;
    Ok(())
}

#[test]
fn a_link_that_another_eni_gets_leaves_each_its_own_records() -> Result<()> {
    let topology = Topology::new()?;
    let task = topology.device("tg-handed", &[WEB], true)?;
    let wire = Wire::tap(&task, "eth0")?;
    let config = topology
        .config()
        .group("dns", "ingress: [{ protocol: udp, ports: 53, from: any }], egress: []");
    let of = |name| config.clone().device_task(name, "tg-handed", &[WEB], &["dns"]);
    // Both are in the same window.
    let mut daemon = topology.start_with(&of("first"), Some(600))?;
    let (client, server) = (
        UdpPeer::bind(&topology.outside, "10.99.0.2:0")?,
        UdpPeer::bind(&task, &format!("{WEB}:53"))?,
    );
    let flow = client.converse(&server, 3)?;
    let counted = |wire: &Wire| anyhow::Ok((wire.received(flow)?, wire.sent(flow.back())?));
    let before = counted(&wire)?;
    daemon.apply(&of("second"))?;
    client.converse(&server, 5)?;
    let after = counted(&wire)?;
    let recorded = daemon.stop()?.ledger()?;
    let of = |task| [flow, flow.back()].map(|flow| recorded.get(task, flow, Action::Accept));
    assert_eq!(of("first"), [before.0, before.1], "{recorded:?}");
    assert_eq!(of("second"), [after.0 - before.0, after.1 - before.1], "{recorded:?}");
    Ok(())
}
