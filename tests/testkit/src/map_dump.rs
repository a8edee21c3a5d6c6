//! The tables of a running taskgate, read from the kernel: facts that no flow record has.

use std::{
    collections::BTreeMap,
    mem::offset_of,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context as _, Result};
use aya::maps::{Map, MapData, PerCpuArray};
use taskgate_bpf::{
    conntable::{MappedTable, TableKey},
    sys::{BpfHashMap, MmapArray, Pod, tick_nanoseconds},
};
use taskgate_ebpf::{
    abi::{
        Charge, Charges, Conn, Direction, EniUsage, FlowMaps, Fragment, Key4, Key6,
        image::SLOTS,
        map,
        outcome::{OUTCOMES, counters_index},
        tables::KeyTag,
    },
    wire::TCP,
};
use taskgate_tables::image::ImageControl;

use crate::{daemon::Daemon, fixture::outcome_name, kernel::Objects, netns::until};

/// The tables of a running taskgate.
pub struct MapDump {
    counters: PerCpuArray<MapData, [u64; OUTCOMES]>,
    usage: MmapArray<AtomicU64>,
    image: ImageControl<MmapArray<AtomicU64>>,
    v4: MappedTable<Key4, Conn>,
    v6: MappedTable<Key6, Conn>,
    fragments_v4: BpfHashMap<Key4, Fragment>,
    fragments_v6: BpfHashMap<Key6, Fragment>,
}

/// All tasks' use of the tables, and losses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableUse {
    /// Tracked connections.
    pub conns: u64,
    /// Denied flows.
    pub denials: u64,
    /// Packets that passed without a record.
    pub passed_lost: u64,
    /// Packets that were denied without a record.
    pub denied_lost: u64,
}

/// Maps by name.
fn maps(objects: &Objects) -> Result<BTreeMap<String, MapData>> {
    let mut maps = BTreeMap::new();
    for id in &objects.maps {
        let map = MapData::from_id(*id)?;
        let name = map.info()?.name_as_str().context("a map's name is no text")?.to_owned();
        maps.insert(name, map);
    }
    Ok(maps)
}

/// The tracked connections of one family, in the maps of the kernel program that a process has loaded.
pub fn conns_of<K: TableKey>(process: u32, names: FlowMaps) -> Result<MappedTable<K, Conn>> {
    let maps = maps(&Objects::of_process(process)?)?;
    MappedTable::open(names, |name| Ok(MmapArray::new(maps.get(name).context(name)?)?))
}

impl MapDump {
    /// Opens the tables of `daemon`, each task of which has a separate slot.
    pub fn of(daemon: &Daemon) -> Result<Self> {
        let mut maps = maps(&daemon.objects()?)?;
        let mut map = |name: &str| {
            maps.remove(name)
                .with_context(|| format!("taskgate has no map `{name}`"))
        };
        Ok(Self {
            counters: PerCpuArray::try_from(Map::PerCpuArray(map(map::COUNTERS)?))?,
            usage: MmapArray::new(&map(map::USAGE)?)?,
            image: ImageControl::new(MmapArray::new(&map(map::IMAGE)?)?),
            v4: MappedTable::open(map::CONNS_V4, |name| anyhow::Ok(MmapArray::new(&map(name)?)?))?,
            v6: MappedTable::open(map::CONNS_V6, |name| anyhow::Ok(MmapArray::new(&map(name)?)?))?,
            fragments_v4: BpfHashMap::new(map(map::FRAGMENTS_V4)?)?,
            fragments_v6: BpfHashMap::new(map(map::FRAGMENTS_V6)?)?,
        })
    }

    /// The packets of each task that ended so, for the tasks that have any, the most first.
    pub fn counted(&self, direction: Direction, outcome: &str) -> Result<Vec<u64>> {
        let mut counted = Vec::new();
        for slot in 1..SLOTS as u16 {
            let mut sum = 0;
            for cpu in self.counters.get(&counters_index(slot, direction), 0)?.iter() {
                let numbered = (0..).zip(cpu);
                sum += numbered
                    .filter(|(number, _)| outcome_name(*number) == outcome)
                    .map(|(_, packets)| packets)
                    .sum::<u64>();
            }
            if sum > 0 {
                counted.push(sum);
            }
        }
        counted.sort_unstable_by(|a, b| b.cmp(a));
        Ok(counted)
    }

    /// Waits until [`Self::counted`] is this: the kernel may judge a packet a little after it was sent.
    pub fn await_counted(&self, direction: Direction, outcome: &str, packets: &[u64]) -> Result<()> {
        let mut counted = Vec::new();
        let what = format!("{packets:?} packets end as `{outcome}`");
        until(&what, || {
            counted = self.counted(direction, outcome)?;
            Ok(counted == packets)
        })
        .with_context(|| format!("{counted:?} did"))
    }

    /// The bridges that the tasks' links are ports of; tasks without a bridge are left out.
    pub fn segments(&self) -> Vec<u32> {
        self.image.segments().collect()
    }

    /// The use of the tables, and losses.
    pub fn used(&self) -> TableUse {
        let sum = |offset: usize| -> u64 {
            // Skips slot 0, which has the sums of the pool usage of all other slots.
            let words = self.usage.iter().skip(offset / 8).step_by(size_of::<EniUsage>() / 8);
            words.skip(1).map(|word| word.load(Relaxed)).sum()
        };
        let both = |offset: usize| sum(offset) + sum(offset + Charges::offset(Charge::POOL));
        let in_use = |inserted, removed| both(inserted) - both(removed);
        TableUse {
            conns: in_use(
                offset_of!(EniUsage, conns_inserted),
                offset_of!(EniUsage, conns_removed),
            ),
            denials: in_use(
                offset_of!(EniUsage, denials_inserted),
                offset_of!(EniUsage, denials_removed),
            ),
            passed_lost: sum(offset_of!(EniUsage, flows_lost)),
            denied_lost: sum(offset_of!(EniUsage, denials_lost)),
        }
    }

    /// The state of every tracked TCP connection, and where its sides go on.
    pub fn tcp_states(&self) -> Result<Vec<(u16, [u16; 2])>> {
        let mut states = Vec::new();
        let mut note = |tag: KeyTag, conn: Conn| {
            if tag.split_conn().1 == TCP {
                states.push((conn.state(), conn.next.get()));
            }
        };
        self.v4.visit(|_, _, key, conn| note(key.tag, conn));
        self.v6.visit(|_, _, key, conn| note(key.tag, conn));
        Ok(states)
    }

    /// All tasks' use of the common pools: connections, denied flows and first fragments.
    pub fn pools(&self) -> [u64; 3] {
        let word = |offset: usize| self.usage[(offset + Charges::offset(Charge::POOL)) / 8].load(Relaxed);
        [
            (
                offset_of!(EniUsage, conns_inserted),
                offset_of!(EniUsage, conns_removed),
            ),
            (
                offset_of!(EniUsage, denials_inserted),
                offset_of!(EniUsage, denials_removed),
            ),
            (
                offset_of!(EniUsage, fragments_inserted),
                offset_of!(EniUsage, fragments_removed),
            ),
        ]
        .map(|(inserted, removed)| word(inserted) - word(removed))
    }

    /// Ages every tracked connection and every first fragment by this many seconds, as if none had carried a packet
    /// meanwhile. None may carry one during the call.
    pub fn age(&self, seconds: u32) -> Result<()> {
        let ticks = u64::from(seconds) * 1_000_000_000 / u64::from(tick_nanoseconds()?);
        let ticks = ticks as u32;
        conns_made_older(&self.v4, ticks);
        conns_made_older(&self.v6, ticks);
        fragments_made_older(&self.fragments_v4, ticks)?;
        fragments_made_older(&self.fragments_v6, ticks)
    }
}

/// Ages every connection, as if none had carried a packet meanwhile. None may carry one during the call.
pub(crate) fn conns_made_older<K: TableKey>(table: &MappedTable<K, Conn>, ticks: u32) {
    table.change_each(|conn| conn.last.set(conn.last.get().wrapping_sub(ticks)));
}

/// Makes every first fragment older by `ticks`.
pub(crate) fn fragments_made_older<K: Pod + Default + Clone>(
    table: &BpfHashMap<K, Fragment>,
    ticks: u32,
) -> Result<()> {
    let mut keys = Vec::new();
    table.for_each(|key, _| keys.push(key.clone()))?;
    for key in keys {
        if let Some(first) = table.get(&key)? {
            let (last, tag) = first.seen.get();
            first.seen.set(last.wrapping_sub(ticks), tag);
            table.update(&key, &first)?;
        }
    }
    Ok(())
}
