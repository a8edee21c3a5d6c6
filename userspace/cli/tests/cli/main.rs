//! The command line, as its users meet it: the binary's answers word for word, and `explain` against the naive oracle.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod advice;
mod check;
mod explain;
mod general;
mod hostile;
mod oracle;
mod support;
