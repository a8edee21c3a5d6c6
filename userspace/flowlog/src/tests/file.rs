//! File sinks: appending, rotation, moved files, and recovery after a kill.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use taskgate_model::{LogFile, Rotate};

use super::files::{Folder, batch, next, numbered};
use crate::{FileSink, Mark, Sink as _, SinkError};

fn sink(path: &Path, rotate: Option<Rotate>) -> FileSink {
    let path = path.to_owned();
    FileSink::new(&LogFile { path, rotate })
}

/// Writes all lines, and returns the mark that is confirmed afterwards.
fn put(sink: &mut FileSink, lines: &str, mark: Mark) -> Result<Mark, SinkError> {
    let mut batches = [batch(60, lines.to_owned())];
    let mut at = mark;
    while !batches[0].lines.is_empty() {
        let prepared = sink.prepare(&next(&batches, 0, at))?;
        at = prepared.mark;
        drop(batches[0].lines.split_to(prepared.written));
        let written = sink.write(&next(&batches, 0, at))?;
        at.length += written as u64;
        drop(batches[0].lines.split_to(written));
    }
    Ok(at)
}

fn append(path: &Path, text: &str) {
    let file = OpenOptions::new().append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("it is written");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file")
}

fn log() -> (Folder, PathBuf) {
    let folder = Folder::new();
    let path = folder.0.join("flows.log");
    (folder, path)
}

#[test]
fn lines_are_appended_and_a_line_that_was_cut_is_ended_first() {
    let (_folder, path) = log();
    fs::write(&path, "before\nhalf").expect("a file");
    put(&mut sink(&path, None), "one\ntwo\n", Mark::default()).expect("written");
    assert_eq!(read(&path), "before\nhalf\none\ntwo\n");
}

#[test]
fn a_new_file_is_for_its_owner_and_its_group() {
    let (_folder, path) = log();
    put(&mut sink(&path, None), "one\n", Mark::default()).expect("written");
    let mode = fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o7777, 0o640);
}

#[test]
fn what_cannot_be_used_is_told_in_words() {
    let (folder, path) = log();
    let told = |path: &Path| {
        let error = put(&mut sink(path, None), "one\n", Mark::default()).expect_err("it cannot be written");
        assert!(error.passes());
        error.to_string()
    };
    let nowhere = folder.0.join("nowhere");
    assert_eq!(
        told(&nowhere.join("flows.log")),
        format!(
            "there is no folder `{}`: make it, it is looked for again and again",
            nowhere.display()
        )
    );
    let held = File::create(&path).expect("a file");
    held.lock().expect("a lock");
    assert_eq!(
        told(&path),
        format!(
            "another process writes flow records to `{}`: give each its own file",
            path.display()
        )
    );
    assert_eq!(
        told(Path::new("/dev/null")),
        "`/dev/null` is no regular file: move it away, or name another path"
    );
}

#[test]
fn what_failed_is_written_once_it_can_be() {
    let (folder, path) = log();
    let below = folder.0.join("sub");
    let moved = below.join("flows.log");
    let mut sink = sink(&moved, None);
    put(&mut sink, "one\n", Mark::default()).expect_err("no folder");
    fs::create_dir(&below).expect("a folder");
    let mark = put(&mut sink, "one\n", Mark::default()).expect("written");
    // Remove the folder and the file.
    fs::rename(&moved, &path).expect("it is moved");
    fs::remove_dir(&below).expect("it is empty");
    fs::remove_file(&path).expect("it is there");
    put(&mut sink, "two\n", mark).expect_err("no folder");
    fs::create_dir(&below).expect("a folder");
    put(&mut sink, "two\n", mark).expect("written");
    assert_eq!(read(&moved), "two\n");
}

#[test]
fn files_are_rotated_by_size_and_only_so_many_kept() {
    let (folder, path) = log();
    let rotate = Rotate {
        size: Some(20),
        age: None,
        keep: 3,
    };
    let mut sink = sink(&path, Some(rotate));
    let mut mark = Mark::default();
    for number in 0..13 {
        mark = put(&mut sink, &format!("line {number:02}\n"), mark).expect("written");
    }
    assert_eq!(read(&path), "line 12\n");
    assert_eq!(
        String::from_utf8(numbered(&path)).expect("text"),
        "line 06\nline 07\nline 08\nline 09\nline 10\nline 11\nline 12\n"
    );
    assert_eq!(fs::read_dir(&folder.0).expect("a folder").count(), 4);
    // A line longer than the maximal file size gets a separate file.
    let long = format!("{}\n", "x".repeat(100));
    put(&mut sink, &long, mark).expect("written");
    assert_eq!(read(&path), long);
}

#[test]
fn a_window_is_cut_between_lines_where_a_file_is_full() {
    let (_folder, path) = log();
    let rotate = Rotate {
        size: Some(50),
        age: None,
        keep: 100,
    };
    let lines: String = ["one\n", "two\n", "three\n"].repeat(30).concat();
    put(&mut sink(&path, Some(rotate)), &lines, Mark::default()).expect("written");
    assert_eq!(String::from_utf8(numbered(&path)).expect("text"), lines);
    for number in 1..=8 {
        let part = read(&PathBuf::from(format!("{}.{number}", path.display())));
        assert!(part.len() <= 50 && part.ends_with('\n'), "{part:?}");
    }
}

#[test]
fn a_file_that_is_old_is_not_added_to() {
    let (folder, path) = log();
    let rotate = |age| Rotate {
        size: None,
        age: Some(age),
        keep: 2,
    };
    let mut young = sink(&path, Some(rotate(3600)));
    let mark = put(&mut young, "one\n", Mark::default()).expect("written");
    let mark = put(&mut young, "two\n", mark).expect("written");
    drop(young);
    put(&mut sink(&path, Some(rotate(0))), "three\n", mark).expect("written");
    assert_eq!(read(&folder.0.join("flows.log.1")), "one\ntwo\n");
    assert_eq!(read(&path), "three\n");
}

#[test]
fn a_file_that_logrotate_moved_is_let_go_of_once_there_is_another() {
    let (folder, path) = log();
    let mut sink = sink(&path, None);
    let mark = put(&mut sink, "one\n", Mark::default()).expect("written");
    let moved = folder.0.join("flows.log-20260101");
    fs::rename(&path, &moved).expect("it is moved");
    // The moved file is written until a new one exists, or until `reopen`.
    let mark = put(&mut sink, "two\n", mark).expect("written");
    File::create_new(&path).expect("a file");
    let mark = put(&mut sink, "three\n", mark).expect("written");
    assert_eq!((&*read(&moved), &*read(&path)), ("one\ntwo\n", "three\n"));
    fs::rename(&path, &moved).expect("it is moved");
    sink.reopen();
    let mark = put(&mut sink, "four\n", mark).expect("written");
    assert_eq!((&*read(&moved), &*read(&path)), ("three\n", "four\n"));
    // A deleted file is not written further: its lines would be lost.
    fs::remove_file(&path).expect("it is there");
    let mark = put(&mut sink, "five\n", mark).expect("written");
    assert_eq!(read(&path), "five\n");
    // `copytruncate`.
    File::create(&path).expect("it is emptied");
    put(&mut sink, "six\n", mark).expect("written");
    assert_eq!(read(&path), "six\n");
}

/// The bytes that the next process finds already written, and the file's contents afterwards.
fn found(path: &Path, lines: &str, mark: Mark) -> (usize, String) {
    let batches = [batch(60, lines.to_owned())];
    let prepared = sink(path, None)
        .prepare(&next(&batches, 0, mark))
        .expect("it is opened");
    assert_eq!(prepared.mark.length, fs::metadata(path).expect("a file").len());
    (prepared.written, read(path))
}

#[test]
fn what_a_killed_process_wrote_is_known_by_its_words_and_nothing_is_cut_off() {
    const WAITING: &str = "one\ntwo\nthree\n";
    for (behind, written, then) in [
        ("", 0, ""),
        ("o", 4, "one\n"),
        ("one\n", 4, "one\n"),
        ("one\ntw", 8, "one\ntwo\n"),
        (WAITING, 14, WAITING),
        // Another process wrote after taskgate, or instead.
        ("one\nother\n", 4, "one\nother\n"),
        ("one\ntw\nother", 4, "one\ntw\nother\n"),
        ("other\none\n", 0, "other\none\n"),
        ("one\ntwo\nthree\nother\n", 14, "one\ntwo\nthree\nother\n"),
    ] {
        let (folder, path) = log();
        let mark = put(&mut sink(&path, None), "before\n", Mark::default()).expect("written");
        append(&path, behind);
        assert_eq!(
            found(&path, WAITING, mark),
            (written, format!("before\n{then}")),
            "{behind:?}"
        );
        // The same if the file was renamed meanwhile.
        let moved = folder.0.join("flows.log.1");
        let mark = Mark {
            length: fs::metadata(&path).expect("a file").len(),
            ..mark
        };
        append(&path, "on");
        fs::rename(&path, &moved).expect("it is moved");
        assert_eq!(found(&path, WAITING, mark), (4, String::new()));
        assert!(read(&moved).ends_with("\none\n"));
    }
}

#[test]
fn another_file_in_its_place_is_not_taken_for_ours() {
    let (folder, path) = log();
    let mark = put(&mut sink(&path, None), "before\n", Mark::default()).expect("written");
    // The other file has the expected bytes, but another inode, as both exist at once.
    let other = folder.0.join("other");
    fs::write(&other, "before\none\n").expect("a file");
    assert_ne!(fs::metadata(&other).expect("a file").ino(), mark.inode);
    fs::rename(&other, &path).expect("it is moved");
    assert_eq!(found(&path, "one\n", mark), (0, String::from("before\none\n")));
    // The file was truncated: it is shorter than the confirmed length.
    let mark = Mark {
        inode: fs::metadata(&path).expect("a file").ino(),
        length: 100,
        ..mark
    };
    assert_eq!(found(&path, "one\n", mark), (0, String::from("before\none\n")));
}
