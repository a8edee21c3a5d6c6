//! Benchmarks of a running taskgate, run by `cargo xtask bench control`. docs/performance.md describes the method.

mod calls;
mod running;

use anyhow::Result;
use taskgate_bpf::sys::lift_open_files_limit;

use super::machine::unpinned;
use testkit::scale::{MOST_BRANCHES, MOST_TASKS};

/// Tasks whose ENIs taskgate makes, and how their gates hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    pub tasks: u16,
    /// `settings.attach`.
    pub attach: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlEffort {
    pub made: [Made; 4],
    /// How many branches a trunk has.
    pub branches: [u16; 2],
    /// The number of existing tasks when another one is added.
    pub others: u16,
    /// The number of rounds.
    pub rounds: usize,
}

impl ControlEffort {
    /// For published figures: some minutes.
    pub const FULL: Self = Self {
        made: [
            Made {
                tasks: 1,
                attach: "auto",
            },
            Made {
                tasks: 500,
                attach: "tcx",
            },
            Made {
                tasks: 500,
                attach: "auto",
            },
            Made {
                tasks: MOST_TASKS,
                attach: "auto",
            },
        ],
        branches: [1, MOST_BRANCHES],
        others: 1000,
        rounds: 20,
    };
    /// Enough to see that everything works.
    pub const QUICK: Self = Self {
        made: [
            Made {
                tasks: 1,
                attach: "auto",
            },
            Made {
                tasks: 5,
                attach: "tcx",
            },
            Made {
                tasks: 5,
                attach: "auto",
            },
            Made {
                tasks: 70,
                attach: "auto",
            },
        ],
        branches: [1, 400],
        others: 20,
        rounds: 3,
    };
}

/// Measures everything and returns it as tables. `say` is called with a line for each step.
pub fn run(effort: ControlEffort, say: &dyn Fn(&str)) -> Result<String> {
    lift_open_files_limit();
    let mut text = unpinned()?;
    if effort == ControlEffort::QUICK {
        text += "quick:   these figures are not to be quoted\n";
    }
    text += &running::measure(effort, say)?;
    text += &calls::measure(effort, say)?;
    Ok(text)
}
