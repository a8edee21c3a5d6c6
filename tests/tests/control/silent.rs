//! The commands against a taskgate that does not answer.

use std::{
    panic::resume_unwind,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{E2eTest, Ledger};

use crate::server;

const UNHEALTHY: i32 = 6;
/// Ten seconds until taskgate is asked whether it is alive, and ten for the answer.
const MOST: Duration = Duration::from_secs(30);

#[test]
fn one_that_is_stopped_is_not_waited_for() -> Result<()> {
    let test = E2eTest::start(server)?;
    test.daemon.signal(Signal::SIGSTOP)?;
    let pid = test.daemon.pid()?;
    let commands = [
        "status",
        "status -o json",
        "task list",
        "reload",
        "diff",
        "connections",
        "task add x --group server --address 10.88.0.99",
        "task remove x",
        "task isolate web-1",
    ];
    let answers = thread::scope(|scope| {
        let run = |command: &'static str| {
            let (control, host) = (test.control(), &test.topology.host);
            scope.spawn(move || -> Result<(Output, Duration)> {
                let begun = Instant::now();
                let words: Vec<&str> = command.split(' ').collect();
                Ok((control.taskgate(host, &words)?, begun.elapsed()))
            })
        };
        let running = commands.map(run);
        running.map(|command| command.join().unwrap_or_else(|panic| resume_unwind(panic)))
    });
    test.daemon.signal(Signal::SIGCONT)?;
    for (command, answer) in commands.iter().zip(answers) {
        let (output, took) = answer?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(UNHEALTHY) && took < MOST,
            "{command}: {} after {took:?}: {said}",
            output.status
        );
        ensure!(
            said.contains("did not answer") && said.contains(&format!("process {pid} is in state T")),
            "{command}: {said}"
        );
        let shown = String::from_utf8_lossy(&output.stdout);
        match *command {
            "status" => ensure!(shown.contains("its gates stand, and judge by generation 1"), "{shown}"),
            "status -o json" => {
                let status: Value = serde_json::from_str(&shown)?;
                ensure!(
                    status["running"] == true && status["healthy"] == false && status["pid"] == pid,
                    "{status}"
                );
                ensure!(status["generation"] == 1, "{status}");
            }
            _ => ensure!(shown.is_empty(), "{command}: {shown}"),
        }
    }
    // It is unknown which requests the daemon read before it was stopped; it carries out none twice.
    testkit::netns::until("it answers", || Ok(test.control().get("/v1/status")?.status == 200))?;
    test.control()
        .post("/v1/tasks/web-1/isolate", &serde_json::json!({ "undo": true }))?
        .ok()?;
    let output = test.control().taskgate(&test.topology.host, &["status"])?;
    ensure!(output.status.success(), "{output:?}");
    test.finish(&Ledger::default())?;
    Ok(())
}
