//! Names that no other test uses, and removal of what tests that have died left under theirs.

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
use taskgate_bpf::sys::lift_open_files_limit;

use crate::pins::PINS;

const PREFIX: &str = "tgt-";
/// Where named network namespaces are.
const NAMESPACES: &str = "/run/netns";
/// Folders with the state that outlives taskgate's processes.
const STATE: [&str; 2] = ["/run/taskgate", PINS];

/// `tgt-PID-N`: no other test of this or any other process uses this name.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    static SWEEP: Once = Once::new();
    SWEEP.call_once(|| {
        remove_orphans();
        // Tests run side by side, each with sockets and namespaces.
        lift_open_files_limit();
    });
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
    let names = list(Path::new(NAMESPACES)).context("cannot list network namespaces")?;
    Ok(names.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// Removes what a killed taskgate leaves behind for `unique`: names of namespaces, state and pins.
pub fn remove_all(unique: &str) -> Result<()> {
    for name in namespaces(unique)? {
        remove_namespace(&name)?;
    }
    let prefix = format!("{unique}-");
    for folder in STATE.map(Path::new) {
        for name in list(folder).context("cannot list what taskgate left")? {
            if name.starts_with(&prefix) {
                remove_path(&folder.join(name))?;
            }
        }
    }
    Ok(())
}

/// The names in a folder, sorted; none if the folder does not exist.
fn list(folder: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Removes a file or a folder. A missing one is no error.
fn remove_path(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

/// Removes the name of a network namespace. A missing name is no error.
pub fn remove_namespace(name: &str) -> Result<()> {
    let file = namespace_file(name);
    match umount2(&file, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => return Err(error).with_context(|| format!("cannot unmount `{}`", file.display())),
    }
    remove_path(&file)
}

/// A test that was killed could not clean up. Its leftovers are known by its pid.
fn remove_orphans() {
    let [state, pins] = STATE.map(Path::new);
    for folder in [Path::new(NAMESPACES), state, pins, &std::env::temp_dir()] {
        for name in list(folder).unwrap_or_default() {
            let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
            let Some(pid) = pid.filter(|pid| pid.parse::<u32>().is_ok()) else {
                continue;
            };
            if Path::new("/proc").join(pid).exists() {
                continue;
            }
            let removed = if folder == Path::new(NAMESPACES) {
                remove_namespace(&name)
            } else {
                remove_path(&folder.join(&name))
            };
            if let Err(error) = removed {
                eprintln!("a dead test left `{name}`: {error:#}");
            }
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
        fs::create_dir(&path).with_context(|| format!("cannot make `{}`", path.display()))?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = remove_path(&self.0) {
            eprintln!("{error:#}");
        }
    }
}
