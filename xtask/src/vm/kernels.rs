//! The kernels of the matrix: their packages, and the places of their unpacked files.

use std::{
    cmp::Ordering,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use super::{archive, folder, say};

/// The values of `--kernel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Choice {
    /// Debian 11's
    #[value(name = "5.10")]
    V5_10,
    /// Debian 12's
    #[value(name = "6.1")]
    V6_1,
    /// Debian 12's other one
    #[value(name = "6.12")]
    V6_12,
    /// Of Debian 13's backports
    #[value(name = "6.18")]
    V6_18,
    /// The newest that Debian has
    #[value(name = "newest")]
    Newest,
    /// All of these
    #[value(name = "all")]
    All,
}

/// A kernel of the matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernel {
    /// The name here, and of its folder.
    pub(super) name: &'static str,
    /// The beginning of its packages' versions.
    version: &'static str,
    /// Debian's suites that have it.
    pub(super) suites: &'static [&'static str],
    /// Tests that cannot run on it, and why.
    without: &'static [&'static [Without]],
    /// Whether the kernel is required; others are skipped with a message if their suites cannot be reached.
    pub(super) required: bool,
}

/// The reason why tests of links that move are skipped without TCX.
const UNFOUND: &str = "without TCX (6.6) a link loses its filters when it moves, and the namespaces of this test have neither a \
                       name nor a process by which taskgate would find it to close it";

/// A test that cannot run on some kernel, and why.
type Without = (&'static str, &'static str);

/// Tests that need TCX.
const WITHOUT_TCX: &[Without] = &[
    (
        "a_gate_that_somebody_took_off_is_put_up_again",
        "without TCX (6.6) gates are filters, which have no names that could be taken away",
    ),
    ("a_link_that_taskgate_made_passes_nothing_where_it_was_moved", UNFOUND),
    ("a_link_that_was_moved_passes_nothing_where_it_is", UNFOUND),
    (
        "a_moved_link_that_gets_another_number_passes_nothing_under_any_identity",
        UNFOUND,
    ),
    (
        "a_moved_link_that_keeps_its_number_passes_nothing_under_any_identity",
        UNFOUND,
    ),
    (
        "a_trunk_that_was_moved_passes_nothing_and_another_one_takes_its_place",
        UNFOUND,
    ),
];
/// Further tests that 6.1 cannot run: datagrams that are sent together, counted with a packet socket.
const WITHOUT_6_1: &[Without] = &[
    ("datagrams_that_are_sent_together_are_counted_one_by_one", UNREADABLE),
    ("an_uplink_on_which_the_kernel_drops_early", UNREADABLE),
];
const WITHOUT_5_10: &[Without] = &[
    ("datagrams_that_are_sent_together_are_counted_one_by_one", UNREADABLE),
    (
        "an_uplink_on_which_the_kernel_drops_early",
        "there datagrams that are sent together are dropped early too, and the test expects them at the gate",
    ),
    ("a_branch_that_nobody_has_is_nobodys", NO_XDP_RUN),
    ("a_full_table_is_the_gates_affair", NO_XDP_RUN),
    (
        "connections_are_the_gates_and_so_is_what_cannot_be_judged_yet",
        NO_XDP_RUN,
    ),
    (
        "what_no_rule_allows_is_dropped_with_its_record_and_the_rest_leaves_no_trace",
        NO_XDP_RUN,
    ),
];
const NO_XDP_RUN: &str = "this kernel does not run an XDP program on a packet that says its link";
const UNREADABLE: &str = "before Linux 6.2 a packet socket cannot read datagrams that are sent together";

const KERNELS: [(Choice, Kernel); 5] = [
    (
        Choice::V5_10,
        Kernel {
            name: "5.10",
            version: "5.10.",
            without: &[WITHOUT_TCX, WITHOUT_5_10],
            suites: &["bullseye", "bullseye-security"],
            required: false,
        },
    ),
    (
        Choice::V6_1,
        Kernel {
            name: "6.1",
            version: "6.1.",
            without: &[WITHOUT_TCX, WITHOUT_6_1],
            suites: &["bookworm", "bookworm-updates", "bookworm-security"],
            required: true,
        },
    ),
    (
        Choice::V6_12,
        Kernel {
            name: "6.12",
            version: "6.12.",
            without: &[],
            suites: &["bookworm", "bookworm-updates", "bookworm-security"],
            required: true,
        },
    ),
    (
        Choice::V6_18,
        Kernel {
            name: "6.18",
            version: "6.18.",
            without: &[],
            suites: &["trixie-backports"],
            required: false,
        },
    ),
    (
        Choice::Newest,
        Kernel {
            name: "newest",
            version: "",
            without: &[],
            suites: &["sid"],
            required: false,
        },
    ),
];

/// The chosen kernels without duplicates, the oldest first.
pub(super) fn chosen(choices: &[Choice]) -> impl Iterator<Item = Kernel> {
    KERNELS
        .into_iter()
        .filter(|(choice, _)| choices.contains(&Choice::All) || choices.contains(choice))
        .map(|(_, kernel)| kernel)
}

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Image {
    /// The release, as printed by `uname -r`.
    pub(super) release: String,
    /// The kernel itself.
    pub(super) file: PathBuf,
    /// The folder of its modules.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The tests that cannot run on it, and why.
    pub(super) fn without(&self) -> impl Iterator<Item = &'static Without> {
        self.without.iter().copied().flatten()
    }

    /// The kernel's image: the unpacked one, or Debian's current one. Nothing is installed.
    pub(super) fn image(&self) -> Result<Image> {
        if let Ok(image) = self.unpacked() {
            return Ok(image);
        }
        let root = self.root();
        archive::with_suites(self.name, self.suites, |apt| {
            let mut wanted = apt.names("linux-image-")?;
            wanted.retain(|name| self.is_image(name));
            wanted.sort_by(|one, other| by_version(other, one));
            ensure!(
                !wanted.is_empty(),
                "{} has no package `linux-image-{}*-cloud-amd64`",
                self.suites.join(" and "),
                self.version
            );
            // Lists may name packages that are already gone: takes the newest that can be fetched.
            let mut refused = None;
            for name in wanted {
                say(&format!("{}: fetching {name}", self.name));
                match apt.unpack_with(&name, &["linux-binary-", "linux-modules-"], &root) {
                    Ok(()) => return unpacked(&root),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
            Err(refused.context("there was nothing to fetch")?)
        })
    }

    /// The kernel's image, if it is unpacked.
    pub(super) fn unpacked(&self) -> Result<Image> {
        unpacked(&self.root())
    }

    fn root(&self) -> PathBuf {
        folder().join(self.name).join("root")
    }

    /// Whether a package is one of this kernel's images, not a meta-package that depends on one.
    fn is_image(&self, package: &str) -> bool {
        let version = package
            .strip_prefix("linux-image-")
            .and_then(|rest| rest.strip_suffix("-cloud-amd64"));
        version.is_some_and(|version| {
            version.starts_with(self.version)
                && version.starts_with(|first: char| first.is_ascii_digit())
                && version.matches('.').count() >= 2
                && !version.contains("rc")
        })
    }
}

/// The unpacked kernel: in /boot, or from 7.2 on next to its modules.
fn unpacked(root: &Path) -> Result<Image> {
    for folder in ["lib/modules", "usr/lib/modules"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else {
            continue;
        };
        for entry in entries {
            let entry = entry.context("a folder cannot be read")?;
            let (modules, release) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let places = [
                root.join("boot").join(format!("vmlinuz-{release}")),
                modules.join("vmlinuz"),
            ];
            if let Some(file) = places.into_iter().find(|file| file.is_file()) {
                return Ok(Image { release, file, modules });
            }
        }
    }
    bail!("there is no kernel in `{}`", root.display())
}

/// Compares names, with numbers in them by value.
fn by_version(one: &str, other: &str) -> Ordering {
    parts(one).cmp(&parts(other))
}

fn parts(name: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut in_number = false;
    for c in name.chars() {
        if let Some(digit) = c.to_digit(10) {
            in_number = true;
            if let Some((_, number)) = parts.last_mut() {
                *number = number.saturating_mul(10).saturating_add(digit.into());
            }
            continue;
        }
        if in_number {
            parts.push((String::new(), 0));
            in_number = false;
        }
        if let Some((text, _)) = parts.last_mut() {
            text.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_told_from_what_depends_on_them() {
        let names = [
            "linux-image-6.1-cloud-amd64",
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
            "linux-image-6.1.0-56-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-7.2.13+deb14-cloud-amd64",
            "linux-image-7.2.9+deb13-cloud-amd64",
            "linux-image-7.3~rc2-cloud-amd64",
            "linux-image-cloud-amd64",
        ];
        let newest = |choice: Choice| {
            chosen(&[choice])
                .map(|kernel| {
                    let mut names: Vec<_> = names.into_iter().filter(|name| kernel.is_image(name)).collect();
                    names.sort_by(|one, other| by_version(other, one));
                    names.first().copied()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(newest(Choice::V6_1), [Some("linux-image-6.1.0-56-cloud-amd64")]);
        assert_eq!(
            newest(Choice::All),
            [
                None,
                Some("linux-image-6.1.0-56-cloud-amd64"),
                Some("linux-image-6.12.117+deb12-cloud-amd64"),
                None,
                Some("linux-image-7.2.13+deb14-cloud-amd64"),
            ]
        );
    }
}
