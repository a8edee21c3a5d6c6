//! The command line. It depends on every other part of taskgate, and none depends on it.

pub mod args;
mod check;
pub mod client;
mod connections;
mod control;
mod diff;
mod error;
pub mod explain;
pub mod flows;
mod log_queue;
mod log_text;
mod output;
mod status;
mod task;

use std::io::Write as _;

pub use args::Cli;
pub use error::{Error, Exit};

use args::{Command, LogFormat, TaskCommand};
use client::{ClientError, ControlClient};
use log_queue::LogQueue;
use taskgate_agent::{CountersForm, RunOptions};
use taskgate_config::{Problem, Problems, count_problems};
use tracing::{error, level_filters::LevelFilter, warn};
use tracing_log::AsLog as _;

/// Carries out a command and returns the exit status. Errors are shown on standard error.
pub fn run(cli: Cli) -> Exit {
    let level = LevelFilter::from(cli.global.log_level);
    let format = match &cli.command {
        Command::Run(run) => run.log_format,
        _ => LogFormat::Text,
    };
    let log = LogQueue::start(level, format);
    let folder = cli.global.folder().to_owned();
    let client = ControlClient::new(&cli.global.instance);
    let done = match cli.command {
        Command::Run(run) => {
            let options = RunOptions {
                config: folder,
                watch: run.watch,
                instance: cli.global.instance,
                drop_connections: run.drop_connections,
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
        // Parsing the command line has already required `--yes`.
        Command::Cleanup(_) => {
            let done = taskgate_agent::cleanup(&cli.global.instance);
            done.map(|()| Exit::Ok).map_err(Error::from)
        }
        Command::Check(check) => check::run(&folder, &check),
        Command::Explain(explain) => explain::run(&folder, &explain),
        Command::Status(form) => status::run(&client, &cli.global.instance, form.output),
        Command::Apply(apply) if apply.dry_run => {
            diff::run(&client, cli.global.config.as_deref(), apply.form.output, false)
        }
        Command::Apply(apply) => control::apply(&client, cli.global.config.as_deref(), apply.form.output),
        Command::Diff(args) => {
            let folder = cli.global.config.as_deref();
            diff::run(&client, folder, args.form.output, args.fail_on_change)
        }
        Command::Connections(args) => connections::run(&client, &args),
        Command::Flows(args) => flows::run(*args),
        Command::Task(command) => match command {
            TaskCommand::List(form) => status::tasks(&client, form.output),
            TaskCommand::Add(add) => task::add(&client, add),
            TaskCommand::Remove(remove) => task::remove(&client, &remove),
            TaskCommand::Isolate(isolate) => task::isolate(&client, &isolate),
        },
        Command::Reload(form) => control::apply(&client, None, form.output),
    };
    match (&done, format) {
        (Err(error), LogFormat::Json) => log_error(error),
        // A daemon must also end when its output has no reader, so its error goes through the log's queue.
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

/// Logs an error, for a standard error that consists of JSON lines.
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
        Error::ControlClient(ClientError::Refused(problem)) if !problem.errors.is_empty() => {
            for error in &problem.errors {
                output::problem(output::Severity::Error, error);
            }
            output::stderr_line(format_args!("{}: {}", problem.title, problem.detail));
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
