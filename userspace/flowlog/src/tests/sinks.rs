//! Sinks: whole windows, and a reader that goes away.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::OwnedFd,
    sync::mpsc::{Receiver, Sender, channel},
    time::Duration,
};

use bytes::BytesMut;

use crate::{LineSink, Queue, Sink, SinkError};

/// Does to each write what is next on its list; then takes everything.
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

fn write(answers: Vec<io::Result<usize>>) -> (Result<(), SinkError>, Vec<Vec<u8>>) {
    let mut script = Script {
        answers,
        taken: Vec::new(),
    };
    let result = LineSink::new("a test", &mut script).write(b"one\ntwo\n");
    (result, script.taken)
}

#[test]
fn a_window_is_one_write() {
    let (result, taken) = write(Vec::new());
    result.expect("written");
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
    result.expect("written");
    assert_eq!(taken.concat(), b"one\ntwo\n");
}

#[test]
fn other_failures_are_told() {
    let (result, taken) = write(vec![Err(ErrorKind::StorageFull.into())]);
    let error = result.expect_err("no room");
    assert_eq!(error.to_string(), "cannot write flow records to a test");
    assert_eq!(taken.len(), 0);
}

#[test]
fn a_reader_that_went_away_is_an_error_and_no_panic() {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let mut sink = LineSink::new("standard output", File::from(OwnedFd::from(writer)));
    let error = sink.write(b"one\n").expect_err("nobody reads");
    assert!(matches!(error, SinkError::Closed { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "nobody reads standard output any more: the flow records end here"
    );
}

/// Takes lines only when it is told how that goes, and shows what it took.
struct Told {
    how: Receiver<Result<(), SinkError>>,
    taken: Sender<Vec<u8>>,
}

impl Sink for Told {
    fn write(&mut self, lines: &[u8]) -> Result<(), SinkError> {
        let how = self.how.recv().unwrap_or(Ok(()));
        self.taken.send(lines.to_vec()).ok();
        how
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
    let window = BytesMut::from(&*vec![b'x'; 1 << 20]);
    let mut pushed = 0;
    while queue.has_room() {
        queue.push(window.clone()).expect("nothing failed");
        pushed += window.len();
    }
    assert_eq!(pushed, 16 << 20);
    let error = queue.finish(Duration::ZERO).expect_err("nobody reads");
    assert_eq!(
        error.to_string(),
        "nobody reads a test: the last 16777216 bytes of flow records are lost"
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
    queue.push(BytesMut::from("one\n")).expect("nothing failed");
    tell.send(Ok(())).expect("it listens");
    queue.finish(LONG).expect("written");
    queue.push(BytesMut::from("two\n")).expect("nothing failed");
    tell.send(Err(SinkError::Closed { sink: "a test" }))
        .expect("it listens");
    assert_eq!(takes.recv().as_deref(), Ok(&b"one\n"[..]));
    assert_eq!(takes.recv().as_deref(), Ok(&b"two\n"[..]));
    let error = queue.finish(LONG).expect_err("it failed");
    assert!(matches!(error, SinkError::Closed { .. }), "{error:?}");
    drop(tell);
    queue.push(BytesMut::from("three\n")).expect("told already");
    queue.finish(LONG).expect("written");
    assert_eq!(takes.recv().as_deref(), Ok(&b"three\n"[..]));
}

#[test]
fn what_follows_a_piece_that_failed_begins_with_a_line() {
    let (queue, tell, takes) = told();
    queue
        .push(BytesMut::from(&*vec![b'x'; 1 << 20]))
        .expect("nothing failed");
    tell.send(Err(SinkError::Closed { sink: "a test" }))
        .expect("it listens");
    queue.finish(LONG).expect_err("it failed");
    drop(tell);
    queue.push(BytesMut::from("next\n")).expect("told already");
    queue.finish(LONG).expect("written");
    drop(queue);
    let taken: Vec<usize> = takes.iter().map(|piece| piece.len()).collect();
    assert_eq!(taken, [64 << 10, 5]);
}
