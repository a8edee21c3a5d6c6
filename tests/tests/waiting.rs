//! While a large configuration is read nothing else waits: signals are heard, and links that come are gated.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use testkit::{
    Config, Topology, at,
    daemon::{Daemon, RELOADED},
    kernel::await_gates,
    netns::until,
    traffic::{Answer, Client, TcpEcho, probe},
};

const WEB: &str = "10.88.0.10";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";
/// Prefix lists next to the configuration: this many files and entries take seconds to read.
const FILES: u32 = 40;
const ENTRIES: u32 = 50_000;

/// Fills a folder with files that take long to read. Returns their bytes.
fn fill(folder: &Path) -> Result<u64> {
    fs::create_dir_all(folder)?;
    let mut bytes = 0;
    for file in 0..FILES {
        let entries: Vec<String> = (0..ENTRIES)
            .map(|entry| {
                let [_, high, middle, low] = entry.to_be_bytes();
                format!(r#"{{"Cidr":"{}.{high}.{middle}.{low}/32"}}"#, 11 + file)
            })
            .collect();
        let text = format!(r#"{{"Entries":[{}]}}"#, entries.join(",\n"));
        bytes += text.len() as u64;
        // After taskgate.yaml, in the order of names.
        fs::write(folder.join(format!("pl-{file:017x}.json")), text)?;
    }
    Ok(bytes)
}

/// How many bytes a process has read from files.
fn read_by(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let bytes = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    Ok(bytes.context("the kernel does not count what is read")?.parse()?)
}

fn one(topology: &Topology) -> Config {
    topology
        .config()
        .group("http", HTTP)
        .device_task("web-1", "tg-web", &[WEB], &["http"])
}

/// A taskgate in the middle of its first reading.
fn reading(topology: &Topology) -> Result<Daemon> {
    let bytes = fill(&topology.folder().join("main"))?;
    let daemon = topology.begin(&one(topology), Some(1))?;
    let pid = daemon.pid()?;
    until("half of the files are read", || Ok(read_by(pid)? > bytes / 2))?;
    Ok(daemon)
}

#[test]
fn a_reload_that_is_asked_for_while_the_first_configuration_is_read_does_not_end_it() -> Result<()> {
    let topology = Topology::new()?;
    let _task = topology.device("tg-web", &[WEB], true)?;
    let daemon = reading(&topology)?;
    daemon.signal(Signal::SIGHUP)?;
    daemon.await_message("gates are up: 1 task gated")?;
    daemon.stop()?;
    Ok(())
}

/// The verifier aborts when a signal is pending, and each SIGHUP asks for the files to be read again.
#[test]
fn a_storm_of_signals_ends_neither_the_start_nor_a_reload() -> Result<()> {
    let topology = Topology::new()?;
    let _task = topology.device("tg-web", &[WEB], true)?;
    let daemon = topology.begin(&one(&topology), Some(1))?;
    let pid = daemon.pid()?;
    // Until taskgate has registered its handlers, some of these signals end a process.
    until("it hears signals", || hears(pid, Signal::SIGTERM))?;
    let over = AtomicBool::new(false);
    let process = Pid::from_raw(i32::try_from(pid)?);
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGCHLD, Signal::SIGWINCH];
            for signal in signals.into_iter().cycle() {
                if over.load(Ordering::Relaxed) || kill(process, signal).is_err() {
                    break;
                }
            }
        });
        let came_up = daemon
            .await_message("gates are up: 1 task gated")
            .and_then(|()| daemon.await_message(RELOADED));
        over.store(true, Ordering::Relaxed);
        ensure!(storm.join().is_ok(), "the storm broke off");
        came_up
    })?;
    daemon.stop()?;
    Ok(())
}

/// Whether a process has a handler for a signal.
fn hears(pid: u32, signal: Signal) -> Result<bool> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:\t"));
    let caught = u64::from_str_radix(caught.context("the kernel does not tell of signals")?, 16)?;
    Ok(caught >> (signal as i32 - 1) & 1 == 1)
}

#[test]
fn it_ends_in_order_while_the_first_configuration_is_read() -> Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let topology = Topology::new()?;
        let daemon = reading(&topology)?;
        let stopped = daemon.stop_by(signal)?;
        let said = stopped.messages.join("\n");
        ensure!(said.contains("ending before anything was gated"), "{said}");
    }
    Ok(())
}

#[test]
fn a_link_that_comes_while_a_reload_reads_does_not_wait_for_it() -> Result<()> {
    let topology = Topology::new()?;
    let daemon = topology.start(&one(&topology))?;
    let pid = daemon.pid()?;
    // Once for the link as it is, and once more: the ifindex of a deleted link is then another link's.
    for round in 1..=2 {
        let bytes = fill(&topology.folder().join("main"))?;
        let before = read_by(pid)?;
        daemon.signal(Signal::SIGHUP)?;
        until("the reload reads", || Ok(read_by(pid)? > before + bytes / 20))?;
        let task = topology.device("tg-web", &[WEB], true)?;
        await_gates(&topology.host, "tg-web")?;
        let reloaded = daemon.messages().iter().filter(|line| line.contains(RELOADED)).count();
        ensure!(reloaded < round, "the reload was over before the link was gated");
        let _echo = TcpEcho::start(&task, 80)?;
        until("it is bound", || {
            Ok(probe(&topology.outside, at(WEB, 80))? == Answer::Open)
        })?;
        Client::connect(&topology.outside, at(WEB, 80))?.finish()?;
        assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
        daemon.await_message(&format!("reloaded: generation {}", round + 1))?;
        topology.host.ip("link delete tg-web")?;
        // Gives the kernel time to report it before the next round.
        thread::sleep(Duration::from_millis(100));
    }
    daemon.stop()?;
    Ok(())
}

/// A full pipe on standard error, as left by a pager or a log shipper that has stopped reading: for the log, counters,
/// and the error at the end.
#[test]
fn a_standard_error_that_nobody_reads_holds_nothing_up() -> Result<()> {
    let topology = Topology::new()?;
    // The task is never gated, which the end reports.
    topology.host.ip("link add tg-bridge type bridge")?;
    let config = one(&topology).device_task("bridge", "tg-bridge", &["10.88.0.20"], &["http"]);
    let folder = topology.folder().join("main");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("taskgate.yaml"), config.to_string())?;
    let (unread, mut log) = std::io::pipe()?;
    fill_pipe(&mut log)?;
    let mut process = topology.run_command("main")?.arg("--counters").stderr(log).spawn()?;
    let pid = Pid::from_raw(i32::try_from(process.id())?);
    for port in [80, 81, 82] {
        let task = topology.device("tg-web", &[WEB], true)?;
        await_gates(&topology.host, "tg-web")?;
        let _echo = TcpEcho::start(&task, port)?;
        until("the rules of this round are in force", || {
            Ok(probe(&topology.outside, at(WEB, port))? == Answer::Open)
        })?;
        assert_eq!(probe(&topology.outside, at(WEB, 79))?, Answer::Silence);
        topology.host.ip("link delete tg-web")?;
        thread::sleep(Duration::from_millis(100));
        for _ in 0..10 {
            kill(pid, Signal::SIGUSR1)?;
            thread::sleep(Duration::from_millis(10));
        }
        let next = config.to_string().replace("ports: 80", &format!("ports: {}", port + 1));
        fs::write(folder.join("taskgate.yaml"), next)?;
        kill(pid, Signal::SIGHUP)?;
    }
    kill(pid, Signal::SIGTERM)?;
    let mut status = None;
    until("it ends without a reader", || {
        status = process.try_wait()?;
        Ok(status.is_some())
    })?;
    assert_eq!(status.and_then(|status| status.code()), Some(6));
    drop(unread);
    Ok(())
}

/// The machine-readable log: a JSON object in each line, from the start to the end, with the subjects of a message in
/// fields.
#[test]
fn the_log_is_json_where_it_is_asked_for() -> Result<()> {
    let topology = Topology::new()?;
    let folder = topology.folder().join("main");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("taskgate.yaml"), one(&topology).to_string())?;
    let _task = topology.device("tg-web", &[WEB], true)?;
    let mut process = topology
        .run_command("main")?
        .args(["--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut lines = Vec::new();
    for line in BufReader::new(process.stderr.take().context("it has no standard error")?).lines() {
        let line: Value = serde_json::from_str(&line?)?;
        if says(&line, "gates are up") {
            // The next reload is refused.
            fs::write(folder.join("taskgate.yaml"), "taskgate: v2")?;
            kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGHUP)?;
        } else if says(&line, "reload refused") {
            kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
        }
        lines.push(line);
    }
    assert!(process.wait()?.success());
    let line = |start| lines.iter().find(|line| says(line, start)).context(start);
    let gated = line("task `web-1` is gated on link `tg-web`")?;
    for (key, value) in [("level", "INFO"), ("task", "web-1"), ("link", "tg-web")] {
        assert_eq!(gated[key], value, "{gated}");
    }
    assert!(gated["timestamp"].is_string() && gated["target"].is_string(), "{gated}");
    assert_eq!(line("gates are up")?["generation"], 1);
    assert_eq!(line("reload refused")?["level"], "ERROR");

    let answer = topology.run_command("main")?.args(["--log-format", "json"]).output()?;
    assert_eq!(answer.status.code(), Some(3));
    let lines: Vec<Value> = String::from_utf8(answer.stderr)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    assert_eq!(
        (&lines[0]["level"], &lines[0]["line"]),
        (&"ERROR".into(), &1.into()),
        "{lines:?}"
    );
    assert!(says(&lines[1], "the configuration is refused: 1 error"), "{lines:?}");
    Ok(())
}

fn says(line: &Value, start: &str) -> bool {
    line["message"]
        .as_str()
        .is_some_and(|message| message.starts_with(start))
}

/// Writes into a pipe until nothing more fits.
fn fill_pipe(pipe: &mut std::io::PipeWriter) -> Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(&*pipe, FcntlArg::F_GETFL)?);
    fcntl(&*pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    for piece in [4096, 1] {
        while pipe.write(&vec![b'.'; piece]).is_ok() {}
    }
    fcntl(&*pipe, FcntlArg::F_SETFL(flags))?;
    Ok(())
}
