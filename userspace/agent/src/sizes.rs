//! Sizes that the configuration leaves to taskgate.

use std::time::Duration;

use taskgate_bpf::load::LoadOptions;
use taskgate_compiler::EniLimits;
use taskgate_ebpf::abi::image::{NO_CAP, Share, Shared};
use taskgate_model::{Binding, Floor, Model, Settings};

/// Interval at which tables are checked for shortage of room, and tasks for refusals.
pub(super) const ROOM_EVERY: Duration = Duration::from_millis(500);
/// Minimum interval between removals of expired connections for want of room: a large table takes a while.
pub(super) const GC_EVERY: Duration = Duration::from_secs(2);

/// Interval of the search for connections with so much traffic that their packet counters may wrap around.
pub(super) const LARGE_EVERY: Duration = Duration::from_secs(5);

/// The limits of each task's gate.
pub(super) fn gate(model: &Model) -> EniLimits {
    EniLimits {
        connections: model.settings.connections.per_task.unwrap_or(NO_CAP),
        isolated: false,
    }
}

/// Maximum number of flow records held: as many as full tables yield, with both directions of each connection. Flows
/// that come and go within a window of minutes could be any number.
pub(super) fn records(tables: &LoadOptions) -> usize {
    2 * tables.conns as usize + tables.denials as usize
}

/// A warning that some links may stay closed because of this process's limit on open files; `None` if the limit
/// suffices or is unknown.
pub(super) fn too_few_files(model: &Model, limit: Option<u64>) -> Option<String> {
    /// File descriptors of the kernel program, of netlink and of files being read, and a reserve.
    const BESIDE: u64 = 64;
    let (mut tasks, mut files) = (0_u64, BESIDE);
    for binding in model.gated().filter_map(|eni| eni.binding.as_ref()) {
        let of_task = match binding {
            // One for each side of the gate.
            Binding::Device(_) => 2,
            // One more for the namespace.
            Binding::Namespace(_) => 3,
            // Branches share the trunk's gate.
            Binding::Vlan(_) => continue,
        };
        tasks += 1;
        files += of_task;
    }
    let limit = limit.filter(|limit| *limit < files)?;
    Some(format!(
        "this process may have {limit} files open and takes up to {files} for {tasks} tasks: links for which there is none are \
         closed and pass nothing; raise the hard limit (`LimitNOFILE={files}` in the unit of systemd, `ulimit -Hn {files}` in \
         a shell) and start it again"
    ))
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

/// The capacity of a table, and the floor that the settings have for it.
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

/// The division of a table with room for `total` among this many present tasks: the room beyond the floors is the pool.
/// `overdrawn`: the number of entries charged to floors in excess of the new floors.
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

    #[test]
    fn open_files_that_do_not_suffice_are_told_of() {
        let task = |number: u8| match number {
            0..3 => format!("device: d{number}"),
            3 => String::from("namespace: n3"),
            _ => format!("vlan: {number}, mac: '02:00:00:00:00:0{number}'"),
        };
        let tasks: Vec<String> = (0..6)
            .map(|number| {
                let place = task(number);
                format!("- {{ name: t{number}, {place}, addresses: [10.0.0.{number}], groups: [g] }}\n")
            })
            .collect();
        let text = format!(
            "taskgate: v1\nuplink: {{ device: t, mode: trunk }}\ngroups: [{{ name: g }}]\ntasks:\n{}",
            tasks.concat()
        );
        let model = taskgate_config::read(&[("t.yaml", &text)]).unwrap().model;
        let enough = 64 + 3 * 2 + 3;
        assert_eq!(too_few_files(&model, Some(enough)), None);
        assert_eq!(too_few_files(&model, None), None);
        let told = too_few_files(&model, Some(enough - 1)).unwrap();
        assert!(
            told.starts_with("this process may have 72 files open and takes up to 73 for 4 tasks: "),
            "{told}"
        );
    }

    /// Floors and pool never exceed the table, for any number of tasks.
    #[test]
    fn floors_and_pool_are_the_whole_table() {
        let settings = Settings::default();
        for tasks in [0, 1, 2, 3, 200, 256, 257, 1000, 8191] {
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
