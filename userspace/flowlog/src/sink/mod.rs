//! Where lines go: one trait, and what implements it for each kind of destination.

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
    /// What is not written yet of its lines.
    pub lines: Bytes,
}

/// Where in which file the next line will lie. What is not a file has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The file's device.
    pub device: u64,
    /// Its inode; 0: there is no file.
    pub inode: u64,
    /// Its length.
    pub length: u64,
}

/// What a sink is to write next.
#[derive(Clone, Copy, Debug)]
pub struct NextWrite<'a> {
    /// The windows that wait, as many as [`Sink::batches`] says.
    pub batches: &'a [Batch],
    /// The bytes of all that wait.
    pub bytes: usize,
    /// What comes before, in bytes since the first line ever.
    pub position: u64,
    /// What was confirmed with this position.
    pub mark: Mark,
    /// Nothing comes after what waits.
    pub ending: bool,
}

impl<'a> NextWrite<'a> {
    /// The lines of the first window that waits.
    pub fn lines(&self) -> &'a [u8] {
        self.batches.first().map_or(&[], |batch| &batch.lines)
    }
}

/// What is to be confirmed before anything is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PreparedWrite {
    /// Bytes of what is next that were found written, by a process that was killed or an attempt that failed.
    pub written: usize,
    /// Where what follows them will lie.
    pub mark: Mark,
}

/// A destination of lines. It has a thread of its own, so it may block; what fails is tried again, later and later.
pub trait Sink: Send {
    /// Makes ready to write, whether or not anything is to be written. What it gives is confirmed before [`Sink::write`] is called.
    fn prepare(&mut self, _next: &NextWrite<'_>) -> Result<PreparedWrite, SinkError> {
        Ok(PreparedWrite::default())
    }

    /// Writes the beginning of what is next, and gives how many bytes that was; 0: not yet.
    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError>;

    /// Opens its file anew before it writes again.
    fn reopen(&mut self) {}

    /// How many windows it looks at in one go.
    fn batches(&self) -> usize {
        1
    }
}

/// What a sink is called in messages, and the sink itself.
pub(crate) type NamedSink = (String, Box<dyn Sink>);

/// The sink of a flow log. `began` tells it apart from others for the same destination.
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
