//! Dependencies: licences, sources and duplicates by cargo-deny, known holes by it too where their list can be had,
//! and dependencies that nothing uses by cargo-shear.

use anyhow::Result;

use crate::{exec, pins, setup};

/// Licences, sources, and crates that are there in two versions. `deny.toml` says what is let through.
pub(super) fn check() -> Result<()> {
    exec::loud(setup::checker("cargo-deny").args(["--log-level", "warn", "check", "bans", "licenses", "sources"]))
}

/// Known holes in what is built in.
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

/// Dependencies that nothing uses, or only tests.
pub(super) fn unused() -> Result<()> {
    exec::loud(setup::checker("cargo-shear").args(["--locked", "--color=auto"]))
}
