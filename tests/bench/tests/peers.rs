//! A short run of `bench peers`, and `compare` on its output.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bench::{
    compare,
    peers::{self, PeersEffort, filter::PacketFilter},
};
use testkit::names::{TempDir, unique};

const SMALLEST: PeersEffort = PeersEffort {
    builds: 1,
    rounds: 1,
    slice: Duration::from_millis(2),
    rules: &[1, 10],
};

#[test]
fn what_peers_writes_compare_reads() -> Result<()> {
    let report = peers::run(SMALLEST, &|_| ())?;
    for filter in PacketFilter::ALL {
        let name = filter.to_string();
        let rows = report.peers.iter().filter(|rate| rate.filter == name).count();
        let missing = report.not_measured.iter().any(|missing| missing.filter == name);
        let expected = match filter {
            _ if missing => 0,
            PacketFilter::Absent => 8,
            _ => 10 * SMALLEST.rules.len(),
        };
        ensure!(
            rows == expected,
            "{rows} rows of {name}, not {expected}:\n{}",
            report.text()
        );
    }
    for filter in [PacketFilter::Absent, PacketFilter::Taskgate] {
        ensure!(
            report.peers.iter().any(|rate| rate.filter == filter.to_string()),
            "{filter} can be measured everywhere"
        );
    }

    let folder = TempDir::new(&unique())?;
    let file = folder.path().join("peers.json");
    fs::write(&file, serde_json::to_string(&report)?)?;
    let text = compare::files(&file, &file)?;
    let heading = text.lines().next().context("an empty text")?;
    ensure!(heading.starts_with("medians") && !text.contains("only in"), "{text}");
    ensure!(text.lines().count() == 1 + report.peers.len(), "{text}");
    Ok(())
}
