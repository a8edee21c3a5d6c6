//! Programs that are built from crates.io into `target/tools`, at a pinned version.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{exec, pins, workspace};

/// Whether a program is there, starts, and calls itself by this name and version.
pub(super) fn is_version(program: &Path, name: &str, version: &str) -> bool {
    let expected = format!("{name} {version}");
    exec::stdout(Command::new(program).arg("--version")).is_ok_and(|words| words.trim() == expected)
}

/// The path of a program that this version of a crate installed, and that starts: built here, or installed for all
/// checkouts. Not every program knows its version, so cargo's list decides.
pub(super) fn installed(program: &str, name: &str, version: &str) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let folders = [Some(workspace::tools()), home].into_iter().flatten();
    folders
        .filter(|folder| {
            let list = fs::read_to_string(folder.join(".crates.toml")).unwrap_or_default();
            list.contains(&format!("\"{name} {version} ("))
        })
        .map(|folder| folder.join("bin").join(program))
        .find(|path| exec::stdout(Command::new(path).arg("--version")).is_ok())
}

/// Where a program is that was installed.
pub(super) fn path(program: &str) -> PathBuf {
    workspace::tools().join("bin").join(program)
}

/// What a program that runs for a second need not be built with: a third of the time that building takes.
const PLAIN: [(&str, &str); 3] = [
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
];

/// The command that installs crates, names and versions, for [`run`].
pub(super) fn install(crates: &[(&str, &str)]) -> Command {
    let mut command = exec::cargo();
    command.arg("install");
    command.args(crates.iter().map(|(name, version)| format!("{name}@{version}")));
    // `--force`, because cargo's own list may name a binary that is gone or does not start.
    command.args(["--locked", "--force", "--root"]);
    command
        .arg(workspace::tools())
        .env_remove("CARGO_TARGET_DIR")
        .envs(PLAIN);
    command
}

/// Runs what [`install`] gave.
pub(super) fn run(install: &mut Command) -> Result<()> {
    exec::advised(
        exec::quiet(install, pins::PATIENCE),
        "see that crates.io can be reached, then run this again",
    )
}
