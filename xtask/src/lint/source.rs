//! No source file exceeds a length that is easy to read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// The most lines in a Rust file.
const MOST: usize = 500;

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut found = Vec::new();
    for file in files(&root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let lines = text.lines().count();
        if lines > MOST {
            let name = file.strip_prefix(&root).unwrap_or(&file);
            found.push(format!("\n{}: {lines} lines, {MOST} are the most", name.display()));
        }
    }
    if !found.is_empty() {
        bail!("longer than one can keep in mind{}", found.concat());
    }
    Ok(())
}

/// All Rust files of the checkout, build outputs and hidden folders left out.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let context = || format!("cannot read the folder `{}`", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let (name, path) = (entry.file_name(), entry.path());
        if entry.file_type().with_context(context)?.is_dir() {
            if name != "target" && !name.to_string_lossy().starts_with('.') {
                files.extend(self::files(&path)?);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(files)
}
