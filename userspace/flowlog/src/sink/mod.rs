//! Sinks of lines: one trait, with an implementation for each kind of destination.

mod error;
mod file;
mod folder;
mod lines;
mod rotation;

use bytes::Bytes;
use taskgate_model::{Destination, FlowLog};

#[cfg(test)]
pub(crate) use self::lines::is_cut;
pub use self::{error::SinkError, file::FileSink, folder::FolderSink, lines::LineSink};
use serde::{Deserialize, Serialize};

/// Whole lines of one flow log's window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The window's end, in Unix seconds.
    pub end: u64,
    /// The lines of the window that are not written yet.
    pub lines: Bytes,
}

/// The file of the next line, and its offset there. All 0 for destinations that are no file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The file's device.
    pub device: u64,
    /// The file's inode; 0: there is no file.
    pub inode: u64,
    /// The file's length, where the next line begins.
    pub length: u64,
}

/// The lines that a sink is to write next, and its confirmed position.
#[derive(Clone, Copy, Debug)]
pub struct NextWrite<'a> {
    /// The windows that wait, as many as [`Sink::batches`] says.
    pub batches: &'a [Batch],
    /// The bytes of all waiting windows.
    pub bytes: usize,
    /// The position of the first waiting line, in bytes since the destination's first line.
    pub position: u64,
    /// The mark that was confirmed with this position.
    pub mark: Mark,
    /// No more lines follow the waiting ones for now.
    pub ending: bool,
}

impl<'a> NextWrite<'a> {
    /// The lines of the first window that waits.
    pub fn lines(&self) -> &'a [u8] {
        self.batches.first().map_or(&[], |batch| &batch.lines)
    }
}

/// The result of [`Sink::prepare`], to be confirmed before lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreparedWrite {
    /// Bytes of the next lines that a killed process or a failed attempt has already written.
    pub written: usize,
    /// The file and offset of the lines after these.
    pub mark: Mark,
}

/// A destination of lines. Each sink has a separate thread, so it may block. Failed writes are retried with growing pauses.
pub trait Sink: Send {
    /// Prepares for a write, even without lines to write. The result is confirmed before [`Sink::write`] is called.
    fn prepare(&mut self, _next: &NextWrite<'_>) -> Result<PreparedWrite, SinkError> {
        Ok(PreparedWrite::default())
    }

    /// Writes the first part of the next lines, and returns its length in bytes; 0: not ready to write yet.
    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError>;

    /// Reopens the file before the next write.
    fn reopen(&mut self) {}

    /// How many waiting windows the sink is given at once.
    fn batches(&self) -> usize {
        1
    }
}

/// A sink with its name in messages.
pub(crate) type NamedSink = (String, Box<dyn Sink>);

/// Opens the sink of a flow log. `began` distinguishes it from others for the same destination.
pub(super) fn open(log: &FlowLog, instance: &str, began: u64) -> Result<NamedSink, SinkError> {
    Ok(match &log.destination {
        Destination::Stdout => {
            let sink = LineSink::stdout()?;
            (sink.name.to_owned(), Box::new(sink))
        }
        Destination::File(file) => (named(&file.path), Box::new(FileSink::new(file))),
        Destination::Folder(folder) => (
            named(&folder.path),
            Box::new(FolderSink::new(folder, log, instance, began)),
        ),
    })
}

fn named(path: &std::path::Path) -> String {
    format!("`{}`", path.display())
}

/// The length of the whole lines among the first `most` bytes; where the first line is longer, its length.
pub(crate) fn whole_lines(lines: &[u8], most: usize) -> usize {
    let Some(piece) = lines.get(..most) else {
        return lines.len();
    };
    let within = piece.iter().rposition(|byte| *byte == b'\n').map(|end| end + 1);
    within.unwrap_or_else(|| first_line(lines))
}

/// The length of the first line.
fn first_line(lines: &[u8]) -> usize {
    let end = lines.iter().position(|byte| *byte == b'\n');
    end.map_or(lines.len(), |end| end + 1)
}
