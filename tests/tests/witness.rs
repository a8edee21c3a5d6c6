//! Three witnesses of the same packets. A seed that showed a difference comes back as a test of its own, with the packet
//! that it was about.

use std::{thread, time::Instant};

use anyhow::{Context as _, Result, bail};
use taskgate::compile::host_image;
use taskgate_tests::{
    sandbox::sandbox,
    scene::Kernel,
    witness::{Difference, Episode},
};

/// Whether a run may take minutes.
fn long() -> bool {
    std::env::var_os("TASKGATE_TEST_LONG").is_some()
}

const fn episode(seed: u64) -> Episode {
    Episode {
        seed,
        packets: 1000,
        check_every: 250,
    }
}

/// Fails with the first packet that shows a difference.
fn report(found: Option<Difference>, closely: impl FnOnce() -> Result<Option<Difference>>) -> Result<()> {
    match found {
        None => Ok(()),
        Some(late) => bail!("{}", closely()?.unwrap_or(late)),
    }
}

fn host_sees_what_the_oracle_sees(seeds: impl Iterator<Item = u64>) -> Result<()> {
    let image = host_image(5);
    for seed in seeds {
        let of = || format!("seed {seed}");
        let found = episode(seed).on_host(&image).with_context(of)?;
        report(found, || episode(seed).closely().on_host(&image))?;
    }
    Ok(())
}

#[test]
fn the_pure_core_does_what_the_oracle_says() -> Result<()> {
    let episodes: u64 = if long() { 10_000 } else { 100 };
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let began = Instant::now();
    thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || host_sees_what_the_oracle_sees((first..episodes).step_by(threads as usize)))
            })
            .collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    println!("{episodes} episodes of 1000 packets in {:?}", began.elapsed());
    Ok(())
}

#[test]
fn the_loaded_program_does_what_both_say() -> Result<()> {
    let episodes = if long() { 1000 } else { 10 };
    sandbox(|| async {
        let mut turn = Kernel::turn()?;
        let kernel = turn.as_mut().context("no kernel program")?;
        for seed in 0..episodes {
            let of = || format!("seed {seed}");
            let found = episode(seed).with_kernel(kernel).with_context(of)?;
            report(found, || episode(seed).closely().with_kernel(kernel))?;
        }
        Ok(())
    })
}
