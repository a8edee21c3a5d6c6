//! Floods of denied packets.

use anyhow::Result;
use nix::sys::signal::Signal;
use taskgate_ebpf::abi::Direction::{Egress, Ingress};
use testkit::{
    Action, Config, E2eTest, MapDump, OUTSIDE_V4, OUTSIDE_V6, at, ip,
    netns::until,
    traffic::{Client, Flood, TcpEcho, UdpPeer},
};

use super::{CLIENT, DENIALS, ECHO, FIRST, LOUD, MOST_DENIALS, OUTSIDE, QUIET, SINK, beside, lacks, sums_are_whole};

const LOUD6: &str = "fd88::10";

/// Denials from outside leave a quarter of floor and pool.
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
        let test = E2eTest::start(closed_and_quiet)?;
        let held = MapDump::of(&test.daemon)?;
        let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
        let (loud, quiet) = (test.task("loud-1")?, test.task("quiet-1")?);
        let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
        let (flood, direction) = if inward {
            (
                Flood::udp(&test.topology.outside, OUTSIDE_V6, at(LOUD6, SINK))?,
                Ingress,
            )
        } else {
            (Flood::udp(loud, ip(LOUD), at(OUTSIDE, SINK))?, Egress)
        };
        // First a single packet: few packets can wait until the receiver's neighbour entry is resolved.
        flood.send(FIRST, 1)?;
        held.await_counted(direction, "no-rule", &[1])?;
        beside(quiet, &mut live, || flood.send(FIRST + 1, FLOWS - 1))?;
        // The other task's are still recorded.
        let stranger = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, 0).to_string())?;
        stranger.send(at(QUIET, SINK), b"unasked")?;
        live.abort()?;
        until("the last packet is counted", || {
            Ok(held.counted(direction, "no-rule")?.first() == Some(&u64::from(FLOWS))
                && held.counted(Ingress, "no-rule")?.last() == Some(&1))
        })?;
        let room = if inward { MOST_FROM_OUTSIDE } else { MOST_DENIALS };
        let used = held.used();
        let lost = used.denied_lost;
        // If the flood is slow, entries are freed in the middle of it.
        assert!(
            (1..=u64::from(FLOWS) - room).contains(&lost),
            "{lost}, inward: {inward}"
        );
        assert_eq!(used.passed_lost, 0);
        assert!(used.denials <= DENIALS);
        let expected = if inward {
            test.denied_in(&[("outside", "loud-1"), ("outside", "quiet-1")])?
        } else {
            test.kept_in(&["loud-1"])?
                .and(test.denied_in(&[("outside", "quiet-1")])?.only(Action::Reject))
        };
        assert_eq!(expected.total("loud-1", Action::Reject).packets, u64::from(FLOWS));
        assert_eq!(expected.total("quiet-1", Action::Reject).packets, 1);
        sums_are_whole(test, &expected, lost)?;
    }
    Ok(())
}

/// On SIGUSR1, by task and reason; a denial that found no room for its record counts like any other.
#[test]
fn counters_are_told_on_a_signal() -> Result<()> {
    const FLOWS: u16 = 1500;
    let test = E2eTest::start(closed_and_quiet)?;
    let held = MapDump::of(&test.daemon)?;
    let flood = Flood::udp(&test.topology.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    flood.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    flood.send(FIRST + 1, FLOWS - 1)?;
    held.await_counted(Ingress, "no-rule", &[FLOWS.into()])?;
    let lost = held.used().denied_lost;
    assert!(lost > 0);
    test.daemon.signal(Signal::SIGUSR1)?;
    test.daemon.await_message(&format!("unrecorded 0+{lost}"))?;
    let messages = test.daemon.messages();
    let told = messages.iter().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let expected = ["loud-1", "ingress", "no-rule", "1500"];
    assert!(told.into_iter().any(|words| words == expected), "{messages:?}");
    test.daemon.stop()?;
    Ok(())
}

/// Silent entries make room at once when room is short: the next denial is recorded after seconds and not after two
/// windows, which are twenty minutes here.
#[test]
fn after_a_flood_of_denials_there_are_records_again() -> Result<()> {
    const FLOWS: u16 = 1500;
    let test = E2eTest::start_with(Some(600), closed_and_quiet)?;
    let held = MapDump::of(&test.daemon)?;
    let flood = Flood::udp(&test.topology.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    flood.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    flood.send(FIRST + 1, FLOWS - 1)?;
    held.await_counted(Ingress, "no-rule", &[u64::from(FLOWS)])?;
    let lost = held.used().denied_lost;
    assert!((1..=u64::from(FLOWS) - MOST_FROM_OUTSIDE).contains(&lost), "{lost}");
    until("there is room again", || Ok(held.used().denials < DENIALS / 2))?;
    let late = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, 0).to_string())?.send(at(LOUD, SINK), b"late")?;
    held.await_counted(Ingress, "no-rule", &[u64::from(FLOWS) + 1])?;
    test.daemon
        .await_message("task `loud-1` is at its limit of denied flows")?;
    let expected = test.denied_in(&[("outside", "loud-1")])?;
    let stopped = test.daemon.stop()?;
    let recorded = stopped.ledger()?;
    assert_eq!(recorded.get("loud-1", late, Action::Reject).packets, 1);
    let told = recorded.total("loud-1", Action::Reject).packets;
    assert_eq!(told + lost, expected.total("loud-1", Action::Reject).packets);
    assert!(lacks(&stopped.records, "loud-1"), "SKIPDATA");
    Ok(())
}
