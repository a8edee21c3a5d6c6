//! A daemon from start to end, with one task and with many: time, memory, and completeness of its records.

use std::{
    iter,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use super::{ControlEffort, Made};
use crate::table::table;
use testkit::{
    Config, Daemon, Ledger, Process,
    scale::{Branches, Tasks},
};

/// The columns of a table: a name, the measured values, and an empty one.
const COLUMNS: usize = 8;

#[derive(Clone, Debug, Default)]
struct Running {
    start: Duration,
    reload: Duration,
    end: Duration,
    after: Afterwards,
    process: Process,
    records: usize,
}

/// The next run, which takes over everything that the first one left.
#[derive(Clone, Debug, Default)]
struct Afterwards {
    takeover: Duration,
    cleanup: Duration,
}

fn timed<R>(what: impl FnOnce() -> Result<R>) -> Result<(Duration, R)> {
    let began = Instant::now();
    let result = what()?;
    Ok((began.elapsed(), result))
}

impl Running {
    /// Stops the daemon and compares all of its records with the expected ones; its gates stay attached until the run
    /// that `again` starts has taken them over.
    fn end(&mut self, daemon: Daemon, expected: &Ledger, again: impl FnOnce() -> Result<Daemon>) -> Result<()> {
        let (end, stopped) = timed(|| daemon.leave())?;
        ensure!(stopped.ledger()? == *expected, "the records are not complete");
        self.end = end;
        self.records = stopped.records.iter().filter(|record| record.flow.is_some()).count();
        self.after = afterwards(again)?;
        Ok(())
    }
}

/// Has the next run take over, which records nothing twice, and takes everything away.
fn afterwards(start: impl FnOnce() -> Result<Daemon>) -> Result<Afterwards> {
    let (takeover, daemon) = timed(start)?;
    let (cleanup, stopped) = timed(|| daemon.stop())?;
    let twice = stopped.records.iter().filter(|record| record.flow.is_some()).count();
    ensure!(twice == 0, "{twice} records were written twice");
    Ok(Afterwards { takeover, cleanup })
}

/// Starts a daemon and measures its start and its resources before any traffic.
fn start(begin: impl FnOnce() -> Result<Daemon>) -> Result<(Running, Daemon)> {
    let (start, daemon) = timed(begin)?;
    let running = Running {
        start,
        process: Process::of(&daemon)?,
        ..Running::default()
    };
    Ok((running, daemon))
}

fn reload(daemon: &mut Daemon, config: &Config) -> Result<Duration> {
    Ok(timed(|| daemon.apply(config))?.0)
}

fn with_tasks(count: u16, attach: &str) -> Result<Running> {
    let mut tasks = Tasks::new(count)?;
    let settings = format!("attach: {attach},");
    let config = tasks.config_with(true, &settings);
    let (mut running, mut daemon) = start(|| tasks.start(&config))?;
    tasks.ask()?;
    tasks.intrude(&daemon)?;
    running.reload = reload(&mut daemon, &tasks.config_with(false, &settings))?;
    // No rule allows new requests any more; the tracked connections continue.
    tasks.ask()?;
    running.end(daemon, &tasks.expected(), || {
        tasks.start(&tasks.config_with(false, &settings))
    })?;
    tasks.await_gone()?;
    Ok(running)
}

fn with_branches(count: u16) -> Result<Running> {
    let branches = Branches::new(count)?;
    let config = branches.config();
    let (mut running, mut daemon) = start(|| branches.start(&config))?;
    let expected = branches.send(&daemon)?;
    running.reload = reload(&mut daemon, &config)?;
    running.end(daemon, &expected, || branches.start(&config))?;
    Ok(running)
}

/// Measures them all, each with its own taskgate.
pub(super) fn measure(effort: ControlEffort, say: &dyn Fn(&str)) -> Result<String> {
    let mut all = Vec::new();
    for Made { tasks, attach } in effort.made {
        say(&format!("taskgate makes {tasks} tasks, attach: {attach}"));
        all.push((format!("{tasks} made, {attach}"), with_tasks(tasks, attach)?));
    }
    for count in effort.branches {
        say(&format!("a trunk has {count} branches"));
        let plural = if count == 1 { "" } else { "es" };
        all.push((format!("{count} branch{plural}"), with_branches(count)?));
    }
    let milliseconds = |time: Duration| time.as_millis().to_string();
    let row = |name: &str, cell: &dyn Fn(&Running) -> String| cells(name, all.iter().map(|(_, running)| cell(running)));
    let rows = [
        row("start until all are gated, ms", &|r| milliseconds(r.start)),
        row("CPU time of that, ms", &|r| milliseconds(r.process.cpu)),
        row("resident memory, KiB", &|r| r.process.resident.to_string()),
        row("the most it was, KiB", &|r| r.process.peak.to_string()),
        row("its maps in the kernel, KiB", &|r| r.process.maps.to_string()),
        row("open files", &|r| r.process.files.to_string()),
        row("reload until it is in force, ms", &|r| milliseconds(r.reload)),
        row("end, ms", &|r| milliseconds(r.end)),
        row("start that takes it over, ms", &|r| milliseconds(r.after.takeover)),
        row("end and cleanup, ms", &|r| milliseconds(r.after.cleanup)),
        row("records, none missing", &|r| r.records.to_string()),
    ];
    let heading = cells("a running taskgate", all.iter().map(|(name, _)| name.clone()));
    Ok(format!("\n{}", table(heading.each_ref().map(String::as_str), &rows)))
}

/// A row with these cells; the text column at the end stays empty.
fn cells(name: &str, cells: impl Iterator<Item = String>) -> [String; COLUMNS] {
    let mut row = [const { String::new() }; COLUMNS];
    for (column, cell) in row.iter_mut().zip(iter::once(name.to_owned()).chain(cells)) {
        *column = cell;
    }
    row
}
