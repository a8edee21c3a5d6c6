//! `cargo xtask build`: the `taskgate` binary as it is used, the kernel program in it.

use std::{io::BufRead as _, io::BufReader, path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::{exec, setup};

/// Build the `taskgate` binary, optimised, and print where it is
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<()> {
    let binary = release()?;
    println!("{}", binary.display());
    Ok(())
}

/// What is of interest in a line of `cargo build --message-format=json`.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// Builds the release binary and returns its path.
pub(crate) fn release() -> Result<PathBuf> {
    binary("taskgate", "taskgate")
}

/// Builds one of a package's binaries, optimised, and returns its path.
pub(crate) fn binary(package: &str, name: &str) -> Result<PathBuf> {
    setup::check()?;
    let mut command = exec::cargo();
    command
        .args(["build", "--release", "--message-format=json-render-diagnostics"])
        .args(["--package", package, "--bin", name]);
    let wanted = name;
    let name = exec::shown(&command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let messages = child.stdout.take().context("cargo has no standard output")?;
    let mut binary = None;
    for line in BufReader::new(messages).lines() {
        let line = line.with_context(|| format!("cannot read what {name} prints"))?;
        let Ok(message) = serde_json::from_str::<Message>(&line) else {
            continue;
        };
        if message.target.is_some_and(|target| target.name == wanted) {
            binary = message.executable.or(binary);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{name} failed with {status}");
    }
    binary.with_context(|| format!("{name} made no binary `{wanted}`"))
}
