//! Sizes that the configuration leaves to taskgate.

use std::time::Duration;

use taskgate_bpf::load::LoadOptions;
use taskgate_compiler::EniLimits;
use taskgate_ebpf::abi::image::{NO_CAP, Share, Shared};
use taskgate_model::{Floor, Model, Settings};

/// How often it is looked at whether tables are short of room, and what tasks were refused.
pub(super) const ROOM_EVERY: Duration = Duration::from_millis(500);
/// How often connections that are over are removed at most where room for them is short: a large table takes a while.
pub(super) const GC_EVERY: Duration = Duration::from_secs(2);

/// How often connections are looked for that have carried so much that their packet counters may come round.
pub(super) const LARGE_EVERY: Duration = Duration::from_secs(5);

/// The gate of each task.
pub(super) fn gate(model: &Model) -> EniLimits {
    EniLimits {
        connections: model.settings.connections.per_task.unwrap_or(NO_CAP),
        isolated: false,
    }
}

/// How many flow records are held at most: those of full tables, both directions of each connection. Flows that come and go
/// within a window of minutes could be any number.
pub(super) fn records(tables: &LoadOptions) -> usize {
    2 * tables.conns as usize + tables.denials as usize
}

/// Bytes of locked memory that the tables of connections and denied flows take.
pub fn table_bytes(settings: &Settings) -> usize {
    let sizes = LoadOptions {
        conns: settings.connections.total,
        denials: settings.denials.total,
        ..LoadOptions::default()
    };
    sizes.flow_bytes()
}

/// The room in a table, and the floor that the settings have for it.
pub fn room(settings: &Settings, conns: u32, denials: u32, table: Shared) -> (u32, Floor) {
    match table {
        Shared::Connections => (conns, settings.connections.floor),
        Shared::Denials => (denials, settings.denials.floor),
        Shared::Fragments => {
            let floor = match settings.denials.floor {
                Floor::Auto => Floor::Auto,
                Floor::Fixed(floor) => Floor::Fixed(Shared::fragments(floor)),
            };
            (Shared::fragments(denials), floor)
        }
    }
}

/// How a table with room for `total` is shared by so many present tasks: what is no floor is the pool. `overdrawn`: what is
/// charged to floors beyond what these are now.
pub fn share((total, floor): (u32, Floor), tasks: u32, overdrawn: u32) -> Share {
    let floor = floor.of(total, tasks);
    Share {
        floor,
        pool: (total - floor * tasks).saturating_sub(overdrawn),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Not for one number of tasks do floors and pool come to more than there is.
    #[test]
    fn floors_and_pool_are_the_whole_table() {
        let settings = Settings::default();
        for tasks in [1, 2, 3, 200, 256, 257, 1000, 8191] {
            for table in Shared::ALL {
                let (total, floor) = room(&settings, 262_144, 65_536, table);
                let auto = share((total, floor), tasks, 0);
                assert_eq!(
                    u64::from(auto.floor) * u64::from(tasks) + u64::from(auto.pool),
                    u64::from(total)
                );
                assert!(auto.pool >= total / 4 * 3, "{auto:?}");
                let fixed = share((total, Floor::Fixed(700)), tasks, 0);
                assert_eq!(
                    u64::from(fixed.floor) * u64::from(tasks) + u64::from(fixed.pool),
                    u64::from(total)
                );
                assert_eq!(share((total, floor), tasks, u32::MAX).pool, 0);
            }
        }
    }
}
