//! Measures the reading of a large account. `cargo xtask bench reading` builds it and runs it.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use bench::reading::{self, ReadingEffort};
use clap::Parser;

/// Measures the reading of a large account
#[derive(Parser)]
struct Args {
    /// Take a small account, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
    /// Only write the account into this folder
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

fn run(args: &Args) -> Result<String> {
    let effort = if args.quick {
        ReadingEffort::QUICK
    } else {
        ReadingEffort::FULL
    };
    match &args.write {
        Some(folder) => Ok(format!("{} bytes\n", reading::write(effort, folder)?)),
        None => reading::run(effort),
    }
}

fn main() -> ExitCode {
    bench::ended(run(&Args::parse()))
}
