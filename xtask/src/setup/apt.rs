//! Debian packages.

use std::process::Command;

use anyhow::{Result, bail};

use super::{Machine, say};
use crate::{exec, pins};

/// Whether this machine has Debian's package manager.
pub(super) fn here() -> bool {
    exec::find("apt-get").is_some() && exec::find("dpkg-query").is_some()
}

/// Installs packages, each with the reason it is wanted for, unless they are there. Where that is not allowed, the command
/// is left for root: whoever needs the packages then finds them missing.
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

    let advice = "check the network and the sources in /etc/apt, then run `cargo xtask setup` again";
    if !machine.lists_updated {
        say("apt-get update");
        exec::advised(exec::quiet(apt_get().arg("update"), pins::PATIENCE), advice)?;
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
    // What would remove a package of the user's is refused, and apt says which.
    let mut command = apt_get();
    command
        .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(&names);
    exec::advised(exec::quiet(&mut command, pins::PATIENCE), advice)?;
    machine.changed = true;
    Ok(())
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

/// Whether the package lists have a version of it.
fn known(package: &str) -> bool {
    exec::stdout(Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C"))
        .is_ok_and(|words| words.contains("Candidate:") && !words.contains("Candidate: (none)"))
}
