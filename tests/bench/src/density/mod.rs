//! Benchmarks with many tasks on one host, run by `cargo xtask bench density`. docs/performance.md describes the method.

mod cost;
mod hooks;

use std::fmt::Write as _;

use anyhow::Result;

use super::machine::Machine;
use testkit::{
    sandbox::sandbox,
    scale::{MOST_BRANCHES, MOST_TASKS},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DensityEffort {
    /// Rounds over all paths, after an uncounted one.
    pub rounds: u32,
    /// Packets in each round for paths that repeat the same packet.
    pub packets: u32,
    /// The number of tasks that taskgate makes.
    pub tasks: u16,
    /// How many branches a trunk has.
    pub branches: u16,
    /// The number of links that are gated by each kind of hook.
    pub links: u16,
}

impl DensityEffort {
    /// For published figures: some two minutes.
    pub const FULL: Self = Self {
        rounds: 15,
        packets: 500_000,
        tasks: MOST_TASKS,
        branches: MOST_BRANCHES,
        links: 100,
    };
    /// Enough to see that everything works: half a minute.
    pub const QUICK: Self = Self {
        rounds: 3,
        packets: 50_000,
        tasks: 40,
        branches: 400,
        links: 10,
    };
}

/// Measures everything and returns it as tables. `say` is called with a line for each step.
pub fn run(effort: DensityEffort, say: &(dyn Fn(&str) + Sync)) -> Result<String> {
    let mut text = String::new();
    sandbox(|| async {
        let machine = Machine::pinned()?;
        text += &machine.text();
        let rounds = effort.rounds;
        let _infallible = writeln!(
            text,
            "rounds:  {rounds}, medians of them; net is the difference to the empty program of the same round"
        );
        if effort == DensityEffort::QUICK {
            text += "quick:   these figures are not to be quoted\n";
        }
        text += &cost::measure(effort, say)?;
        text += &hooks::measure(effort, say)?;
        Ok(())
    })?;
    Ok(text)
}
