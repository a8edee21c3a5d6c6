//! Measures taskgate beside what a user would take instead. `cargo xtask bench peers` builds it and runs it.
#![expect(clippy::print_stderr, reason = "its output is its purpose")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use bench::peers::{self, PeersEffort, filter::PacketFilter, plot, report::PeersReport};
use clap::Parser;

/// Measures taskgate beside what a user would take instead
#[derive(Parser)]
struct Args {
    /// Write what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw it into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure nothing, and take what an earlier run wrote with --json
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "json"])]
    from: Option<PathBuf>,
    /// Take seconds, for figures that are not to be quoted
    #[arg(long)]
    quick: bool,
    /// Measure nothing, and print what each filter is given for so many rules
    #[arg(long, value_name = "RULES", value_parser = clap::value_parser!(u16).range(1..=1000), exclusive = true)]
    show: Option<u16>,
}

fn read(file: &Path) -> Result<PeersReport> {
    let read = || Ok(serde_json::from_str(&fs::read_to_string(file)?)?);
    let report: Result<_> = read();
    report.with_context(|| format!("`{}` is not what `--json` writes", file.display()))
}

fn run(args: &Args) -> Result<String> {
    if let Some(rules) = args.show {
        let all = PacketFilter::ALL.map(|filter| filter.shown(rules));
        return Ok(all.join("\n"));
    }
    let write =
        |file: &Path, text: String| fs::write(file, text).with_context(|| format!("cannot write `{}`", file.display()));
    let report = if let Some(file) = &args.from {
        read(file)?
    } else {
        let effort = if args.quick {
            PeersEffort::QUICK
        } else {
            PeersEffort::FULL
        };
        peers::run(effort, &|step| eprintln!("bench: {step}"))?
    };
    if let Some(file) = &args.json {
        write(file, format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    }
    if let Some(file) = &args.plot {
        write(file, plot::svg(&report))?;
    }
    Ok(report.text())
}

fn main() -> ExitCode {
    bench::ended(run(&Args::parse()))
}
