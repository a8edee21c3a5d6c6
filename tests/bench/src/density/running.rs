//! A running taskgate with one task and with as many as there can be: time, memory, and whether its records are complete.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use taskgate_bpf::sys::lift_open_files_limit;

use super::DensityEffort;
use crate::{process::Process, table::table};
use testkit::{
    Config, Daemon, Ledger,
    scale::{Branches, Tasks},
};

/// What was measured of one.
#[derive(Clone, Debug, Default)]
struct Running {
    tasks: u16,
    start: Duration,
    reload: Duration,
    end: Duration,
    process: Process,
    records: usize,
}

fn timed<R>(what: impl FnOnce() -> Result<R>) -> Result<(Duration, R)> {
    let began = Instant::now();
    let result = what()?;
    Ok((began.elapsed(), result))
}

/// Ends it, and compares all that it recorded.
fn end(daemon: Daemon, expected: &Ledger) -> Result<(Duration, usize)> {
    let (end, stopped) = timed(|| daemon.stop())?;
    ensure!(stopped.ledger()? == *expected, "the records are not complete");
    Ok((
        end,
        stopped.records.iter().filter(|record| record.flow.is_some()).count(),
    ))
}

fn reload(daemon: &mut Daemon, config: &Config) -> Result<Duration> {
    Ok(timed(|| daemon.apply(config))?.0)
}

fn with_tasks(count: u16) -> Result<Running> {
    let mut tasks = Tasks::new(count)?;
    let config = tasks.config(true);
    let (start, mut daemon) = timed(|| tasks.start(&config))?;
    let process = Process::of(&daemon)?;
    tasks.ask()?;
    tasks.intrude(&daemon)?;
    let reload = reload(&mut daemon, &tasks.config(false))?;
    // Nobody may ask any more, and all go on.
    tasks.ask()?;
    let (end, records) = end(daemon, &tasks.expected())?;
    tasks.await_gone()?;
    Ok(Running {
        tasks: count,
        start,
        reload,
        end,
        process,
        records,
    })
}

fn with_branches(count: u16) -> Result<Running> {
    let branches = Branches::new(count)?;
    let config = branches.config();
    let (start, mut daemon) = timed(|| branches.start(&config))?;
    let process = Process::of(&daemon)?;
    let expected = branches.send(&daemon)?;
    let reload = reload(&mut daemon, &config)?;
    let (end, records) = end(daemon, &expected)?;
    Ok(Running {
        tasks: count,
        start,
        reload,
        end,
        process,
        records,
    })
}

/// Measures one and many of both.
pub(super) fn measure(effort: DensityEffort, say: &dyn Fn(&str)) -> Result<String> {
    lift_open_files_limit();
    let mut all = Vec::new();
    for count in [1, effort.tasks] {
        say(&format!("taskgate makes {count} tasks"));
        all.push(with_tasks(count)?);
    }
    for count in [1, effort.branches] {
        say(&format!("a trunk has {count} branches"));
        all.push(with_branches(count)?);
    }
    let heading = [
        "a running taskgate".to_owned(),
        "1 task made".to_owned(),
        format!("{} made", all[1].tasks),
        "1 branch".to_owned(),
        format!("{} branches", all[3].tasks),
        String::new(),
    ];
    let milliseconds = |time: Duration| time.as_millis().to_string();
    // What each task more takes, beside the one that is alone.
    let each = |at: usize| {
        let (one, many) = (&all[at - at % 2], &all[at]);
        let bytes = many.process.resident.saturating_sub(one.process.resident) * 1024;
        match many.tasks {
            0 | 1 => String::new(),
            tasks => (bytes / u64::from(tasks - 1)).to_string(),
        }
    };
    let row = |name: &str, cell: &dyn Fn(&Running) -> String| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|at| cell(&all[at]));
        [name.to_owned(), a, b, c, d, String::new()]
    };
    let [a, b, c, d] = [0, 1, 2, 3].map(each);
    let rows = [
        row("start until all are gated, ms", &|r| milliseconds(r.start)),
        row("CPU time of that, ms", &|r| milliseconds(r.process.cpu)),
        row("resident memory, KiB", &|r| r.process.resident.to_string()),
        row("the most it was, KiB", &|r| r.process.peak.to_string()),
        [
            "resident memory for each task more, bytes".to_owned(),
            a,
            b,
            c,
            d,
            String::new(),
        ],
        row("its maps in the kernel, KiB", &|r| r.process.maps.to_string()),
        row("open files", &|r| r.process.files.to_string()),
        row("reload until it is in force, ms", &|r| milliseconds(r.reload)),
        row("end, ms", &|r| milliseconds(r.end)),
        row("records, none missing", &|r| r.records.to_string()),
    ];
    let heading = heading.each_ref().map(String::as_str);
    Ok(format!("\n{}", table(heading, &rows)))
}
