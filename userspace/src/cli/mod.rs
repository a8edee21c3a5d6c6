//! The command line: it knows every other part, and none of them knows it.

pub mod args;
mod check;
mod error;
pub mod explain;
mod host;
pub mod lint;
mod log_queue;
mod output;
mod words;

pub use args::Cli;
pub use error::{Error, Exit};

use args::Command;
use log::LevelFilter;
use log_queue::LogQueue;

use crate::daemon::{self, CountersForm, RunOptions};

/// Does what the command line says and tells how it went. Errors are shown on standard error.
pub fn run(cli: Cli) -> Exit {
    let level = LevelFilter::from(cli.global.log_level);
    let log = LogQueue::start(level);
    let done = match cli.command {
        Command::Run(run) => daemon::run(&RunOptions {
            config: cli.global.config,
            instance: cli.global.instance,
            interval: run.interval,
            counters: run.counters.map(|form| match form {
                args::Output::Text => CountersForm::Text,
                args::Output::Json => CountersForm::Json,
            }),
            log_level: level,
        })
        .map(|()| Exit::Ok)
        .map_err(Error::from),
        Command::Check(check) => check::run(&cli.global.config, &check),
        Command::Explain(explain) => explain::run(&cli.global.config, &explain),
    };
    log.finish();
    done.unwrap_or_else(|error| {
        show(&error);
        error.exit()
    })
}

/// Shows an error. A refused configuration shows every problem it has.
fn show(error: &Error) {
    match error {
        Error::Invalid(problems) => {
            output::problems(output::Severity::Warning, &problems.warnings);
            output::problems(output::Severity::Error, &problems.errors);
            output::say(format_args!(
                "the configuration is refused: {}, {}",
                output::count(problems.errors.len(), "error"),
                output::count(problems.warnings.len(), "warning"),
            ));
        }
        error => output::say(format_args!("error: {error}")),
    }
}
