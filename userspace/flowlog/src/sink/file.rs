//! A file that lines are appended to.
//!
//! Each line is appended exactly once, even if the process is killed: before lines are written, the journal has the file's inode and
//! length; after each write it gets the new length. Lines that were written and not confirmed lie beyond the recorded length. They
//! are recognised by their content, as the journal has the next lines byte for byte. A new process compares the bytes beyond the
//! recorded length with these lines: the common prefix was written by taskgate, and a truncated line is completed. The file is never
//! truncated: that could remove lines of another process, or lines that a follower of the file has read.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use taskgate_model::{LogFile, Rotate};
use tracing::warn;

use super::{Mark, NextWrite, PreparedWrite, Sink, SinkError, first_line, rotation, whole_lines};
use crate::fault::{Fault, first_part, point};

/// The most bytes of one write, rounded down to whole lines.
const PIECE: usize = if cfg!(test) { 1 << 9 } else { 1 << 16 };
/// The file's mode: readable by owner and group.
const MODE: u32 = 0o640;
/// How long rotation is not tried again after a failure.
const ROTATE_AGAIN: Duration = Duration::from_mins(1);

/// A file that lines are appended to.
pub struct FileSink {
    path: PathBuf,
    rotate: Option<Rotate>,
    open: Option<Open>,
    /// Whether a reopen was requested: an open file is then closed even if no file is at its path.
    reopen: bool,
    /// When rotation last failed.
    stays: Option<Instant>,
}

/// The open file.
struct Open {
    file: File,
    mark: Mark,
    /// When the file was created; if the file system does not record that, when it was opened.
    since: SystemTime,
}

impl FileSink {
    /// The file of a flow log. It is opened by the first [`Sink::prepare`].
    pub fn new(file: &LogFile) -> Self {
        Self {
            path: file.path.clone(),
            rotate: file.rotate,
            open: None,
            reopen: false,
            stays: None,
        }
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> SinkError {
        let path = self.path.clone();
        move |source| SinkError::path(operation, &path, source)
    }

    /// Opens the file, creates it if it does not exist, and ends its last line if that is truncated.
    fn open(&self) -> Result<Open, SinkError> {
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            let path = folder.to_owned();
            return Err(SinkError::NoFolder { path });
        }
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(MODE);
        let made = options.clone().create_new(true).open(&self.path);
        let (file, made) = match made {
            Ok(file) => (file, true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let file = options.create(true).open(&self.path);
                (file.map_err(self.failed("open"))?, false)
            }
            Err(error) => return Err(self.failed("make")(error)),
        };
        let metadata = file.metadata().map_err(self.failed("look at"))?;
        if !metadata.is_file() {
            let path = self.path.clone();
            return Err(SinkError::NoFile { path });
        }
        // Other errors are ignored: some file systems have no locks.
        if let Err(fs::TryLockError::WouldBlock) = file.try_lock() {
            let path = self.path.clone();
            return Err(SinkError::Taken { path });
        }
        if made {
            // The umask may have removed bits.
            file.set_permissions(Permissions::from_mode(MODE))
                .map_err(self.failed("set the mode of"))?;
        }
        let mut open = Open {
            mark: mark_of(&metadata),
            since: metadata.created().unwrap_or_else(|_unknown| SystemTime::now()),
            file,
        };
        if open.mark.length != 0 {
            let mut last = [0];
            let at = open.mark.length - 1;
            open.file.read_exact_at(&mut last, at).map_err(self.failed("read"))?;
            if last != *b"\n" {
                open.file.write_all(b"\n").map_err(self.failed("write"))?;
                open.mark.length += 1;
            }
        }
        Ok(open)
    }

    /// How many bytes of the next lines were already written by a killed process or a failed attempt: whole lines. A truncated line is
    /// completed.
    fn recover(&self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        let Some(path) = self.find(next.mark)? else {
            return Ok(0);
        };
        let failed = |operation| {
            let path = path.clone();
            move |source| SinkError::path(operation, &path, source)
        };
        let mut options = OpenOptions::new();
        let mut file = options.read(true).append(true).open(&path).map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("look at"))?;
        let length = mark_of(&metadata).length;
        if !is(&metadata, next.mark) || length <= next.mark.length {
            return Ok(0);
        }
        let lines = next.lines();
        let more = (length - next.mark.length).min(lines.len() as u64 + 1);
        let mut behind = vec![0; more as usize];
        file.read_exact_at(&mut behind, next.mark.length)
            .map_err(failed("read"))?;
        let ours = behind.iter().zip(lines).take_while(|(is, was)| is == was).count();
        let line = lines[..ours]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        if ours != behind.len() || line == ours {
            // Any bytes that follow were written by another process.
            return Ok(line);
        }
        let rest = first_line(&lines[ours..]);
        let rest = &lines[ours..ours + rest];
        file.write_all(rest).map_err(failed("write"))?;
        point(Fault::LineEnded);
        Ok(ours + rest.len())
    }

    /// The present path of a file: the configured one, or another one in the same folder.
    fn find(&self, mark: Mark) -> Result<Option<PathBuf>, SinkError> {
        if mark.inode == 0 {
            return Ok(None);
        }
        if fs::metadata(&self.path).is_ok_and(|metadata| is(&metadata, mark)) {
            return Ok(Some(self.path.clone()));
        }
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SinkError::path("read", folder, source)),
        };
        let mut entries = entries.flatten();
        let found = entries.find(|entry| entry.metadata().is_ok_and(|metadata| is(&metadata, mark)));
        Ok(found.map(|entry| entry.path()))
    }

    /// Closes the open file if it was deleted or its path leads to another file. A moved file is written further until another file is
    /// at the path or a reopen is requested: the tool that moved it may be about to create the next one.
    fn follow(&mut self) {
        let reopen = std::mem::take(&mut self.reopen);
        let Some(open) = &mut self.open else { return };
        let goes_on = match fs::metadata(&self.path) {
            Ok(metadata) if is(&metadata, open.mark) => Some(metadata),
            Ok(_) => None,
            Err(_) if reopen => None,
            Err(_) => open.file.metadata().ok().filter(|metadata| metadata.nlink() != 0),
        };
        match goes_on {
            // Another process may have written to the file, or truncated it.
            Some(metadata) => open.mark.length = metadata.len(),
            None => self.open = None,
        }
    }

    /// Rotates the file if it is full or old. If that fails, the present file is written further.
    fn rotate(&mut self, lines: &[u8]) {
        let (Some(rotate), Some(open)) = (self.rotate, &self.open) else {
            return;
        };
        let length = open.mark.length;
        let full = rotate
            .size
            .is_some_and(|size| length.saturating_add(first_line(lines) as u64) > size);
        let age = || open.since.elapsed().unwrap_or_default();
        let old = rotate.age.is_some_and(|most| age() >= Duration::from_secs(most));
        let stays = self.stays.is_some_and(|since| since.elapsed() < ROTATE_AGAIN);
        if length == 0 || lines.is_empty() || stays || !full && !old {
            return;
        }
        // A file that was moved is not rotated: the tool that moved it creates the next one.
        if fs::metadata(&self.path).is_ok_and(|metadata| is(&metadata, open.mark)) {
            match rotation::rotate(&self.path, rotate.keep) {
                Ok(()) => (self.open, self.stays) = (None, None),
                Err(error) => {
                    if self.stays.is_none() {
                        warn!("`{}` is not rotated, and grows on: {error}", self.path.display());
                    }
                    self.stays = Some(Instant::now());
                }
            }
        }
    }
}

impl Sink for FileSink {
    fn prepare(&mut self, next: &NextWrite<'_>) -> Result<PreparedWrite, SinkError> {
        let mut written = 0;
        if self.open.is_none() {
            written = self.recover(next)?;
            self.open = Some(self.open()?);
        }
        self.follow();
        self.rotate(&next.lines()[written..]);
        let open = match self.open.take() {
            Some(open) => open,
            None => self.open()?,
        };
        let mark = open.mark;
        self.open = Some(open);
        Ok(PreparedWrite { written, mark })
    }

    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        let Some(open) = &mut self.open else { return Ok(0) };
        let size = self.rotate.and_then(|rotate| rotate.size).unwrap_or(u64::MAX);
        let room = usize::try_from(size.saturating_sub(open.mark.length)).unwrap_or(PIECE);
        let lines = next.lines();
        let piece = &lines[..whole_lines(lines, room.min(PIECE))];
        let (first, rest) = piece.split_at(first_part(piece.len()));
        let mut write = || {
            open.file.write_all(first)?;
            point(Fault::PartlyTaken);
            open.file.write_all(rest)
        };
        if let Err(source) = write() {
            // The next attempt compares the file with the confirmed length to find how much was written.
            self.open = None;
            return Err(self.failed("write")(source));
        }
        open.mark.length += piece.len() as u64;
        Ok(piece.len())
    }

    fn reopen(&mut self) {
        self.reopen = true;
    }
}

fn mark_of(metadata: &fs::Metadata) -> Mark {
    Mark {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
    }
}

fn is(metadata: &fs::Metadata, mark: Mark) -> bool {
    (metadata.dev(), metadata.ino()) == (mark.device, mark.inode)
}
