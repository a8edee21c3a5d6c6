//! Benchmarks of the data path, run by `cargo xtask bench path`. docs/performance.md describes the method and its
//! reasons.
#![expect(clippy::print_stderr, reason = "a failure in `drop` has no caller")]
#![expect(missing_docs, reason = "for tests alone: names that say all need no words")]

pub mod compare;
pub mod compile;
pub mod control;
pub mod density;
pub mod exchange;
pub mod loaded;
pub mod machine;
pub mod measure;
pub mod paths;
pub mod peers;
pub mod reading;
pub mod report;
pub mod rules;
pub mod spread;
pub mod table;
pub mod varied;
pub mod veth;
pub mod window;

use std::time::Duration;

use anyhow::Result;

pub use report::{MOST_INSTRUCTIONS, Report};

use machine::Machine;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathEffort {
    /// Rounds over all paths, after an uncounted one.
    pub rounds: u32,
    /// Packets in each round on each path that repeats the same packet.
    pub packets: u32,
    /// New connections in each round: two to this power, 2 to 17.
    pub new_bits: u32,
    /// Connections to meet in random order: two to these powers, 2 to 20. A round is a pass over all of them.
    pub random_bits: [u32; 2],
    /// Rounds of traffic over veth, after an uncounted one.
    pub veth_rounds: u32,
    /// The duration of each kind of that traffic, once without and once with gates in a round.
    pub slice: Duration,
}

impl PathEffort {
    /// For published figures: some minutes.
    pub const FULL: Self = Self {
        rounds: 15,
        packets: 500_000,
        new_bits: 17,
        random_bits: [17, 20],
        veth_rounds: 9,
        slice: Duration::from_millis(500),
    };
    /// Enough to see that everything works: seconds.
    pub const QUICK: Self = Self {
        rounds: 3,
        packets: 50_000,
        new_bits: 12,
        random_bits: [17, 20],
        veth_rounds: 2,
        slice: Duration::from_millis(100),
    };
}

/// Measures everything, on the caller's thread and one CPU. Must be called in a sandbox. `say` is called with a line for
/// each step.
pub fn run(effort: PathEffort, say: &dyn Fn(&str)) -> Result<Report> {
    let machine = Machine::pinned()?;
    say("compiling rule sets");
    let compiled = compile::measure(effort.rounds)?;
    loaded::make_links()?;
    let (paths, programs) = paths::measure(effort, say)?;
    let traffic = veth::measure(effort, say)?;
    Ok(Report {
        effort,
        machine,
        paths,
        traffic,
        programs,
        compiled,
    })
}
