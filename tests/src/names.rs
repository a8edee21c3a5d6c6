//! Names that no other test has, and what was left under names of tests that are dead.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, umount2};

const PREFIX: &str = "tgt-";
/// Where named network namespaces are.
const NAMESPACES: &str = "/run/netns";

/// `tgt-PID-N`: no other test of this or any other process has it now.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEEP: Once = Once::new();
    SWEEP.call_once(remove_left_over);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{number}", process::id())
}

/// The file that names a network namespace.
pub fn namespace_file(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

/// The named network namespaces that belong to `unique`: its own name, a dash, and something.
pub fn namespaces(unique: &str) -> Result<Vec<String>> {
    let prefix = format!("{unique}-");
    let entries = match fs::read_dir(NAMESPACES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("cannot list network namespaces")?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let name = entry
            .context("cannot list network namespaces")?
            .file_name()
            .into_string();
        names.extend(name.ok().filter(|name| name.starts_with(&prefix)));
    }
    names.sort();
    Ok(names)
}

/// Takes the name of a network namespace away. That it is gone already is no error.
pub fn remove_namespace(name: &str) -> Result<()> {
    let file = namespace_file(name);
    match umount2(&file, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot unmount `{}`", file.display())),
    }
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", file.display()))
        }
        _ => Ok(()),
    }
}

/// A test that was killed, with the taskgate that it ran, could not clean up. What it left is known by its pid.
fn remove_left_over() {
    let Ok(entries) = fs::read_dir(NAMESPACES) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(pid) = pid.filter(|pid| pid.parse::<u32>().is_ok()) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists()
            && let Err(error) = remove_namespace(&name)
        {
            eprintln!("a dead test left `{name}`: {error:#}");
        }
    }
}

/// A folder that goes with this value.
#[derive(Debug)]
pub struct TempDir(PathBuf);

impl TempDir {
    /// Makes one that is named `unique`.
    pub fn new(unique: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(unique);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("`{}` is in the way", path.display()));
            }
            _ => fs::create_dir(&path).with_context(|| format!("cannot make `{}`", path.display()))?,
        }
        Ok(Self(path))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("`{}` stays: {error}", self.0.display());
        }
    }
}
