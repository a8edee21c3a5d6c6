//! `cargo xtask build`: the release binary `taskgate`, with the kernel program embedded.

use std::{
    io::{BufRead as _, BufReader},
    path::PathBuf,
    process::{Command, Stdio},
};

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

/// A program that cargo has built.
#[derive(Deserialize)]
pub(crate) struct Artifact {
    /// The manifest of its package.
    pub(crate) manifest_path: PathBuf,
    pub(crate) executable: PathBuf,
    pub(crate) target: Target,
    pub(crate) profile: Profile,
}

/// The cargo target of the program.
#[derive(Deserialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) kind: Vec<String>,
}

/// The build profile of the program.
#[derive(Deserialize)]
pub(crate) struct Profile {
    /// Whether it was built with the test harness.
    pub(crate) test: bool,
}

/// Runs cargo with `--message-format` added, and returns the programs that it built.
pub(crate) fn artifacts(command: &mut Command) -> Result<Vec<Artifact>> {
    command.arg("--message-format=json-render-diagnostics");
    let name = exec::shown(command);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let messages = child.stdout.take().context("cargo has no standard output")?;
    let mut artifacts = Vec::new();
    for line in BufReader::new(messages).lines() {
        let line = line.with_context(|| format!("cannot read what {name} prints"))?;
        // Only artifact messages have these fields.
        artifacts.extend(serde_json::from_str(&line));
    }
    let status = child.wait().with_context(|| format!("cannot wait for {name}"))?;
    if !status.success() {
        bail!("{name} failed with {status}");
    }
    Ok(artifacts)
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
        .args(["build", "--release"])
        .args(["--package", package, "--bin", name]);
    let made = artifacts(&mut command)?.into_iter();
    let binary = made.rev().find(|artifact| artifact.target.name == name);
    let shown = exec::shown(&command);
    Ok(binary
        .with_context(|| format!("{shown} made no binary `{name}`"))?
        .executable)
}
