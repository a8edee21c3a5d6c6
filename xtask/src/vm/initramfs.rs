//! The root file system of a guest: a cpio archive in memory, in the kernel's `newc` format.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::exec;

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive under construction.
#[derive(Default)]
pub(super) struct Initramfs {
    bytes: Vec<u8>,
    known: BTreeSet<PathBuf>,
}

impl Initramfs {
    /// Adds a folder, and its parent folders.
    pub(super) fn folder(&mut self, path: impl AsRef<Path>) {
        let path = path.as_ref();
        if path.parent().is_none() || self.known.contains(path) {
            return;
        }
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        self.entry(path, FOLDER, &[]);
    }

    /// Adds an executable file, and its parent folders.
    pub(super) fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        let path = path.as_ref();
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        self.entry(path, FILE, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, to: &str) {
        self.entry(Path::new(path), LINK, to.as_bytes());
    }

    /// Adds a program of this machine under `path`, without debug information, and the libraries that it is linked to.
    pub(super) fn program(&mut self, path: &str, program: &Path, scratch: &Path) -> Result<()> {
        for library in libraries(program)? {
            if !self.known.contains(&library) {
                let content = fs::read(&library).with_context(|| format!("cannot read `{}`", library.display()))?;
                self.file(&library, &content);
            }
        }
        let small = scratch.join(format!("stripped-{}", std::process::id()));
        let mut strip = Command::new("strip");
        strip.arg("--strip-debug").arg("-o").arg(&small).arg(program);
        exec::stdout(&mut strip)?;
        let content = fs::read(&small).with_context(|| format!("cannot read `{}`", small.display()))?;
        self.file(path, &content);
        fs::remove_file(&small).with_context(|| format!("cannot remove `{}`", small.display()))
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) {
        if !self.known.insert(path.to_owned()) {
            return;
        }
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        let number = self.known.len() as u32;
        self.header(number, mode, name, content.len() as u32);
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn header(&mut self, number: u32, mode: u32, name: &str, size: u32) {
        // Number, mode, user, group, links, time, size, device and represented device (two fields each), name's length,
        // sum.
        let fields = [number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name.len() as u32 + 1, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes the archive to a file.
    pub(super) fn write(mut self, file: &Path) -> Result<()> {
        self.header(0, 0, "TRAILER!!!", 0);
        let write = || fs::File::create(file)?.write_all(&self.bytes);
        write().with_context(|| format!("cannot write `{}`", file.display()))
    }
}

/// The libraries that a program loads at its start, and the dynamic loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("cannot run `ldd`")?;
    let words = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.success() && !words.contains("not found"),
        "`{}` cannot be put into a guest: {words}",
        program.display()
    );
    Ok(words
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_headers_names_and_contents_on_words() {
        let mut archive = Initramfs::default();
        archive.file("/a/b", b"hello");
        archive.folder("/a");
        let text = String::from_utf8(archive.bytes).expect("ASCII alone");
        let entry = |number: u32, mode: u32, size: u32, name: &str| {
            let length = name.len() + 1;
            let header = format!(
                "070701{number:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{size:08x}",
                0, 0, 1, 0
            );
            let mut entry = format!("{header}{:032x}{length:08x}{:08x}{name}\0", 0, 0);
            while entry.len() % 4 != 0 {
                entry.push('\0');
            }
            entry
        };
        let expected = entry(1, FOLDER, 0, "a") + &entry(2, FILE, 5, "a/b") + "hello\0\0\0";
        assert_eq!(text, expected);
    }
}
