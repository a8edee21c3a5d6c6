//! Every member inherits the settings of the workspace.
//!
//! cargo's metadata has the resolved values, not whether they are inherited, so this reads the manifest itself.

use std::{fs, iter, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use toml::{Table, Value};

use crate::exec;

/// The keys of `[package]` that every member inherits. A different licence is accepted with the reason in a comment above.
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
        let faults = faults(&text).with_context(|| format!("{path}"))?;
        found.extend(faults.into_iter().map(|fault| format!("\n{path}: {fault}")));
    }
    if !found.is_empty() {
        bail!("not all is inherited{}", found.concat());
    }
    Ok(())
}

/// The keys that a member's manifest should inherit but sets itself.
fn faults(manifest: &str) -> Result<Vec<String>> {
    let tables: Table = manifest.parse().context("cannot read it")?;
    let package = tables.get("package");
    let excused = |key: &str| key == "license" && has_reason(manifest, key);
    let own = INHERITED.iter().filter(|key| !inherits(package, key) && !excused(key));
    let mut faults: Vec<_> = own.map(|key| format!("[package] `{key}` is its own")).collect();
    let targets = tables.get("target").and_then(Value::as_table).into_iter().flatten();
    let targets = targets.map(|(target, tables)| (format!("target.'{target}'."), tables.as_table()));
    for (prefix, tables) in iter::once((String::new(), Some(&tables))).chain(targets) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let dependencies = tables.and_then(|tables| tables.get(kind));
            let names = dependencies.and_then(Value::as_table).into_iter().flat_map(Table::keys);
            let own = names.filter(|name| !inherits(dependencies, name));
            faults.extend(own.map(|name| format!("[{prefix}{kind}] `{name}` has a version of its own")));
        }
    }
    if tables.get("lints").and_then(|lints| lints.get("workspace")) != Some(&Value::Boolean(true)) {
        faults.push("`[lints]` without `workspace = true`".to_owned());
    }
    Ok(faults)
}

fn inherits(table: Option<&Value>, key: &str) -> bool {
    let value = table.and_then(|table| table.get(key)?.get("workspace"));
    value.and_then(Value::as_bool) == Some(true)
}

/// Whether there is a comment above a key.
fn has_reason(manifest: &str, key: &str) -> bool {
    let pairs = manifest.lines().zip(manifest.lines().skip(1));
    pairs
        .into_iter()
        .any(|(above, line)| above.starts_with('#') && line.starts_with(key))
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
        assert_eq!(faults(GOOD).expect("it is TOML"), [""; 0]);
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
            let found = faults(&GOOD.replace(good, bad)).expect("it is TOML");
            assert_eq!(found, [fault], "{bad}");
        }
    }
}
