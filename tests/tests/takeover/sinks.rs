//! Flow records in files and folders: each packet is recorded once, whenever taskgate is killed, and whatever happens to
//! the other destinations.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use nix::sys::signal::Signal;
use serde_json::Value;
use testkit::{
    E2eTest, at,
    ledger::Action,
    names::TempDir,
    netns::until,
    record::Record,
    traffic::{Bulk, Client, TcpEcho},
};

use crate::{Talk, WEB, server};

/// The files of a flow log, the earliest first.
fn numbered(path: &Path) -> Vec<PathBuf> {
    let numbered = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    let mut files = vec![path.to_owned()];
    let mut number = 1;
    while numbered(number).exists() {
        files.insert(0, numbered(number));
        number += 1;
    }
    files
}

/// All files below a folder.
fn below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.append(&mut below(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn records(text: &str) -> Result<Vec<Record>> {
    ensure!(text.is_empty() || text.ends_with('\n'), "a line is cut");
    text.lines().map(str::parse).collect()
}

fn in_files(path: &Path) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for file in numbered(path) {
        all.append(&mut records(&fs::read_to_string(&file)?).with_context(|| file.display().to_string())?);
    }
    Ok(all)
}

fn in_folder(folder: &Path) -> Result<Vec<Record>> {
    let mut all = Vec::new();
    for path in below(folder)? {
        let mut text = String::new();
        GzDecoder::new(File::open(&path)?).read_to_string(&mut text)?;
        let (header, rest) = text.split_once('\n').context("no header")?;
        ensure!(
            header.starts_with("version account-id interface-id srcaddr "),
            "{header}"
        );
        all.append(&mut records(rest).with_context(|| path.display().to_string())?);
    }
    Ok(all)
}

/// No line occurs twice: the records of a flow log all differ.
fn ensure_once(records: &[Record]) -> Result<()> {
    let mut lines = BTreeSet::new();
    for record in records {
        let flow = record.flow.as_ref().map(|flow| (flow.tuple, flow.action));
        ensure!(
            lines.insert((&record.eni, record.start, record.end, flow)),
            "twice: {record:?}"
        );
    }
    Ok(())
}

fn logs(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "flow-logs:\n  - {{ destination: stdout }}\n  - {{ destination: file, path: {folder}/flows.log, rotate: {{ size: 4KiB, keep: 1000 }} }}\n  \
         - {{ destination: s3, url: 'file://{folder}/bucket' }}\n  - {{ destination: file, path: {folder}/nowhere/flows.log }}\n"
    )
}

#[test]
fn files_and_folders_have_each_packet_once_when_it_is_killed_under_traffic() -> Result<()> {
    for after in [0, 130, 470, 990, 1010] {
        let folder = TempDir::new(&format!("sinks-{after}"))?;
        fs::create_dir(folder.path().join("bucket"))?;
        let mut test = E2eTest::start(|config| server(config).with(&logs(folder.path())))?;
        let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
        let talk = Talk::begin(&test)?;
        for _ in 0..3 {
            let bulk = Bulk::start(&test.topology.outside, test.task("web-1")?, at(WEB, 8000))?;
            let flow = talk.go_on()?;
            // Enough lines for several files.
            for _ in 0..40 {
                Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
            }
            test.daemon
                .await_ledger(|ledger| ledger.get("web-1", flow, Action::Accept).packets != 0)?;
            thread::sleep(Duration::from_millis(after));
            test.kill()?;
            talk.go_on()?;
            test.restart(|config| config)?;
            bulk.finish()?;
        }
        let expected = test.passed()?;
        let stopped = test.finish(&expected)?;
        for (what, records) in [
            ("files", in_files(&folder.path().join("flows.log"))?),
            ("folder", in_folder(&folder.path().join("bucket"))?),
        ] {
            ensure_once(&records)?;
            let recorded = stopped.ledger_of(&records)?;
            ensure!(
                recorded == expected,
                "killed after {after} ms, the {what} say {recorded:?}but it was {expected:?}"
            );
        }
        ensure!(
            numbered(&folder.path().join("flows.log")).len() > 2,
            "nothing was rotated"
        );
    }
    Ok(())
}

#[test]
fn a_folder_that_is_missing_is_told_once_and_what_waited_comes_once_it_is_there() -> Result<()> {
    let folder = TempDir::new("sinks-missing")?;
    fs::create_dir(folder.path().join("bucket"))?;
    let test = E2eTest::start(|config| server(config).with(&logs(folder.path())))?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    test.daemon.await_message("there is no folder")?;
    let late = folder.path().join("nowhere/flows.log");
    let destination = || -> Result<(Value, Value)> {
        let status: Value = test.control().get("/v1/status")?.ok()?;
        let of_late = late.display().to_string();
        let all = status["destinations"].as_array().context("no destinations")?;
        let found = all.iter().find(|one| one["destination"] == of_late.as_str());
        Ok((status["healthy"].clone(), found.context("it is not told of")?.clone()))
    };
    let (healthy, missing) = destination()?;
    assert_eq!(healthy, false);
    let why = missing["failure"].as_str().context("no reason")?;
    assert!(why.starts_with("there is no folder"), "{why}");
    test.daemon
        .await_ledger(|ledger| ledger.total("web-1", Action::Accept).packets != 0)?;
    fs::create_dir(folder.path().join("nowhere"))?;
    until("what waited is written", || {
        Ok(late.metadata().is_ok_and(|file| file.len() != 0))
    })?;
    until("it is told that it is written", || {
        let (healthy, late) = destination()?;
        Ok(healthy == true && late["failure"].is_null() && late["records"].as_u64() > Some(0))
    })?;
    let expected = test.passed()?;
    let stopped = test.finish(&expected)?;
    assert_eq!(stopped.ledger_of(&in_files(&late)?)?, expected);
    let told = stopped
        .messages
        .iter()
        .filter(|line| line.contains("there is no folder"));
    assert_eq!(told.count(), 1);
    Ok(())
}

#[test]
fn a_file_that_was_moved_is_left_at_sighup() -> Result<()> {
    let folder = TempDir::new("sinks-moved")?;
    for below in ["bucket", "nowhere"] {
        fs::create_dir(folder.path().join(below))?;
    }
    let path = folder.path().join("nowhere/flows.log");
    let test = E2eTest::start(|config| server(config).with(&logs(folder.path())))?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    until("records are written", || {
        Ok(path.metadata().is_ok_and(|file| file.len() != 0))
    })?;
    fs::rename(&path, folder.path().join("nowhere/flows.log.1"))?;
    test.daemon.signal(Signal::SIGHUP)?;
    until("it is made again", || Ok(path.exists()))?;
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    let expected = test.passed()?;
    let stopped = test.finish(&expected)?;
    assert_eq!(stopped.ledger_of(&in_files(&path)?)?, expected);
    assert!(path.metadata()?.len() != 0);
    Ok(())
}
