//! Every member inherits what the workspace says once.
//!
//! cargo tells what a manifest comes to, not where it got it from, so this reads the lines of the manifest.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::exec;

/// The keys of `[package]` that every member inherits. A licence of its own is let through with its reason in a comment
/// above.
const INHERITED: [&str; 6] = ["version", "edition", "rust-version", "license", "repository", "publish"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    manifest_path: PathBuf,
}

pub(super) fn check() -> Result<()> {
    let metadata = exec::stdout(exec::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let Metadata { packages } = serde_json::from_str(&metadata).context("cannot read `cargo metadata`")?;
    let mut found = Vec::new();
    for Package { manifest_path } in packages {
        let path = manifest_path.display();
        let text = fs::read_to_string(&manifest_path).with_context(|| format!("cannot read `{path}`"))?;
        found.extend(faults(&text).into_iter().map(|fault| format!("\n{path}: {fault}")));
    }
    if !found.is_empty() {
        bail!("not all is inherited{}", found.concat());
    }
    Ok(())
}

/// What a member's manifest says itself and should inherit.
fn faults(manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut inherited = Vec::new();
    let (mut table, mut lints, mut reason) = ("", false, false);
    let mut open = 0;
    for line in manifest.lines().map(str::trim) {
        // A list that goes on for lines says nothing about inheritance.
        let continued = open > 0;
        open += line.matches(['[', '{']).count();
        open -= open.min(line.matches([']', '}']).count());
        if continued {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = name.trim_matches('[').trim_end_matches(']');
        } else if let Some((key, value)) = line.split_once('=').map(|(key, value)| (key.trim(), value.trim())) {
            let (name, inherits) = match key.strip_suffix(".workspace") {
                Some(name) => (name, value == "true"),
                None => (key, value.contains("workspace = true")),
            };
            if table == "package" && (inherits || name == "license" && reason) {
                inherited.push(name);
            } else if table == "lints" && name == "workspace" && value == "true" {
                lints = true;
            } else if table.ends_with("dependencies") && !inherits {
                faults.push(format!("[{table}] `{name}` has a version of its own"));
            }
        }
        reason = line.starts_with('#');
    }
    faults.extend(
        INHERITED
            .iter()
            .filter(|key| !inherited.contains(key))
            .map(|key| format!("[package] `{key}` is its own")),
    );
    if !lints {
        faults.push("`[lints]` without `workspace = true`".to_owned());
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[package]
name = "member"
version.workspace = true
edition = { workspace = true }
rust-version.workspace = true
# The kernel wants it.
license = "GPL-2.0-only"
repository.workspace = true
publish.workspace = true

[features]
host = []

[target.'cfg(target_arch = "bpf")'.dependencies]
aya-ebpf.workspace = true

[dev-dependencies]
nix = { workspace = true, features = [
    "fs",
] }

[lints]
workspace = true
"#;

    #[test]
    fn a_member_that_inherits_is_good() {
        assert_eq!(faults(GOOD), Vec::<String>::new());
    }

    #[test]
    fn each_fault_is_named() {
        for (good, bad, fault) in [
            (
                "version.workspace = true\nedition",
                "version = \"1.0.0\"\nedition",
                "[package] `version` is its own",
            ),
            (
                "edition = { workspace = true }",
                "edition = \"2021\"",
                "[package] `edition` is its own",
            ),
            ("# The kernel wants it.\n", "", "[package] `license` is its own"),
            ("publish.workspace = true\n", "", "[package] `publish` is its own"),
            (
                "aya-ebpf.workspace = true",
                "aya-ebpf = \"0.2\"",
                "[target.'cfg(target_arch = \"bpf\")'.dependencies] `aya-ebpf` has a version of its own",
            ),
            (
                "nix = { workspace = true,",
                "nix = { version = \"1\",",
                "[dev-dependencies] `nix` has a version of its own",
            ),
            (
                "[lints]\nworkspace = true\n",
                "",
                "`[lints]` without `workspace = true`",
            ),
        ] {
            assert!(GOOD.contains(good), "{good}");
            assert_eq!(faults(&GOOD.replace(good, bad)), [fault], "{bad}");
        }
    }
}
