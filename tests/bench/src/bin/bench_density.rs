//! Measures many tasks on this machine. `cargo xtask bench density` builds it and runs it as root.
#![expect(clippy::print_stderr, reason = "its output is its purpose")]

use std::process::ExitCode;

use bench::density::{self, DensityEffort};
use clap::Parser;

/// Measures many tasks on this machine
#[derive(Parser)]
struct Args {
    /// Take half a minute, for figures that are not to be quoted
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let effort = if Args::parse().quick {
        DensityEffort::QUICK
    } else {
        DensityEffort::FULL
    };
    bench::ended(density::run(effort, &|step| eprintln!("bench: {step}")))
}
