//! How tasks share the kernel's tables: computes floors and pools for the tasks that are present, and logs tasks that
//! are at their limit.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use taskgate_api::{TableFill, TableFills};
use taskgate_bpf::load::LoadOptions;
use taskgate_ebpf::abi::image::{NO_CAP, Share, Shared};
use taskgate_model::{Eni, Settings};
use taskgate_tables::{FlowTables, UsageState, image::ImageControl};
use tracing::{info, warn};

use super::{
    image::ImageMemory,
    sizes::{room, share},
};

/// A task that was refused room is logged again only after it has found room for this long.
const QUIET: Duration = Duration::from_mins(10);

/// A configured task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharer<'a> {
    name: &'a str,
    slot: u16,
}

impl<'a> Sharer<'a> {
    pub(super) const fn name(&self) -> &'a str {
        self.name
    }

    pub(super) const fn slot(&self) -> u16 {
        self.slot
    }

    pub(super) fn new(eni: &'a Eni, slot: u16) -> Self {
        Self {
            name: eni.display_name(),
            slot,
        }
    }
}

/// Which tables are so full that expired entries should be freed at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pressure {
    /// Tracked connections.
    pub(crate) conns: bool,
    /// Denied flows.
    pub(crate) denials: bool,
    /// First fragments.
    pub(crate) fragments: bool,
}

/// Floors and pools in force.
#[derive(Debug, Default)]
pub(super) struct Shares {
    in_force: [Share; 3],
    tasks: u32,
    /// The highest slot that any task has had.
    highest: u16,
    /// The refusal counts of each slot at the last update, by table.
    refused: HashMap<u16, [u64; 3]>,
    /// When a slot was last refused room in a table.
    told: HashMap<(u16, usize), Instant>,
}

impl Shares {
    /// Divides the tables among the tasks that are present, given what is in use now, and logs changes. A task without
    /// a link gets no floor, since it can neither send nor receive. `all`: all tasks count as present, since their
    /// links are about to come up. Returns which tables are short of room.
    pub(super) fn update(
        &mut self,
        settings: &Settings,
        sizes: &LoadOptions,
        sharers: &[Sharer<'_>],
        all: bool,
        tables: &mut dyn FlowTables,
        image: &ImageControl<ImageMemory>,
    ) -> io::Result<Pressure> {
        let present: HashMap<u16, &str> = sharers
            .iter()
            .filter(|sharer| all || image.link(sharer.slot).is_some())
            .map(|sharer| (sharer.slot, sharer.name))
            .collect();
        let tasks = u32::try_from(present.len()).unwrap_or(u32::MAX);
        let slots = sharers.iter().map(|sharer| sharer.slot);
        self.highest = slots.fold(self.highest, u16::max);
        let mut used = Vec::new();
        for slot in 0..=self.highest {
            used.push((slot, tables.usage(slot)?));
        }
        let cap = settings.connections.per_task.unwrap_or(NO_CAP);
        let mut short = [false; 3];
        for (at, table) in Shared::ALL.into_iter().enumerate() {
            let room = room(settings, sizes.conns, sizes.denials, table);
            let floor = share(room, tasks, 0).floor;
            let guaranteed = |slot: &u16| {
                if present.contains_key(slot) {
                    u64::from(floor)
                } else {
                    0
                }
            };
            let overdrawn: u64 = used
                .iter()
                .map(|(slot, usage)| usage.of(table).floor.saturating_sub(guaranteed(slot)))
                .sum();
            let share = share(room, tasks, u32::try_from(overdrawn).unwrap_or(u32::MAX));
            image.set_share(table, share);
            self.in_force[at] = share;
            let cap = if table == Shared::Connections { cap } else { NO_CAP };
            short[at] = is_short(&used, table, share, cap);
        }
        if !all && self.tasks != tasks {
            self.tasks = tasks;
            let [conns, denials, fragments] = self.in_force;
            info!(
                "tasks present: {tasks}; guaranteed to each and common to all: {} and {} tracked connections, {} and {} \
                 denied flows, {} and {} datagrams in fragments",
                conns.floor, conns.pool, denials.floor, denials.pool, fragments.floor, fragments.pool
            );
        }
        self.tell(&present, cap, &used);
        let [conns, denials, fragments] = short;
        Ok(Pressure {
            conns,
            denials,
            fragments,
        })
    }

    /// A task's usage of the tables, and its limits by the shares in force and its connection cap.
    pub(super) fn fills(&self, usage: &UsageState, cap: Option<u32>) -> TableFills {
        let fill = |table: Shared, cap: Option<u32>, refused| {
            let Share { floor, pool } = self.in_force[table as usize];
            let most = u64::from(floor) + u64::from(pool);
            TableFill {
                used: usage.of(table).total(),
                limit: cap.map_or(most, |cap| most.min(cap.into())),
                refused,
            }
        };
        TableFills {
            connections: fill(Shared::Connections, cap, usage.conns_refused),
            denials: fill(Shared::Denials, None, usage.denials_lost),
        }
    }

    /// Logs which tasks were refused room, once for each task and table.
    fn tell(&mut self, present: &HashMap<u16, &str>, cap: u32, used: &[(u16, UsageState)]) {
        let now = Instant::now();
        for (slot, usage) in used {
            let refused = [usage.conns_refused, usage.denials_lost, usage.fragments_lost];
            let before = self.refused.insert(*slot, refused).unwrap_or_default();
            let Some(name) = present.get(slot) else { continue };
            for (at, table) in Shared::ALL.into_iter().enumerate() {
                let more = refused[at].saturating_sub(before[at]);
                if more == 0 {
                    continue;
                }
                let last = self.told.insert((*slot, at), now);
                if last.is_none_or(|last| now.duration_since(last) > QUIET) {
                    warn!(
                        task = name,
                        "{}",
                        limit_text(name, table, more, self.in_force[at], cap, usage)
                    );
                }
            }
        }
        let slots: HashSet<u16> = present.keys().copied().collect();
        self.told.retain(|(slot, _), _| slots.contains(slot));
    }
}

/// Whether more than half is in use of the pool, or of any floor if there is no pool, or of any task's cap.
fn is_short(used: &[(u16, UsageState)], table: Shared, share: Share, cap: u32) -> bool {
    let half = |of: u32| u64::from(of) / 2;
    used.iter().any(|(slot, usage)| {
        let used = usage.of(table);
        match (*slot, share.pool) {
            (0, 1..) => used.pool > half(share.pool),
            (0, 0) => used.pool > 0,
            (_, pool) => used.total() > half(cap) || pool == 0 && used.floor > half(share.floor),
        }
    })
}

/// The message about a task that has reached a limit.
fn limit_text(name: &str, table: Shared, packets: u64, share: Share, cap: u32, usage: &UsageState) -> String {
    let Share { floor, pool } = share;
    let capped = table == Shared::Connections && usage.conns.total() >= u64::from(cap) / 4 * 3;
    match table {
        Shared::Connections if capped => format!(
            "task `{name}` is at its limit of {cap} tracked connections: new ones are denied ({packets} packets by now); \
             `settings.connections.per-task` raises it"
        ),
        Shared::Connections => format!(
            "task `{name}` is at its limit of tracked connections: new ones are denied ({packets} packets by now); its \
             floor of {floor} and the common pool of {pool} are in use, `settings.connections.total` raises them"
        ),
        Shared::Denials => format!(
            "task `{name}` is at its limit of denied flows: those beyond are counted and leave no record ({packets} \
             packets by now); its floor of {floor} and the common pool of {pool} are in use, `settings.denials.total` \
             raises them"
        ),
        Shared::Fragments => format!(
            "task `{name}` is at its limit of datagrams in fragments: the rest of those beyond is dropped ({packets} \
             datagrams by now); its floor of {floor} and the common pool of {pool} are in use, \
             `settings.denials.total` raises them"
        ),
    }
}
