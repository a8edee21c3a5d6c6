//! `taskgate diff` and `taskgate apply --dry-run`: show what a configuration would change.

use std::{fmt::Write as _, path::Path};

use taskgate_analysis::diff::{connection_lines, connections_text, counts_text, lines};
use taskgate_api::{DiffRequest, Differences};

use super::{
    args::Output,
    client::ControlClient,
    control::absolute,
    error::{Error, Exit},
    output::{self, BAD, GOOD, UNSURE},
};

/// Queries a running taskgate. `folder`: the folder of the configuration to compare; `None`: the folder that it
/// follows.
pub(super) fn run(
    client: &ControlClient,
    folder: Option<&Path>,
    form: Output,
    fail_on_change: bool,
) -> Result<Exit, Error> {
    let config = absolute(folder)?;
    let differences: Differences = client.post("/v1/diff", &DiffRequest { config })?;
    match form {
        Output::Json => output::json(&differences)?,
        Output::Text => {
            for warning in &differences.warnings {
                output::problem(output::Severity::Warning, warning);
            }
            output::styled(&text(&differences))?;
        }
    }
    Ok(if fail_on_change && !differences.is_empty() {
        Exit::No
    } else {
        Exit::Ok
    })
}

/// The whole answer in colours, with a newline after each line.
fn text(differences: &Differences) -> String {
    let Differences {
        config,
        generation,
        model,
        connections,
        warnings: _,
    } = differences;
    let mut text = String::new();
    for line in lines(model).chain(connection_lines(connections)) {
        let style = match line.chars().next() {
            Some('+') => GOOD,
            Some('-') => BAD,
            _ => UNSURE,
        };
        // Writing to a string cannot fail.
        writeln!(text, "{style}{line}{style:#}").ok();
    }
    if model.is_empty() {
        writeln!(text, "`{config}` says what generation {generation} has in force").ok();
    } else {
        writeln!(text, "`{config}`: {}", counts_text(model.counts)).ok();
    }
    if connections.counts.not_listed > 0 {
        writeln!(
            text,
            "{} more connections are not listed",
            connections.counts.not_listed
        )
        .ok();
    }
    if connections.counts.unclear > 0 {
        writeln!(text, "of {} connections nobody can say", connections.counts.unclear).ok();
    }
    writeln!(text, "{}", connections_text(&connections.counts)).ok();
    text
}
