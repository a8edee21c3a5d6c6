//! Compares what two runs of a benchmark wrote. `cargo xtask bench compare` builds it and runs it.

use std::{path::PathBuf, process::ExitCode};

use bench::compare;
use clap::Parser;

/// Compares what two runs of a benchmark wrote with --json
#[derive(Parser)]
struct Args {
    /// The run before
    a: PathBuf,
    /// The run after
    b: PathBuf,
}

fn main() -> ExitCode {
    let Args { a, b } = Args::parse();
    bench::ended(compare::files(&a, &b))
}
