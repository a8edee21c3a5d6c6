//! Debian's archive, accessed by a separate apt configuration: other suites than the machine's, nothing installed, the
//! machine's package lists untouched, without root.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{folder, say};
use crate::{exec, pins, setup::apt, workspace};

/// The keys that sign all suites.
const KEYS: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const MIRROR: &str = "http://deb.debian.org/debian/";
const SECURITY_MIRROR: &str = "http://deb.debian.org/debian-security/";

/// apt with a configuration for some suites.
pub(super) struct Apt {
    folder: PathBuf,
}

/// Creates an apt configuration with these suites, passes it to `then`, and removes its files afterwards.
pub(super) fn with_suites<T>(name: &str, suites: &[&str], then: impl FnOnce(&Apt) -> Result<T>) -> Result<T> {
    let folder = folder().join("apt").join(name);
    let apt = Apt { folder };
    apt.prepare(suites)?;
    say(&format!("looking at Debian's {}", suites.join(", ")));
    exec::quiet(apt.command("apt-get").arg("update"), pins::PATIENCE)?;
    let done = then(&apt);
    fs::remove_dir_all(&apt.folder).with_context(|| format!("cannot remove `{}`", apt.folder.display()))?;
    done
}

impl Apt {
    fn prepare(&self, suites: &[&str]) -> Result<()> {
        let folder = self.folder.display();
        for part in ["lists/partial", "cache/archives/partial", "parts", "deb"] {
            let part = self.folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make `{}`", part.display()))?;
        }
        let [mirror, security] = mirrors();
        let source = |suite: &&str| {
            let mirror = if suite.ends_with("-security") {
                &security
            } else {
                &mirror
            };
            format!("deb [arch=amd64 signed-by={KEYS}] {mirror} {suite} main\n")
        };
        // An archived suite is no longer updated, so its expiry date is ignored.
        let options = format!(
            "Dir::State \"{folder}\";\nDir::State::lists \"{folder}/lists\";\nDir::State::status \"{folder}/status\";\n\
             Dir::Cache \"{folder}/cache\";\nDir::Etc::sourcelist \"{folder}/sources.list\";\n\
             Dir::Etc::sourceparts \"{folder}/parts\";\nDir::Etc::main \"{folder}/none\";\nDir::Etc::parts \"{folder}/parts\";\n\
             APT::Sandbox::User \"\";\nAPT::Architecture \"amd64\";\nAcquire::Check-Valid-Until \"false\";\n\
             Acquire::Languages \"none\";\nAcquire::Retries \"3\";\nAPT::Update::Error-Mode \"any\";\n"
        );
        for (name, text) in [
            ("apt.conf", options),
            ("sources.list", suites.iter().map(source).collect()),
            ("status", String::new()),
        ] {
            let file = self.folder.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write `{}`", file.display()))?;
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.folder.join("apt.conf"));
        command.current_dir(self.folder.join("deb"));
        command
    }

    /// The packages whose names begin with `prefix`.
    pub(super) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = exec::stdout(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(names.lines().map(str::to_owned).collect())
    }

    /// Unpacks a package into an empty `root`, together with its dependencies whose names begin with one of `others`.
    pub(super) fn unpack_with(&self, package: &str, others: &[&str], root: &Path) -> Result<()> {
        let mut packages = vec![package.to_owned()];
        let depends = exec::stdout(self.command("apt-cache").args(["depends", "--important", package]))?;
        packages.extend(
            depends
                .lines()
                .filter_map(|line| line.trim().strip_prefix("Depends: "))
                .filter(|name| others.iter().any(|other| name.starts_with(other)))
                .map(str::to_owned),
        );
        let fresh = self.folder.join("deb");
        workspace::empty(&fresh)?;
        exec::quiet(self.command("apt-get").arg("download").args(&packages), pins::PATIENCE)?;
        apt::unpack(&fresh, root).with_context(|| format!("cannot unpack {}", packages.join(", ")))
    }
}

/// The machine's mirrors of Debian and of its security suites.
fn mirrors() -> [String; 2] {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let known = exec::stdout(&mut command).unwrap_or_default();
    [("/debian/", MIRROR), ("/debian-security/", SECURITY_MIRROR)].map(|(end, otherwise)| {
        let found = known.lines().find(|line| line.ends_with(end));
        found.unwrap_or(otherwise).to_owned()
    })
}
