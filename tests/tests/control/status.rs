//! `GET /v1/status`: the state of the kernel, also after other processes changed it.

use std::{
    fs,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use taskgate_bpf::sys;
use testkit::{
    Config, E2eTest, Netns, at,
    netns::until,
    pins,
    traffic::{Answer, Client, TcpEcho, probe},
};

use crate::{WEB, server};

const UNHEALTHY: i32 = 6;
const NOT_RUNNING: i32 = 4;

fn status(test: &E2eTest) -> Result<Value> {
    test.control().get("/v1/status")?.ok()
}

fn drift_kinds(status: &Value) -> Vec<&str> {
    let drift = status["drift"].as_array().map_or(&[][..], Vec::as_slice);
    let open = drift.iter().filter(|deviation| deviation["repaired"].is_null());
    open.filter_map(|deviation| deviation["kind"].as_str()).collect()
}

/// The kinds of drift that were found and repaired.
fn repaired_kinds(status: &Value) -> Vec<&str> {
    let drift = status["drift"].as_array().map_or(&[][..], Vec::as_slice);
    let past = drift.iter().filter(|deviation| deviation["repaired"].is_u64());
    past.filter_map(|deviation| deviation["kind"].as_str()).collect()
}

fn exit_of(test: &E2eTest, words: &[&str]) -> Result<(Option<i32>, String)> {
    let output = test.control().taskgate(&test.topology.host, words)?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

fn tool(host: &Netns, program: &str, words: &str) -> Result<()> {
    let words: Vec<_> = words.split(' ').collect();
    host.output(program, &words).map(drop)
}

/// Both ways for a gate to hang.
fn with_gates_as(attach: &'static str) -> impl FnOnce(Config) -> Config {
    move |config| server(config).with(&format!("settings: {{ attach: {attach} }}"))
}

fn check_gated(test: &E2eTest) -> Result<()> {
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    ensure!(probe(&test.topology.outside, at(WEB, 81))? == Answer::Silence);
    Ok(())
}

#[test]
fn status_tells_of_gates_tables_and_losses() -> Result<()> {
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    ensure!(probe(&test.topology.outside, at(WEB, 81))? == Answer::Silence);
    let status = status(&test)?;
    let task = &status["tasks"][0];
    ensure!(
        status["healthy"] == true && task["task"] == "web-1" && task["state"] == "gated",
        "{status}"
    );
    ensure!(task["link"] == test.topology.host_link("web-1")?.as_str(), "{task}");
    let (tables, all) = (&task["tables"], &status["tables"]);
    ensure!(
        tables["connections"]["used"] == 1 && tables["denials"]["used"] == 1,
        "{task}"
    );
    ensure!(
        all["connections"]["used"] == 1 && all["denials"]["used"] == 1,
        "{status}"
    );
    let gates = task["gates"].as_array().context("no gates")?;
    let sides: Vec<_> = gates
        .iter()
        .map(|gate| (&gate["direction"], &gate["program"]))
        .collect();
    ensure!(
        sides
            == [
                (&"egress".into(), &"from_task".into()),
                (&"ingress".into(), &"to_task".into())
            ],
        "{task}"
    );
    // They are the programs that the process holds.
    for gate in gates {
        let id = gate["program-id"]
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .context("no id")?;
        ensure!(test.daemon.objects()?.programs.contains(&id), "{gate}");
        ensure!(
            gate["tag"]
                .as_str()
                .is_some_and(|tag| tag.len() == 16 && tag != "0000000000000000"),
            "{gate}"
        );
    }
    let (code, said) = exit_of(&test, &["status"])?;
    ensure!(
        code == Some(0) && said.contains("web-1") && said.contains("gated"),
        "{said}"
    );
    let (code, said) = exit_of(&test, &["task", "list", "-o", "json"])?;
    ensure!(code == Some(0) && said.contains("\"program-id\""), "{said}");
    live.finish()?;
    let expected = test.denied_in(&[("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// A gate that another process detached or replaced is reported, repaired, and reported as repaired.
fn meddle(attach: &'static str, kind: &str, act: impl Fn(&E2eTest, &str) -> Result<()>) -> Result<()> {
    let test = E2eTest::start(with_gates_as(attach))?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    check_gated(&test)?;
    let link = test.topology.host_link("web-1")?;
    act(&test, &link)?;
    // Reported at once, since the status reads the kernel's state.
    until("it is found", || {
        let status = status(&test)?;
        let kinds = drift_kinds(&status).contains(&kind) || repaired_kinds(&status).contains(&kind);
        Ok(kinds)
    })?;
    until("it is put right", || Ok(status(&test)?["healthy"] == true))?;
    let after = status(&test)?;
    ensure!(repaired_kinds(&after).contains(&kind), "{after}");
    check_gated(&test)?;
    live.echo(1000)?;
    live.finish()?;
    test.daemon.await_message("does not hold what it should")?;
    // The next process finds the gate complete, too.
    test.kill()?;
    check_gated(&test)?;
    Ok(())
}

#[test]
fn a_tcx_gate_that_was_taken_off_stands_again() -> Result<()> {
    meddle("tcx", "gate-missing", |test, _link| {
        let instance = test.topology.instance("main");
        for name in pins::names(&instance, "links")? {
            let path = pins::folder(&instance).join("links").join(name);
            detach(&path)?;
        }
        Ok(())
    })
}

#[test]
fn one_side_of_a_tcx_gate_that_was_taken_off_stands_again() -> Result<()> {
    meddle("tcx", "gate-missing", |test, _link| {
        let instance = test.topology.instance("main");
        let name = pins::names(&instance, "links")?.pop_first().context("no link")?;
        detach(&pins::folder(&instance).join("links").join(name))
    })
}

#[test]
fn filters_that_were_taken_off_stand_again() -> Result<()> {
    meddle("clsact", "gate-missing", |test, link| {
        tool(&test.topology.host, "tc", &format!("filter del dev {link} ingress"))
    })
}

#[test]
fn a_clsact_that_was_taken_off_stands_again() -> Result<()> {
    meddle("clsact", "gate-missing", |test, link| {
        tool(&test.topology.host, "tc", &format!("qdisc del dev {link} clsact"))
    })
}

#[test]
fn names_in_bpffs_that_were_removed_are_given_again() -> Result<()> {
    meddle("tcx", "pin-missing", |test, _link| {
        let folder = pins::folder(&test.topology.instance("main"));
        for kind in ["links", "maps", "images"] {
            for entry in fs::read_dir(folder.join(kind))? {
                fs::remove_file(entry?.path())?;
            }
        }
        Ok(())
    })
}

fn detach(pin: &Path) -> Result<()> {
    Ok(sys::detach(sys::pinned(pin)?.as_fd())?)
}

/// A program without a verdict, attached before all others on a link's ingress.
fn attach_before(link: &str) -> Result<OwnedFd> {
    // r0 = TC_ACT_UNSPEC; exit
    let program = [[0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let program = sys::load_instructions(sys::ProgramKind::Classifier, &program)?;
    Ok(sys::attach_tcx(program.as_fd(), if_nametoindex(link)?, true)?)
}

/// A program that another process attached before the gate is reported, and left to its owner.
#[test]
fn a_program_before_the_gate_is_told_of() -> Result<()> {
    let test = E2eTest::start(with_gates_as("tcx"))?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let link = test.topology.host_link("web-1")?;
    let attached = test.topology.host.run(|| attach_before(&link))?;
    let found = status(&test)?;
    ensure!(
        drift_kinds(&found) == ["program-before"] && found["healthy"] == false,
        "{found}"
    );
    let (code, said) = exit_of(&test, &["status"])?;
    ensure!(
        code == Some(UNHEALTHY) && said.contains("runs before the gate"),
        "{said}"
    );
    drop(attached);
    until("it is gone", || Ok(status(&test)?["healthy"] == true))?;
    ensure!(exit_of(&test, &["status"])?.0 == Some(0));
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn without_a_daemon_the_status_says_what_stands() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    test.kill()?;
    ensure!(
        test.control().path.exists(),
        "a killed process cannot remove its socket"
    );
    let (code, said) = exit_of(&test, &["status"])?;
    ensure!(
        code == Some(UNHEALTHY) && said.contains("gates that it left stand"),
        "{said}"
    );
    let (code, said) = exit_of(&test, &["status", "-o", "json"])?;
    let document: Value = serde_json::from_str(&said)?;
    ensure!(
        code == Some(UNHEALTHY) && document["running"] == false && document["generation"] == 1,
        "{said}"
    );
    let (code, said) = exit_of(&test, &["apply"])?;
    ensure!(code == Some(NOT_RUNNING) && said.contains("does not run"), "{said}");

    // The next process replaces the socket file that was left.
    test.restart(|config| config)?;
    ensure!(status(&test)?["healthy"] == true);
    let (control, host) = (test.control(), test.topology.host.try_clone()?);
    let expected = test.passed()?;
    test.finish(&expected)?;
    ensure!(!control.path.exists(), "the socket is there after the end");
    let output = control.taskgate(&host, &["status"])?;
    ensure!(output.status.code() == Some(NOT_RUNNING), "{output:?}");
    Ok(())
}

#[test]
fn a_task_that_cannot_be_gated_makes_the_status_unhealthy() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    // A bridge carries no task.
    test.topology.host.ip("link add tg-bridge type bridge")?;
    test.reload(|config| config.device_task("odd", "tg-bridge", &["10.88.0.77"], &["server"]))?;
    let found = status(&test)?;
    ensure!(
        found["healthy"] == false && found["not-gated"][0]["task"] == "odd",
        "{found}"
    );
    ensure!(exit_of(&test, &["status"])?.0 == Some(UNHEALTHY));
    let (code, said) = exit_of(&test, &["reload"])?;
    ensure!(code == Some(UNHEALTHY) && said.contains("odd"), "{said}");
    test.reload(|config| config.without_task("odd"))?;
    ensure!(status(&test)?["healthy"] == true);
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}
