//! Everything that can happen while the demo waits: what taskgate says, and signals.

use std::{
    io::{BufRead as _, BufReader, Read},
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use super::record::Record;

/// Something that happened.
pub(super) enum Event {
    /// A line of taskgate's log.
    Log(String),
    /// A line of taskgate's standard output.
    Record(String),
    /// taskgate ended.
    Ended,
    /// Somebody wants the demo to end.
    Signal(Signal),
}

/// What has happened so far, and what happens next.
pub(super) struct Inbox {
    events: Receiver<Event>,
    sender: Sender<Event>,
    /// taskgate's log.
    pub(super) log: Vec<String>,
    /// taskgate's flow records.
    pub(super) records: Vec<Record>,
}

impl Inbox {
    /// Opens it, and takes SIGINT, SIGTERM and SIGHUP for it: to be called before other threads are started.
    pub(super) fn open() -> Result<Self> {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        // Inherited by all threads that come.
        signals.thread_block().context("cannot block signals")?;
        let (sender, events) = mpsc::channel();
        let for_signals = sender.clone();
        thread::spawn(move || {
            while let Ok(signal) = signals.wait() {
                if for_signals.send(Event::Signal(signal)).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            events,
            sender,
            log: Vec::new(),
            records: Vec::new(),
        })
    }

    /// Somewhere to put events.
    pub(super) fn sender(&self) -> Sender<Event> {
        self.sender.clone()
    }

    /// Waits for what `done` looks for, or until `limit`. A signal, and taskgate's end, are errors.
    pub(super) fn wait(&mut self, limit: Instant, mut done: impl FnMut(&Self) -> bool) -> Result<()> {
        while !done(self) {
            match self
                .events
                .recv_timeout(limit.saturating_duration_since(Instant::now()))
            {
                Ok(Event::Signal(signal)) => bail!("ended by {signal}"),
                Ok(Event::Ended) => bail!("taskgate ended before the demo did"),
                Ok(event) => self.keep(event)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        Ok(())
    }

    /// Takes in what has happened meanwhile.
    pub(super) fn look(&mut self) -> Result<()> {
        self.wait(Instant::now(), |_| false)
    }

    /// Takes in what is there after taskgate's end. Signals have nothing more to end.
    pub(super) fn finish(&mut self) -> Result<()> {
        while let Ok(event) = self.events.recv_timeout(Duration::ZERO) {
            self.keep(event)?;
        }
        Ok(())
    }

    fn keep(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Log(line) => self.log.push(line),
            Event::Record(line) => self.records.push(line.parse()?),
            Event::Ended | Event::Signal(_) => {}
        }
        Ok(())
    }

    /// Shows taskgate's log, for whoever has to find out what went wrong.
    pub(super) fn show_log(&self) {
        for line in &self.log {
            eprintln!("taskgate: {line}");
        }
    }
}

/// Sends on what a pipe brings, line by line, until it is closed.
pub(super) fn lines(
    pipe: impl Read + Send + 'static,
    inbox: Sender<Event>,
    event: fn(String) -> Event,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if inbox.send(event(line)).is_err() {
                break;
            }
        }
    })
}
