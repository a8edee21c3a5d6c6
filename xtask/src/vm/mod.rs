//! `cargo xtask vm`: the kernel and integration tests on other kernels, in QEMU.

use std::{
    fs, iter,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::{
    setup,
    test::{Tally, summary},
    workspace,
};

mod archive;
mod console;
mod guest;
mod initramfs;
mod kernels;
mod modules;

use console::{GuestRun, Report};
use guest::{ELSEWHERE, Load, TESTS_ELSEWHERE};
use kernels::{Choice, Image, Kernel};

/// The folder for all files of this command.
fn folder() -> PathBuf {
    workspace::root().join("target/vm")
}

/// Run the kernel and integration tests on Debian's kernels, in QEMU without hardware's help
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which kernels: one, or several with commas between them
    #[arg(long, value_enum, value_delimiter = ',', required = true)]
    kernel: Vec<Choice>,
    /// Only the tests whose names contain this
    #[arg(long, value_name = "FILTER")]
    test: Option<String>,
    /// Also the tests of what does not differ between kernels, which take most of the time
    #[arg(long)]
    all: bool,
    /// How many minutes a kernel may take before it counts as hanging
    #[arg(long, value_name = "MINUTES", default_value_t = 120)]
    limit: u64,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(false)?;
    setup::ensure_guests(false)?;
    let load = Load::build(args.test.as_deref(), args.all)?;
    let mut sum = Tally::default();
    let mut lines = Vec::new();
    for kernel in kernels::chosen(&args.kernel) {
        let (line, of_kernel) = one(&kernel, &load, args);
        say(&line);
        lines.push(line);
        sum += of_kernel;
    }
    println!();
    for line in &lines {
        println!("{line}");
    }
    if !load.left_out().is_empty() {
        println!("run with `--all` only: {}", load.left_out().join(", "));
    }
    for (name, why) in ELSEWHERE.iter().chain(&TESTS_ELSEWHERE) {
        println!("not run here but by `cargo xtask test`: {name}, since {why}");
    }
    if sum.passed + sum.failed == 0 {
        say("no test ran");
    }
    println!("{}", summary(sum));
    let good = sum.failed == 0 && sum.passed > 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(line: &str) {
    eprintln!("vm: {line}");
}

/// Runs all tests on one kernel, and returns a line about it and its results. A guest that did not finish counts as a
/// failure.
fn one(kernel: &Kernel, load: &Load, args: &Args) -> (String, Tally) {
    let failed = Tally {
        failed: 1,
        ..Tally::default()
    };
    let image = match kernel.image() {
        Ok(image) => image,
        Err(error) if kernel.required => return (format!("{}: not to be had: {error:#}", kernel.name), failed),
        Err(error) => {
            let line = format!("{}: left out, its suites do not answer: {error:#}", kernel.name);
            return (line, Tally::default());
        }
    };
    let began = Instant::now();
    say(&format!("{}: booting {}", kernel.name, image.release));
    let programs: Vec<_> = load.names().collect();
    let course = GuestRun {
        programs: &programs,
        limit: Duration::from_mins(args.limit),
        shown: true,
    };
    let report = boot(kernel, &image, load, course);
    match report {
        Ok(report) => told(kernel, report, began.elapsed()),
        Err(error) => (format!("{}: {error:#}", kernel.name), failed),
    }
}

fn boot(kernel: &Kernel, image: &Image, load: &Load, course: GuestRun<'_>) -> Result<Report> {
    let initramfs = load.pack(kernel, image)?;
    let report = console::run(image, &initramfs, course)?;
    fs::remove_file(&initramfs).context("the archive cannot be removed")?;
    Ok(report)
}

/// Prints the verified instructions of the kernel program on each kernel whose image an earlier run left here: about 15
/// seconds each.
pub(crate) fn print_verified() -> Result<()> {
    const LIMIT: Duration = Duration::from_mins(5);
    let there: Vec<_> = kernels::chosen(&[Choice::All])
        .filter_map(|kernel| kernel.unpacked().ok().map(|image| (kernel, image)))
        .collect();
    if there.is_empty() {
        say("for the verified instructions on other kernels, run `cargo xtask vm --kernel all` before");
        return Ok(());
    }
    setup::ensure_guests(false)?;
    let load = Load::verified_alone()?;
    let course = GuestRun {
        programs: &[],
        limit: LIMIT,
        shown: false,
    };
    for (kernel, image) in there {
        let report = boot(&kernel, &image, &load, course)?;
        println!("\nLinux {}", image.release);
        for words in report.said.iter().skip(1) {
            println!("  {words}");
        }
        for words in report.wrong {
            println!("  wrong: {words}");
        }
    }
    Ok(())
}

/// The last line about a kernel, and its result.
fn told(kernel: &Kernel, report: Report, took: Duration) -> (String, Tally) {
    let name = kernel.name;
    let Report {
        mut sum,
        said,
        wrong,
        seconds,
    } = report;
    for (program, seconds) in seconds {
        say(&format!("{name}: {program} took {seconds} s"));
    }
    sum.failed += wrong.len();
    let first = format!("{name}: {}, {} s", summary(sum), took.as_secs());
    let said = said.iter().map(|words| format!("\n  {words}"));
    let wrong = wrong.iter().map(|words| format!("\n  wrong: {words}"));
    let without = kernel
        .without()
        .map(|(test, why)| format!("\n  not run on it: {test}, since {why}"));
    (iter::once(first).chain(said).chain(without).chain(wrong).collect(), sum)
}
