//! Sinks: whole windows, and a reader that goes away.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::fd::OwnedFd,
};

use crate::flowlog::{LineSink, Sink as _, SinkError};

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
