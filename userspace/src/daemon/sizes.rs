//! How large things are: what the configuration leaves to taskgate.

use std::time::Duration;

use taskgate_ebpf::abi::image::BANK_BYTES;

use crate::{
    compile::Gate,
    dataplane::load::LoadOptions,
    model::{Model, PerTask},
};

/// How often connections that are over are removed where the table, or a task's share of it, is more than half full.
pub(super) const ROOM_EVERY: Duration = Duration::from_secs(2);

/// The least share of a task that has `per-task: auto`.
const LEAST_CONNECTIONS: u32 = 1024;
/// The least that a task may leave of denied flows.
const LEAST_DENIALS: u32 = 256;

/// Banks for policies that take `bytes`: the generation in force and the next one stand side by side, and a policy never
/// crosses into another bank.
pub(crate) fn policy_banks(bytes: usize) -> u32 {
    let banks = bytes.div_ceil(BANK_BYTES as usize / 2) as u32;
    2 * banks + 2
}

/// The gate of each task, in tables of the sizes that they were loaded with.
pub(super) fn gate(model: &Model, tables: &LoadOptions) -> Gate {
    let tasks = u32::try_from(model.gated().count()).unwrap_or(u32::MAX).max(1);
    Gate {
        connections: match model.settings.connections.per_task {
            PerTask::Auto => (tables.conns / tasks).max(LEAST_CONNECTIONS),
            PerTask::Fixed(connections) => connections,
        },
        denials: (tables.denials / tasks).max(LEAST_DENIALS),
        isolated: false,
    }
}
