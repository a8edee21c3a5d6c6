//! Where lines go.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    thread::sleep,
    time::Duration,
};

use taskgate_model::{Destination, FlowLog};
use thiserror::Error;

use super::{queue::Queue, schedule::aligned, stream::Stream, window::Window};

/// Why lines did not reach their reader.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The reader is gone.
    #[error("nobody reads {sink} any more: the flow records end here")]
    Closed {
        /// The sink's name.
        sink: &'static str,
    },
    /// They can't be written.
    #[error("cannot write flow records to {sink}")]
    Write {
        /// The sink's name.
        sink: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// The sink can't be opened.
    #[error("cannot open {sink} for flow records")]
    Open {
        /// The sink's name.
        sink: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// taskgate ends, and the reader does not read.
    #[error("nobody reads {sink}: the last {bytes} bytes of flow records are lost")]
    Stuck {
        /// The sink's name.
        sink: &'static str,
        /// How much.
        bytes: usize,
    },
}

/// Takes the lines of one window at a time.
pub trait Sink: Send {
    /// Writes whole lines. Blocks while the reader is slow.
    fn write(&mut self, lines: &[u8]) -> Result<(), SinkError>;
}

/// Lines over a byte stream. Nothing is buffered: written lines are with the reader, or with the system.
pub struct LineSink<W> {
    name: &'static str,
    to: W,
}

impl LineSink<File> {
    /// Standard output, by a separate descriptor: past the line buffer of [`io::Stdout`], which would cut a window in
    /// pieces.
    pub fn stdout() -> Result<Self, SinkError> {
        let name = "standard output";
        match io::stdout().as_fd().try_clone_to_owned() {
            Ok(descriptor) => Ok(Self {
                name,
                to: descriptor.into(),
            }),
            Err(source) => Err(SinkError::Open { sink: name, source }),
        }
    }
}

impl<W: Write> LineSink<W> {
    /// Lines over `to`, which messages call `name`.
    pub const fn new(name: &'static str, to: W) -> Self {
        Self { name, to }
    }
}

impl<W: Write + Send> Sink for LineSink<W> {
    fn write(&mut self, mut lines: &[u8]) -> Result<(), SinkError> {
        let sink = self.name;
        while !lines.is_empty() {
            match self.to.write(lines) {
                Ok(0) => return Err(SinkError::Closed { sink }),
                Ok(written) => lines = &lines[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Another process that shares our standard output may have made it non-blocking; giving up would lose records.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(Duration::from_millis(5)),
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(SinkError::Closed { sink }),
                Err(source) => return Err(SinkError::Write { sink, source }),
            }
        }
        Ok(())
    }
}

/// All flow logs with their sinks. Nothing here waits for a reader: a flow log whose sink has no room for its lines goes
/// on with its window, which ends once there is room again.
pub struct Outputs {
    streams: Vec<Stream>,
    /// Records that each of them holds at most.
    most: usize,
    /// One for all flow logs: lines of two writers would mix.
    stdout: Queue,
}

impl Outputs {
    /// Opens the flow logs when taskgate begins, at `now` (Unix seconds). Each holds so many records at most.
    pub fn open(logs: &[FlowLog], now: u64, most: usize) -> Result<Self, SinkError> {
        let sink = LineSink::stdout()?;
        Ok(Self {
            streams: streams(logs, most, |log| aligned(now, log.interval.max(1))),
            most,
            stdout: Queue::new(sink.name, Box::new(sink))?,
        })
    }

    /// Replaces the flow logs by others, from the end of their last window on.
    pub fn replace(&mut self, logs: &[FlowLog], end: u64) {
        self.streams = streams(logs, self.most, |_| end);
    }

    /// Writes a window to all of them, and gives the first error there was since the last one.
    pub fn write(&mut self, window: &Window) -> Result<(), SinkError> {
        let mut result = Ok(());
        for stream in &mut self.streams {
            let lines = stream.push(window, self.stdout.has_room());
            result = result.and(self.stdout.push(lines));
        }
        result
    }

    /// Waits until everything is written, as long as it is read: see [`Queue::finish`].
    pub fn finish(&self, patience: Duration) -> Result<(), SinkError> {
        self.stdout.finish(patience)
    }
}

/// The lines of flow logs, from `start` on.
fn streams(logs: &[FlowLog], most: usize, start: impl Fn(&FlowLog) -> u64) -> Vec<Stream> {
    let stream = |log: &FlowLog| match log.destination {
        Destination::Stdout => Stream::new(log, start(log), most),
    };
    logs.iter().map(stream).collect()
}
