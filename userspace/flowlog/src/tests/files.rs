//! Test helpers for the files of flow logs.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use bytes::Bytes;
use flate2::read::GzDecoder;
use taskgate_model::LogFolder;

use crate::{Batch, Mark, NextWrite};

/// A temporary folder, removed on drop.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("taskgate-files-{}-{}", std::process::id(), NUMBER.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.0);
    }
}

/// A batch of a window's lines.
pub(super) fn batch(end: u64, lines: impl Into<Bytes>) -> Batch {
    Batch {
        end,
        lines: lines.into(),
    }
}

/// The next write of a sink, after `position` and `mark`.
pub(super) fn next(batches: &[Batch], position: u64, mark: Mark) -> NextWrite<'_> {
    NextWrite {
        batches,
        bytes: batches.iter().map(|batch| batch.lines.len()).sum(),
        position,
        mark,
        ending: false,
    }
}

/// The lines of a file and of its numbered predecessors, oldest first.
pub(super) fn numbered(path: &Path) -> Vec<u8> {
    let numbered = |number: u32| PathBuf::from(format!("{}.{number}", path.display()));
    let mut count = 0;
    while numbered(count + 1).exists() {
        count += 1;
    }
    let mut lines = Vec::new();
    for file in (1..=count).rev().map(numbered).chain([path.to_owned()]) {
        lines.extend(fs::read(file).unwrap_or_default());
    }
    lines
}

/// The folder of a flow log.
pub(super) fn folder(path: &Path) -> LogFolder {
    LogFolder {
        path: path.to_owned(),
        id: String::from("fl-0123456789abcdef0"),
        account: String::from("111122223333"),
        region: String::from("eu-west-1"),
        hive_partitions: false,
        hourly_partitions: false,
    }
}

/// The files below a folder whose names end in `ends`, in the order of their names.
pub(super) fn below(folder: &Path, ends: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(below(&path, ends));
        } else if path
            .file_name()
            .and_then(OsStr::to_str)
            .is_some_and(|name| name.ends_with(ends))
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The text of a delivered file.
pub(super) fn text(path: &Path) -> String {
    let mut text = String::new();
    let file = File::open(path).expect("a file");
    GzDecoder::new(file).read_to_string(&mut text).expect("gzip");
    text
}

/// The lines of all files delivered to a folder, without headers. Checks that each line is of the period in its file's name.
pub(super) fn delivered(folder: &Path) -> Vec<u8> {
    let mut lines = Vec::new();
    for path in below(&folder.join("AWSLogs"), ".log.gz") {
        let text = text(&path);
        let (header, records) = text.split_once('\n').expect("a header");
        assert_eq!(
            header,
            "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action log-status"
        );
        let ends = records
            .lines()
            .map(|line| line.split(' ').nth(11).and_then(|end| end.parse::<u64>().ok()));
        let mut periods: Vec<_> = ends.map(|end| end.expect("an end") / 300).collect();
        periods.dedup();
        assert_eq!(periods.len(), 1, "{}", path.display());
        lines.extend_from_slice(records.as_bytes());
    }
    lines
}
