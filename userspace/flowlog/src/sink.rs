//! Where lines go.

use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    thread::sleep,
    time::Duration,
};

use thiserror::Error;

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
    pub(super) name: &'static str,
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
