//! A running `taskgate run`, as a user runs it: the real binary, a folder with configuration, signals.
#![expect(unsafe_code, reason = "a child's death signal is set between fork and exec")]

use std::{
    collections::BTreeMap,
    env, fs,
    io::Read,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::{
    config::Config,
    kernel::Objects,
    ledger::Ledger,
    netns::{Netns, PATIENCE},
    output::Lines,
    record::Record,
    steps::{HeldUp, Steps},
};

/// The configuration's file in its folder.
pub const FILE: &str = "taskgate.yaml";
/// The message once every gate that can be up is up.
const READY: &str = "gates are up";
/// The message once a reload is in force.
pub const RELOADED: &str = "reloaded";
/// The message once a reload was refused.
pub const REFUSED: &str = "reload refused";

/// A running taskgate. It is killed if this is dropped before the process was stopped.
#[derive(Debug)]
pub struct Daemon {
    process: Option<Child>,
    steps: Option<Steps>,
    /// `taskgate cleanup`, which removes the gates and interfaces that the process leaves behind.
    cleanup: Command,
    file: PathBuf,
    records: Lines,
    messages: Lines,
    tasks: BTreeMap<String, String>,
    patience: Duration,
}

/// How a reload went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration is in force.
    Done,
    /// The old configuration stays in force; these are the messages.
    Refused(String),
}

/// The output of a taskgate that ended.
#[derive(Debug)]
pub struct Stopped {
    /// All records that the process wrote.
    pub records: Vec<Record>,
    /// The messages on its standard error.
    pub messages: Vec<String>,
    /// The output of `taskgate cleanup`, if it was run afterwards.
    pub cleaned: String,
    /// The exit status.
    pub status: ExitStatus,
    tasks: BTreeMap<String, String>,
}

/// Options for starting a process.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    pub instance: &'a str,
    /// `--interval`; `None` leaves the interval to the configuration.
    pub interval: Option<u32>,
    /// The time limit for each of start, reload and end.
    pub patience: Duration,
    /// `--watch`.
    pub watch: bool,
    /// `--drop-connections`.
    pub drop_connections: bool,
    pub held_up: HeldUp<'a>,
}

impl Daemon {
    /// Starts taskgate in `host` with `config` as the only file of the folder `folder`, and waits until its gates are up.
    pub fn start(host: &Netns, folder: &Path, config: &Config, options: Options<'_>) -> Result<Self> {
        Self::begin(host, folder, config, options)?.ready(options)
    }

    /// Starts taskgate in `host` with the existing folder `folder`, and waits until its gates are up. `tasks`: the names
    /// of its ENIs, for [`Ledger`]s.
    pub fn start_in(
        host: &Netns,
        folder: &Path,
        tasks: BTreeMap<String, String>,
        options: Options<'_>,
    ) -> Result<Self> {
        Self::begin_in(host, folder, tasks, options)?.ready(options)
    }

    fn ready(mut self, options: Options<'_>) -> Result<Self> {
        if let Err(error) = self.await_ready(options.patience) {
            self.kill();
            return Err(error);
        }
        Ok(self)
    }

    /// Waits until its gates are up.
    pub fn await_ready(&self, patience: Duration) -> Result<()> {
        let ready = |lines: &[String]| Ok(lines.iter().any(|line| line.contains(READY)).then_some(()));
        let waited = self.messages.wait(0, patience, ready);
        waited.context("taskgate's gates did not come up")
    }

    /// Starts taskgate in `host` with `config` as a file of the folder `folder`, and does not wait.
    pub fn begin(host: &Netns, folder: &Path, config: &Config, options: Options<'_>) -> Result<Self> {
        fs::write(folder.join(FILE), config.to_string())?;
        Self::begin_in(host, folder, tasks_of(config), options)
    }

    fn begin_in(host: &Netns, folder: &Path, tasks: BTreeMap<String, String>, options: Options<'_>) -> Result<Self> {
        let binary = binary()?;
        let binary = binary.to_str().context("the binary's path is no text")?;
        let mut command = host.command(binary)?;
        command.arg("run").arg("--config").arg(folder);
        command.args(["--instance", options.instance]);
        if let Some(interval) = options.interval {
            command.args(["--interval", &interval.to_string()]);
        }
        if options.watch {
            command.arg("--watch");
        }
        if options.drop_connections {
            command.arg("--drop-connections");
        }
        command
            .env_remove("TASKGATE_CONFIG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // SAFETY: between fork and exec only prctl is called, a plain system call. Killed with its test, taskgate shall
        // still end.
        unsafe {
            command.pre_exec(|| Ok(prctl::set_pdeathsig(Signal::SIGTERM)?));
        }
        if !matches!(options.held_up, HeldUp::Never) {
            Steps::hold_up(&mut command);
        }
        let mut process = command.spawn().context("cannot start taskgate")?;
        let steps = Steps::of(process.id(), options.held_up);
        let mut cleanup = host.command(binary)?;
        cleanup.args(["cleanup", "--yes", "--instance", options.instance]);
        Ok(Self {
            cleanup,
            records: lines(process.stdout.take())?,
            messages: lines(process.stderr.take())?,
            process: Some(process),
            steps: steps?,
            file: folder.join(FILE),
            tasks,
            patience: options.patience,
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.process.as_ref().context("it runs no more")?.id())
    }

    /// The exit status, once the process has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.process.as_mut().context("it was waited for")?.try_wait()?)
    }

    /// The steps of a process that waits at each step.
    pub fn steps(&self) -> Result<&Steps> {
        self.steps.as_ref().context("it waits at no step")
    }

    /// Replaces the configuration file, sends SIGHUP, and waits for the message that the reload succeeded or was refused.
    pub fn reload(&mut self, config: &Config) -> Result<Reload> {
        self.tasks.append(&mut tasks_of(config));
        self.reload_text(&config.to_string())
    }

    /// As [`Daemon::reload`], with any text.
    pub fn reload_text(&self, text: &str) -> Result<Reload> {
        let start = self.messages.len();
        self.begin_reload(text)?;
        let answer = |lines: &[String]| {
            Ok(lines.iter().find_map(|line| {
                if line.contains(REFUSED) {
                    Some(false)
                } else {
                    line.contains(RELOADED).then_some(true)
                }
            }))
        };
        let done = self
            .messages
            .wait(start, self.patience, answer)
            .context("taskgate does not answer to SIGHUP")?;
        if done {
            Ok(Reload::Done)
        } else {
            Ok(Reload::Refused(self.messages.from(start).join("\n")))
        }
    }

    /// Replaces its configuration by any text and sends SIGHUP, and does not wait.
    pub fn begin_reload(&self, text: &str) -> Result<()> {
        // A reader of the folder must never see half a file.
        let next = self.file.with_extension("next");
        fs::write(&next, text)?;
        fs::rename(&next, &self.file)?;
        self.signal(Signal::SIGHUP)
    }

    /// Reloads a configuration that must be accepted.
    pub fn apply(&mut self, config: &Config) -> Result<()> {
        match self.reload(config)? {
            Reload::Done => Ok(()),
            Reload::Refused(why) => bail!("the configuration was refused: {why}"),
        }
    }

    /// Sends the process a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid()?)?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to taskgate"))
    }

    /// The records that the process has written so far.
    pub fn records(&self) -> Result<Vec<Record>> {
        parse(&self.records.from(0))
    }

    /// Waits until the record lines satisfy `enough`, and returns them. After `patience` they are returned anyway.
    pub fn await_lines(&self, patience: Duration, mut enough: impl FnMut(&[String]) -> bool) -> Vec<String> {
        let wanted = |lines: &[String]| Ok(enough(lines).then(|| lines.to_vec()));
        self.records
            .wait(0, patience, wanted)
            .unwrap_or_else(|_| self.records.from(0))
    }

    /// Its messages so far.
    pub fn messages(&self) -> Vec<String> {
        self.messages.from(0)
    }

    /// Waits until the process has written a message that contains `text`.
    pub fn await_message(&self, text: &str) -> Result<()> {
        let said = |lines: &[String]| Ok(lines.iter().any(|line| line.contains(text)).then_some(()));
        self.messages.wait(0, PATIENCE, said)
    }

    /// Waits until the sums of its records satisfy `enough`.
    pub fn await_ledger(&self, mut enough: impl FnMut(&Ledger) -> bool) -> Result<Ledger> {
        self.records.wait(0, PATIENCE, |lines| {
            let ledger = Ledger::of_records(&parse(lines)?, &self.tasks)?;
            Ok(enough(&ledger).then_some(ledger))
        })
    }

    /// The programs, maps and links that the process holds in the kernel.
    pub fn objects(&self) -> Result<Objects> {
        Objects::of_process(self.pid()?)
    }

    /// Stops taskgate with SIGTERM and removes the gates and interfaces that it leaves behind.
    pub fn stop(self) -> Result<Stopped> {
        self.stop_by(Signal::SIGTERM)
    }

    /// [`Self::stop`] with a signal of choice. Fails unless all went well.
    pub fn stop_by(mut self, signal: Signal) -> Result<Stopped> {
        let stopped = self.end(signal, 0)?;
        self.clean_up(stopped)
    }

    /// [`Self::stop`]; fails unless the exit code says that some tasks were not gated.
    pub fn stop_unhealthy(mut self) -> Result<Stopped> {
        const UNHEALTHY: i32 = 6;
        let stopped = self.end(Signal::SIGTERM, UNHEALTHY)?;
        self.clean_up(stopped)
    }

    /// Stops taskgate with SIGTERM and keeps its gates attached. Fails unless all went well.
    pub fn leave(mut self) -> Result<Stopped> {
        self.end(Signal::SIGTERM, 0)
    }

    fn end(&mut self, signal: Signal, code: i32) -> Result<Stopped> {
        self.signal(signal)?;
        let stopped = self.wait()?;
        ensure!(
            stopped.status.code() == Some(code),
            "taskgate ended with {}:\n{}",
            stopped.status,
            stopped.messages.join("\n")
        );
        Ok(stopped)
    }

    /// Runs `taskgate cleanup` and keeps its output.
    fn clean_up(&mut self, mut stopped: Stopped) -> Result<Stopped> {
        let output = self.cleanup.output().context("cannot run `taskgate cleanup`")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`taskgate cleanup` failed: {said}");
        stopped.cleaned = said.into_owned();
        Ok(stopped)
    }

    /// [`Self::stop`] of a process whose records are not all in the default format; returns their lines.
    pub fn stop_with_lines(mut self) -> Result<Vec<String>> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait_status()?;
        ensure!(
            status.success(),
            "taskgate ended with {status}:\n{}",
            self.messages().join("\n")
        );
        let output = self.cleanup.output().context("cannot run `taskgate cleanup`")?;
        ensure!(output.status.success(), "`taskgate cleanup` failed");
        Ok(self.records.from(0))
    }

    /// Waits until the process has ended, for any reason.
    pub fn await_end(&self) -> Result<()> {
        for lines in [&self.records, &self.messages] {
            lines.wait_end(self.patience).context("taskgate does not end")?;
        }
        Ok(())
    }

    /// Kills the process with SIGKILL: it can remove nothing.
    pub fn kill_now(mut self) -> Result<Stopped> {
        if self.ended()?.is_none() {
            self.signal(Signal::SIGKILL)?;
        }
        self.wait()
    }

    fn wait_status(&mut self) -> Result<ExitStatus> {
        self.await_end()?;
        let status = self.process.as_mut().context("it runs no more")?.wait()?;
        self.process = None;
        Ok(status)
    }

    fn wait(&mut self) -> Result<Stopped> {
        let status = self.wait_status()?;
        if status.signal().is_some() {
            // The process was killed while it wrote a record. The next process writes that record again.
            self.records.drop_cut();
        }
        Ok(Stopped {
            records: self.records()?,
            messages: self.messages(),
            cleaned: String::new(),
            status,
            tasks: std::mem::take(&mut self.tasks),
        })
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take()
            && let Err(error) = process.kill().and_then(|()| process.wait())
        {
            eprintln!("taskgate may still run: {error}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.process.is_some() {
            // taskgate is still running here only after a failed test; its messages help to find the cause.
            eprintln!("taskgate said:\n{}", self.messages().join("\n"));
            eprintln!("and recorded:\n{}", self.records.from(0).join("\n"));
        }
        self.kill();
    }
}

impl Stopped {
    /// The sums of all its records.
    pub fn ledger(&self) -> Result<Ledger> {
        self.ledger_of(&self.records)
    }

    /// The sums of records that the process wrote to other destinations.
    pub fn ledger_of(&self, records: &[Record]) -> Result<Ledger> {
        Ledger::of_records(records, &self.tasks)
    }

    pub fn records_of(&self, task: &str) -> impl Iterator<Item = &Record> {
        let eni = Config::eni(task);
        self.records.iter().filter(move |record| record.eni == eni)
    }
}

/// The release binary that `cargo xtask test` built.
pub fn binary() -> Result<PathBuf> {
    let built = || {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        target.join("release/taskgate")
    };
    let path = env::var_os("TASKGATE_BIN").map_or_else(built, PathBuf::from);
    ensure!(
        path.is_file(),
        "there is no taskgate binary at `{}`: run `cargo xtask test`",
        path.display()
    );
    Ok(path)
}

fn lines(from: Option<impl Read + Send + 'static>) -> Result<Lines> {
    Ok(Lines::of(from.context("taskgate has no output")?))
}

fn parse(lines: &[String]) -> Result<Vec<Record>> {
    lines.iter().map(|line| line.parse()).collect()
}

fn tasks_of(config: &Config) -> BTreeMap<String, String> {
    config
        .tasks()
        .map(|task| (Config::eni(task), task.to_owned()))
        .collect()
}
