//! `taskgate run`, started and ended.

use std::{
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
    },
    unistd::Pid,
};

use super::inbox::{Event, Inbox, lines};
use crate::exec;

/// How long taskgate may take to put its gates up, and to take them off. On a crowded machine loading takes seconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// The running taskgate.
pub(super) struct Daemon {
    pid: Pid,
    ended: Receiver<std::io::Result<ExitStatus>>,
    readers: Vec<JoinHandle<()>>,
}

impl Daemon {
    /// Starts it; what it says goes to the inbox.
    pub(super) fn start(binary: &Path, config: &str, interval: u64, inbox: &Inbox) -> Result<Self> {
        let mut command = Command::new(binary);
        command
            .args(["run", "--config", config, "--instance"])
            .arg(format!("demo-{}", std::process::id()))
            .args(["--interval", &interval.to_string()])
            .env("RUST_LOG_STYLE", "never")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which ends taskgate when it is done with it.
            .process_group(0);
        // taskgate ends with the demo, also when that is killed; and the signals that the demo keeps for itself reach it.
        let prepare = || {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            Ok(SigSet::empty().thread_set_mask()?)
        };
        // SAFETY: between fork and exec only system calls are made, which take no lock and allocate nothing.
        unsafe { command.pre_exec(prepare) };
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {}", exec::shown(&command)))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let log = child.stderr.take().context("taskgate has no standard error")?;
        let records = child.stdout.take().context("taskgate has no standard output")?;
        let readers = vec![
            lines(log, inbox.sender(), Event::Log),
            lines(records, inbox.sender(), Event::Record),
        ];
        let (sender, ended) = mpsc::channel();
        let inbox = inbox.sender();
        thread::spawn(move || {
            let status = child.wait();
            // Nobody listens any more when the demo is over.
            sender.send(status).ok();
            inbox.send(Event::Ended).ok();
        });
        Ok(Self { pid, ended, readers })
    }

    /// Waits until every gate stands.
    pub(super) fn wait_until_up(inbox: &mut Inbox) -> Result<()> {
        let is_up = |inbox: &Inbox| inbox.log.iter().any(|line| line.contains("gates are up"));
        inbox.wait(Instant::now() + PATIENCE, is_up)?;
        if !is_up(inbox) {
            bail!("taskgate's gates are not up after {} s", PATIENCE.as_secs());
        }
        Ok(())
    }

    /// Ends it as an operator would, and takes in the last that it says.
    pub(super) fn end(self, inbox: &mut Inbox) -> Result<()> {
        let status = self.status()?;
        for reader in self.readers {
            // A reader that panicked has nothing more to say.
            reader.join().ok();
        }
        inbox.finish()?;
        if !status.success() {
            bail!("taskgate ended with {status}");
        }
        Ok(())
    }

    fn status(&self) -> Result<ExitStatus> {
        // It may have ended by itself; its pid means nothing then.
        if let Ok(status) = self.ended.try_recv() {
            return status.context("cannot wait for taskgate");
        }
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            kill(self.pid, signal).with_context(|| format!("cannot send {signal} to taskgate"))?;
            if let Ok(status) = self.ended.recv_timeout(PATIENCE) {
                return status.context("cannot wait for taskgate");
            }
        }
        bail!("taskgate, pid {}, does not end", self.pid);
    }
}
