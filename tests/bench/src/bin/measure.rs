//! The program of the benchmarks: `cargo xtask bench`, which documents its options, builds and runs it.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is its purpose")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, ensure};
use bench::{
    MOST_INSTRUCTIONS, PathEffort, compare,
    control::{self, ControlEffort},
    density::{self, DensityEffort},
    peers::{self, PeersEffort, filter::PacketFilter, plot, report::PeersReport},
    reading::{self, ReadingEffort},
    window::{self, WindowEffort},
};
use clap::Parser;
use testkit::sandbox::sandbox;

#[derive(Parser)]
enum Benchmark {
    Path {
        #[arg(long)]
        json: Option<PathBuf>,
        #[arg(long)]
        quick: bool,
    },
    Peers {
        #[arg(long)]
        json: Option<PathBuf>,
        #[arg(long)]
        plot: Option<PathBuf>,
        #[arg(long, conflicts_with_all = ["quick", "json"])]
        from: Option<PathBuf>,
        #[arg(long)]
        quick: bool,
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000), exclusive = true)]
        show: Option<u16>,
    },
    Compare {
        before: PathBuf,
        after: PathBuf,
    },
    Density {
        #[arg(long)]
        quick: bool,
    },
    Control {
        #[arg(long)]
        quick: bool,
    },
    Reading {
        #[arg(long)]
        quick: bool,
        #[arg(long)]
        write: Option<PathBuf>,
    },
    Window {
        #[arg(long)]
        quick: bool,
    },
}

fn step(step: &str) {
    eprintln!("bench: {step}");
}

fn write(file: Option<&PathBuf>, text: impl FnOnce() -> Result<String>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    fs::write(file, text()?).with_context(|| format!("cannot write `{}`", file.display()))
}

fn path(json: Option<&PathBuf>, effort: PathEffort) -> Result<()> {
    let mut report = None;
    sandbox(|| async {
        report = Some(bench::run(effort, &step)?);
        Ok(())
    })?;
    let report = report.context("nothing was measured")?;
    print!("{}", report.text());
    write(json, || Ok(format!("{:#}\n", report.json())))?;
    let too_long: Vec<_> = report.too_long().collect();
    ensure!(
        too_long.is_empty(),
        "more than {MOST_INSTRUCTIONS} verified instructions: `{}`",
        too_long.join("`, `")
    );
    Ok(())
}

fn read(file: &Path) -> Result<PeersReport> {
    let read = || Ok(serde_json::from_str(&fs::read_to_string(file)?)?);
    let report: Result<_> = read();
    report.with_context(|| format!("`{}` is not what `--json` writes", file.display()))
}

fn run(benchmark: Benchmark) -> Result<()> {
    let text = match benchmark {
        Benchmark::Path { json, quick } => {
            return path(json.as_ref(), if quick { PathEffort::QUICK } else { PathEffort::FULL });
        }
        Benchmark::Peers { show: Some(rules), .. } => PacketFilter::ALL.map(|filter| filter.shown(rules)).join("\n"),
        Benchmark::Peers {
            json,
            plot,
            from,
            quick,
            show: None,
        } => {
            let report = match from {
                Some(file) => read(&file)?,
                None => peers::run(if quick { PeersEffort::QUICK } else { PeersEffort::FULL }, &step)?,
            };
            write(json.as_ref(), || {
                Ok(format!("{}\n", serde_json::to_string_pretty(&report)?))
            })?;
            write(plot.as_ref(), || Ok(plot::svg(&report)))?;
            report.text()
        }
        Benchmark::Compare { before, after } => compare::files(&before, &after)?,
        Benchmark::Density { quick } => density::run(
            if quick {
                DensityEffort::QUICK
            } else {
                DensityEffort::FULL
            },
            &step,
        )?,
        Benchmark::Control { quick } => control::run(
            if quick {
                ControlEffort::QUICK
            } else {
                ControlEffort::FULL
            },
            &step,
        )?,
        Benchmark::Reading { quick, write } => {
            let effort = if quick {
                ReadingEffort::QUICK
            } else {
                ReadingEffort::FULL
            };
            match write {
                Some(folder) => format!("{} bytes\n", reading::write(effort, &folder)?),
                None => reading::run(effort)?,
            }
        }
        Benchmark::Window { quick } => window::run(if quick { WindowEffort::QUICK } else { WindowEffort::FULL })?,
    };
    print!("{text}");
    Ok(())
}

fn main() -> ExitCode {
    match run(Benchmark::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
