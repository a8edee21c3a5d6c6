//! Replay of the fuzzer's corpus and of past findings. `cargo xtask fuzz` looks for more.

use std::{
    collections::BTreeSet,
    fs,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use differential::{Tally, fuzz};
use taskgate_ebpf::abi::{DropReason, Outcome, PassReason};

/// A fuzz target, and its number of inputs.
struct Target {
    name: &'static str,
    body: fn(&[u8]) -> Tally,
    /// The number of mutations of each input of the corpus, in an ordinary run.
    like: usize,
    /// The outcomes that the inputs must reach together; others may occur as well.
    reached: Vec<&'static str>,
}

/// Replays all inputs of a target, and some like them.
fn replay(target: Target) -> Result<()> {
    let Target {
        name: target,
        body,
        like,
        reached,
    } = target;
    let like = match std::env::var_os("TASKGATE_TEST_LONG") {
        Some(_) => 50 * like,
        None => like,
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut tally = Tally::default();
    let mut seeds = 0..;
    for what in ["corpus", "regressions"] {
        let folder = folder.join(what).join(target);
        let context = || format!("cannot read the folder `{}`", folder.display());
        let mut files = Vec::new();
        // Nothing has broken some.
        if what == "corpus" || folder.exists() {
            for entry in fs::read_dir(&folder).with_context(context)? {
                files.push(entry.with_context(context)?.path());
            }
        }
        ensure!(
            what != "corpus" || files.len() >= 20,
            "`{}` is no corpus",
            folder.display()
        );
        files.sort();
        for file in files {
            let input = fs::read(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
            match panic::catch_unwind(AssertUnwindSafe(|| body(&input))) {
                Ok(ended) => tally += ended,
                Err(_) => bail!("`{}` breaks `{target}`, as said above", file.display()),
            }
            for seed in seeds.by_ref().take(like) {
                let input = fuzz::like(&input, seed);
                if panic::catch_unwind(AssertUnwindSafe(|| body(&input))).is_err() {
                    bail!("this breaks `{target}`, as said above: {input:02x?}");
                }
            }
        }
    }
    let missing: BTreeSet<_> = reached.iter().filter(|name| !tally.0.contains_key(*name)).collect();
    ensure!(
        missing.is_empty(),
        "nothing in the corpus ends as {missing:?}: {tally:?}"
    );
    Ok(())
}

/// The names of all outcomes, except those left out.
fn outcomes(left_out: &[DropReason]) -> Vec<&'static str> {
    // There is no trunk here, and so no packet of the host's on it.
    let passes = PassReason::ALL.into_iter().filter(|pass| *pass != PassReason::Host);
    let drops = DropReason::ALL.into_iter().filter(|reason| !left_out.contains(reason));
    passes
        .map(Outcome::Pass)
        .chain(drops.map(Outcome::Drop))
        .map(Outcome::name)
        .collect()
}

#[test]
fn the_parser() -> Result<()> {
    let reached = [
        "IPv4",
        "IPv6",
        "ARP",
        "quotes",
        "first fragment",
        "later fragment",
        "malformed",
        "unsupported-ethertype",
    ];
    replay(Target {
        name: "parser",
        body: fuzz::parser,
        like: 1000,
        reached: reached.to_vec(),
    })
}

/// Only damage leaves an ENI without a policy. The host's tables never become full here, and no time passes that would
/// make a connection's last packets late, so two outcomes are left out.
#[test]
fn a_damaged_image() -> Result<()> {
    let mut reached = outcomes(&[DropReason::ConnectionsFull, DropReason::ConnectionClosed]);
    reached.extend([
        "no rows",
        "a link",
        "no link",
        "an address",
        "no address",
        "judged twice",
        "allowed",
        "no rule",
        "no policy",
    ]);
    replay(Target {
        name: "image",
        body: fuzz::image,
        like: 4,
        reached,
    })
}

#[test]
fn the_whole_path() -> Result<()> {
    replay(Target {
        name: "path",
        body: fuzz::path,
        like: 2,
        reached: outcomes(&[DropReason::NoPolicy]),
    })
}
