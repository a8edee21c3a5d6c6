//! Floods of connections.

use anyhow::Result;
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use testkit::{
    Action, Config, E2eTest, MapDump, at, ip,
    map_dump::TableUse,
    netns::until,
    traffic::{Client, Flood, TcpEcho, UdpPeer, inject, udp_packet},
};

use super::{CLIENT, CLOSED, ECHO, FIRST, LOUD, OUTSIDE, QUIET, SINK, beside, connects, lacks, sums_are_whole};

fn two_clients(config: Config, connections: &str) -> Config {
    config
        .group("client", CLIENT)
        .task("loud-1", &[LOUD], &["client"])
        .task("quiet-1", &[QUIET], &["client"])
        .with(&format!("settings: {{ connections: {connections} }}"))
}

/// AWS: SG-TRACK-8
#[test]
fn a_task_that_floods_fills_its_own_share_of_connections() -> Result<()> {
    const SHARE: u64 = 256;
    const FLOWS: u16 = 4000;
    let test = E2eTest::start(|config| two_clients(config, "{ total: 4096, per-task: 256 }"))?;
    let held = MapDump::of(&test.daemon)?;
    let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
    let (loud, quiet) = (test.task("loud-1")?, test.task("quiet-1")?);
    let mut old = Client::connect(loud, at(OUTSIDE, ECHO))?;
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    old.echo(100)?;

    let flood = Flood::syn(loud, ip(LOUD), at(OUTSIDE, CLOSED))?;
    let ((), opened) = beside(quiet, &mut live, || {
        for port in 0..4 {
            flood.send(FIRST + port * FLOWS / 4, FLOWS / 4)?;
        }
        Ok(())
    })?;
    // The first connections are admitted, all others were denied, and the task's old connection is among those that live
    // on.
    old.echo(100)?;
    let denied = u64::from(FLOWS) - (SHARE - 1);
    held.await_counted(Egress, "task-connections-full", &[denied])?;
    assert!(held.used().conns <= SHARE + 1 + opened as u64);
    assert!(!connects(loud)?, "nothing new");

    // These connections were reset: they end within ten seconds, which makes room for new ones.
    let mut tries = 1;
    until("the task has room again", || {
        tries += 1;
        connects(loud)
    })?;
    old.echo(100)?;
    live.echo(100)?;
    assert_eq!(held.counted(Egress, "task-connections-full")?, [denied + tries - 1]);
    assert_eq!(held.counted(Egress, "connections-full")?, [0; 0]);
    old.abort()?;
    live.abort()?;

    let expected = test.kept_in(&["loud-1"])?;
    assert_eq!(expected.total("loud-1", Action::Reject).packets, denied + tries - 1);
    assert_eq!(expected.total("quiet-1", Action::Reject).packets, 0);
    let stopped = test.finish(&expected)?;
    assert!(!lacks(&stopped.records, "loud-1") && !lacks(&stopped.records, "quiet-1"));
    Ok(())
}

/// AWS: SG-TRACK-8
#[test]
fn a_flood_takes_the_pool_and_leaves_other_tasks_their_floors() -> Result<()> {
    const TOTAL: u64 = 1024;
    // A quarter, divided.
    const FLOOR: u64 = TOTAL / 4 / 2;
    const FLOWS: u16 = 1500;
    let test = E2eTest::start(|config| two_clients(config, "{ total: 1024 }"))?;
    let held = MapDump::of(&test.daemon)?;
    let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
    let (loud, quiet) = (test.task("loud-1")?, test.task("quiet-1")?);
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    live.echo(100)?;
    Flood::syn(loud, ip(LOUD), at(OUTSIDE, CLOSED))?.send(FIRST, FLOWS)?;
    let denied = u64::from(FLOWS) - (TOTAL - FLOOR);
    held.await_counted(Egress, "connections-full", &[denied])?;
    assert_eq!(held.used().conns, TOTAL - FLOOR + 1);
    assert!(!connects(loud)?, "nothing new for who has taken all");
    // The other task has all of its floor, but no entry more.
    live.echo(1000)?;
    assert!(connects(quiet)?);
    Flood::syn(quiet, ip(QUIET), at(OUTSIDE, CLOSED))?.send(FIRST, 200)?;
    held.await_counted(Egress, "connections-full", &[denied + 1, 200 - (FLOOR - 2)])?;
    assert_eq!(held.used().conns, TOTAL);
    assert_eq!(held.counted(Egress, "task-connections-full")?, [0; 0]);
    for task in ["loud-1", "quiet-1"] {
        let limit = format!("task `{task}` is at its limit of tracked connections");
        test.daemon.await_message(&limit)?;
        let messages = test.daemon.messages();
        let told = messages.iter().filter(|message| message.contains(&limit)).count();
        assert_eq!(told, 1, "{messages:?}");
    }

    let mut tries = 0;
    until("the host has room again", || {
        tries += 1;
        connects(loud)
    })?;
    live.echo(1000)?;
    live.abort()?;
    // All charges are given back.
    held.age(432_001)?;
    until("nothing is in use", || Ok(held.used() == TableUse::default()))?;
    assert_eq!(held.pools(), [0; 3]);
    test.daemon.stop()?;
    Ok(())
}

/// Tasks that are configured but absent have no floor, and take nothing of the others' room.
#[test]
fn a_busy_task_has_what_two_hundred_absent_ones_do_not_use() -> Result<()> {
    const FLOWS: u16 = 20_000;
    let test = E2eTest::start(|config| {
        (0..200)
            .fold(config, |config, number| {
                let (name, device) = (format!("absent-{number}"), format!("tg-no-{number}"));
                let address = format!("10.77.0.{}", number + 1);
                config.device_task(&name, &device, &[&address], &["client"])
            })
            .group("client", CLIENT)
            .task("loud-1", &[LOUD], &["client"])
    })?;
    let held = MapDump::of(&test.daemon)?;
    test.daemon.await_message("tasks present: 1;")?;
    let flood = Flood::syn(test.task("loud-1")?, ip(LOUD), at(OUTSIDE, CLOSED))?;
    flood.send(FIRST, FLOWS)?;
    held.await_counted(Egress, "rule", &[FLOWS.into()])?;
    assert_eq!(held.counted(Egress, "connections-full")?, [0; 0]);
    assert_eq!(held.counted(Egress, "task-connections-full")?, [0; 0]);
    test.daemon.stop()?;
    Ok(())
}

/// A flood from outside takes at most three quarters of a task's room: the rest is for connections that the task itself
/// opens, and for traffic that is never filtered.
#[test]
fn a_flood_from_outside_does_not_end_what_a_task_itself_opens() -> Result<()> {
    const TOTAL: u64 = 1024;
    const FLOWS: u16 = 3000;
    let test = E2eTest::start(|config| {
        config
            .group(
                "server",
                "ingress: [{ protocol: tcp, ports: 9000, from: [10.99.0.0/24] }], egress: [{ protocol: all, to: [10.99.0.0/24] }]",
            )
            .task("quiet-1", &[QUIET], &["server"])
            .with("settings: { connections: { total: 1024 } }")
    })?;
    let held = MapDump::of(&test.daemon)?;
    let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
    let quiet = test.task("quiet-1")?;
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    let flood = Flood::syn(&test.topology.outside, ip(OUTSIDE), at(QUIET, SINK))?;
    flood.send(FIRST, 1)?;
    held.await_counted(Ingress, "rule", &[1])?;
    flood.send(FIRST + 1, FLOWS - 1)?;
    let admitted = TOTAL / 4 * 3 - 1;
    held.await_counted(Ingress, "connections-full", &[u64::from(FLOWS) - admitted])?;
    live.echo(100)?;
    for _ in 0..20 {
        assert!(connects(quiet)?, "its own");
    }
    let resolver = at("169.254.169.253", 53);
    let exempt = udp_packet(
        UdpPeer::bind(quiet, &at(QUIET, 0).to_string())?.flow_to(resolver),
        b"query",
    )?;
    inject(quiet, &exempt)?;
    held.await_counted(Egress, "exempt", &[1])?;
    assert_eq!(held.counted(Egress, "connections-full")?, [0; 0]);
    test.daemon.stop()?;
    Ok(())
}

/// Every entry's charge is returned to its account, however often tasks come and go.
#[test]
fn tasks_that_come_and_go_leave_nothing_charged() -> Result<()> {
    let mut test = E2eTest::start(|config| two_clients(config, "{ total: 1024 }"))?;
    let held = MapDump::of(&test.daemon)?;
    let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
    for round in 0..3_u16 {
        // The task has a new namespace each time.
        let quiet = test.topology.task("quiet-1")?;
        assert!(connects(&quiet)?);
        // More than its floor: of both accounts.
        Flood::syn(&quiet, ip(QUIET), at(OUTSIDE, CLOSED))?.send(FIRST, 400)?;
        let stranger = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, 0).to_string())?;
        stranger.send(at(QUIET, SINK), b"unasked")?;
        until("both tables are in use", || {
            Ok(held.used().conns >= 400 && held.used().denials > 0)
        })?;
        test.reload(|config| config.without_task("quiet-1"))?;
        until("nothing is in use", || {
            let TableUse { conns, denials, .. } = held.used();
            Ok((conns, denials) == (0, 0))
        })?;
        assert_eq!(held.pools(), [0; 3], "round {round}");
        test.reload(|config| config.task("quiet-1", &[QUIET], &["client"]))?;
    }
    test.daemon.stop()?;
    Ok(())
}

/// Its packets need no entry to pass, only to be recorded.
///
/// AWS: SG-TRACK-4
#[test]
fn an_untracked_flood_passes_and_what_found_no_room_is_told() -> Result<()> {
    const SHARE: u64 = 256;
    const FLOWS: u16 = 1000;
    let test = E2eTest::start(|config| {
        two_clients(config, "{ total: 4096, per-task: 256 }")
            .group("open", "ingress: [{ protocol: all, from: any }]")
            .task("loud-1", &[LOUD], &["open"])
    })?;
    let held = MapDump::of(&test.daemon)?;
    let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
    let sink = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, SINK).to_string())?;
    let quiet = test.task("quiet-1")?;
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    let flood = Flood::udp(test.task("loud-1")?, ip(LOUD), at(OUTSIDE, SINK))?;
    flood.send(FIRST, 1)?;
    sink.expect(b"data")?;
    // Each flow twice.
    beside(quiet, &mut live, || {
        flood.send(FIRST, FLOWS)?;
        flood.send(FIRST, FLOWS)
    })?;
    live.abort()?;
    let lost = 2 * (u64::from(FLOWS) - SHARE);
    // One for each entry, and one for each packet without an entry.
    until("the last packet is counted", || {
        Ok(held.counted(Egress, "rule")?.first() == Some(&(SHARE + lost)))
    })?;
    let used = held.used();
    assert_eq!((used.passed_lost, used.denied_lost), (lost, 0));
    let (wires, outside) = (test.passed()?, test.outside.flows()?.len());
    assert!(outside >= usize::from(FLOWS), "{outside} flows arrived");
    sums_are_whole(test, &wires, lost)
}
