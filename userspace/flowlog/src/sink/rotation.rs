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

/// Renames a file to number 1 and the earlier numbered files to the next numbers, of which `keep` are kept. If it is killed at any
/// step, the next call completes the rotation: renaming starts at the lowest free number, so no file moves up by two.
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
