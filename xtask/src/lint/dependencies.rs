//! Dependencies: licences, sources, duplicates and, if the advisory list can be fetched, known vulnerabilities by
//! cargo-deny; unused dependencies by cargo-shear.

use anyhow::Result;

use crate::{exec, pins, setup};

/// Checks licences, sources, and crates in several versions. `deny.toml` has the exceptions.
pub(super) fn check() -> Result<()> {
    exec::loud(setup::checker("cargo-deny").args(["--log-level", "warn", "check", "bans", "licenses", "sources"]))
}

/// Checks for known vulnerabilities in dependencies.
pub(super) fn advisories() -> Result<()> {
    let fetched = exec::quiet(setup::checker("cargo-deny").args(["fetch", "db"]), pins::PATIENCE);
    if let Err(error) = fetched {
        let why = error.to_string();
        let why = why.lines().last().unwrap_or_default().trim();
        eprintln!("lint: advisories: not checked, the list of RustSec cannot be fetched: {why}");
        return Ok(());
    }
    exec::loud(setup::checker("cargo-deny").args(["--log-level", "warn", "check", "--disable-fetch", "advisories"]))
}

/// Checks for dependencies that are unused, or only used by tests.
pub(super) fn unused() -> Result<()> {
    exec::loud(setup::checker("cargo-shear").args(["--locked", "--color=auto"]))
}
