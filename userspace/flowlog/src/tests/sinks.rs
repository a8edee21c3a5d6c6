//! Line sinks and queues: whole windows, slow readers, and closed ones.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Seek as _, SeekFrom, Write},
    os::fd::OwnedFd,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use bytes::Bytes;

use super::files::{batch, next};
use crate::{
    DestinationState, LineSink, Mark, NextWrite, Queue, Sink, SinkError,
    sink::{is_cut, whole_lines},
};

/// A writer that returns the listed results, one for each write, and then takes everything.
struct Script {
    answers: Vec<io::Result<usize>>,
    taken: Vec<Vec<u8>>,
}

impl Write for &mut Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = if self.answers.is_empty() {
            bytes.len()
        } else {
            self.answers.remove(0)?
        };
        self.taken.push(bytes[..taken].to_vec());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write(answers: Vec<io::Result<usize>>) -> (Result<usize, SinkError>, Vec<Vec<u8>>) {
    let mut script = Script {
        answers,
        taken: Vec::new(),
    };
    let batches = [batch(60, "one\ntwo\n")];
    let result = LineSink::new("a test", &mut script).write(&next(&batches, 0, Mark::default()));
    (result, script.taken)
}

#[test]
fn a_window_is_one_write() {
    let (result, taken) = write(Vec::new());
    assert_eq!(result.expect("written"), 8);
    assert_eq!(taken, [b"one\ntwo\n"]);
}

#[test]
fn what_a_slow_reader_leaves_is_written_then() {
    let answers = vec![
        Ok(3),
        Err(ErrorKind::Interrupted.into()),
        Err(ErrorKind::WouldBlock.into()),
        Ok(4),
    ];
    let (result, taken) = write(answers);
    assert_eq!(result.expect("written"), 8);
    assert_eq!(taken.concat(), b"one\ntwo\n");
}

#[test]
fn a_line_that_a_killed_process_was_at_is_ended() {
    let path = std::env::temp_dir().join(format!("taskgate-lines-{}", std::process::id()));
    for (content, cut) in [("", false), ("one\n", false), ("one\ntw", true)] {
        fs::write(&path, content).expect("a file");
        let append = File::options().append(true).open(&path).expect("it is there");
        assert_eq!(is_cut(&append), cut, "{content:?}, appended to");
        let mut end = File::options().write(true).open(&path).expect("it is there");
        end.seek(SeekFrom::End(0)).expect("an end");
        assert_eq!(is_cut(&end), cut, "{content:?}, gone on with");
    }
    fs::remove_file(&path).expect("it is there");
    let (_reader, writer) = io::pipe().expect("a pipe");
    assert!(!is_cut(&OwnedFd::from(writer).into()));
}

#[test]
fn other_failures_are_told() {
    let (result, taken) = write(vec![Err(ErrorKind::StorageFull.into())]);
    let error = result.expect_err("no room");
    assert_eq!(error.to_string(), "cannot write flow records to a test");
    assert_eq!(taken.len(), 0);
}

#[test]
fn what_was_taken_before_a_failure_is_not_written_again() {
    let (result, taken) = write(vec![Ok(3), Err(ErrorKind::StorageFull.into())]);
    assert_eq!(result.expect("some was written"), 3);
    assert_eq!(taken.concat(), b"one");
}

#[test]
fn a_reader_that_went_away_is_an_error_and_no_panic() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let mut sink = LineSink::new("standard output", File::from(OwnedFd::from(writer)));
    let error = sink
        .write(&next(&[batch(60, "one\n")], 0, Mark::default()))
        .expect_err("nobody reads");
    assert!(matches!(error, SinkError::Closed { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "nobody reads standard output any more: the flow records end here"
    );
}

/// A sink that waits for the result of each write from `how`, and sends the taken lines to `taken`.
struct Told {
    how: Receiver<Result<(), SinkError>>,
    taken: Sender<Vec<u8>>,
}

impl Sink for Told {
    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        let how = self.how.recv().unwrap_or(Ok(()));
        let piece = whole_lines(next.lines(), 4096).min(4096);
        self.taken.send(next.lines()[..piece].to_vec()).ok();
        how.map(|()| piece)
    }
}

fn told() -> (Queue, Sender<Result<(), SinkError>>, Receiver<Vec<u8>>) {
    let ((tell, how), (taken, takes)) = (channel(), channel());
    let queue = Queue::new("a test", Box::new(Told { how, taken })).expect("a thread");
    (queue, tell, takes)
}

const LONG: Duration = Duration::from_mins(1);

#[test]
fn nobody_waits_for_a_reader_that_does_not_read() {
    let (queue, tell, takes) = told();
    let window = Bytes::from(vec![b'x'; 1 << 20]);
    let mut pushed = 0;
    while queue.has_room() {
        queue.push(batch(60, window.clone()));
        pushed += window.len();
    }
    assert_eq!(pushed, 16 << 20);
    let error = queue.finish(Duration::ZERO).expect_err("nobody reads");
    assert_eq!(
        error.to_string(),
        "nobody reads a test: the last 16777216 bytes of flow records are left to the next run"
    );
    drop(tell);
    queue.finish(LONG).expect("all is read now");
    assert!(queue.has_room());
    drop(queue);
    assert_eq!(takes.iter().map(|piece| piece.len()).sum::<usize>(), pushed);
}

#[test]
fn lines_come_in_order_and_what_fails_is_told_next_time() {
    let (queue, tell, takes) = told();
    queue.push(batch(60, "one\n"));
    tell.send(Ok(())).expect("it listens");
    queue.finish(LONG).expect("written");
    queue.push(batch(60, "two\n"));
    tell.send(Err(SinkError::Closed {
        sink: String::from("a test"),
    }))
    .expect("it listens");
    assert_eq!(takes.recv().as_deref(), Ok(&b"one\n"[..]));
    assert_eq!(takes.recv().as_deref(), Ok(&b"two\n"[..]));
    let error = queue.finish(LONG).expect_err("it failed");
    assert!(matches!(error, SinkError::Closed { .. }), "{error:?}");
    drop(tell);
    queue.push(batch(60, "three\n"));
    queue.finish(LONG).expect("written");
    assert_eq!(takes.recv().as_deref(), Ok(&b"three\n"[..]));
}

#[test]
fn what_follows_a_piece_that_failed_begins_with_a_line() {
    let (queue, tell, takes) = told();
    queue.push(batch(60, vec![b'x'; 1 << 20]));
    tell.send(Err(SinkError::Closed {
        sink: String::from("a test"),
    }))
    .expect("it listens");
    queue.finish(LONG).expect_err("it failed");
    drop(tell);
    queue.push(batch(60, "next\n"));
    queue.finish(LONG).expect("written");
    drop(queue);
    let taken: Vec<usize> = takes.iter().map(|piece| piece.len()).collect();
    assert_eq!(taken, [4096, 5]);
}

/// The error of a full disk.
fn full() -> SinkError {
    SinkError::Write {
        sink: String::from("a test"),
        source: ErrorKind::StorageFull.into(),
    }
}

#[test]
fn what_fails_for_now_is_told_once_each_time_and_written_then() {
    let (queue, tell, takes) = told();
    for lines in ["one\n", "two\n"] {
        queue.push(batch(60, lines));
        for _ in 0..3 {
            tell.send(Err(full())).expect("it listens");
        }
        for _ in 0..3 {
            assert_eq!(takes.recv().as_deref(), Ok(lines.as_bytes()));
        }
        let error = queue.trouble().expect("it failed");
        assert_eq!(error.to_string(), "cannot write flow records to a test");
        assert!(queue.trouble().is_none());
        let failing = queue.destination();
        assert_eq!(failing.waiting, 4);
        assert!(
            failing
                .failure
                .is_some_and(|why| why.starts_with("cannot write flow records to a test: ")),
            "with its cause"
        );
        tell.send(Ok(())).expect("it listens");
        queue.finish(LONG).expect("written");
        assert_eq!(queue.destination().failure, None);
        assert_eq!(takes.recv().as_deref(), Ok(lines.as_bytes()));
    }
    let DestinationState { records, dropped, .. } = queue.destination();
    assert_eq!((records, dropped), (2, 0));
}

#[test]
fn what_cannot_be_written_at_the_end_is_said() {
    let (queue, tell, takes) = told();
    queue.push(batch(60, "one\n"));
    tell.send(Err(full())).expect("it listens");
    takes.recv().expect("it is tried");
    queue.trouble();
    while queue
        .finish(Duration::ZERO)
        .is_err_and(|error| matches!(error, SinkError::Stuck { .. }))
    {}
    let error = queue.finish(Duration::ZERO).expect_err("it failed");
    assert_eq!(
        error.to_string(),
        "a test cannot be written: the last 4 bytes of flow records are left to the next run"
    );
}
