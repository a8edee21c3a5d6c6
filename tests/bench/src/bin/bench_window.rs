//! Measures what passes a link that comes before its gate stands. `cargo xtask bench window` builds it and runs it as root.

use std::process::ExitCode;

use bench::window::{self, WindowEffort};
use clap::Parser;

/// Measures what passes a link that comes before its gate stands
#[derive(Parser)]
struct Args {
    /// Take a few rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let effort = if Args::parse().quick {
        WindowEffort::QUICK
    } else {
        WindowEffort::FULL
    };
    bench::ended(window::run(effort))
}
