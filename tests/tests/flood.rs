//! Floods: a task spends its own share of the tables and nobody else's, and what found no room is told.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use anyhow::{Context as _, Result};
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use taskgate_tests::{
    Action, Config, Held, OUTSIDE_V4, OUTSIDE_V6, Stage, at,
    held::Used,
    ip,
    ledger::Ledger,
    netns::{Netns, until},
    record::Status,
    traffic::{Client, Flood, Peer, TcpEcho, inject, try_connect, udp_packet},
};

const LOUD: &str = "10.88.0.10";
const LOUD6: &str = "fd88::10";
const QUIET: &str = "10.88.0.20";
const OUTSIDE: &str = "10.99.0.2";

/// What begins here is tracked: its rule is not open to any.
const CLIENT: &str = "egress: [{ protocol: all, to: [10.99.0.0/24] }]";

/// Where floods go: a UDP port at which datagrams end, and a TCP port that resets.
const SINK: u16 = 9000;
const CLOSED: u16 = 9001;
const ECHO: u16 = 7;
/// The first port of floods.
const FIRST: u16 = 10_000;

fn two_clients(config: Config, connections: &str) -> Config {
    config
        .group("client", CLIENT)
        .task("loud-1", &[LOUD], &["client"])
        .task("quiet-1", &[QUIET], &["client"])
        .with(&format!("settings: {{ connections: {connections} }}"))
}

/// How many connections a task opens beside a flood at most: less than its own share, which closed ones take up for some
/// seconds.
const MOST_OPENED: usize = 200;

/// Runs `flood` while a task's connection to the echo outside goes on and it opens and closes others all the time. Gives
/// how many it opened.
fn beside<R>(quiet: &Netns, live: &mut Client, flood: impl FnOnce() -> Result<R> + Send) -> Result<(R, usize)>
where
    R: Send,
{
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loud = scope.spawn(|| {
            let done = flood();
            over.store(true, Relaxed);
            done
        });
        let mut opened = 0;
        while !over.load(Relaxed) || opened < 10 {
            live.echo(1000)?;
            if opened == MOST_OPENED {
                continue;
            }
            let mut new = Client::connect(quiet, at(OUTSIDE, ECHO))?;
            new.echo(100)?;
            new.finish()?;
            opened += 1;
        }
        let done = loud.join().map_err(|_panic| anyhow::anyhow!("the flood panicked"))??;
        Ok((done, opened))
    })
}

/// Whether a task can connect to the echo outside.
fn connects(task: &Netns) -> Result<bool> {
    let client = try_connect(task, at(OUTSIDE, ECHO))?;
    Ok(client.map(Client::abort).transpose()?.is_some())
}

/// Whether the records of a task say that something is missing.
fn lacks(records: &[taskgate_tests::record::Record], task: &str) -> bool {
    let eni = Config::eni(task);
    records
        .iter()
        .any(|record| record.eni == eni && record.status == Status::SkipData)
}

/// AWS: SG-TRACK-8
#[test]
fn a_task_that_floods_fills_its_own_share_of_connections() -> Result<()> {
    const SHARE: u64 = 256;
    const FLOWS: u16 = 4000;
    let stage = Stage::start(|config| two_clients(config, "{ total: 4096, per-task: 256 }"))?;
    let held = Held::by(&stage.daemon)?;
    let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
    let (loud, quiet) = (stage.task("loud-1")?, stage.task("quiet-1")?);
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
    // The first of them are in, all others were denied, and the task's own old connection is among those that live on.
    old.echo(100)?;
    let denied = u64::from(FLOWS) - (SHARE - 1);
    held.await_counted(Egress, "task-connections-full", &[denied])?;
    assert!(held.used().conns <= SHARE + 1 + opened as u64);
    assert!(!connects(loud)?, "nothing new");

    // They were reset: in ten seconds they are over, and room for others is made.
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

    let expected = stage.kept_in(&["loud-1"])?;
    assert_eq!(expected.total("loud-1", Action::Reject).packets, denied + tries - 1);
    assert_eq!(expected.total("quiet-1", Action::Reject).packets, 0);
    let stopped = stage.finish(&expected)?;
    assert!(!lacks(&stopped.records, "loud-1") && !lacks(&stopped.records, "quiet-1"));
    Ok(())
}

/// AWS: SG-TRACK-8
#[test]
fn where_the_shares_are_more_than_there_is_the_whole_host_can_be_full() -> Result<()> {
    const TOTAL: u64 = 1024;
    const FLOWS: u16 = 1500;
    let stage = Stage::start(|config| two_clients(config, "{ total: 1024, per-task: 1024 }"))?;
    let held = Held::by(&stage.daemon)?;
    let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
    let (loud, quiet) = (stage.task("loud-1")?, stage.task("quiet-1")?);
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    live.echo(100)?;
    assert!(connects(loud)?);
    Flood::syn(loud, ip(LOUD), at(OUTSIDE, CLOSED))?.send(FIRST, FLOWS)?;
    let denied = u64::from(FLOWS) - (TOTAL - 2);
    held.await_counted(Egress, "connections-full", &[denied])?;
    assert_eq!(held.used().conns, TOTAL);
    // Old ones live on; what is new finds no room, whoever begins it.
    live.echo(1000)?;
    assert!(!connects(quiet)?);
    held.await_counted(Egress, "connections-full", &[denied, 1])?;
    assert_eq!(held.counted(Egress, "task-connections-full")?, [0; 0]);

    let mut tries = 0;
    until("the host has room again", || {
        tries += 1;
        connects(quiet)
    })?;
    live.echo(1000)?;
    live.abort()?;
    assert_eq!(held.counted(Egress, "connections-full")?, [denied, tries]);
    let expected = stage.kept_in(&["loud-1", "quiet-1"])?;
    assert_eq!(expected.total("loud-1", Action::Reject).packets, denied);
    assert_eq!(expected.total("quiet-1", Action::Reject).packets, tries);
    stage.finish(&expected)?;
    Ok(())
}

/// Its packets need no entry to pass, only to be recorded.
///
/// AWS: SG-TRACK-4
#[test]
fn an_untracked_flood_passes_and_what_found_no_room_is_told() -> Result<()> {
    const SHARE: u64 = 256;
    const FLOWS: u16 = 1000;
    let stage = Stage::start(|config| {
        two_clients(config, "{ total: 4096, per-task: 256 }")
            .group("open", "ingress: [{ protocol: all, from: any }]")
            .task("loud-1", &[LOUD], &["open"])
    })?;
    let held = Held::by(&stage.daemon)?;
    let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
    let sink = Peer::bind(&stage.lab.outside, &at(OUTSIDE, SINK).to_string())?;
    let quiet = stage.task("quiet-1")?;
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    let flood = Flood::udp(stage.task("loud-1")?, ip(LOUD), at(OUTSIDE, SINK))?;
    flood.send(FIRST, 1)?;
    sink.expect(b"data")?;
    // Each flow twice.
    beside(quiet, &mut live, || {
        flood.send(FIRST, FLOWS)?;
        flood.send(FIRST, FLOWS)
    })?;
    live.abort()?;
    let lost = 2 * (u64::from(FLOWS) - SHARE);
    // One for each entry, and one for each packet without one.
    until("the last packet is counted", || {
        Ok(held.counted(Egress, "rule")?.first() == Some(&(SHARE + lost)))
    })?;
    let used = held.used();
    assert_eq!((used.passed_lost, used.denied_lost), (lost, 0));
    let (wires, outside) = (stage.passed()?, stage.outside.flows()?.len());
    assert!(outside >= usize::from(FLOWS), "{outside} flows arrived");
    sums_are_whole(stage, &wires, lost)
}

/// Ends taskgate. The records of `loud-1` lack so many packets, and say so; those of `quiet-1` lack none.
fn sums_are_whole(stage: Stage, expected: &Ledger, lost: u64) -> Result<()> {
    let stopped = stage.daemon.stop()?;
    let recorded = stopped.ledger()?;
    let packets =
        |ledger: &Ledger, task: &str| [Action::Accept, Action::Reject].map(|action| ledger.total(task, action).packets);
    let [accepted, rejected] = packets(&recorded, "loud-1");
    let [passed, denied] = packets(expected, "loud-1");
    assert_eq!(
        accepted + rejected + lost,
        passed + denied,
        "records and losses, or what was on the wire"
    );
    assert!(accepted <= passed && rejected <= denied, "{recorded:?} or {expected:?}");
    assert_eq!(packets(&recorded, "quiet-1"), packets(expected, "quiet-1"));
    assert!(lacks(&stopped.records, "loud-1"), "SKIPDATA");
    assert!(
        !lacks(&stopped.records, "quiet-1"),
        "no SKIPDATA of a task that lacks nothing"
    );
    Ok(())
}

/// So many tasks besides, whose links never come, that each may leave this many denied flows.
const DENIALS: u64 = 512;

fn with_small_shares(config: Config) -> Config {
    const ALL_DENIALS: u64 = 65_536;
    (2..ALL_DENIALS / DENIALS).fold(config, |config, number| {
        let (name, device) = (format!("absent-{number}"), format!("tg-no-{number}"));
        let address = format!("10.77.{}.{}", number / 200, number % 200 + 1);
        config.device_task(&name, &device, &[&address], &["closed"])
    })
}

fn closed_and_quiet(config: Config) -> Config {
    with_small_shares(config)
        .group("closed", "egress: []")
        .group("client", CLIENT)
        .task("loud-1", &[LOUD, LOUD6], &["closed"])
        .task("quiet-1", &[QUIET], &["client"])
}

#[test]
fn a_flood_of_denials_fills_the_tasks_own_share() -> Result<()> {
    const FLOWS: u16 = 1500;
    for inward in [false, true] {
        let stage = Stage::start(closed_and_quiet)?;
        let held = Held::by(&stage.daemon)?;
        let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
        let (loud, quiet) = (stage.task("loud-1")?, stage.task("quiet-1")?);
        let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
        let (flood, direction) = if inward {
            (Flood::udp(&stage.lab.outside, OUTSIDE_V6, at(LOUD6, SINK))?, Ingress)
        } else {
            (Flood::udp(loud, ip(LOUD), at(OUTSIDE, SINK))?, Egress)
        };
        // The first one alone: until the way to its receiver is known few can wait.
        flood.send(FIRST, 1)?;
        held.await_counted(direction, "no-rule", &[1])?;
        beside(quiet, &mut live, || flood.send(FIRST + 1, FLOWS - 1))?;
        // The other task's are still recorded.
        let stranger = Peer::bind(&stage.lab.outside, &at(OUTSIDE, 0).to_string())?;
        stranger.send(at(QUIET, SINK), b"unasked")?;
        live.abort()?;
        until("the last packet is counted", || {
            Ok(held.counted(direction, "no-rule")?.first() == Some(&u64::from(FLOWS))
                && held.counted(Ingress, "no-rule")?.last() == Some(&1))
        })?;
        let lost = u64::from(FLOWS) - DENIALS;
        let used = held.used();
        assert_eq!((used.passed_lost, used.denied_lost), (0, lost), "inward: {inward}");
        let expected = if inward {
            stage.denied_in(&[("outside", "loud-1"), ("outside", "quiet-1")])?
        } else {
            stage
                .kept_in(&["loud-1"])?
                .and(stage.denied_in(&[("outside", "quiet-1")])?.only(Action::Reject))
        };
        assert_eq!(expected.total("loud-1", Action::Reject).packets, u64::from(FLOWS));
        assert_eq!(expected.total("quiet-1", Action::Reject).packets, 1);
        sums_are_whole(stage, &expected, lost)?;
    }
    Ok(())
}

/// What was told and is silent makes room: the next denial is recorded again.
#[test]
fn after_a_flood_of_denials_there_are_records_again() -> Result<()> {
    const FLOWS: u16 = 600;
    let stage = Stage::start(closed_and_quiet)?;
    let held = Held::by(&stage.daemon)?;
    let flood = Flood::udp(&stage.lab.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    flood.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    flood.send(FIRST + 1, FLOWS - 1)?;
    held.await_counted(Ingress, "no-rule", &[u64::from(FLOWS)])?;
    stage.await_denials("loud-1", DENIALS)?;
    until("the records of the flood are over", || Ok(held.used().denials == 0))?;
    let late = Peer::bind(&stage.lab.outside, &at(OUTSIDE, 0).to_string())?.send(at(LOUD, SINK), b"late")?;
    let told = stage
        .daemon
        .await_ledger(|ledger| ledger.get("loud-1", late, Action::Reject).packets == 1)
        .context("no record of what came after the flood")?;
    assert_eq!(told.total("loud-1", Action::Reject).packets, DENIALS + 1);
    assert_eq!(
        held.used(),
        Used {
            denials: held.used().denials,
            denied_lost: u64::from(FLOWS) - DENIALS,
            ..Used::default()
        }
    );
    let expected = stage.denied_in(&[("outside", "loud-1")])?;
    sums_are_whole(stage, &expected, u64::from(FLOWS) - DENIALS)
}

/// First fragments without the rest are remembered for half a minute; room for others is there as soon as that is over,
/// and not only when a capture window ends.
#[test]
fn a_flood_of_fragments_is_over_when_they_are_forgotten() -> Result<()> {
    const REMEMBERED: u16 = DENIALS as u16 / 8;
    const LARGE: [u8; 1600] = [7; 1600];
    const MORE_FRAGMENTS: u8 = 0x20;
    let stage = Stage::start_with(Some(600), |config| {
        with_small_shares(config)
            .group("closed", "egress: []")
            .group("client", CLIENT)
            .task("loud-1", &[LOUD], &["client"])
            .task("quiet-1", &[QUIET], &["client"])
    })?;
    let held = Held::by(&stage.daemon)?;
    let server = Peer::bind(&stage.lab.outside, &at(OUTSIDE, SINK).to_string())?;
    let [loud, quiet] = [("loud-1", LOUD), ("quiet-1", QUIET)]
        .map(|(task, own)| Peer::bind(stage.task(task)?, &at(own, 0).to_string()));
    let (loud, quiet) = (loud?, quiet?);
    loud.send(server.address(), &LARGE)?;
    server.expect(&LARGE)?;
    for identification in 1..=REMEMBERED {
        // To somebody else: no datagram that is whole has the same addresses and number.
        let mut first = udp_packet(loud.flow_to(at("10.99.0.3", SINK)), &LARGE[..16])?;
        first[4..6].copy_from_slice(&identification.to_be_bytes());
        first[6] |= MORE_FRAGMENTS;
        inject(stage.task("loud-1")?, &first)?;
    }
    loud.send(server.address(), &LARGE)?;
    held.await_counted(Egress, "fragment-without-first", &[1])?;
    assert!(server.is_silent()?, "half of a datagram is none");
    quiet.send(server.address(), &LARGE)?;
    server.expect(&LARGE)?;

    held.age(31)?;
    until("the task's datagrams arrive again", || {
        loud.send(server.address(), &LARGE)?;
        Ok(!server.is_silent()?)
    })?;
    Ok(())
}
