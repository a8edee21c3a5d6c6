//! Debian packages.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::{Machine, say};
use crate::{exec, pins, workspace};

const ADVICE: &str = "check the network and the sources in /etc/apt, then run `cargo xtask setup` again";

/// Whether this machine has Debian's package manager.
pub(super) fn here() -> bool {
    exec::find("apt-get").is_some() && exec::find("dpkg-query").is_some()
}

/// Installs packages that are missing; each comes with its reason. If that is not allowed, the command is left for root, and
/// a later step that needs the packages reports them missing.
pub(super) fn install(machine: &mut Machine, wanted: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = wanted
        .iter()
        .copied()
        .filter(|(package, _)| !installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (package, why) in &missing {
        say(&format!("{package} is missing: {why}"));
    }
    let names: Vec<_> = missing.iter().map(|&(package, _)| package).collect();
    if !machine.may_install(&names)? {
        machine
            .for_root
            .push(format!("apt-get update && apt-get install --yes {}", names.join(" ")));
        return Ok(());
    }

    if !machine.lists_updated {
        update()?;
        machine.lists_updated = true;
    }
    let unknown: Vec<_> = names.iter().copied().filter(|package| !known(package)).collect();
    if !unknown.is_empty() {
        let linker = unknown.iter().any(|name| pins::LINKER_PACKAGES.contains(name));
        let otherwise = if linker {
            format!(
                ", elsewhere add a source that has (https://apt.llvm.org for LLVM), or put `bpf-linker` {} into \
                 target/tools/bin yourself",
                pins::BPF_LINKER
            )
        } else {
            String::new()
        };
        bail!(
            "apt knows no package {}: see that `apt-get update` reaches all sources; Debian 12 with its security suite has \
             it{otherwise}",
            unknown.join(", ")
        );
    }
    say(&format!("apt-get install {}", names.join(" ")));
    // An installation that would remove a package is refused: apt names the package.
    let mut command = apt_get();
    command
        .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(&names);
    exec::advised(exec::quiet(&mut command, pins::PATIENCE), ADVICE)?;
    machine.changed = true;
    Ok(())
}

/// Updates the package lists; requires root.
pub(super) fn update() -> Result<()> {
    say("apt-get update");
    exec::advised(exec::quiet(apt_get().arg("update"), pins::PATIENCE), ADVICE)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-q", "-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300"]);
    command
}

pub(super) fn installed(package: &str) -> bool {
    exec::stdout(Command::new("dpkg-query").args(["--show", "--showformat=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// The packages that an installation would add, including the package itself, in the form for `apt-get download`. Nothing is
/// installed.
pub(super) fn would_install(package: &str) -> Result<Vec<String>> {
    let mut command = apt_get();
    command.args(["install", "--simulate", "--no-install-recommends", package]);
    let words = exec::stdout(command.env("LC_ALL", "C"))?;
    let named: Vec<_> = words
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .map(str::to_owned)
        .collect();
    if named.is_empty() {
        bail!("apt would install nothing for {package}");
    }
    Ok(named)
}

/// Fetches packages and unpacks them into a new `root`. Nothing is installed.
pub(super) fn fetch(packages: &[String], root: &Path) -> Result<()> {
    let debs = root.with_extension("deb");
    workspace::empty(&debs)?;
    let mut fetch = Command::new("apt-get");
    fetch.args([
        "-q",
        "-o",
        "Acquire::Retries=3",
        "-o",
        "APT::Sandbox::User=",
        "download",
    ]);
    exec::quiet(fetch.args(packages).current_dir(&debs), pins::PATIENCE)?;
    unpack(&debs, root)?;
    fs::remove_dir_all(&debs).with_context(|| format!("cannot remove `{}`", debs.display()))
}

/// Unpacks all packages in a folder into a new `root`. All or nothing: a partial result must not look complete.
pub(crate) fn unpack(packages: &Path, root: &Path) -> Result<()> {
    let part = root.with_extension("part");
    workspace::empty(&part)?;
    let mut found = false;
    for entry in fs::read_dir(packages).context("what was fetched is gone")? {
        let file = entry.context("a folder cannot be read")?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            found = true;
            exec::quiet(Command::new("dpkg").arg("-x").arg(&file).arg(&part), pins::PATIENCE)?;
        }
    }
    if !found {
        bail!("apt fetched nothing");
    }
    fs::rename(&part, root).with_context(|| format!("cannot rename `{}`", part.display()))
}

/// Whether the package lists have a version of the package.
fn known(package: &str) -> bool {
    exec::stdout(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))
        .is_ok_and(|words| words.contains("Candidate:") && !words.contains("Candidate: (none)"))
}
