//! Floods: a task spends its own floor of the tables and the common pool, and nobody else's floor; what found no room is
//! told.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::signal::Signal;
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
fn a_flood_takes_the_pool_and_leaves_other_tasks_their_floors() -> Result<()> {
    const TOTAL: u64 = 1024;
    // A quarter, divided.
    const FLOOR: u64 = TOTAL / 4 / 2;
    const FLOWS: u16 = 1500;
    let stage = Stage::start(|config| two_clients(config, "{ total: 1024 }"))?;
    let held = Held::by(&stage.daemon)?;
    let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
    let (loud, quiet) = (stage.task("loud-1")?, stage.task("quiet-1")?);
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    live.echo(100)?;
    Flood::syn(loud, ip(LOUD), at(OUTSIDE, CLOSED))?.send(FIRST, FLOWS)?;
    let denied = u64::from(FLOWS) - (TOTAL - FLOOR);
    held.await_counted(Egress, "connections-full", &[denied])?;
    assert_eq!(held.used().conns, TOTAL - FLOOR + 1);
    assert!(!connects(loud)?, "nothing new for who has taken all");
    // The other one has all of its floor, and not one more.
    live.echo(1000)?;
    assert!(connects(quiet)?);
    Flood::syn(quiet, ip(QUIET), at(OUTSIDE, CLOSED))?.send(FIRST, 200)?;
    held.await_counted(Egress, "connections-full", &[denied + 1, 200 - (FLOOR - 2)])?;
    assert_eq!(held.used().conns, TOTAL);
    assert_eq!(held.counted(Egress, "task-connections-full")?, [0; 0]);
    for task in ["loud-1", "quiet-1"] {
        let limit = format!("task `{task}` is at its limit of tracked connections");
        stage.daemon.await_message(&limit)?;
        let messages = stage.daemon.messages();
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
    // What was charged is given back to the last one.
    held.age(432_001)?;
    until("nothing is in use", || Ok(held.used() == Used::default()))?;
    assert_eq!(held.pools(), [0; 3]);
    stage.daemon.stop()?;
    Ok(())
}

/// Tasks that are configured and not there have no floor, and no part in what the others may have.
#[test]
fn a_busy_task_has_what_two_hundred_absent_ones_do_not_use() -> Result<()> {
    const FLOWS: u16 = 20_000;
    let stage = Stage::start(|config| {
        (0..200)
            .fold(config, |config, number| {
                let (name, device) = (format!("absent-{number}"), format!("tg-no-{number}"));
                let address = format!("10.77.0.{}", number + 1);
                config.device_task(&name, &device, &[&address], &["client"])
            })
            .group("client", CLIENT)
            .task("loud-1", &[LOUD], &["client"])
    })?;
    let held = Held::by(&stage.daemon)?;
    stage.daemon.await_message("tasks present: 1;")?;
    let flood = Flood::syn(stage.task("loud-1")?, ip(LOUD), at(OUTSIDE, CLOSED))?;
    flood.send(FIRST, FLOWS)?;
    held.await_counted(Egress, "rule", &[FLOWS.into()])?;
    assert_eq!(held.counted(Egress, "connections-full")?, [0; 0]);
    assert_eq!(held.counted(Egress, "task-connections-full")?, [0; 0]);
    stage.daemon.stop()?;
    Ok(())
}

/// A flood from outside takes three quarters of what a task may have: what the task itself opens, and what is never
/// filtered, has the rest.
#[test]
fn a_flood_from_outside_does_not_end_what_a_task_itself_opens() -> Result<()> {
    const TOTAL: u64 = 1024;
    const FLOWS: u16 = 3000;
    let stage = Stage::start(|config| {
        config
            .group(
                "server",
                "ingress: [{ protocol: tcp, ports: 9000, from: [10.99.0.0/24] }], egress: [{ protocol: all, to: [10.99.0.0/24] }]",
            )
            .task("quiet-1", &[QUIET], &["server"])
            .with("settings: { connections: { total: 1024 } }")
    })?;
    let held = Held::by(&stage.daemon)?;
    let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
    let quiet = stage.task("quiet-1")?;
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    let flood = Flood::syn(&stage.lab.outside, ip(OUTSIDE), at(QUIET, SINK))?;
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
        Peer::bind(quiet, &at(QUIET, 0).to_string())?.flow_to(resolver),
        b"query",
    )?;
    inject(quiet, &exempt)?;
    held.await_counted(Egress, "exempt", &[1])?;
    assert_eq!(held.counted(Egress, "connections-full")?, [0; 0]);
    stage.daemon.stop()?;
    Ok(())
}

/// Every entry is given back to who was charged for it, however often tasks come and go.
#[test]
fn tasks_that_come_and_go_leave_nothing_charged() -> Result<()> {
    let mut stage = Stage::start(|config| two_clients(config, "{ total: 1024 }"))?;
    let held = Held::by(&stage.daemon)?;
    let _echo = TcpEcho::start(&stage.lab.outside, ECHO)?;
    for round in 0..3_u16 {
        // Its namespace is another one each time.
        let quiet = stage.lab.task("quiet-1")?;
        assert!(connects(&quiet)?);
        // More than its floor: of both accounts.
        Flood::syn(&quiet, ip(QUIET), at(OUTSIDE, CLOSED))?.send(FIRST, 400)?;
        let stranger = Peer::bind(&stage.lab.outside, &at(OUTSIDE, 0).to_string())?;
        stranger.send(at(QUIET, SINK), b"unasked")?;
        until("both tables are in use", || {
            Ok(held.used().conns >= 400 && held.used().denials > 0)
        })?;
        stage.reload(|config| config.without_task("quiet-1"))?;
        until("nothing is in use", || {
            let Used { conns, denials, .. } = held.used();
            Ok((conns, denials) == (0, 0))
        })?;
        assert_eq!(held.pools(), [0; 3], "round {round}");
        stage.reload(|config| config.task("quiet-1", &[QUIET], &["client"]))?;
    }
    stage.daemon.stop()?;
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

/// Denied flows that there is room for, and what a task can have of it: its floor, which is an eighth, and the pool.
const DENIALS: u64 = 1024;
const MOST_DENIALS: u64 = DENIALS - DENIALS / 4 / 2;
/// What comes from outside leaves a quarter of both.
const MOST_FROM_OUTSIDE: u64 = MOST_DENIALS / 4 * 3;

fn closed_and_quiet(config: Config) -> Config {
    config
        .group("closed", "egress: []")
        .group("client", CLIENT)
        .task("loud-1", &[LOUD, LOUD6], &["closed"])
        .task("quiet-1", &[QUIET], &["client"])
        .with("settings: { denials: { total: 1024 } }")
}

#[test]
fn a_flood_of_denials_leaves_other_tasks_their_floors() -> Result<()> {
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
        let room = if inward { MOST_FROM_OUTSIDE } else { MOST_DENIALS };
        let used = held.used();
        let lost = used.denied_lost;
        // Where the flood takes its time, room is made in the midst of it.
        assert!(
            (1..=u64::from(FLOWS) - room).contains(&lost),
            "{lost}, inward: {inward}"
        );
        assert_eq!(used.passed_lost, 0);
        assert!(used.denials <= DENIALS);
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

/// On SIGUSR1, by task and reason; a denial that found no room for its record counts like any other.
#[test]
fn counters_are_told_on_a_signal() -> Result<()> {
    const FLOWS: u16 = 1500;
    let stage = Stage::start(closed_and_quiet)?;
    let held = Held::by(&stage.daemon)?;
    let flood = Flood::udp(&stage.lab.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    flood.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    flood.send(FIRST + 1, FLOWS - 1)?;
    held.await_counted(Ingress, "no-rule", &[FLOWS.into()])?;
    let lost = held.used().denied_lost;
    assert!(lost > 0);
    stage.daemon.signal(Signal::SIGUSR1)?;
    stage.daemon.await_message(&format!("unrecorded 0+{lost}"))?;
    let messages = stage.daemon.messages();
    let told = messages.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let expected = ["loud-1", "ingress", "no-rule", "1500"];
    assert!(told.into_iter().any(|words| words == expected), "{messages:?}");
    stage.daemon.stop()?;
    Ok(())
}

/// What is silent makes room at once where room is short: the next denial is recorded again after seconds and not after
/// two windows, which are twenty minutes here.
#[test]
fn after_a_flood_of_denials_there_are_records_again() -> Result<()> {
    const FLOWS: u16 = 1500;
    let stage = Stage::start_with(Some(600), closed_and_quiet)?;
    let held = Held::by(&stage.daemon)?;
    let flood = Flood::udp(&stage.lab.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    flood.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    flood.send(FIRST + 1, FLOWS - 1)?;
    held.await_counted(Ingress, "no-rule", &[u64::from(FLOWS)])?;
    let lost = held.used().denied_lost;
    assert!((1..=u64::from(FLOWS) - MOST_FROM_OUTSIDE).contains(&lost), "{lost}");
    until("there is room again", || Ok(held.used().denials < DENIALS / 2))?;
    let late = Peer::bind(&stage.lab.outside, &at(OUTSIDE, 0).to_string())?.send(at(LOUD, SINK), b"late")?;
    held.await_counted(Ingress, "no-rule", &[u64::from(FLOWS) + 1])?;
    stage
        .daemon
        .await_message("task `loud-1` is at its limit of denied flows")?;
    let expected = stage.denied_in(&[("outside", "loud-1")])?;
    let stopped = stage.daemon.stop()?;
    let recorded = stopped.ledger()?;
    assert_eq!(recorded.get("loud-1", late, Action::Reject).packets, 1);
    let told = recorded.total("loud-1", Action::Reject).packets;
    assert_eq!(told + lost, expected.total("loud-1", Action::Reject).packets);
    assert!(lacks(&stopped.records, "loud-1"), "SKIPDATA");
    Ok(())
}

/// A scan of more flows than there is room for leaves all of its records, if it takes some seconds.
#[test]
fn a_scan_of_many_times_the_room_leaves_its_records() -> Result<()> {
    const PORTS: u16 = 8000;
    const AT_ONCE: u16 = 100;
    let stage = Stage::start_with(Some(600), |config| {
        config
            .group("closed", "egress: []")
            .task("loud-1", &[LOUD], &["closed"])
            .with("settings: { denials: { total: 4096 } }")
    })?;
    let held = Held::by(&stage.daemon)?;
    let scan = Flood::syn(&stage.lab.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    scan.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    for first in (1..PORTS).step_by(AT_ONCE.into()) {
        scan.send(FIRST + first, AT_ONCE.min(PORTS - first))?;
        sleep(Duration::from_millis(100));
    }
    held.await_counted(Ingress, "no-rule", &[PORTS.into()])?;
    assert_eq!(held.used().denied_lost, 0);
    let stopped = stage.daemon.stop()?;
    assert_eq!(
        stopped.ledger()?.total("loud-1", Action::Reject).packets,
        u64::from(PORTS)
    );
    assert!(!lacks(&stopped.records, "loud-1"));
    Ok(())
}

/// nmap's thousand ports, where five hundred tasks are configured.
#[test]
fn a_scan_leaves_its_records_beside_hundreds_of_tasks() -> Result<()> {
    const PORTS: u16 = 1000;
    let stage = Stage::start_with(Some(600), |config| {
        (0..500)
            .fold(config, |config, number| {
                let (name, device) = (format!("absent-{number}"), format!("tg-no-{number}"));
                let address = format!("10.77.{}.{}", number / 200, number % 200 + 1);
                config.device_task(&name, &device, &[&address], &["closed"])
            })
            .group("closed", "egress: []")
            .task("loud-1", &[LOUD], &["closed"])
    })?;
    let held = Held::by(&stage.daemon)?;
    let scan = Flood::syn(&stage.lab.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    scan.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    scan.send(FIRST + 1, PORTS - 1)?;
    held.await_counted(Ingress, "no-rule", &[PORTS.into()])?;
    let stopped = stage.daemon.stop()?;
    assert_eq!(
        stopped.ledger()?.total("loud-1", Action::Reject).packets,
        u64::from(PORTS)
    );
    assert!(!lacks(&stopped.records, "loud-1"));
    Ok(())
}

/// First fragments without the rest are remembered for half a minute, and no longer than about a second where they take
/// up the room of others.
#[test]
fn a_flood_of_fragments_is_over_in_seconds() -> Result<()> {
    // Floor and pool of the task that sends them, and as many again.
    const LONE: u16 = 2 * (MOST_DENIALS / 8) as u16;
    const LARGE: [u8; 1600] = [7; 1600];
    const MORE_FRAGMENTS: u8 = 0x20;
    let stage = Stage::start_with(Some(600), |config| {
        config
            .group("client", CLIENT)
            .task("loud-1", &[LOUD], &["client"])
            .task("quiet-1", &[QUIET], &["client"])
            .with("settings: { denials: { total: 1024 } }")
    })?;
    let held = Held::by(&stage.daemon)?;
    let server = Peer::bind(&stage.lab.outside, &at(OUTSIDE, SINK).to_string())?;
    let [loud, quiet] = [("loud-1", LOUD), ("quiet-1", QUIET)]
        .map(|(task, own)| Peer::bind(stage.task(task)?, &at(own, 0).to_string()));
    let (loud, quiet) = (loud?, quiet?);
    loud.send(server.address(), &LARGE)?;
    server.expect(&LARGE)?;
    for identification in 1..=LONE {
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
    stage
        .daemon
        .await_message("task `loud-1` is at its limit of datagrams in fragments")?;

    let began = Instant::now();
    until("the task's datagrams arrive again", || {
        loud.send(server.address(), &LARGE)?;
        Ok(!server.is_silent()?)
    })?;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}
