//! Selection of the files in a folder, and reading of their text.

use std::fs::{File, Metadata, OpenOptions, metadata, read_dir};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::bounds;
use super::node::end_of;
use super::problem::{Diagnostics, Location};
use super::recognise;

/// The configuration files of a folder, sorted by name: `*.json`, `*.yaml`, `*.yml`, no dot-files.
pub(super) fn files(folder: &Path, report: &mut Diagnostics) -> Vec<PathBuf> {
    let listed = match list(folder) {
        Ok(listed) => listed,
        Err(error) => {
            let location = report.file(folder.display().to_string());
            let (message, hint) = match error.kind() {
                io::ErrorKind::NotADirectory => (
                    String::from("this is a file, and a configuration is a folder"),
                    String::from("name the folder that the file is in, or one with nothing else in it"),
                ),
                _ => (
                    format!("the folder cannot be read: {error}"),
                    String::from("name another one with `--config`"),
                ),
            };
            report.error(location, message, hint);
            return Vec::new();
        }
    };
    if listed.read.is_empty() {
        let location = report.file(folder.display().to_string());
        let (message, hint) = nothing(&listed);
        report.error(location, message, hint);
    } else if listed.read.len() > bounds::FILES {
        let location = report.file(folder.display().to_string());
        let message = format!("the folder holds {} files to read", listed.read.len());
        report.error(location, message, format!("at most {} are read", bounds::FILES));
        return Vec::new();
    }
    if let Some(files) = not_read(&listed) {
        let location = report.file(folder.display().to_string());
        let hint = "name those that belong to the configuration `….json` or `….yaml`";
        report.warn(
            location,
            format!("not read, for the ends of their names: {files}"),
            hint,
        );
    }
    listed.read
}

/// A remark on files that are not read but may have been meant to be.
fn not_read(listed: &Listed) -> Option<String> {
    let some = !listed.near.is_empty() && !listed.read.is_empty();
    some.then(|| some_of(&listed.near))
}

/// The first few names, and the number of others.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// The content of a folder.
#[derive(Debug, Default)]
struct Listed {
    read: Vec<PathBuf>,
    /// Names of files that may have been meant to be read.
    near: Vec<String>,
    other: Vec<String>,
    folders: Vec<String>,
}

fn list(folder: &Path) -> io::Result<Listed> {
    let mut listed = Listed::default();
    for entry in read_dir(folder)? {
        let path = entry?.path();
        let Some(name) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else {
            continue;
        };
        if name.starts_with('.') {
            continue;
        }
        // A dangling symbolic link stays in the list: reading it reports the error.
        if metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            listed.folders.push(name);
            continue;
        }
        let end = path
            .extension()
            .map(|end| end.to_string_lossy().into_owned())
            .unwrap_or_default();
        match &*end {
            "json" | "yaml" | "yml" => listed.read.push(path),
            _ if near(&name, &end) => listed.near.push(name),
            _ => listed.other.push(name),
        }
    }
    listed.read.sort();
    for names in [&mut listed.near, &mut listed.other, &mut listed.folders] {
        names.sort();
    }
    Ok(listed)
}

/// Whether a name's ending suggests a configuration file, or an earlier version of one.
fn near(name: &str, end: &str) -> bool {
    let end = end.to_ascii_lowercase();
    let ends = [
        "json", "yaml", "yml", "jsn", "jsonl", "ndjson", "json5", "tfstate", "tf", "txt", "bak", "old", "orig", "save",
    ];
    ends.contains(&&*end) || name.ends_with('~')
}

/// The message about a folder without configuration files.
fn nothing(listed: &Listed) -> (String, String) {
    let what = "the folder holds no `.json`, `.yaml` or `.yml` file";
    if let Some(state) = listed
        .near
        .iter()
        .find(|name| name.to_ascii_lowercase().ends_with(".tfstate"))
    {
        let message = format!("{what}: `{state}` is a state file of Terraform, which is not read");
        let hint = "print the groups with `aws ec2 describe-security-groups` into a `.json` file";
        return (message, hint.to_owned());
    }
    let others: Vec<String> = listed.near.iter().chain(&listed.other).cloned().collect();
    match (others.is_empty(), listed.folders.is_empty()) {
        (false, _) => (
            format!("{what}, but {}", some_of(&others)),
            String::from("name files `….json` or `….yaml`"),
        ),
        (true, false) => (
            format!(
                "{what}, only folders, which are not looked into: {}",
                some_of(&listed.folders)
            ),
            String::from("name one of them with `--config`"),
        ),
        (true, true) => (
            what.to_owned(),
            String::from("put AWS CLI output or a native file into it"),
        ),
    }
}

/// A file's text; `None` after reporting an error. Its size is subtracted from `bytes_left`.
pub(super) fn text(file: Location, path: &Path, bytes_left: &mut u64, report: &mut Diagnostics) -> Option<String> {
    let bytes = match read(path, bytes_left) {
        Ok(bytes) => bytes,
        Err(error) => {
            let message = format!("the file cannot be read: {error}");
            report.error(file, message, "make it readable, or take it away");
            return None;
        }
    };
    if let Some((message, hint)) = recognise::bytes(&bytes) {
        report.error(file, message, hint);
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            let location = end_of(file, &valid);
            report.error(location, "what stands here is not UTF-8", "save the file as UTF-8");
            None
        }
    }
}

/// Reads a regular file up to its stated size: a file in /proc states 0, and some of those never end.
fn read(path: &Path, bytes_left: &mut u64) -> io::Result<Vec<u8>> {
    // Opening a device can have side effects, so the type is checked before, and again on the opened file.
    regular(&metadata(path)?)?;
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)?;
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let size = metadata.len();
    let mebibytes = |bytes: u64| bytes >> 20;
    if size > bounds::FILE_BYTES {
        let message = format!(
            "it has {} MiB, at most {} are read",
            mebibytes(size),
            mebibytes(bounds::FILE_BYTES)
        );
        return Err(io::Error::other(message));
    }
    *bytes_left = bytes_left.checked_sub(size).ok_or_else(|| {
        let most = mebibytes(bounds::FOLDER_BYTES);
        io::Error::other(format!("the folder's files have more than {most} MiB together"))
    })?;
    let mut bytes = Vec::with_capacity(size as usize);
    (&file).take(size).read_to_end(&mut bytes)?;
    // A file that changes during the read could combine two versions into a configuration that was never written.
    let changed = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    if changed(&file.metadata()?) != changed(&metadata) {
        return Err(io::Error::other("it was written while it was read"));
    }
    Ok(bytes)
}

fn regular(metadata: &Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(io::Error::other("it is a pipe, a socket or a device"))
}
