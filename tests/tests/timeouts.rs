//! `settings.timeouts` of a running taskgate.

use anyhow::{Context as _, Result};
use taskgate_ebpf::abi::Direction::Ingress;
use testkit::{
    Action, Config, E2eTest, MapDump, Reload, at,
    netns::until,
    traffic::{Client, TcpEcho, UdpPeer},
};

const TASK: &str = "10.88.0.10";
const OUTSIDE: &str = "10.99.0.2";

/// Connections that the task opens are tracked, and nothing comes in but as their part.
fn with_timeouts(config: Config, timeouts: &str) -> Config {
    config
        .group("client", "egress: [{ protocol: all, to: [10.99.0.0/24] }]")
        .task("task-1", &[TASK], &["client"])
        .without_extra()
        .with(&format!("settings: {{ timeouts: {{ {timeouts} }} }}"))
}

/// The time limit for an answer is the time-out in force when the answer comes.
#[test]
fn a_time_out_that_is_reloaded_holds_for_connections_that_are_there() -> Result<()> {
    // Before, after; the number of exchanges; the silence before the answer; and whether the answer passes then.
    for (before, after, exchanges, idle, passes) in [
        ("udp: 30", "udp: 60", 1, 45, true),
        ("udp: 60", "udp: 30", 1, 45, false),
        ("udp-stream: 60", "udp-stream: 180", 2, 120, true),
        ("udp-stream: 180", "udp-stream: 60", 2, 120, false),
        // A time-out of another kind changes nothing.
        ("udp: 30, udp-stream: 60", "udp: 30, udp-stream: 180", 1, 45, false),
    ] {
        let case = format!("{before} to {after}");
        // Nothing is removed meanwhile: the kernel alone decides.
        let mut test = E2eTest::start_with(Some(600), |config| with_timeouts(config, before))?;
        let held = MapDump::of(&test.daemon)?;
        let server = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, 53).to_string())?;
        let client = UdpPeer::bind(test.task("task-1")?, &at(TASK, 0).to_string())?;
        client.converse(&server, exchanges)?;
        test.reload(|config| with_timeouts(config, after))?;
        held.age(idle)?;
        let late = server.send(client.address(), b"late")?;
        if passes {
            client.expect(b"late")?;
        }
        let denied = vec![1; usize::from(!passes)];
        held.await_counted(Ingress, "no-rule", &denied).context(case.clone())?;
        assert!(client.is_silent()?, "{case}");
        let expected = test.denied_in(&[("outside", "task-1")])?;
        assert_eq!(
            expected.get("task-1", late, Action::Reject).packets,
            u64::from(!passes),
            "{case}"
        );
        test.finish(&expected)?;
    }
    Ok(())
}

#[test]
fn an_established_connection_lives_for_its_time_out_and_no_longer() -> Result<()> {
    for (before, after, idle, passes) in [
        ("tcp-established: 432000", "tcp-established: 60", 58, true),
        ("tcp-established: 432000", "tcp-established: 60", 62, false),
        ("tcp-established: 60", "tcp-established: 432000", 431_990, true),
    ] {
        let mut test = E2eTest::start_with(Some(600), |config| with_timeouts(config, before))?;
        let held = MapDump::of(&test.daemon)?;
        let echo = TcpEcho::start(&test.topology.outside, 7)?;
        let mut live = Client::connect(test.task("task-1")?, at(OUTSIDE, 7))?;
        live.echo(100)?;
        test.reload(|config| with_timeouts(config, after))?;
        held.age(idle)?;
        // Packets from outside need the connection: no rule lets them in.
        echo.say(b"server first")?;
        if passes {
            live.expect(b"server first")?;
            live.echo(100)?;
        } else {
            until("it is denied", || Ok(!held.counted(Ingress, "no-rule")?.is_empty()))?;
        }
        assert_eq!(
            held.counted(Ingress, "no-rule")?.is_empty(),
            passes,
            "{after} after {idle}"
        );
        let flow = live.flow();
        live.abort()?;
        echo.abort()?;
        let expected = test.denied_in(&[("outside", "task-1")])?;
        assert_eq!(expected.get("task-1", flow.back(), Action::Reject).packets == 0, passes);
        test.finish(&expected)?;
    }
    Ok(())
}

#[test]
fn a_time_out_outside_of_awss_ranges_is_refused_and_the_old_one_stays() -> Result<()> {
    let test = E2eTest::start(|config| with_timeouts(config, "udp: 60"))?;
    let held = MapDump::of(&test.daemon)?;
    let server = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, 53).to_string())?;
    let client = UdpPeer::bind(test.task("task-1")?, &at(TASK, 0).to_string())?;
    client.converse(&server, 1)?;
    for (bad, hint) in [
        ("tcp-established: 59", "from 60 to 432000"),
        ("tcp-established: 432001", "from 60 to 432000"),
        ("udp: 29", "from 30 to 60"),
        ("udp: 61", "from 30 to 60"),
        ("udp-stream: 59", "from 60 to 180"),
        ("udp-stream: 181", "from 60 to 180"),
        ("udp: -1", "from 30 to 60"),
        ("udp: 30s", "from 30 to 60"),
    ] {
        let text = with_timeouts(test.config.clone(), bad).to_string();
        let Reload::Refused(why) = test.daemon.reload_text(&text)? else {
            panic!("`{bad}` was taken");
        };
        let (key, value) = bad.split_once(": ").unwrap_or_default();
        for word in ["taskgate.yaml:", &format!("`{key}` is `{value}`"), hint] {
            assert!(why.contains(word), "`{word}` is missing in:\n{why}");
        }
    }
    held.age(45)?;
    server.send(client.address(), b"in time")?;
    client.expect(b"in time")?;
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}

/// Not even if the expired entry has not been removed yet.
#[test]
fn what_is_over_stays_over_when_the_time_out_is_raised() -> Result<()> {
    let mut test = E2eTest::start_with(Some(600), |config| with_timeouts(config, "udp: 30"))?;
    let held = MapDump::of(&test.daemon)?;
    let server = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, 53).to_string())?;
    let client = UdpPeer::bind(test.task("task-1")?, &at(TASK, 0).to_string())?;
    client.converse(&server, 1)?;
    held.age(45)?;
    test.reload(|config| with_timeouts(config, "udp: 60"))?;
    server.send(client.address(), b"late")?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    assert!(client.is_silent()?);
    let expected = test.denied_in(&[("outside", "task-1")])?;
    test.finish(&expected)?;
    Ok(())
}
