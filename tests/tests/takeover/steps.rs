//! taskgate is killed before each step by which it changes persistent state: bpffs and the kernel's hooks, links and
//! addresses, files. The steps are the system calls of the real binary, counted in an undisturbed run. By default it is
//! killed before the first and the last step of each kind; `TASKGATE_TEST_LONG=1` covers all of them.

use std::{
    collections::BTreeMap,
    env,
    os::unix::process::ExitStatusExt as _,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::{Daemon, E2eTest, netns::PATIENCE, steps::HeldUp};

use crate::{
    DB, SERVER,
    rounds::{hear, under_traffic},
};

/// The operation during which taskgate is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Takeover,
    Apply,
    Add,
    Remove,
    /// The end of a window.
    Window,
    End,
}

/// The numbers, among this many steps of a kind, of those before which taskgate is killed.
fn numbers(steps: usize) -> Vec<usize> {
    if env::var_os("TASKGATE_TEST_LONG").is_some() {
        (0..steps).collect()
    } else if steps > 1 {
        vec![0, steps - 1]
    } else {
        vec![0]
    }
}

fn begin(test: &E2eTest, held_up: HeldUp<'_>) -> Result<Daemon> {
    test.topology.begin_held_up(&test.config, held_up)
}

/// Continues with a process that waits at each step, after the previous one was killed.
fn go_on(test: &mut E2eTest) -> Result<()> {
    let next = begin(test, HeldUp::AtEachStep)?;
    next.await_ready(PATIENCE)?;
    test.succeed(next)
}

fn add(test: &E2eTest) -> Result<()> {
    let namespace = test.topology.config().namespace("db-1");
    let task = json!({ "name": "db-1", "groups": ["server"], "addresses": [DB], "namespace": namespace });
    test.control().post("/v1/tasks", &task)?.ok().map(drop)
}

fn remove(test: &E2eTest) -> Result<()> {
    let answer = test.control().call("DELETE", "/v1/tasks/db-1", "")?;
    // The task may already be gone.
    if answer.status == 404 {
        Ok(())
    } else {
        answer.ok().map(drop)
    }
}

/// Does the work as far as possible: it fails when taskgate is killed.
fn attempt(test: &mut E2eTest, work: Work, round: usize) -> Result<()> {
    match work {
        Work::Takeover => test.daemon.await_ready(PATIENCE),
        Work::Apply => {
            // A rule set that is new each time, so that it is compiled and switched.
            let port = 1000 + round;
            let rules = SERVER.replace("ports: [80,", &format!("ports: [80, {port},"));
            test.reload(|config| config.group("server", &rules))
        }
        Work::Add => add(test),
        Work::Remove => remove(test),
        Work::Window => {
            // Windows take a second here, and the traffic never ends, so that each has records.
            let lines = test.daemon.records()?.len();
            let written = test.daemon.await_lines(PATIENCE, |all| all.len() > lines + 1);
            ensure!(written.len() > lines + 1, "no window ended");
            Ok(())
        }
        Work::End => test.leave(),
    }
}

/// Prepares the state in which the work begins.
fn prepare(test: &E2eTest, work: Work) -> Result<()> {
    match work {
        Work::Add => remove(test),
        Work::Remove => add(test),
        Work::Takeover | Work::Apply | Work::Window | Work::End => Ok(()),
    }
}

/// The steps of a work that nothing disturbs.
fn count(test: &mut E2eTest, work: Work) -> Result<BTreeMap<String, usize>> {
    if work == Work::Takeover {
        test.kill()?;
        go_on(test)?;
        return Ok(test.daemon.steps()?.take());
    }
    prepare(test, work)?;
    test.daemon.steps()?.take();
    attempt(test, work, 0)?;
    let steps = test.daemon.steps()?.take();
    if work == Work::End {
        go_on(test)?;
    }
    Ok(steps)
}

/// Kills taskgate before a step. Returns whether the step was reached.
fn kill_before(test: &mut E2eTest, work: Work, kind: &str, number: usize, round: usize) -> Result<bool> {
    if work == Work::Takeover {
        test.kill()?;
        let next = begin(test, HeldUp::Until(kind, number))?;
        let taken_over = next.await_ready(PATIENCE);
        test.succeed(next)?;
        go_on(test)?;
        return Ok(taken_over.is_err());
    }
    prepare(test, work)?;
    test.daemon.steps()?.kill_before(kind, number);
    let done = attempt(test, work, round);
    let since = Instant::now();
    // The answer may come before the last step.
    let ended = loop {
        let ended = test.daemon.ended()?;
        if ended.is_some() || done.is_ok() && since.elapsed() > Duration::from_millis(200) {
            break ended;
        }
        sleep(Duration::from_millis(5));
    };
    if ended.is_none() {
        test.kill()?;
    }
    go_on(test)?;
    Ok(ended.is_some_and(|status| status.signal().is_some()))
}

fn at_every_step(works: &[Work]) -> Result<()> {
    under_traffic(|test, _objects| {
        test.kill()?;
        go_on(test)?;
        let (mut visited, mut missed, mut round) = (0, Vec::new(), 0);
        for &work in works {
            let steps = count(test, work)?;
            ensure!(!steps.is_empty(), "{work:?} took no step");
            for (kind, steps) in steps {
                for number in numbers(steps) {
                    round += 1;
                    let killed = kill_before(test, work, &kind, number, round)
                        .with_context(|| format!("{work:?}, killed before `{kind}` {number}"))?;
                    if killed {
                        visited += 1;
                    } else {
                        missed.push(format!("{work:?}, `{kind}` {number}"));
                    }
                    hear(test)?;
                }
            }
        }
        // Timing decides which process writes in which window, so that some steps may be missed.
        ensure!(missed.len() * 4 <= visited, "{visited} steps, but not {missed:?}");
        remove(test)
    })
}

#[test]
fn kills_at_every_step_of_a_takeover() -> Result<()> {
    at_every_step(&[Work::Takeover])
}

#[test]
fn kills_at_every_step_of_a_change() -> Result<()> {
    at_every_step(&[Work::Apply, Work::Add, Work::Remove])
}

#[test]
fn kills_at_every_step_of_a_window_and_of_the_end() -> Result<()> {
    at_every_step(&[Work::Window, Work::End])
}
