//! Numbered files: `flows.log.1` is the one before `flows.log`, `flows.log.2` the one before that.

use std::{
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
};

use crate::fault::{Fault, point};

/// The file with this number.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

/// Gives a file number 1, and those that were before it the next ones, of which `keep` are kept. Killed at any step, it does the
/// rest when it is called again: a number that nobody has is filled first, so nothing goes up by two.
pub(super) fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let keep = keep.max(1);
    let mut free = keep;
    for number in 1..keep {
        match fs::symlink_metadata(numbered(path, number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                free = number;
                break;
            }
            found => found?,
        };
    }
    for number in (1..free).rev() {
        fs::rename(numbered(path, number), numbered(path, number + 1))?;
        point(Fault::Rotating);
    }
    fs::rename(path, numbered(path, 1))?;
    point(Fault::Rotated);
    Ok(())
}
