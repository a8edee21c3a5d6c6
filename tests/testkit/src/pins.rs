//! The objects that an instance of taskgate has pinned in bpffs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// Where taskgate's instances have their folders.
pub const PINS: &str = "/sys/fs/bpf/taskgate";

pub fn folder(instance: &str) -> PathBuf {
    Path::new(PINS).join(instance)
}

pub fn names(instance: &str, folder: &str) -> Result<BTreeSet<String>> {
    let folder = self::folder(instance).join(folder);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list `{}`", folder.display()))?;
    entries
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
