//! The demo: three tasks on one host, real traffic between them, the verdict of each gate, and the flow records.
//!
//! It runs in a [`sandbox`]: the machine's links, its /run and its processes are not touched, and nothing is left behind,
//! in whatever way the demo ends. `cargo xtask demo` builds it and runs it as root.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

mod attempts;
mod expected;
mod explain;
mod hosts;
mod outage;
mod show;
mod topology;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use attempts::{Attempt, Happened, PLAN, Way};
use expected::{Expected, Line};
use explain::{Explainer, Gate};
use hosts::Hosts;
use outage::Kept;
use show::Show;
use testkit::{
    daemon::{self, Daemon, Options},
    netns::{Netns, PATIENCE},
    sandbox::sandbox,
    steps::HeldUp,
};

/// The flow logs' interval, in seconds.
const INTERVAL: u32 = 5;

fn main() -> ExitCode {
    match play() {
        Ok(wrong) if wrong.is_empty() => {
            println!("\nall of it went as the rules say, and taskgate left nothing behind");
            return ExitCode::SUCCESS;
        }
        Ok(wrong) => {
            for line in &wrong {
                eprintln!("demo: wrong: {line}");
            }
            eprintln!(
                "error: {} of the demo's results are not what they should be",
                wrong.len()
            );
        }
        Err(error) => eprintln!("error: {error:#}"),
    }
    ExitCode::FAILURE
}

/// Plays the demo, prints it, and returns the deviations, a line each.
fn play() -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    sandbox(|| async {
        wrong = on_a_host()?;
        Ok(())
    })?;
    Ok(wrong)
}

/// The folder with the configuration.
fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/aws")
}

/// Prints a line about the step that begins.
fn say(line: &str) {
    eprintln!("demo: {line}");
}

fn on_a_host() -> Result<Vec<String>> {
    say("making a host and a client outside it, as network namespaces");
    let (host, client) = topology::host_and_client()?;
    say("starting `taskgate run`");
    let options = Options {
        instance: "demo",
        interval: Some(INTERVAL),
        patience: PATIENCE,
        watch: false,
        drop_connections: false,
        held_up: HeldUp::Never,
    };
    let daemon = Daemon::start_in(&host, &config(), BTreeMap::new(), options)?;
    let demo = Demo::new(client)?;
    let mut kept = Kept::open(&demo.hosts)?;
    for (name, port) in [("web", 443), ("db", 5432), ("worker", 443)] {
        demo.hosts.get(name)?.serve(port)?;
    }
    kept.ask()?;
    let mut wrong = demo.traffic(&daemon)?;

    say("killing taskgate");
    let mut records = daemon.kill_now()?.records;
    demo.show.killed();
    kept.ask()?;
    for attempt in &PLAN[..2] {
        let (happened, ways, gates) = demo.make(attempt)?;
        wrong.extend(judge_all(attempt, &ways, &gates, &happened));
        demo.show.without_taskgate(attempt, &happened);
    }
    say("starting `taskgate run` again");
    let daemon = Daemon::start_in(&host, &config(), BTreeMap::new(), options)?;
    kept.ask()?;
    let kept = kept.close()?;
    let answered = kept.answered;
    records.extend(daemon.stop()?.records);
    let [recorded, crossed] = kept.sum(&records)?;
    demo.show.taken_over(answered, recorded, crossed);
    if recorded != crossed {
        wrong.push(format!(
            "records of both runs have {recorded:?} packets of the connection that was open all the time, and {crossed:?} crossed web's interface"
        ));
    }
    topology::check_nothing_left(&host)?;
    Ok(wrong)
}

/// The hosts that take part, and how the demo is shown.
struct Demo {
    hosts: Hosts,
    explainer: Explainer,
    show: Show,
}

/// The outcomes of an attempt, its paths, and the verdicts of the gates on them; over IPv4 and over IPv6.
type Made<'a> = ([Happened; 2], [Way<'a>; 2], [Vec<Gate>; 2]);

impl Demo {
    fn new(client: Netns) -> Result<Self> {
        let config = config();
        Ok(Self {
            hosts: Hosts::new(&config, client)?,
            explainer: Explainer {
                binary: daemon::binary()?,
                config,
            },
            show: Show::stdout(),
        })
    }

    fn make(&self, attempt: &Attempt) -> Result<Made<'_>> {
        let ways = attempt.ways(&self.hosts)?;
        let [v4, v6] = ways.each_ref().map(|way| self.explainer.gates(attempt.what, way));
        let gates = [v4?, v6?];
        Ok((attempts::make(attempt, &ways), ways, gates))
    }

    /// Makes all attempts and shows them with their records. Returns the deviations.
    fn traffic(&self, daemon: &Daemon) -> Result<Vec<String>> {
        wait_for_a_window();
        self.show.opening(&self.hosts);
        let mut wrong = Vec::new();
        let mut expected = Vec::new();
        for (number, attempt) in PLAN.iter().enumerate() {
            let (happened, ways, gates) = self.make(attempt)?;
            wrong.extend(judge_all(attempt, &ways, &gates, &happened));
            for (way, gates) in ways.iter().zip(&gates) {
                expected.extend(Expected::of(number, attempt.what, way, gates));
            }
            self.show.attempt(number + 1, attempt, &happened, &gates);
        }

        say("waiting for the capture window to end");
        let all_there = |lines: &[String]| {
            let lines = Line::all(lines).unwrap_or_default();
            expected.iter().all(|one| one.is_met(&lines))
        };
        let lines = daemon.await_lines(Duration::from_secs(2 * u64::from(INTERVAL)), all_there);
        let lines = Line::all(&lines).context("taskgate printed something else than flow records")?;
        self.show.records(&self.hosts, &lines, &expected);
        let missing = expected.iter().filter(|one| !one.is_met(&lines));
        wrong.extend(missing.map(|one| format!("there is no flow record for {one}")));
        let contradicts = |line: &&Line| expected.iter().any(|one| one.is_contradicted(&line.record));
        let contradicting = lines.iter().filter(contradicts);
        wrong.extend(contradicting.map(|line| format!("a flow record says the contrary of the gate: {}", line.text)));
        Ok(wrong)
    }
}

/// The deviations of an attempt over both families.
fn judge_all(attempt: &Attempt, ways: &[Way<'_>; 2], gates: &[Vec<Gate>; 2], happened: &[Happened; 2]) -> Vec<String> {
    let each = ways.iter().zip(gates).zip(happened);
    each.filter_map(|((way, gates), happened)| judge(attempt, way, gates, happened))
        .collect()
}

/// The deviation of an attempt from its expectation.
fn judge(attempt: &Attempt, way: &Way<'_>, gates: &[Gate], happened: &Happened) -> Option<String> {
    let passes = match happened {
        Happened::Answered(_) => Some(true),
        Happened::Silence => Some(false),
        Happened::Broken(_) => None,
    };
    let explained = gates.iter().all(Gate::accepts);
    if passes == Some(attempt.passes) && explained == attempt.passes {
        return None;
    }
    let word = |passes| if passes { "pass" } else { "be denied" };
    Some(format!(
        "{attempt} over {} should {}; {happened}, and `taskgate explain` says it should {}",
        way.family(),
        word(attempt.passes),
        word(explained)
    ))
}

/// Waits until a capture window has enough time left for all attempts, so that they are not split between two windows.
fn wait_for_a_window() {
    let denied = PLAN.iter().filter(|attempt| !attempt.passes).count() as u32;
    let needed = attempts::PATIENCE * denied + Duration::from_millis(500);
    let interval = Duration::from_secs(INTERVAL.into());
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let gone = Duration::from_millis((now.as_millis() % interval.as_millis()) as u64);
    let left = interval.saturating_sub(gone);
    if left < needed {
        // A moment into the next window, in which taskgate closes the previous one.
        thread::sleep(left + Duration::from_millis(100));
    }
}
