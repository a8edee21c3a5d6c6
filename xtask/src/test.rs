//! `cargo xtask test`: set-up, the release binary, all tests, and one total at the end.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    num::NonZero,
    ops::AddAssign,
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
};

use anyhow::{Context as _, Result};

use crate::{build, exec, setup};

/// The crate with tests that start taskgate.
pub(crate) const KERNEL: &str = "taskgate-tests";
/// The crates with tests that load BPF programs and create network namespaces.
const PRIVILEGED: [&str; 4] = [KERNEL, "taskgate-differential", "taskgate-testkit", "taskgate-bench"];

/// Set up, then run all tests
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the tests whose names contain this
    filter: Option<String>,
    /// Take minutes where seconds are the rule: more cases of each property, bigger tables
    #[arg(long)]
    long: bool,
    /// Leave out the tests that need root, and do not count that as a failure
    #[arg(long)]
    unprivileged: bool,
}

/// The number of parallel tests in a program. Tests that start taskgate wait for it a third of the time.
const THREADS: &str = "RUST_TEST_THREADS";

/// The numbers of tests by result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Tally {
    /// Parses one line of a test program's output; `None` unless it is the summary.
    pub(crate) fn of_line(line: &str) -> Option<Self> {
        let counts = line.strip_prefix("test result:")?;
        let count = |what| {
            let part = counts.split(';').find_map(|part| part.trim().strip_suffix(what))?;
            part.split_whitespace().next_back()?.parse().ok()
        };
        Some(Self {
            passed: count("passed")?,
            failed: count("failed")?,
            skipped: count("ignored")?,
        })
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(false)?;
    say("building the release binary that the tests start");
    let binary = build::release()?;

    // A single run of cargo for all packages: another selection would compile shared dependencies again.
    let mut all = cargo_test(args, &binary);
    all.arg("--workspace");
    let (mut sum, not_run) = if exec::is_root() && !args.unprivileged {
        say("all tests");
        (counted(&mut all)?, 0)
    } else {
        say("unit, property and doc tests");
        let sum = counted(all.args(each("--exclude")))?;
        let listing = listed(cargo_test(args, &binary).args(each("--package")).args(["--", "--list"]))?;
        (sum, listing)
    };

    if not_run > 0 {
        let Tally { passed, failed, .. } = sum;
        say(&format!(
            "{passed} passed, {failed} failed, {not_run} not run (need root)"
        ));
        if !args.unprivileged {
            say("run it as root, or with `--unprivileged` to leave them out");
        }
    }
    let found = sum.passed + sum.failed + not_run > 0;
    if let (Some(filter), false) = (&args.filter, found) {
        say(&format!("no test has a name that contains `{filter}`"));
    }
    sum.skipped += not_run;
    println!("{}", summary(sum));
    let good = sum.failed == 0 && found && (not_run == 0 || args.unprivileged);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The [`PRIVILEGED`] crates, each preceded by an option.
fn each(word: &str) -> impl Iterator<Item = &str> {
    PRIVILEGED.into_iter().flat_map(move |package| [word, package])
}

fn say(line: &str) {
    eprintln!("test: {line}");
}

/// The last line of the output, for readers and scripts.
pub(crate) fn summary(sum: Tally) -> String {
    let Tally {
        passed,
        failed,
        skipped,
    } = sum;
    let skipped = if skipped > 0 {
        format!(", {skipped} skipped")
    } else {
        String::new()
    };
    format!("{passed} passed, {failed} failed{skipped}")
}

/// `cargo test` with the arguments that all runs share, without packages.
fn cargo_test(args: &Args, binary: &Path) -> Command {
    let mut command = exec::cargo();
    command
        .args(["test", "--no-fail-fast"])
        .args(&args.filter)
        .env("TASKGATE_BIN", binary);
    if env::var_os(THREADS).is_none() {
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        command.env(THREADS, (processors + processors / 2).to_string());
    }
    if args.long {
        command.env("TASKGATE_TEST_LONG", "1");
    }
    command
}

/// Runs tests with their output on the terminal and counts them.
fn counted(command: &mut Command) -> Result<Tally> {
    let name = exec::shown(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let output = BufReader::new(child.stdout.take().context("cargo has no standard output")?);
    let sum = copied(output, &mut io::stdout()).with_context(|| format!("cannot copy what {name} prints"))?;
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    // The build failed, or a test program was killed: no line has the number of its tests.
    if !status.success() && sum.failed == 0 {
        say(&format!("{name} broke off with {status} before all tests had run"));
        return Ok(Tally { failed: 1, ..sum });
    }
    Ok(sum)
}

/// Copies the output of test programs line by line, and adds up their summaries.
fn copied(mut output: impl BufRead, to: &mut impl Write) -> io::Result<Tally> {
    let mut sum = Tally::default();
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line)? > 0 {
        to.write_all(&line)?;
        sum += Tally::of_line(&String::from_utf8_lossy(&line)).unwrap_or_default();
        line.clear();
    }
    Ok(sum)
}

/// The number of tests in a run, without running them.
fn listed(command: &mut Command) -> Result<usize> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {}", exec::shown(command)))?;
    anyhow::ensure!(
        output.status.success(),
        "{} failed with {}",
        exec::shown(command),
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_read_and_nothing_else() {
        let tally = |passed, failed, skipped| {
            Some(Tally {
                passed,
                failed,
                skipped,
            })
        };
        for (line, expected) in [
            (
                "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.01s\n",
                tally(3, 0, 1),
            ),
            (
                "test result: FAILED. 10 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.00s",
                tally(10, 2, 0),
            ),
            ("test packet::tests::parses ... ok", None),
            ("said: test result: ok. 3 passed; 0 failed; 1 ignored", None),
            ("test result: unknown", None),
        ] {
            assert_eq!(Tally::of_line(line), expected, "{line}");
        }
    }

    #[test]
    fn the_last_line_is_plain() {
        assert_eq!(
            summary(Tally {
                passed: 12,
                failed: 0,
                skipped: 0
            }),
            "12 passed, 0 failed"
        );
        assert_eq!(
            summary(Tally {
                passed: 12,
                failed: 1,
                skipped: 3
            }),
            "12 passed, 1 failed, 3 skipped"
        );
    }

    #[test]
    fn output_is_copied_and_added_up() {
        let output = "test a ... ok\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured\n\n\
            test result: FAILED. 1 passed; 4 failed; 0 ignored; 0 measured";
        let mut copy = Vec::new();
        let sum = copied(output.as_bytes(), &mut copy).unwrap();
        assert_eq!(
            sum,
            Tally {
                passed: 3,
                failed: 4,
                skipped: 1
            }
        );
        assert_eq!(copy, output.as_bytes());
    }
}
