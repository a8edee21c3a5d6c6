//! Lines over a byte stream: standard output.

use std::{
    fs::File,
    io::{self, Seek as _, Write},
    os::{
        fd::{AsFd as _, AsRawFd as _},
        unix::fs::FileExt as _,
    },
    thread::sleep,
    time::Duration,
};

use super::{NextWrite, Sink, SinkError, whole_lines};

/// Written at once, as whole lines: what a pipe takes wholly or not at all, so that a reader never sees half a line of a
/// taskgate that was killed. And how fine it is seen whether a reader still reads.
const PIECE: usize = 4096;

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
        let descriptor = io::stdout().as_fd().try_clone_to_owned();
        let to = File::from(descriptor.map_err(|source| SinkError::Open {
            sink: name.to_owned(),
            source,
        })?);
        let mut sink = Self { name, to };
        if is_cut(&sink.to) {
            sink.put(b"\n")?;
        }
        Ok(sink)
    }
}

/// Whether what is written to a file next would go on with a line that another process was killed at. A pipe takes 4 KiB
/// wholly or not at all; a file does so with each of its pages.
pub(crate) fn is_cut(mut file: &File) -> bool {
    let mut last = || -> io::Result<u8> {
        let metadata = file.metadata()?;
        let end = match file.stream_position()? {
            // Where everything is written to its end, it is at its beginning until then.
            0 => metadata.len(),
            position => position,
        };
        if !metadata.is_file() || end == 0 {
            return Ok(b'\n');
        }
        let mut last = [0];
        // Ours may be for writing alone.
        File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?.read_exact_at(&mut last, end - 1)?;
        Ok(last[0])
    };
    last().is_ok_and(|last| last != b'\n')
}

impl<W: Write> LineSink<W> {
    /// Lines over `to`, which messages call `name`.
    pub const fn new(name: &'static str, to: W) -> Self {
        Self { name, to }
    }

    /// Writes lines, and gives how many bytes were taken before something failed.
    fn put(&mut self, lines: &[u8]) -> Result<usize, SinkError> {
        let sink = || self.name.to_owned();
        let mut taken = 0;
        while taken < lines.len() {
            let error = match self.to.write(&lines[taken..]) {
                Ok(0) => SinkError::Closed { sink: sink() },
                Ok(written) => {
                    taken += written;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Another process that shares our standard output may have made it non-blocking; giving up would lose records.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    sleep(Duration::from_millis(5));
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => SinkError::Closed { sink: sink() },
                Err(source) => SinkError::Write { sink: sink(), source },
            };
            // What fails fails again, with what is left.
            return if taken == 0 { Err(error) } else { Ok(taken) };
        }
        Ok(taken)
    }
}

impl<W: Write + Send> Sink for LineSink<W> {
    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        let lines = next.lines();
        self.put(&lines[..whole_lines(lines, PIECE)])
    }
}
