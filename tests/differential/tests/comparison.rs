//! Three implementations on the same packets. A seed that showed a difference becomes a separate test, with its packet.

use std::{thread, time::Instant};

use anyhow::{Context as _, Error, Result, ensure};
use differential::{Difference, Episode, Tally};
use taskgate_tables::image::host_image;
use testkit::{fixture::Kernel, sandbox::sandbox};

/// Packets in an episode.
const PACKETS: u64 = 1000;

/// Whether a run may take minutes.
fn long() -> bool {
    std::env::var_os("TASKGATE_TEST_LONG").is_some()
}

fn episode(seed: u64) -> Episode {
    Episode {
        seed,
        packets: PACKETS as usize,
        check_every: 250,
    }
}

/// Runs an episode; if it shows a difference, finds the first packet that does.
fn told(seed: u64, mut run: impl FnMut(Episode) -> Result<Tally>) -> Result<Tally> {
    let late = match run(episode(seed)) {
        Err(late) if late.is::<Difference>() => late,
        other => return other.with_context(|| format!("seed {seed}")),
    };
    Err(run(episode(seed).closely()).err().unwrap_or(late))
}

/// An outcome that never occurs was never compared.
fn saw_everything(tally: &Tally, episodes: u64) -> Result<()> {
    const OUTCOMES: [&str; 19] = [
        "tracked",
        "rule",
        "exempt",
        "neighbour",
        "icmp-error",
        "no-rule",
        "spoofed-source",
        "not-for-task",
        "malformed",
        "fragment-without-first",
        "connections-full",
        "task-connections-full",
        "unknown-task",
        "isolated",
        "unsupported-ethertype",
        "connection-closed",
        "source-routed",
        "host",
        "dropped early",
    ];
    for outcome in OUTCOMES {
        let count = tally.0.get(outcome).copied().unwrap_or_default();
        ensure!(
            count > episodes / 10,
            "only {count} packets ended as `{outcome}`: {tally:?}"
        );
    }
    Ok(())
}

#[test]
fn the_pure_core_does_what_the_oracle_says() -> Result<()> {
    let episodes: u64 = if long() { 10_000 } else { 100 };
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let began = Instant::now();
    let some = |first: u64| {
        let image = host_image(7);
        let mut sum = Tally::default();
        for seed in (first..episodes).step_by(threads as usize) {
            sum += told(seed, |episode| episode.on_host(&image))?;
        }
        Ok::<_, Error>(sum)
    };
    let sum = thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|first| scope.spawn(move || some(first))).collect();
        let mut sum = Tally::default();
        for one in all {
            sum += one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok::<_, Error>(sum)
    })?;
    println!(
        "{episodes} episodes of {PACKETS} packets in {:?}: {sum:?}",
        began.elapsed()
    );
    saw_everything(&sum, episodes)
}

#[test]
fn the_loaded_program_does_what_both_say() -> Result<()> {
    let episodes = if long() { 1000 } else { 10 };
    sandbox(|| async {
        let mut turn = Kernel::turn()?;
        let kernel = turn.as_mut().context("no kernel program")?;
        let mut sum = Tally::default();
        for seed in 0..episodes {
            sum += told(seed, |episode| episode.with_kernel(kernel))?;
        }
        println!("{episodes} episodes of {PACKETS} packets: {sum:?}");
        Ok(())
    })
}
