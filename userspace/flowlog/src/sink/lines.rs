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

/// The most bytes of one write, rounded down to whole lines. A pipe takes so many bytes atomically, so a reader never sees half a
/// line of a killed taskgate. It is also the granularity at which a reader's progress is noticed.
const PIECE: usize = 4096;

/// Lines over a byte stream. Nothing is buffered: written lines are with the reader, or with the system.
pub struct LineSink<W> {
    pub(super) name: &'static str,
    to: W,
}

impl LineSink<File> {
    /// Standard output, by a duplicated descriptor: it bypasses the line buffer of [`io::Stdout`], which would split a window into
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

/// Whether a file ends in a truncated line of a killed process, which the next line would be appended to. A pipe takes 4 KiB
/// atomically, a file only each of its pages.
pub(crate) fn is_cut(mut file: &File) -> bool {
    let mut last = || -> io::Result<u8> {
        let metadata = file.metadata()?;
        let end = match file.stream_position()? {
            // In append mode the offset is 0 until the first write.
            0 => metadata.len(),
            position => position,
        };
        if !metadata.is_file() || end == 0 {
            return Ok(b'\n');
        }
        let mut last = [0];
        // The descriptor may be write-only.
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

    /// Writes lines, and returns how many bytes were taken before an error.
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
            // An error after some bytes is dropped: the next write of the rest returns it again.
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
