//! The command line: it knows every other part, and none of them knows it.

pub mod args;
mod check;
mod error;
pub mod explain;
mod log_queue;
mod log_text;
mod output;

use std::io::Write as _;

pub use args::Cli;
pub use error::{Error, Exit};

use args::{Command, LogFormat};
use log_queue::LogQueue;
use taskgate_agent::{CountersForm, RunOptions};
use taskgate_config::{Problem, Problems, count_problems};
use tracing::{error, level_filters::LevelFilter, warn};
use tracing_log::AsLog as _;

/// Does what the command line says and tells how it went. Errors are shown on standard error.
pub fn run(cli: Cli) -> Exit {
    let level = LevelFilter::from(cli.global.log_level);
    let format = match &cli.command {
        Command::Run(run) => run.log_format,
        Command::Check(_) | Command::Explain(_) => LogFormat::Text,
    };
    let log = LogQueue::start(level, format);
    let done = match cli.command {
        Command::Run(run) => {
            let options = RunOptions {
                config: cli.global.config,
                instance: cli.global.instance,
                interval: run.interval,
                counters: run.counters.map(|form| match form {
                    args::Output::Text => CountersForm::Text,
                    args::Output::Json => CountersForm::Json,
                }),
                log_level: level.as_log(),
            };
            let done = taskgate_agent::run(&options, &mut log.input());
            done.map(|()| Exit::Ok).map_err(Error::from)
        }
        Command::Check(check) => check::run(&cli.global.config, &check),
        Command::Explain(explain) => explain::run(&cli.global.config, &explain),
    };
    match (&done, format) {
        (Err(error), LogFormat::Json) => log_error(error),
        // A daemon ends where nobody reads, too.
        (Err(error @ Error::Daemon(_)), LogFormat::Text) => {
            log.input().write_all(format!("error: {error}\n").as_bytes()).ok();
        }
        _ => {}
    }
    log.finish();
    done.unwrap_or_else(|error| {
        if format == LogFormat::Text && !matches!(error, Error::Daemon(_)) {
            show(&error);
        }
        error.exit()
    })
}

/// Logs an error, where standard error has a JSON object in each line.
fn log_error(error: &Error) {
    let Error::Invalid(problems) = error else {
        return error!("{error}");
    };
    for Problem {
        file,
        line,
        column,
        message,
        hint,
        ..
    } in &problems.warnings
    {
        warn!(file, line, column, hint, "{message}");
    }
    for Problem {
        file,
        line,
        column,
        message,
        hint,
        ..
    } in &problems.errors
    {
        error!(file, line, column, hint, "{message}");
    }
    error!("{}", refusal(problems));
}

/// Shows an error. A refused configuration shows every problem it has.
fn show(error: &Error) {
    match error {
        Error::Invalid(problems) => {
            output::problems(output::Severity::Warning, &problems.warnings);
            output::problems(output::Severity::Error, &problems.errors);
            output::stderr_line(format_args!("{}", refusal(problems)));
        }
        error => output::stderr_line(format_args!("error: {error}")),
    }
}

fn refusal(problems: &Problems) -> String {
    format!(
        "the configuration is refused: {}, {}",
        output::count(count_problems(&problems.errors), "error"),
        output::count(count_problems(&problems.warnings), "warning"),
    )
}
