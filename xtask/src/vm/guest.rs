//! The content of a guest, and the programs that it runs.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};

use super::{
    archive,
    initramfs::Initramfs,
    kernels::{Image, Kernel},
    modules, say,
};
use crate::{
    build::{self, Artifact},
    exec, test,
};

/// The programs of the test crate that no guest runs, and why.
pub(super) const ELSEWHERE: [(&str, &str); 4] = [
    (
        "flood",
        "its floods have to be over before the first of their flows are, and an emulated processor is slower",
    ),
    ("fuzz", "it runs no kernel program, and reads the source tree"),
    (
        "memory",
        "its connections come and go faster than an emulated processor can make them",
    ),
    ("semantics", "it compares documents with tests"),
];
/// Programs that tests and the first process run.
const PROGRAMS: [&str; 4] = ["ip", "tc", "prlimit", "nft"];
/// The program of the test crate that prints verified instructions.
const VERIFIED: &str = "verified";
const INIT: &str = include_str!("init.sh");

/// The programs of all guests, built once.
pub(super) struct Load {
    taskgate: Option<PathBuf>,
    verified: PathBuf,
    tests: Vec<(String, PathBuf)>,
    busybox: PathBuf,
    words: Vec<String>,
}

impl Load {
    /// Builds it; the tests are those whose names contain `filter`.
    pub(super) fn build(filter: Option<&str>) -> Result<Self> {
        say("building the release binary and the test programs");
        let taskgate = Some(build::release()?);
        let (tests, verified) = test_programs()?;
        let words = filter.into_iter().chain(["--include-ignored", "--color=never"]);
        Ok(Self {
            taskgate,
            verified,
            tests,
            busybox: busybox()?,
            words: words.map(str::to_owned).collect(),
        })
    }

    /// The program that prints the kernel program's verified instructions.
    pub(super) fn verified_alone() -> Result<Self> {
        let verified = build::binary(test::KERNEL, VERIFIED)?;
        Ok(Self {
            taskgate: None,
            verified,
            tests: Vec::new(),
            busybox: busybox()?,
            words: Vec::new(),
        })
    }

    /// The names of the test programs, in the order in which a guest runs them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().map(|(name, _)| &**name)
    }

    /// Packs it with a kernel's modules, and returns the file.
    pub(super) fn pack(&self, kernel: &Kernel, image: &Image) -> Result<PathBuf> {
        let folder = &super::folder().join(kernel.name);
        let modules = modules::of(image)?;
        for name in &modules.lacking {
            say(&format!("kernel {} has no module `{name}`", image.release));
        }
        let mut archive = Initramfs::default();
        archive.file("/init", INIT.as_bytes());
        archive.folder("/tests");
        let mut words = self.words.clone();
        for (test, _) in kernel.without() {
            words.extend(["--skip".to_owned(), (*test).to_owned()]);
        }
        words.push(String::new());
        archive.file("/words", words.join("\n").as_bytes());
        let content = fs::read(&self.busybox).context("cannot read busybox")?;
        archive.file("/bin/busybox", &content);
        archive.link("/bin/sh", "busybox");
        for (number, (name, content)) in modules.ordered.iter().enumerate() {
            archive.file(format!("/modules/{number:02}-{name}.ko"), content);
        }
        for name in PROGRAMS {
            let program = exec::find(name).with_context(|| format!("there is no `{name}`: run `cargo xtask setup`"))?;
            archive.program(&format!("/usr/bin/{name}"), &program, folder)?;
        }
        if let Some(taskgate) = &self.taskgate {
            archive.program("/taskgate/taskgate", taskgate, folder)?;
        }
        archive.program("/taskgate/verified", &self.verified, folder)?;
        for (name, file) in &self.tests {
            archive.program(&format!("/tests/{name}"), file, folder)?;
        }
        // Another run may use the same kernel.
        let file = folder.join(format!("initramfs-{}", std::process::id()));
        archive.write(&file)?;
        Ok(file)
    }
}

/// Builds the test crates: their test programs by name, and the one that prints verified instructions.
fn test_programs() -> Result<(Vec<(String, PathBuf)>, PathBuf)> {
    let mut command = exec::cargo();
    command
        .args(["test", "--no-run", "--tests"])
        .args(test::each("--package"));
    let (mut tests, mut verified) = (Vec::new(), None);
    for Artifact {
        executable,
        target,
        profile,
    } in build::artifacts(&mut command)?
    {
        let is_program = target.kind.iter().any(|kind| kind == "bin");
        if target.name == VERIFIED && !profile.test {
            verified = Some(executable);
        } else if profile.test && !is_program && !ELSEWHERE.iter().any(|(name, _)| *name == target.name) {
            tests.push((target.name, executable));
        }
    }
    tests.sort();
    let name = exec::shown(&command);
    let verified = verified.with_context(|| format!("{name} made no program `{VERIFIED}`"))?;
    Ok((tests, verified))
}

/// Debian's statically linked busybox, unpacked and not installed.
fn busybox() -> Result<PathBuf> {
    let root = super::folder().join("busybox/root");
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| root.join(place));
    let there = || places.iter().find(|place| place.is_file()).cloned();
    if there().is_none() {
        archive::with_suites("busybox", &["bookworm"], |apt| {
            apt.unpack_with("busybox-static", &[], &root)
        })?;
    }
    there().context("the package busybox-static has no busybox")
}
