//! `cargo-fuzz`, which only fuzzing needs: it comes when that is asked for first.

use std::{path::PathBuf, process::Command};

use anyhow::{Result, bail};

use super::{compiler, say};
use crate::{exec, pins, workspace};

fn path() -> PathBuf {
    workspace::tools().join("bin/cargo-fuzz")
}

/// Brings it, and the nightly that it drives, and gives a command that runs it.
pub(super) fn ensure() -> Result<Command> {
    exec::advised(
        compiler::nightly(),
        "fuzzing needs this very compiler: libFuzzer's instrumentation is unstable",
    )?;
    if !ready() {
        say(&format!(
            "cargo-fuzz {}: built from crates.io into target/tools, takes a minute",
            pins::CARGO_FUZZ
        ));
        let mut command = exec::cargo();
        command.args(["install", "cargo-fuzz", "--version", pins::CARGO_FUZZ]);
        command.args(["--locked", "--force", "--root"]);
        command.arg(workspace::tools()).env_remove("CARGO_TARGET_DIR");
        let advice = "see that crates.io can be reached, then run this again";
        exec::advised(exec::quiet(&mut command, pins::PATIENCE), advice)?;
        if !ready() {
            bail!("`{}` was installed and does not start", path().display());
        }
    }
    let mut command = Command::new("rustup");
    command.args(["run", pins::NIGHTLY]).arg(path());
    // cargo told its own compiler to whoever it runs.
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "CARGO_TARGET_DIR"] {
        command.env_remove(name);
    }
    Ok(command)
}

fn ready() -> bool {
    let expected = format!("cargo-fuzz {}", pins::CARGO_FUZZ);
    exec::stdout(Command::new(path()).arg("--version")).is_ok_and(|words| words.trim() == expected)
}
