//! `cargo xtask fuzz`: runs libFuzzer on the properties in `tests/differential/src/fuzz`.

use std::{
    env::consts::ARCH,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use crate::{exec, setup, workspace};

/// Look for inputs that break the parser, the image's reader or the whole path
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this; all of them, one after the other, if none is named
    target: Option<Target>,
    /// Seconds for each
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Put what was found to reach more into the corpus that the tests replay, and take out what reaches nothing more
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Target {
    Parser,
    Image,
    Path,
}

impl Target {
    const ALL: [Self; 3] = [Self::Parser, Self::Image, Self::Path];

    fn name(self) -> &'static str {
        match self {
            Self::Parser => "parser",
            Self::Image => "image",
            Self::Path => "path",
        }
    }

    /// The longest input in bytes: the part of a frame that matters, or a few dozen steps.
    fn most(self) -> u32 {
        match self {
            Self::Parser => 600,
            Self::Image => 1000,
            Self::Path => 1500,
        }
    }
}

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Found {
    executions: u64,
    /// The failing inputs, and the messages of their failures.
    findings: Vec<(PathBuf, String)>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let targets = args.target.map_or_else(|| Target::ALL.to_vec(), |target| vec![target]);
    let mut build = setup::fuzzer()?;
    let triple = format!("{ARCH}-unknown-linux-gnu");
    let builds = folder("build");
    build.args(["build", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none"]);
    build.args(["--target", &triple, "--target-dir"]).arg(&builds);
    // The fuzzed code runs without the kernel, and a sanitizer finds nothing in code without `unsafe`.
    build.current_dir(workspace::root()).env("AYA_BUILD_SKIP", "1");
    if let Some(target) = args.target {
        build.arg(target.name());
    }
    say("building with libFuzzer's instrumentation");
    exec::loud(&mut build)?;

    let mut sum = Found::default();
    for target in &targets {
        let binary = builds.join(&triple).join("release").join(target.name());
        say(&format!("{}: {} seconds", target.name(), args.seconds));
        let found = fuzz(*target, &binary, args.seconds)?;
        say(&format!(
            "{}: {} executions, {} findings",
            target.name(),
            found.executions,
            found.findings.len()
        ));
        if args.keep {
            keep(*target, &binary)?;
        }
        sum.executions += found.executions;
        sum.findings.extend(found.findings);
    }
    for (file, words) in &sum.findings {
        eprintln!("{}\n{words}", file.display());
    }
    if !sum.findings.is_empty() {
        say("put each under `tests/fuzz/regressions`, in its target's folder, with what mends it");
    }
    println!(
        "{} targets, {} executions, {} findings",
        targets.len(),
        sum.executions,
        sum.findings.len()
    );
    let good = sum.findings.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn say(line: &str) {
    eprintln!("fuzz: {line}");
}

/// A folder for the output of fuzzing, apart from committed files.
fn folder(name: &str) -> PathBuf {
    workspace::root().join("target/fuzz").join(name)
}

fn made(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
    Ok(folder)
}

fn committed(what: &str, target: Target) -> PathBuf {
    workspace::root().join("tests/fuzz").join(what).join(target.name())
}

/// Runs one target until the time is over or an input fails.
fn fuzz(target: Target, binary: &Path, seconds: u32) -> Result<Found> {
    let (grown, findings) = (
        made(folder("corpus").join(target.name()))?,
        made(folder("findings").join(target.name()))?,
    );
    let before = files(&findings)?;
    let log = folder(&format!("{}.log", target.name()));
    let output = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
    // Some targets have no regressions.
    let seeds = ["corpus", "regressions"].map(|what| committed(what, target));
    let seeds = seeds.into_iter().filter(|folder| folder.exists());
    let mut command = Command::new(binary);
    command
        .arg(&grown)
        .args(seeds)
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(format!("-max_len={}", target.most()))
        .args(["-len_control=10", "-timeout=10", "-print_final_stats=1"])
        .stderr(output);
    let status = exec::status(&mut command)?;
    let words = fs::read_to_string(&log).with_context(|| format!("cannot read `{}`", log.display()))?;
    let new = files(&findings)?.into_iter().filter(|file| !before.contains(file));
    let said = said(&words);
    let found = Found {
        executions: executions(&words),
        findings: new.map(|file| (file, said.clone())).collect(),
    };
    if !status.success() && found.findings.is_empty() {
        bail!("{} ended with {status}, see `{}`", exec::shown(&command), log.display());
    }
    Ok(found)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read the folder `{}`", folder.display());
    let entries = fs::read_dir(folder).with_context(context)?;
    entries
        .map(|entry| Ok(entry.with_context(context)?.path()))
        .collect::<Result<_>>()
}

/// The number of executions that libFuzzer reports.
fn executions(words: &str) -> u64 {
    let count = words
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
}

/// The last messages of the target.
fn said(words: &str) -> String {
    let lines = words.lines().skip_while(|line| !line.contains("panicked at"));
    let lines = lines.take_while(|line| !line.starts_with("stack backtrace") && !line.starts_with("=="));
    let said: Vec<_> = lines.collect();
    if said.is_empty() {
        "it took too long, or too much memory".to_owned()
    } else {
        said.join("\n")
    }
}

/// Replaces the committed corpus by the fewest inputs with the same coverage.
fn keep(target: Target, binary: &Path) -> Result<()> {
    let (corpus, fewest) = (committed("corpus", target), folder("fewest"));
    // An error is ignored: the folder may not exist.
    drop(fs::remove_dir_all(&fewest));
    let fewest = made(fewest)?;
    let mut merge = Command::new(binary);
    merge.args(["-set_cover_merge=1", "-use_counters=0"]).args([
        &fewest,
        &corpus,
        &folder("corpus").join(target.name()),
    ]);
    exec::quiet(&mut merge, crate::pins::PATIENCE)?;
    let kept = files(&fewest)?;
    if kept.is_empty() {
        bail!("{} left nothing", exec::shown(&merge));
    }
    for old in files(&corpus)? {
        fs::remove_file(&old).with_context(|| format!("cannot remove `{}`", old.display()))?;
    }
    for new in &kept {
        let place = corpus.join(new.file_name().unwrap_or_default());
        fs::copy(new, &place).with_context(|| format!("cannot write `{}`", place.display()))?;
    }
    say(&format!("{}: a corpus of {} inputs", target.name(), kept.len()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executions_and_a_panic_are_read() {
        let words = "#7\tNEW    cov: 12\n\
            thread '<unnamed>' (13) panicked at tests/differential/src/fuzz/parser.rs:302:17:\n\
            assertion `left == right` failed\n  left: 1\n right: 2\n\
            stack backtrace:\n   0: begin_panic\n\
            == 13== ERROR: libFuzzer: deadly signal\n\
            stat::number_of_executed_units: 1396039\n\
            stat::average_exec_per_sec:     311310\n";
        assert_eq!(executions(words), 1_396_039);
        assert_eq!(
            said(words),
            "thread '<unnamed>' (13) panicked at tests/differential/src/fuzz/parser.rs:302:17:\n\
             assertion `left == right` failed\n  left: 1\n right: 2"
        );
        assert_eq!(executions("no sum"), 0);
        assert_eq!(
            said("ALARM: working on the last Unit for 11 seconds"),
            "it took too long, or too much memory"
        );
    }
}
