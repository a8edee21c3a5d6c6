//! The command line as its users see it: the exact output of the binary, and `explain` compared with the naive oracle.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod advice;
mod check;
mod explain;
mod flows;
mod general;
mod hostile;
mod oracle;
mod support;
