//! `cargo xtask bench`: builds the benchmark program optimised and runs it as root.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{build, exec, vm};

/// Measure taskgate on this machine
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Path(PathArgs),
    Peers(PeersArgs),
    Compare(CompareArgs),
    Density(DensityArgs),
    Control(ControlArgs),
    Reading(ReadingArgs),
    Window(WindowArgs),
}

/// Packets that pass a new link before its gate is attached: on an idle host, while another task floods, and while a
/// reload reads a large prefix list
#[derive(clap::Args)]
struct WindowArgs {
    /// Take a few rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

/// Nanoseconds for one packet on each path of the kernel program, what it leaves of the traffic over veth pairs, its
/// verified instructions here and on kernels that `cargo xtask vm` left, and the compile time of a rule set; docs/performance.md says how it is measured
#[derive(clap::Args)]
struct PathArgs {
    /// Write what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Take seconds: few and short rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

/// taskgate compared with the alternatives: no filter, nftables with linear rules, with sets, with a flowtable, and
/// iptables with ipset, at 1, 100 and 1,000 rules; docs/performance.md says how it is measured
#[derive(clap::Args)]
struct PeersArgs {
    /// Write what was measured into this file too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw it into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Measure nothing, and take what an earlier run wrote with --json; needs no root
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "json"])]
    from: Option<PathBuf>,
    /// Take seconds: few and short rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
    /// Measure nothing, and print each filter's rule set for this many rules, 1 to 1,000; needs no root
    #[arg(long, value_name = "RULES", exclusive = true)]
    show: Option<u16>,
}

/// The medians of two runs, from the files that `path` or `peers` wrote with --json; needs no root
#[derive(clap::Args)]
struct CompareArgs {
    /// The run before
    a: PathBuf,
    /// The run after
    b: PathBuf,
}

/// A running taskgate with one task, 500, 2,000 and 4,094 branches: how long it takes to start, to be taken over by the next one,
/// to reload and to end, its memory, and how long a task that is added, isolated or removed by hand takes
#[derive(clap::Args)]
struct ControlArgs {
    /// Take half a minute: fewer tasks and rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

/// 4,094 branches on a trunk and 2,000 tasks on veth links, compared with one of each: nanoseconds for a packet
#[derive(clap::Args)]
struct DensityArgs {
    /// Take half a minute: fewer tasks and rounds, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
}

/// How long `taskgate check` takes to read a large account, 2,500 groups and 20,000 interfaces as the AWS CLI prints them,
/// and in how much memory; needs no root
#[derive(clap::Args)]
struct ReadingArgs {
    /// Take a small account, whose figures are not to be quoted
    #[arg(long)]
    quick: bool,
    /// Only write the account into this folder
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if !exec::is_root() && args.what.needs_root() {
        bail!("loading the kernel program to measure it needs root: run `cargo xtask bench` as root");
    }
    match &args.what {
        What::Path(args) => path(args),
        What::Peers(args) => peers(args),
        What::Compare(CompareArgs { a, b }) => {
            let mut command = program("compare")?;
            command.arg(a).arg(b);
            measured(command)
        }
        What::Density(args) => measured(quick(program("density")?, args.quick)),
        What::Control(args) => measured(quick(by_taskgate("control")?, args.quick)),
        What::Reading(args) => {
            let command = quick(by_taskgate("reading")?, args.quick);
            measured(file(command, "--write", args.write.as_ref()))
        }
        What::Window(args) => measured(quick(by_taskgate("window")?, args.quick)),
    }
}

impl What {
    fn needs_root(&self) -> bool {
        match self {
            Self::Reading(_) | Self::Compare(_) => false,
            Self::Peers(args) => args.from.is_none() && args.show.is_none(),
            Self::Path(_) | Self::Density(_) | Self::Control(_) | Self::Window(_) => true,
        }
    }
}

/// Builds the benchmark program and returns its command for one benchmark.
fn program(benchmark: &str) -> Result<Command> {
    let mut command = Command::new(build::binary("taskgate-bench", "measure")?);
    command.arg(benchmark);
    Ok(command)
}

/// The command of a benchmark that starts taskgate.
fn by_taskgate(benchmark: &str) -> Result<Command> {
    let taskgate = build::binary("taskgate", "taskgate")?;
    let mut command = program(benchmark)?;
    command.env("TASKGATE_BIN", taskgate);
    Ok(command)
}

/// Adds `--quick` if requested.
fn quick(mut command: Command, is_quick: bool) -> Command {
    if is_quick {
        command.arg("--quick");
    }
    command
}

/// Adds an option with a file, if there is one.
fn file(mut command: Command, option: &str, file: Option<&PathBuf>) -> Command {
    if let Some(file) = file {
        command.arg(option).arg(file);
    }
    command
}

fn measured(mut command: Command) -> Result<ExitCode> {
    let good = exec::status(&mut command)?.success();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn peers(args: &PeersArgs) -> Result<ExitCode> {
    let command = if args.from.is_some() || args.show.is_some() {
        program("peers")?
    } else {
        by_taskgate("peers")?
    };
    let mut command = quick(command, args.quick);
    for (option, path) in [("--json", &args.json), ("--plot", &args.plot), ("--from", &args.from)] {
        command = file(command, option, path.as_ref());
    }
    if let Some(rules) = args.show {
        command.arg("--show").arg(rules.to_string());
    }
    measured(command)
}

fn path(args: &PathArgs) -> Result<ExitCode> {
    let command = quick(program("path")?, args.quick);
    let done = measured(file(command, "--json", args.json.as_ref()))?;
    if done == ExitCode::SUCCESS {
        vm::print_verified()?;
    }
    Ok(done)
}
