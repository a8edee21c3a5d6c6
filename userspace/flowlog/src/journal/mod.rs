//! The journal: a file that records which of the kernel's counts were reported and which lines were written, so that the
//! successor of a killed process continues without gaps or duplicates.
//!
//! The journal is replaced as a whole when a window is decided: written under a temporary name in the same folder, then renamed.
//! Between two windows changes are appended, and a place for each destination says how far its lines have been written. The journal
//! only has to survive the process: a file in /run need not outlive the machine, so nothing is synchronised to disk.

mod error;
mod layout;

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

pub use self::error::{JournalError, Refusal};
use self::layout::{FRAME, Header, body, frame, frames, place, place_at, to_places};
use super::{
    fault::{Fault, first_part, point},
    sink::Mark,
};

/// A journal's file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    header: Header,
    current: Arc<Mutex<Current>>,
    /// The offset of the first change since the journal was replaced.
    changes: u64,
    /// The offset for the next change.
    end: u64,
}

/// The file in force.
#[derive(Debug, Default)]
struct Current {
    file: Option<File>,
    /// By a destination's key: how far its lines are written, and the index of its place in the file, if it has one.
    places: HashMap<u64, (Place, Option<usize>)>,
    /// The error of the last place that could not be written to the file.
    failed: Option<io::Error>,
}

/// How far the lines of a destination are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// In bytes since the first line of the destination.
    pub(crate) position: u64,
    /// The file and offset of the next line, if the destination is a file.
    pub(crate) mark: Mark,
}

/// The contents of a journal, read back.
#[derive(Debug)]
pub(crate) struct Read<T, N> {
    /// The state as of the last replacement.
    pub(crate) state: T,
    /// Changes since, in order.
    pub(crate) changes: Vec<N>,
    /// How far lines are written, by destination.
    pub(crate) places: Vec<Place>,
}

/// A handle to update a destination's place in the journal.
#[derive(Clone, Debug)]
pub(crate) struct Confirmation {
    current: Arc<Mutex<Current>>,
    key: u64,
}

impl Confirmation {
    /// Lines are written up to here.
    pub(crate) fn confirm(&self, position: u64, mark: Mark) {
        let mut current = lock(&self.current);
        let Current { file, places, failed } = &mut *current;
        let Some((held, index)) = places.get_mut(&self.key) else {
            return;
        };
        *held = Place { position, mark };
        let (Some(file), Some(index)) = (file, *index) else {
            return;
        };
        if let Err(error) = file.write_all_at(&place(*held), place_at(index)) {
            *failed = Some(error);
        }
    }
}

/// The temporary name of the next journal.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(".new");
    name.into()
}

fn lock(current: &Mutex<Current>) -> MutexGuard<'_, Current> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Journal {
    /// A journal at `path` for the tables with this identity. The file is neither read nor written yet.
    ///
    /// # Errors
    /// The boot's id can't be read.
    pub fn open(path: &Path, identity: [u8; 32]) -> Result<Self, JournalError> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        let text =
            fs::read_to_string(BOOT_ID).map_err(|source| JournalError::io("read", Path::new(BOOT_ID), source))?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let boot = u128::from_str_radix(&digits, 16).unwrap_or_default();
        Ok(Self::of_boot(path, identity, boot.to_be_bytes()))
    }

    /// [`Journal::open`] for a boot with this id.
    pub(crate) fn of_boot(path: &Path, identity: [u8; 32], boot: [u8; 16]) -> Self {
        Self {
            path: path.to_owned(),
            header: Header { boot, identity },
            current: Arc::default(),
            changes: 0,
            end: 0,
        }
    }

    /// Removes the journal at `path`, and a partly written next one. Their information on reported counts is lost.
    pub fn remove(path: &Path) -> Result<(), JournalError> {
        for path in [path.to_owned(), beside(path)] {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(JournalError::io("remove", &path, source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A handle to confirm written lines of a destination, which are written up to `place` by now. `key` must be unique among all
    /// destinations of this process.
    pub(crate) fn confirmation(&self, key: u64, place: Place) -> Confirmation {
        lock(&self.current).places.insert(key, (place, None));
        Confirmation {
            current: Arc::clone(&self.current),
            key,
        }
    }

    /// Reads the journal; `None`: there is none.
    ///
    /// # Errors
    /// The file can't be read, is damaged, or is of another boot, other tables or another format.
    pub(crate) fn read<T: DeserializeOwned, N: DeserializeOwned>(&self) -> Result<Option<Read<T, N>>, JournalError> {
        // Only regular files: opening a pipe would block.
        let read = fs::symlink_metadata(&self.path).and_then(|found| {
            if found.is_file() {
                fs::read(&self.path)
            } else {
                Err(io::Error::other("it is no file"))
            }
        });
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(JournalError::io("read", &self.path, source)),
        };
        let refused = |why| JournalError::Refused {
            path: self.path.clone(),
            why,
        };
        let damaged = || refused(Refusal::Damaged);
        self.header.check(&bytes).map_err(refused)?;
        let (places, rest) = to_places(&bytes).ok_or_else(damaged)?;
        let mut frames = frames(rest);
        let state = frames.next().ok_or_else(damaged)?.ok_or_else(damaged)?;
        let state = postcard::from_bytes(state).map_err(|_undecodable| damaged())?;
        let mut changes = Vec::new();
        for frame in frames {
            let more: Vec<N> = postcard::from_bytes(frame.ok_or_else(damaged)?).map_err(|_undecodable| damaged())?;
            changes.extend(more);
        }
        Ok(Some(Read { state, changes, places }))
    }

    /// Replaces the journal: `state` is in force once this returns. `keys`: its destinations, in the order of their places.
    pub(crate) fn commit<T: Serialize>(&mut self, state: &T, keys: &[u64]) -> Result<(), JournalError> {
        let beside = beside(&self.path);
        let written = self.write_beside(&beside, state, keys);
        if written.is_err() {
            let _absent = fs::remove_file(&beside);
        }
        written
    }

    fn write_beside<T: Serialize>(&mut self, beside: &Path, state: &T, keys: &[u64]) -> Result<(), JournalError> {
        let failed = |operation| move |source| JournalError::io(operation, beside, source);
        // An existing file of this name may be a symbolic link.
        match fs::remove_file(beside) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(source)),
            _ => {}
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(beside)
            .map_err(failed("make"))?;
        let write = |bytes: &[u8], at| write_at(&file, bytes, at, Fault::PartlyWritten).map_err(failed("write"));
        write(&self.header.bytes(keys.len()), 0)?;
        let begin = body(keys.len());
        let mut body = BufWriter::with_capacity(
            1 << 18,
            Body {
                file: &file,
                at: begin + FRAME,
                sum: crc32fast::Hasher::new(),
            },
        );
        postcard::to_io(state, &mut body).map_err(|cause| JournalError::Encode {
            path: beside.to_owned(),
            cause,
        })?;
        let Body { at, sum, .. } = body.into_inner().map_err(|error| failed("write")(error.into_error()))?;
        write(&layout::frame_head(at - begin - FRAME, sum.finalize()), begin)?;

        let mut current = lock(&self.current);
        let held = |key| current.places.get(key).map_or(Place::default(), |(held, _)| *held);
        let places: Vec<u8> = keys.iter().flat_map(|key| place(held(key))).collect();
        write(&places, place_at(0))?;
        point(Fault::Written);
        fs::rename(beside, &self.path).map_err(failed("rename"))?;
        current.file = Some(file);
        current.places.retain(|key, (_, index)| {
            *index = keys.iter().position(|of| of == key);
            index.is_some()
        });
        (self.changes, self.end) = (at, at);
        let unconfirmed = current.failed.take();
        drop(current);
        point(Fault::Decided);
        unconfirmed.map_or(Ok(()), |source| Err(JournalError::io("write", &self.path, source)))
    }

    /// The bytes of changes since the journal was replaced.
    pub(crate) fn added(&self) -> u64 {
        self.end - self.changes
    }

    /// Appends changes.
    pub(crate) fn add<N: Serialize>(&mut self, changes: &[N]) -> Result<(), JournalError> {
        let body = postcard::to_stdvec(changes).map_err(|cause| JournalError::Encode {
            path: self.path.clone(),
            cause,
        })?;
        let bytes = frame(&body);
        let current = lock(&self.current);
        let Some(file) = &current.file else { return Ok(()) };
        if let Err(source) = write_at(file, &bytes, self.end, Fault::PartlyAdded) {
            // The next change overwrites this partial one, and may be shorter.
            let _cut = file.set_len(self.end);
            return Err(JournalError::io("write", &self.path, source));
        }
        drop(current);
        self.end += bytes.len() as u64;
        point(Fault::Added);
        Ok(())
    }
}

fn write_at(file: &File, bytes: &[u8], at: u64, between: Fault) -> io::Result<()> {
    let (first, rest) = bytes.split_at(first_part(bytes.len()));
    file.write_all_at(first, at)?;
    point(between);
    file.write_all_at(rest, at + first.len() as u64)
}

/// A writer of a frame's body: to the file, with length and checksum.
struct Body<'a> {
    file: &'a File,
    at: u64,
    sum: crc32fast::Hasher,
}

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all_at(bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.sum.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
