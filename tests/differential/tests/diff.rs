//! `taskgate diff` is exact: it reports every difference, and connections fare as it predicts.

use anyhow::{Context as _, Result, ensure};
use differential::diff::{Fates, differences_of, fates_of};
use taskgate_tables::image::host_image;

/// Whether a run may take minutes.
fn long() -> bool {
    std::env::var_os("TASKGATE_TEST_LONG").is_some()
}

#[test]
fn whatever_differs_is_told() -> Result<()> {
    let seeds = if long() { 100_000 } else { 1_000 };
    let mut told = 0;
    for seed in 0..seeds {
        told += u64::from(differences_of(seed)?);
    }
    ensure!(told > seeds / 2 && told < seeds, "{told} of {seeds} models differ");
    Ok(())
}

#[test]
fn connections_end_or_go_on_as_was_told() -> Result<()> {
    let seeds = if long() { 20_000 } else { 120 };
    let image = host_image(7);
    let mut sum = Fates::default();
    for seed in 0..seeds {
        let fates = fates_of(seed, &image).with_context(|| format!("seed {seed}"))?;
        sum.over += fates.over;
        sum.allowed += fates.allowed;
        sum.cut += fates.cut;
        sum.kept += fates.kept;
        sum.unclear += fates.unclear;
    }
    println!("{seeds} seeds: {sum:?}");
    let rare = [sum.over, sum.allowed, sum.cut, sum.kept].into_iter().min();
    ensure!(rare > Some(seeds), "a fate is too rare to be compared: {sum:?}");
    ensure!(sum.unclear * 100 < sum.allowed, "too much is unclear: {sum:?}");
    Ok(())
}
