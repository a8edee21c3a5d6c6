//! Scans: many denied ports, one after another.

use std::{thread::sleep, time::Duration};

use anyhow::Result;
use taskgate_ebpf::abi::Direction::Ingress;
use testkit::{Action, E2eTest, MapDump, OUTSIDE_V4, at, record::Status, scale::Branches, traffic::Flood};

use super::{FIRST, LOUD, SINK, lacks};

/// A scan of more flows than the table has room for leaves all of its records, if it takes some seconds.
#[test]
fn a_scan_of_many_times_the_room_leaves_its_records() -> Result<()> {
    const PORTS: u16 = 8000;
    const AT_ONCE: u16 = 100;
    let test = E2eTest::start_with(Some(600), |config| {
        config
            .group("closed", "egress: []")
            .task("loud-1", &[LOUD], &["closed"])
            .with("settings: { denials: { total: 4096 } }")
    })?;
    let held = MapDump::of(&test.daemon)?;
    let scan = Flood::syn(&test.topology.outside, OUTSIDE_V4, at(LOUD, SINK))?;
    scan.send(FIRST, 1)?;
    held.await_counted(Ingress, "no-rule", &[1])?;
    for first in (1..PORTS).step_by(AT_ONCE.into()) {
        scan.send(FIRST + first, AT_ONCE.min(PORTS - first))?;
        sleep(Duration::from_millis(100));
    }
    held.await_counted(Ingress, "no-rule", &[PORTS.into()])?;
    assert_eq!(held.used().denied_lost, 0);
    is_recorded_whole(test, PORTS)
}

/// nmap's thousand ports of some of five hundred tasks that are all present, in one window.
#[test]
fn a_scan_leaves_its_records_beside_hundreds_of_tasks() -> Result<()> {
    const TASKS: u16 = 500;
    const SCANNED: u16 = 30;
    const PORTS: u16 = 1000;
    let branches = Branches::new(TASKS)?;
    let daemon = branches.start(&branches.config())?;
    daemon.await_message("tasks present: 500; guaranteed to each and common to all: ")?;
    let expected = branches.scan(&daemon, SCANNED, PORTS)?;
    let stopped = daemon.stop()?;
    assert_eq!(stopped.ledger()?, expected);
    let missing = stopped.records.iter().find(|record| record.status == Status::SkipData);
    assert!(missing.is_none(), "{missing:?}");
    Ok(())
}

/// Stops taskgate; each port must have a record.
fn is_recorded_whole(test: E2eTest, ports: u16) -> Result<()> {
    let stopped = test.daemon.stop()?;
    assert_eq!(
        stopped.ledger()?.total("loud-1", Action::Reject).packets,
        u64::from(ports)
    );
    assert!(!lacks(&stopped.records, "loud-1"));
    Ok(())
}
