//! Programs from crates.io, built into `target/tools` at a pinned version.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{exec, pins, workspace};

/// Whether a program exists, starts, and reports this name and version.
pub(super) fn is_version(program: &Path, name: &str, version: &str) -> bool {
    let expected = format!("{name} {version}");
    exec::stdout(Command::new(program).arg("--version")).is_ok_and(|words| words.trim() == expected)
}

/// The path of a program from this version of a crate that starts: built here, or installed for all checkouts. Some programs
/// do not report a version, so cargo's list of installed crates decides.
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

/// The path of a program that was installed here.
pub(super) fn path(program: &str) -> PathBuf {
    workspace::tools().join("bin").join(program)
}

/// Build settings for short-running programs: they cut the build time to a third.
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

/// Runs a command from [`install`].
pub(super) fn run(install: &mut Command) -> Result<()> {
    exec::advised(
        exec::quiet(install, pins::PATIENCE),
        "see that crates.io can be reached, then run this again",
    )
}
