//! How much memory taskgate takes where connections come and go within a window of minutes.

use std::process::Command;

use anyhow::{Result, ensure};
use taskgate_ebpf::abi::Direction::Egress;
use testkit::{
    Action, Config, E2eTest, MapDump, Process, at, ip,
    ledger::Ledger,
    netns::until,
    record::Status,
    traffic::{Client, Flood, TcpEcho},
};

const LOUD: &str = "10.88.0.10";
const QUIET: &str = "10.88.0.20";
const OUTSIDE: &str = "10.99.0.2";
const ECHO: u16 = 7;
/// The first of ports that reset.
const CLOSED: u16 = 9001;

/// SYNs that are reset, two records each, in a window of ten minutes: more records than are kept, under a memory limit
/// that they would exceed. The flooding task lacks some records, which is reported, the other task's are complete, and
/// the gates stay up.
#[test]
fn connections_that_come_and_go_take_no_more_memory_than_there_is() -> Result<()> {
    const ROUNDS: u16 = 10;
    const FLOWS: u16 = 12_000;
    const ROOM: u64 = 28 << 20;
    let test = E2eTest::start_with(Some(600), |config| {
        config
            .group("client", "egress: [{ protocol: all, to: [10.99.0.0/24] }]")
            .task("loud-1", &[LOUD], &["client"])
            .task("quiet-1", &[QUIET], &["client"])
            .with("settings: { connections: { total: 16384 }, denials: { total: 1024 } }")
    })?;
    let held = MapDump::of(&test.daemon)?;
    let _echo = TcpEcho::start(&test.topology.outside, ECHO)?;
    let (loud, quiet) = (test.task("loud-1")?, test.task("quiet-1")?);
    let mut live = Client::connect(quiet, at(OUTSIDE, ECHO))?;
    live.echo(100)?;
    let flow = live.flow();

    let pid = test.daemon.pid()?;
    let data_bytes = || Ok::<_, anyhow::Error>(Process::of(&test.daemon)?.data * 1024);
    let limit = data_bytes()? + ROOM;
    let limited = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--data={limit}:{limit}")])
        .status()?;
    ensure!(limited.success(), "prlimit: {limited}");
    for round in 0..ROUNDS {
        let flood = Flood::syn(loud, ip(LOUD), at(OUTSIDE, CLOSED + round))?;
        flood.send(10_000, FLOWS)?;
        held.await_counted(Egress, "rule", &[u64::from(FLOWS) * u64::from(round + 1), 1])?;
        live.echo(10)?;
        held.age(11)?;
        until("what is over is removed", || Ok(held.used().conns < 100))?;
    }
    live.echo(100)?;
    live.abort()?;
    assert!(data_bytes()? <= limit);

    // The flood is too much for a tap.
    let expected = Ledger::of_wires(&[("quiet-1", test.wire("quiet-1")?)])?;
    let stopped = test.daemon.stop()?;
    let recorded = stopped.ledger()?;
    assert_eq!(
        recorded.get("quiet-1", flow, Action::Accept),
        expected.get("quiet-1", flow, Action::Accept),
        "whole"
    );
    assert_eq!(
        recorded.total("quiet-1", Action::Accept),
        expected.total("quiet-1", Action::Accept)
    );
    let sent = 2 * u64::from(ROUNDS) * u64::from(FLOWS);
    assert!(recorded.total("loud-1", Action::Accept).packets < sent / 2);
    let lacking = |task: &str| {
        let eni = Config::eni(task);
        let mut records = stopped.records.iter();
        records.any(|record| record.eni == eni && record.status == Status::SkipData)
    };
    assert!(lacking("loud-1") && !lacking("quiet-1"));
    Ok(())
}
