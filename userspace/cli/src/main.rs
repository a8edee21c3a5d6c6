//! The `taskgate` command.

use std::process::ExitCode;

use clap::Parser as _;
use taskgate::Cli;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => taskgate::run(cli).into(),
        // Requests for help and version end up here too.
        Err(answer) => {
            answer.print().ok();
            ExitCode::from(u8::try_from(answer.exit_code()).unwrap_or(2))
        }
    }
}
