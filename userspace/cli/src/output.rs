//! Output of the commands: data goes to standard output, everything else to standard error.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
};

use anstream::{AutoStream, ColorChoice, stream::RawStream};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use taskgate_api::ProblemAt;
use taskgate_config::Problem;

use super::error::Error;

/// Writes data to standard output. A reader that is gone (`taskgate … | head`) is no failure.
///
/// # Errors
/// [`Error::Output`].
pub(super) fn stdout(text: &str) -> Result<(), Error> {
    write(io::stdout().lock(), text)
}

/// Writes data, with colours only for a terminal.
///
/// # Errors
/// [`Error::Output`].
pub(super) fn styled(text: &str) -> Result<(), Error> {
    write(AutoStream::auto(io::stdout().lock()), text)
}

/// Writes a part of the data. Returns whether there is still a reader.
///
/// # Errors
/// [`Error::Output`].
pub(super) fn piece(text: &str) -> Result<bool, Error> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => Ok(written.map(|()| true)?),
    }
}

/// Writes some of the data, with colours only for a terminal; says whether anybody reads on.
pub(super) fn styled_piece(text: &str) -> io::Result<bool> {
    match AutoStream::auto(io::stdout().lock()).write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

fn write(mut out: impl Write, text: &str) -> Result<(), Error> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes one JSON document.
///
/// # Errors
/// [`Error::Output`].
pub(super) fn json(document: &impl Serialize) -> Result<(), Error> {
    let mut text = serde_json::to_string_pretty(document).map_err(io::Error::from)?;
    text.push('\n');
    stdout(&text)
}

/// Writes a line to standard error. A failure cannot be reported anywhere.
pub(super) fn stderr_line(line: fmt::Arguments<'_>) {
    writeln!(io::stderr(), "{line}").ok();
}

/// The severity of a problem.
#[derive(Clone, Copy, Debug)]
pub(super) enum Severity {
    Error,
    Warning,
}

/// Shows problems of the configuration, one per line, in the form that editors can follow.
pub(super) fn problems(severity: Severity, problems: &[Problem]) {
    for Problem {
        file,
        line,
        column,
        message,
        hint,
        ..
    } in problems
    {
        show(severity, (file, *line, *column), message, hint);
    }
}

/// Shows a problem that a running taskgate found, as [`problems`] does.
pub(super) fn problem(severity: Severity, problem: &ProblemAt) {
    let ProblemAt {
        file,
        line,
        column,
        message,
        hint,
    } = problem;
    show(severity, (file, *line, *column), message, hint);
}

fn show(severity: Severity, (file, line, column): (&str, u32, u32), message: &str, hint: &str) {
    let word = match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    if line == 0 {
        stderr_line(format_args!("{file}: {word}: {message}; {hint}"));
    } else {
        stderr_line(format_args!("{file}:{line}:{column}: {word}: {message}; {hint}"));
    }
}

/// `3 errors`, `1 error`.
pub(super) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Whether output to this stream is coloured: the stream is a terminal that shows colours, and `NO_COLOR` does not
/// forbid them.
pub(super) fn has_colours(to: &impl RawStream) -> bool {
    AutoStream::choice(to) != ColorChoice::Never
}

/// The style of a good answer, for [`styled`].
pub(super) const GOOD: Style = AnsiColor::Green.on_default();
/// The style of a bad answer.
pub(super) const BAD: Style = AnsiColor::Red.on_default();
/// The style of an answer that is neither.
pub(super) const UNSURE: Style = AnsiColor::Yellow.on_default();
