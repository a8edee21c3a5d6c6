//! `cargo xtask demo`: three tasks on one host, real traffic between them, what became of it, and the flow records.
//!
//! All of it happens in network and mount namespaces of this process's own ([`place`]): the machine's links, its /run and
//! its processes are not touched, and nothing is left however the demo ends.

use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use crate::{build, exec, setup, workspace};

mod attempt;
mod cast;
mod daemon;
mod explain;
mod inbox;
mod place;
mod record;
mod server;
mod show;

use attempt::{Attempt, Happened, PATIENCE, PLAN, Way};
use cast::Cast;
use daemon::Daemon;
use explain::{Explainer, Gate};
use inbox::Inbox;
use place::Place;
use record::{Expected, Record};
use show::Show;

/// Show taskgate at work: three tasks on one host, traffic between them, verdicts, rules and flow records
#[derive(clap::Args)]
pub(crate) struct Args {}

/// The folder with the configuration, from the workspace's root, where everything is started.
const CONFIG: &str = "examples/aws";
/// The flow logs' interval, in seconds.
const INTERVAL: u64 = 5;

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    if !exec::is_root() {
        bail!(
            "the demo makes network namespaces and loads programs into the kernel: run it as root, for example with \
             `sudo env \"PATH=$PATH\" cargo xtask demo`"
        );
    }
    setup::ensure(false)?;
    say("building taskgate");
    let binary = build::release()?;
    std::env::set_current_dir(workspace::root()).context("cannot go to the workspace's root")?;

    let mut inbox = Inbox::open()?;
    say("making a host and a client outside it, as network namespaces");
    place::become_host()?;
    let client = place::client_outside()?;
    say("starting `taskgate run`");
    let daemon = Daemon::start(&binary, CONFIG, INTERVAL, &inbox)?;
    let played = play(&binary, client, &mut inbox);
    // Whatever happened, taskgate has to go in order and take everything with it.
    let ended = daemon.end(&mut inbox).and_then(|()| place::nothing_left());
    let wrong = match (played, ended) {
        (Ok(wrong), Ok(())) => wrong,
        (played, ended) => {
            inbox.show_log();
            let errors: Vec<_> = [played.err(), ended.err()].into_iter().flatten().collect();
            let lines: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
            bail!("{}", lines.join("\n  and "));
        }
    };
    if wrong.is_empty() {
        println!("\nall of it went as the rules say, and taskgate left nothing behind");
        return Ok(ExitCode::SUCCESS);
    }
    inbox.show_log();
    for line in &wrong {
        say(&format!("wrong: {line}"));
    }
    bail!("{} of the demo's results are not what they should be", wrong.len());
}

/// Says one line about the step that begins.
fn say(line: &str) {
    eprintln!("demo: {line}");
}

/// Makes all attempts and shows them with their records. What is not as it should be comes back, one line for each.
fn play(binary: &Path, client: Place, inbox: &mut Inbox) -> Result<Vec<String>> {
    Daemon::wait_until_up(inbox)?;
    let cast = Cast::new(CONFIG, client)?;
    let explainer = Explainer { binary, config: CONFIG };
    let show = Show::stdout();
    for (name, port) in [("web", 443), ("db", 5432), ("worker", 443)] {
        server::start(cast.get(name)?, port)?;
    }
    wait_for_a_window(inbox)?;

    show.opening(&cast);
    let mut wrong = Vec::new();
    let mut expected = Vec::new();
    for (number, attempt) in PLAN.iter().enumerate() {
        inbox.look()?;
        let ways = attempt.ways(&cast)?;
        let [v4, v6] = ways.each_ref().map(|way| explainer.gates(attempt.what, way));
        let gates = [v4?, v6?];
        let happened = attempt::make(attempt, &ways);
        for ((way, gates), happened) in ways.iter().zip(&gates).zip(&happened) {
            wrong.extend(judge(attempt, way, gates, happened));
            expected.extend(Expected::of(number, attempt.what, way, gates));
        }
        show.attempt(number + 1, attempt, &happened, &gates);
    }

    say("waiting for the capture window to end");
    let limit = Instant::now() + Duration::from_secs(2 * INTERVAL);
    inbox.wait(limit, |inbox| expected.iter().all(|one| one.is_met(&inbox.records)))?;
    show.records(&cast, &inbox.records, &expected);
    let missing = expected.iter().filter(|one| !one.is_met(&inbox.records));
    wrong.extend(missing.map(|one| format!("there is no flow record for {one}")));
    let contradicts = |record: &&Record| expected.iter().any(|one| one.is_contradicted(record));
    let contradicting = inbox.records.iter().filter(contradicts);
    wrong.extend(contradicting.map(|record| format!("a flow record says the contrary of the gate: {record}")));
    Ok(wrong)
}

/// What is wrong with how an attempt went.
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

/// Waits until a capture window has room for all attempts, so that none is split between two.
fn wait_for_a_window(inbox: &mut Inbox) -> Result<()> {
    let denied = PLAN.iter().filter(|attempt| !attempt.passes).count() as u32;
    let needed = PATIENCE * denied + Duration::from_millis(500);
    let interval = Duration::from_secs(INTERVAL);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let gone = Duration::from_millis((now.as_millis() % interval.as_millis()) as u64);
    let left = interval.saturating_sub(gone);
    if left < needed {
        // A moment into the window: taskgate closes the old one then.
        inbox.wait(Instant::now() + left + Duration::from_millis(100), |_| false)?;
    }
    Ok(())
}
