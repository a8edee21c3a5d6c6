//! The contents of a guest's root file system, and the programs that it runs.

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
    exec, test, workspace,
};

/// The test programs that guests run unless all are asked for: their tests meet what differs between kernels, the verifier, filters
/// of clsact, links that move, XDP, 802.1Q links, IPsec, and concurrency in the tables. Loading the kernel program takes an emulated
/// processor ten seconds, and most of the other tests do that first.
pub(super) const CORE: [&str; 10] = [
    "authentication",
    "dataplane",
    "instant",
    "moved",
    "stress",
    "takeover",
    "timeouts",
    "uplink",
    "verdict",
    "vlan",
];
/// Tests of these programs that guests run only if all are asked for.
pub(super) const BEYOND_CORE: [&str; 6] = [
    "adopted::",
    "damaged::",
    "enis::",
    "provisioned::",
    "sysctls::",
    "tables::",
];
/// The test programs that guests do not run, and why.
pub(super) const ELSEWHERE: [(&str, &str); 11] = [
    (
        "control",
        "the socket is the same on every kernel, and taskgate starts dozens of times",
    ),
    (
        "drift",
        "it takes gates off and waits, for minutes on an emulated processor, with filters of clsact too",
    ),
    ("formats", "what records say is the same on every kernel"),
    (
        "flood",
        "its floods have to be over before the first of their flows are, and an emulated processor is slower",
    ),
    ("fuzz", "it runs no kernel program, and reads the source tree"),
    (
        "memory",
        "its connections come and go faster than an emulated processor can make them",
    ),
    ("live", "what is compared and listed is the same on every kernel"),
    ("mutated", "it runs no kernel program"),
    (
        "reload",
        "what a reload changes is the same on every kernel: `instant` and `takeover` are run",
    ),
    ("semantics", "it compares documents with tests"),
    ("watch", "it waits for files"),
];
/// Tests that guests do not run, and why.
pub(super) const TESTS_ELSEWHERE: [(&str, &str); 12] = [
    (
        "changed::",
        "what a configuration changes while nobody runs is the same on every kernel, and taskgate starts a dozen times",
    ),
    ("sinks::", "files and folders are the same on every kernel"),
    (
        "tables_of_another_layout_are_given_up_only_if_asked",
        "what is refused is the same on every kernel, and taskgate starts a dozen times",
    ),
    (
        "without_the_journal_records_begin_anew_and_say_so",
        "the journal is the same on every kernel",
    ),
    (
        "the_pure_core_does_what_the_oracle_says",
        "it runs no kernel program: the same on every kernel",
    ),
    (
        "kills_at_random_moments",
        "it starts taskgate twenty times under traffic, for minutes on an emulated processor: the other kills of `takeover` are run",
    ),
    (
        "no_packet_is_missing_or_counted_twice",
        "it waits for seven windows, for minutes on an emulated processor: the other kills of `takeover` are run",
    ),
    (
        "kills_at_every_step",
        "it starts taskgate dozens of times under traffic, of which an emulated processor misses frames: the other kills of \
         `takeover` are run",
    ),
    (
        "a_kill_at_any_time_leaves_nothing_half_made",
        "it starts taskgate a dozen times, for minutes on an emulated processor",
    ),
    (
        "a_million_members_are_found",
        "it compiles a million members, for minutes on an emulated processor; the kernel's part is the same for fewer",
    ),
    (
        "no_packet_meets_groups_of_another_while_members_come_and_go",
        "it compiles hundreds of configurations, for minutes on an emulated processor: \
         `no_packet_is_judged_by_a_mixture_of_rules_and_members` is run",
    ),
    (
        "no_packet_is_judged_by_a_mixture_of_rules_members_exempt_hosts_and_isolation",
        "the same: `no_packet_is_judged_by_a_mixture_of_rules_and_members` is run",
    ),
];
/// System programs that the tests and the init process need.
const PROGRAMS: [&str; 4] = ["ip", "tc", "prlimit", "nft"];
/// The program of the test crate that prints verified instructions.
const VERIFIED: &str = "verified";
const INIT: &str = include_str!("init.sh");

/// The programs for all guests, built once.
pub(super) struct Load {
    taskgate: Option<PathBuf>,
    verified: PathBuf,
    tests: Vec<(String, PathBuf)>,
    left_out: Vec<String>,
    busybox: PathBuf,
    words: Vec<String>,
}

impl Load {
    /// Builds the programs; guests run the tests whose names contain `filter`, without one those of [`CORE`] unless `all` are asked
    /// for.
    pub(super) fn build(filter: Option<&str>, all: bool) -> Result<Self> {
        say("building the release binary and the test programs");
        let taskgate = Some(build::release()?);
        let (mut tests, verified) = test_programs()?;
        let mut words: Vec<&str> = filter
            .into_iter()
            .chain(["--include-ignored", "--color=never"])
            .collect();
        let mut left_out = Vec::new();
        if filter.is_none() && !all {
            let core = |(name, _): &(String, PathBuf)| CORE.contains(&&**name);
            let others = tests.extract_if(.., |program| !core(program));
            left_out.extend(others.map(|(name, _)| name));
            left_out.extend(BEYOND_CORE.map(str::to_owned));
            words.extend(BEYOND_CORE.iter().flat_map(|tests| ["--skip", tests]));
        }
        Ok(Self {
            taskgate,
            verified,
            tests,
            left_out,
            busybox: busybox()?,
            words: words.into_iter().map(str::to_owned).collect(),
        })
    }

    /// The programs and modules of tests that run only if all are asked for.
    pub(super) fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// Only the program that prints the kernel program's verified instructions.
    pub(super) fn verified_alone() -> Result<Self> {
        let verified = build::binary(test::KERNEL, VERIFIED)?;
        Ok(Self {
            taskgate: None,
            verified,
            tests: Vec::new(),
            left_out: Vec::new(),
            busybox: busybox()?,
            words: Vec::new(),
        })
    }

    /// The names of the test programs, in the order in which a guest runs them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tests.iter().map(|(name, _)| &**name)
    }

    /// Packs the programs with a kernel's modules, and returns the archive file.
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
        for (test, _) in kernel.without().chain(TESTS_ELSEWHERE.iter()) {
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

/// Builds the tests as `cargo xtask test` does, and returns the programs of the crates in `tests` by name, and the program
/// that prints verified instructions.
fn test_programs() -> Result<(Vec<(String, PathBuf)>, PathBuf)> {
    let mut command = exec::cargo();
    command.args(["test", "--no-run", "--workspace"]);
    let crates = workspace::root().join("tests");
    let (mut tests, mut verified) = (Vec::new(), None);
    for Artifact {
        manifest_path,
        executable,
        target,
        profile,
    } in build::artifacts(&mut command)?
    {
        if !manifest_path.starts_with(&crates) {
            continue;
        }
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
