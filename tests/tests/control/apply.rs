//! `POST /v1/apply`, and the commands that use it.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    panic::resume_unwind,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::json;
use testkit::{
    E2eTest, Ledger, at,
    traffic::{Answer, probe, probe_for},
};

use crate::{SERVER, WEB, server};

#[test]
fn a_configuration_is_applied_and_answered() -> Result<()> {
    let test = E2eTest::start(server)?;
    let control = test.control();
    let status = control.get("/v1/status")?.ok()?;
    ensure!(status["running"] == true && status["generation"] == 1, "{status}");
    ensure!(probe(&test.topology.outside, at(WEB, 81))? == Answer::Silence);

    // The other folder is followed from now on.
    let more = test.config.clone().group("server", &SERVER.replace("80", "[80, 81]"));
    let folder = test.topology.folder().join("other");
    fs::create_dir(&folder)?;
    fs::write(folder.join("t.yaml"), more.to_string())?;
    let applied = control.post("/v1/apply", &json!({ "config": folder }))?.ok()?;
    ensure!(
        applied["generation"] == 2 && applied["tasks"] == 1 && applied["gated"] == 1,
        "{applied}"
    );
    ensure!(probe_for(&test.topology.outside, at(WEB, 81), Answer::Refused)? == Answer::Refused);
    let applied = control.post("/v1/apply", &json!({}))?.ok()?;
    ensure!(
        applied["config"] == json!(folder) && applied["generation"] == 3,
        "{applied}"
    );

    // A refused configuration changes nothing, and the answer lists all of its errors.
    fs::write(
        folder.join("t.yaml"),
        "taskgate: v1\ngroups:\n- { name: g, nonsense: 1 }\n- { label: h }\n",
    )?;
    let problem = control.call("POST", "/v1/apply", "")?.problem(422)?;
    ensure!(
        problem["errors"].as_array().is_some_and(|errors| errors.len() >= 2)
            && problem["errors"][0]["file"]
                .as_str()
                .is_some_and(|file| file.ends_with("t.yaml"))
            && problem["errors"][0]["line"] == 3,
        "{problem}"
    );
    let status = control.get("/v1/status")?.ok()?;
    ensure!(
        status["generation"] == 3 && status["last-apply"]["result"] == "refused",
        "{status}"
    );
    ensure!(probe_for(&test.topology.outside, at(WEB, 81), Answer::Refused)? == Answer::Refused);
    let expected = test.denied_in(&[("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}

/// A configuration that is not a regular file, is too large, or is a link to nowhere is refused with its name, and does
/// not block the daemon.
#[test]
fn what_is_no_configuration_changes_nothing() -> Result<()> {
    let test = E2eTest::start(server)?;
    let control = test.control();
    let folder = test.topology.folder().join("odd");
    fs::create_dir(&folder)?;
    let file = folder.join("t.yaml");
    let refused = |what: &str| -> Result<()> {
        let begun = Instant::now();
        let problem = control.post("/v1/apply", &json!({ "config": folder }))?.problem(422)?;
        ensure!(
            problem["errors"].as_array().is_some_and(|errors| !errors.is_empty()),
            "{what}: {problem}"
        );
        ensure!(
            begun.elapsed() < Duration::from_secs(10),
            "{what} took {:?}",
            begun.elapsed()
        );
        Ok(())
    };
    refused("an empty folder")?;
    mkfifo(&file, Mode::S_IRWXU)?;
    refused("a pipe")?;
    fs::remove_file(&file)?;
    symlink("t.yaml", &file)?;
    refused("a link to itself")?;
    fs::remove_file(&file)?;
    File::create(&file)?.set_len(1 << 30)?;
    refused("a file of 1 GiB")?;
    fs::remove_file(&file)?;
    fs::create_dir(&file)?;
    refused("a folder in place of a file")?;
    let whole = test.config.to_string();
    fs::remove_dir(&file)?;
    fs::write(&file, &whole[..whole.len() - whole.len() / 3])?;
    refused("half a file")?;
    let status = control.get("/v1/status")?.ok()?;
    ensure!(status["generation"] == 1 && status["healthy"] == false, "{status}");
    // taskgate still follows the folder of its start.
    let applied = control.call("POST", "/v1/apply", "")?.ok()?;
    ensure!(
        applied["generation"] == 2 && applied["config"] != json!(folder),
        "{applied}"
    );
    ensure!(control.get("/v1/status")?.ok()?["healthy"] == true);
    test.finish(&Ledger::default())?;
    Ok(())
}

/// Concurrent requests from clients and signals are all answered, and the last written configuration is in force.
#[test]
fn many_apply_at_once() -> Result<()> {
    let test = E2eTest::start(server)?;
    let folders: Vec<_> = (0..3).map(|n| test.topology.folder().join(format!("f{n}"))).collect();
    for (n, folder) in folders.iter().enumerate() {
        fs::create_dir(folder)?;
        let rules = SERVER.replace("80", &format!("[80, {}]", 90 + n));
        fs::write(
            folder.join("t.yaml"),
            test.config.clone().group("server", &rules).to_string(),
        )?;
    }
    let control = test.control();
    let answers = thread::scope(|scope| {
        let clients: Vec<_> = (0..24)
            .map(|n| {
                let (folder, control) = (&folders[n % 3], &control);
                scope.spawn(move || -> Result<(String, u64)> {
                    let applied = control.post("/v1/apply", &json!({ "config": folder }))?.ok()?;
                    let config = applied["config"].as_str().context("no folder")?.to_owned();
                    ensure!(Path::new(&config) == folder, "{applied}");
                    Ok((config, applied["generation"].as_u64().context("no generation")?))
                })
            })
            .collect();
        for _ in 0..20 {
            test.daemon.signal(Signal::SIGHUP)?;
            thread::sleep(Duration::from_millis(3));
        }
        let join = |client: thread::ScopedJoinHandle<'_, _>| client.join().unwrap_or_else(|panic| resume_unwind(panic));
        clients.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    // Requests for the same folder may share a generation, requests for different folders may not.
    for (config, generation) in &answers {
        ensure!(
            !answers.iter().any(|(other, its)| its == generation && other != config),
            "{answers:?}"
        );
    }
    // Whichever apply was the last, the configuration of a later one is in force once it is answered.
    control.post("/v1/apply", &json!({ "config": folders[1] }))?.ok()?;
    ensure!(probe_for(&test.topology.outside, at(WEB, 91), Answer::Refused)? == Answer::Refused);
    ensure!(probe(&test.topology.outside, at(WEB, 90))? == Answer::Silence);
    let expected = test.denied_in(&[("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn the_command_tells_of_every_error() -> Result<()> {
    const INVALID: i32 = 3;
    let test = E2eTest::start(server)?;
    let run = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let output = test.control().taskgate(&test.topology.host, words)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let folder = test.topology.folder().join("broken");
    fs::create_dir(&folder)?;
    fs::write(
        folder.join("t.yaml"),
        "taskgate: v1\ngroups:\n- { name: g, nonsense: 1 }\n- { label: h }\n",
    )?;
    let name = folder.to_str().context("no text")?;
    let (code, said) = run(&["apply", "--config", name])?;
    ensure!(
        code == Some(INVALID) && said.contains("t.yaml:3:") && said.contains("t.yaml:4:"),
        "{code:?}: {said}"
    );
    let (code, said) = run(&["status"])?;
    ensure!(
        code == Some(6) && said.contains("was refused") && said.contains("t.yaml:3:"),
        "{code:?}: {said}"
    );
    let (code, said) = run(&["reload", "-o", "json"])?;
    ensure!(
        code == Some(0) && said.contains("\"generation\": 2"),
        "{code:?}: {said}"
    );
    ensure!(run(&["status"])?.0 == Some(0));
    test.finish(&Ledger::default())?;
    Ok(())
}

/// A kill in the middle of applies: the next process continues, and no client waits forever.
#[test]
fn a_kill_answers_those_who_wait() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    for round in 0..5 {
        let control = test.control();
        thread::scope(|scope| -> Result<()> {
            let clients: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| control.call("POST", "/v1/apply", "")))
                .collect();
            thread::sleep(Duration::from_millis(round * 4));
            test.kill()?;
            for client in clients {
                // The client got an answer, or its connection was closed.
                let _answer = client.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
            Ok(())
        })?;
        test.restart(|config| config)?;
        ensure!(test.control().get("/v1/status")?.ok()?["healthy"] == true);
    }
    test.finish(&Ledger::default())?;
    Ok(())
}
