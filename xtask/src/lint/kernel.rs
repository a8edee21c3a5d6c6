//! Lints of the kernel program, which is compiled for BPF only, outside the workspace's clippy run.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{exec, pins, setup, workspace};

/// Runs the pinned nightly's clippy. Debian's compiler has none: then only its warnings are checked.
pub(super) fn check() -> Result<()> {
    if has_clippy() {
        return clippy();
    }
    eprintln!(
        "lint: kernel program: there is no clippy of {}, the compiler's warnings have to do",
        pins::NIGHTLY
    );
    warnings()
}

fn has_clippy() -> bool {
    let mut add = Command::new("rustup");
    add.args(["component", "add", "clippy", "--toolchain", pins::NIGHTLY]);
    setup::has_nightly() && exec::quiet(&mut add, pins::PATIENCE).is_ok()
}

fn clippy() -> Result<()> {
    let mut command = Command::new("rustup");
    command.current_dir(workspace::root());
    command.args([
        "run",
        pins::NIGHTLY,
        "cargo",
        "clippy",
        "--package",
        "taskgate-ebpf",
        "--bins",
        "--release",
    ]);
    let target = if cfg!(target_endian = "big") {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    };
    command
        .args(["--target", target, "-Z", "build-std=core", "--target-dir"])
        .arg(workspace::root().join("target/lint"));
    // cargo passes its own compiler to child processes.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS"] {
        command.env_remove(name);
    }
    exec::loud(command.args(["--", "-D", "warnings"]))
}

/// Warnings of the kernel program's compiler reach cargo as warnings of the build script, which lint levels do not affect.
/// cargo repeats them if there is nothing to build.
fn warnings() -> Result<()> {
    let mut command = exec::cargo();
    let output = command.args(["check", "--package", "taskgate"]).output();
    let output = output.with_context(|| format!("cannot run {}", exec::shown(&command)))?;
    let words = String::from_utf8_lossy(&output.stderr);
    let warnings: Vec<_> = words
        .lines()
        .filter(|line| line.starts_with("warning: taskgate@"))
        .collect();
    if !output.status.success() || !warnings.is_empty() {
        bail!("it does not compile without warnings\n{}", warnings.join("\n"));
    }
    Ok(())
}
