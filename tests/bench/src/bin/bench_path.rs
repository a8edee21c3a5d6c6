//! Measures the data path on this machine. `cargo xtask bench path` builds it and runs it as root.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use bench::{PathEffort, Report};
use clap::Parser;
use testkit::sandbox::sandbox;

/// Measures the data path on this machine
#[derive(Parser)]
struct Args {
    /// Write what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take seconds, for figures that are not to be quoted
    #[arg(long)]
    quick: bool,
}

fn measured(effort: PathEffort) -> Result<Report> {
    let mut report = None;
    sandbox(|| async {
        report = Some(bench::run(effort, &|step| eprintln!("bench: {step}"))?);
        Ok(())
    })?;
    report.context("nothing was measured")
}

fn run(args: &Args) -> Result<ExitCode> {
    let effort = if args.quick {
        PathEffort::QUICK
    } else {
        PathEffort::FULL
    };
    let report = measured(effort)?;
    print!("{}", report.text());
    if let Some(file) = &args.json {
        let text = format!("{:#}\n", report.json());
        fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
    }
    let too_long: Vec<_> = report.too_long().collect();
    if too_long.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "error: more than {} verified instructions: `{}`",
        bench::MOST_INSTRUCTIONS,
        too_long.join("`, `")
    );
    Ok(ExitCode::FAILURE)
}

fn main() -> ExitCode {
    run(&Args::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
