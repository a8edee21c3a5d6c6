//! Stored records: files, folders and standard input, plain or gzip, line by line.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use taskgate_analysis::flows::{LineError, RecordReader, StoredRecord};
use taskgate_model::RecordFormat;

/// The longest line that is read: nothing of a record is near it.
const LONGEST: u64 = 1 << 20;

/// Why stored records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system does not let them be read.
    #[error("cannot read `{}`: {cause}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        cause: io::Error,
    },
    /// There is no line that is a record.
    #[error("`{}`:{line}: {cause}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: u64,
        /// What is wrong.
        cause: LineError,
    },
}

/// Lines that are no records.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) lines: u64,
    pub(super) first: Option<InputError>,
}

/// Reads all records below the paths, in the order of names, until nobody wants more.
pub(super) fn read(
    paths: &[PathBuf],
    format: Option<&RecordFormat>,
    each: &mut dyn FnMut(StoredRecord) -> io::Result<bool>,
) -> Result<Passed, InputError> {
    let mut passed = Passed::default();
    for path in paths {
        let files = if path.as_os_str() == "-" {
            vec![path.clone()]
        } else {
            files(path)?
        };
        for file in files {
            if !read_file(&file, format, &mut passed, each)? {
                return Ok(passed);
            }
        }
    }
    Ok(passed)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> InputError + '_ {
    move |cause| InputError::Read {
        path: path.to_owned(),
        cause,
    }
}

/// A file, or all files below a folder.
fn files(path: &Path) -> Result<Vec<PathBuf>, InputError> {
    let about = path.metadata().map_err(failed(path))?;
    if !about.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries = Vec::new();
    for entry in path.read_dir().map_err(failed(path))? {
        entries.push(entry.map_err(failed(path))?.path());
    }
    entries.sort();
    let mut found = Vec::new();
    for entry in entries {
        let kind = entry.symlink_metadata().map_err(failed(&entry))?.file_type();
        // Links could lead in circles, and pipes would be waited for.
        if kind.is_dir() {
            found.append(&mut files(&entry)?);
        } else if kind.is_file() {
            found.push(entry);
        }
    }
    Ok(found)
}

/// Gives whether more is wanted.
fn read_file(
    path: &Path,
    format: Option<&RecordFormat>,
    passed: &mut Passed,
    each: &mut dyn FnMut(StoredRecord) -> io::Result<bool>,
) -> Result<bool, InputError> {
    let source: Box<dyn Read> = if path.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(failed(path))?)
    };
    let mut source = BufReader::new(source);
    // RFC 1952, 2.3.1.
    let is_gzip = source.fill_buf().map_err(failed(path))?.starts_with(&[0x1f, 0x8b]);
    let mut source: Box<dyn BufRead> = if is_gzip {
        Box::new(BufReader::new(MultiGzDecoder::new(source)))
    } else {
        Box::new(source)
    };
    let mut reader = RecordReader::new(format);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let read = source.by_ref().take(LONGEST).read_until(b'\n', &mut line);
        if read.map_err(failed(path))? == 0 {
            return Ok(true);
        }
        number += 1;
        match reader.read(&String::from_utf8_lossy(&line)) {
            Ok(None) => {}
            Ok(Some(record)) => {
                if !each(record).map_err(failed(Path::new("standard output")))? {
                    return Ok(false);
                }
            }
            Err(cause) => {
                passed.lines += 1;
                passed.first.get_or_insert_with(|| InputError::Line {
                    path: path.to_owned(),
                    line: number,
                    cause,
                });
            }
        }
    }
}
