//! The log's lines for people: `[2026-06-10T12:00:00.000000Z INFO  taskgate_agent] the message`. The fields of an event
//! are for machines and appear in the JSON lines only: the message itself names its subject.

use std::fmt::{self, Debug};

use anstyle::{AnsiColor, Style};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_log::NormalizeEvent as _;
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    registry::LookupSpan,
};

use super::args::LogFormat;

/// Formats events as lines for people.
#[derive(Debug)]
pub(super) struct Text {
    colours: bool,
}

impl Text {
    pub(super) fn new(colours: bool) -> Self {
        Self { colours }
    }
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let from_log = event.normalized_metadata();
        let metadata = from_log.as_ref().unwrap_or_else(|| event.metadata());
        let style = if self.colours {
            style(*metadata.level())
        } else {
            Style::new()
        };
        line.write_char('[')?;
        SystemTime.format_time(&mut line)?;
        write!(line, " {style}{:<5}{style:#} {}] ", metadata.level(), metadata.target())?;
        let mut message = Message(line, Ok(()));
        event.record(&mut message);
        let Message(mut line, written) = message;
        written?;
        line.write_char('\n')
    }
}

fn style(level: Level) -> Style {
    let colour = match level {
        Level::ERROR => AnsiColor::Red,
        Level::WARN => AnsiColor::Yellow,
        Level::INFO => AnsiColor::Green,
        Level::DEBUG => AnsiColor::Blue,
        Level::TRACE => AnsiColor::Cyan,
    };
    colour.on_default()
}

/// Writes an event's message, later lines of it indented, and none of its other fields.
struct Message<'a>(Writer<'a>, fmt::Result);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" && self.1.is_ok() {
            self.1 = self.0.write_str(&format!("{value:?}").replace('\n', "\n    "));
        }
    }
}

/// The line in place of missing lines.
pub(super) fn missing(lines: u64, format: LogFormat) -> String {
    let message = format!("{lines} lines of the log are missing here: nobody read it");
    match format {
        LogFormat::Text => message,
        LogFormat::Json => {
            let mut timestamp = String::new();
            // Writing to a string cannot fail.
            SystemTime.format_time(&mut Writer::new(&mut timestamp)).ok();
            serde_json::json!({ "timestamp": timestamp, "level": "WARN", "message": message, "lines": lines })
                .to_string()
        }
    }
}
