//! The kernel's tables, as the rest of user space reads them.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use aya::maps::{Map, MapData, PerCpuArray};
use taskgate_ebpf::{
    abi::{
        Charge, Charges, Conn, Denial, Direction, EniUsage, FlowMaps, Fragment, Key4, Key6,
        image::{TIMEOUTS, Timeout},
        map,
        outcome::{OUTCOMES, counters_index},
        program,
        tables::{Admitted, FragmentL4},
    },
    conntrack::idle,
};
use taskgate_tables::{
    ConnState, DenialState, FlowId, FlowKey, FlowTables, TrackedConn, UsageState, Used, image::ImageControl,
};

use super::{
    ages::Ages,
    conntable::{MappedTable, TableValue},
    load::LoadError,
    object::BpfObject,
};
use crate::sys::{self, BpfHashMap, MmapArray};

/// The tables of a loaded kernel program. Any number of these may be open at once; they stay valid without the
/// [`BpfObject`].
pub struct KernelTables {
    pub(super) conns: FlowsByFamily<Conn>,
    pub(super) denials: FlowsByFamily<Denial>,
    pub(super) fragments: Fragments,
    usage: MmapArray<AtomicU64>,
    image: ImageControl<MmapArray<AtomicU64>>,
    counters: PerCpuArray<MapData, [u64; OUTCOMES]>,
    clock: OwnedFd,
    ticks_per_second: u32,
    ages: Arc<Ages>,
}

impl KernelTables {
    /// Opens the tables of a loaded program.
    pub fn new(object: &BpfObject) -> Result<Self, LoadError> {
        let counters = PerCpuArray::try_from(Map::PerCpuArray(object.map(map::COUNTERS)?));
        let clock = |cause| LoadError::Run {
            program: program::CLOCK,
            cause,
        };
        let conns = FlowsByFamily::<Conn>::new(object, map::CONNS_V4, map::CONNS_V6)?;
        Ok(Self {
            ages: Arc::new(Ages::new(conns.v4.ways(), conns.v6.ways())),
            conns,
            denials: FlowsByFamily::new(object, map::DENIALS_V4, map::DENIALS_V6)?,
            fragments: Fragments::new(object)?,
            usage: object.usage_words()?,
            image: ImageControl::new(object.image()?),
            counters: counters.map_err(|cause| LoadError::Map {
                map: map::COUNTERS,
                cause,
            })?,
            clock: object.program(program::CLOCK)?,
            ticks_per_second: rate(sys::tick_nanoseconds().map_err(clock)?),
        })
    }

    /// When connections were first seen: at the first visit of [`FlowTables::conns`].
    pub fn ages(&self) -> Arc<Ages> {
        Arc::clone(&self.ages)
    }

    /// Packets of a slot in one direction by outcome number, over all CPUs. Tracked ones are counted in their entries
    /// instead.
    pub fn counters(&self, slot: u16, direction: Direction) -> io::Result<[u64; OUTCOMES]> {
        let index = counters_index(slot, direction);
        let of_cpus = self.counters.get(&index, 0).map_err(io::Error::other);
        let of_cpus = of_cpus.map_err(|error| named("read", map::COUNTERS, &error))?;
        let mut sum = [0; OUTCOMES];
        for cpu in of_cpus.iter() {
            for (sum, count) in sum.iter_mut().zip(cpu) {
                *sum += count;
            }
        }
        Ok(sum)
    }

    /// Returns a removed entry's charge; `removed`: the offset of the table's removal counters in a slot's usage.
    fn give_back(&self, slot: u16, removed: usize, charge: Charge) -> io::Result<()> {
        let word = removed + Charges::offset(charge);
        self.usage_word(slot, word)?.fetch_add(1, Relaxed);
        if charge == Charge::POOL {
            self.usage_word(0, word)?.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// Keeps a connection of an old generation from being mistaken for one of the present generation, when the low halves of their
    /// numbers, which entries have, become equal: the entry is moved to the previous generation.
    fn keep_older(&self, id: FlowId, conn: &Conn) {
        let now = self.image.generation() as u16;
        let word = conn.admitted.get();
        let admitted = Admitted::of(word);
        if now.wrapping_sub(admitted.generation) > u16::MAX / 2 {
            let older = Admitted {
                generation: now.wrapping_sub(1),
                ..admitted
            };
            self.conns.set_admitted(id, word, older.pack());
        }
    }

    fn tracked(&self, id: FlowId, key: FlowKey, conn: &Conn) -> TrackedConn {
        let state = ConnState::from(conn);
        TrackedConn::new(id, key, state, self.image.epoch(state.slot))
    }

    /// The word at `offset` bytes in a slot's usage.
    fn usage_word(&self, slot: u16, offset: usize) -> io::Result<&AtomicU64> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, format!("there is no slot {slot}"));
        let at = (usize::from(slot) * size_of::<EniUsage>() + offset) / size_of::<AtomicU64>();
        self.usage.get(at).ok_or_else(none)
    }
}

impl FlowTables for KernelTables {
    fn conns(&mut self, visit: &mut dyn FnMut(&TrackedConn)) -> io::Result<()> {
        let see = self.ages.see();
        self.conns.visit(&mut |id, key, conn| {
            see(id);
            self.keep_older(id, &conn);
            visit(&self.tracked(id, key, &conn));
        });
        Ok(())
    }

    fn denials(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()> {
        self.denials
            .visit(&mut |id, key, denial| visit(id, key, (&denial).into()));
        Ok(())
    }

    fn mark_conns(&mut self, ids: &[FlowId]) -> io::Result<()> {
        self.conns.mark(ids)
    }

    fn mark_denials(&mut self, ids: &[FlowId]) -> io::Result<()> {
        self.denials.mark(ids)
    }

    fn marked_conn(&mut self, id: FlowId) -> Option<TrackedConn> {
        let (key, conn) = self.conns.marked(id)?;
        Some(self.tracked(id, key, &conn))
    }

    fn freeze_conn(&mut self, id: FlowId) -> io::Result<Option<(FlowKey, ConnState)>> {
        Ok(self.conns.freeze(id).map(|(key, conn)| (key, (&conn).into())))
    }

    fn free_conn(&mut self, id: FlowId) -> io::Result<()> {
        let Some((_, conn)) = self.conns.free(id) else {
            return Ok(());
        };
        let conn = ConnState::from(&conn);
        let charge = Charge::of_state(conn.state);
        self.give_back(conn.slot, offset_of!(EniUsage, conns_removed), charge)
    }

    fn keep_conn(&mut self, id: FlowId) {
        self.conns.unmark(id);
    }

    fn freeze_denial(&mut self, id: FlowId) -> io::Result<Option<(FlowKey, DenialState)>> {
        Ok(self.denials.freeze(id).map(|(key, denial)| (key, (&denial).into())))
    }

    fn free_denial(&mut self, id: FlowId) -> io::Result<()> {
        let Some((key, denial)) = self.denials.free(id) else {
            return Ok(());
        };
        let (slot, ..) = key.denial_parts();
        let charge = Charge::new(denial.charge.get());
        self.give_back(slot, offset_of!(EniUsage, denials_removed), charge)
    }

    fn frozen_conns(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, ConnState)) -> io::Result<()> {
        self.conns
            .visit_frozen(&mut |id, key, conn: Conn| visit(id, key, (&conn).into()));
        Ok(())
    }

    fn frozen_denials(&mut self, visit: &mut dyn FnMut(FlowId, FlowKey, DenialState)) -> io::Result<()> {
        self.denials
            .visit_frozen(&mut |id, key, denial: Denial| visit(id, key, (&denial).into()));
        Ok(())
    }

    fn forget_fragments(&mut self, timeouts: &[u32; TIMEOUTS]) -> io::Result<()> {
        let now = self.now()?;
        let mut over = Vec::new();
        self.fragments.visit(&mut |key, fragment| {
            let timeout = match key {
                FlowKey::V4(_) => Timeout::FragmentV4,
                FlowKey::V6(_) => Timeout::FragmentV6,
            };
            if idle(now, fragment.seen.get().0, timeouts[timeout as usize]) {
                over.push(key);
            }
        })?;
        for key in over {
            if let Some(fragment) = self.fragments.take(&key)? {
                let removed = offset_of!(EniUsage, fragments_removed);
                let FragmentL4 { slot, charge, .. } = fragment.l4();
                self.give_back(slot, removed, charge)?;
            }
        }
        Ok(())
    }

    fn usage(&mut self, slot: u16) -> io::Result<UsageState> {
        let count = |offset| -> io::Result<u64> { Ok(self.usage_word(slot, offset)?.load(Relaxed)) };
        // The removal counter is read first: an entry that comes and goes between the two reads must not make the difference negative.
        let in_use = |inserted, removed| -> io::Result<u64> {
            let removed = count(removed)?;
            Ok(count(inserted)?
                .wrapping_sub(removed)
                .cast_signed()
                .max(0)
                .cast_unsigned())
        };
        let used = |inserted, removed| -> io::Result<Used> {
            let pool = Charges::offset(Charge::POOL);
            Ok(Used {
                // Slot 0 has no floor.
                floor: if slot == 0 { 0 } else { in_use(inserted, removed)? },
                pool: in_use(inserted + pool, removed + pool)?,
            })
        };
        Ok(UsageState {
            conns: used(
                offset_of!(EniUsage, conns_inserted),
                offset_of!(EniUsage, conns_removed),
            )?,
            denials: used(
                offset_of!(EniUsage, denials_inserted),
                offset_of!(EniUsage, denials_removed),
            )?,
            fragments: used(
                offset_of!(EniUsage, fragments_inserted),
                offset_of!(EniUsage, fragments_removed),
            )?,
            flows_lost: count(offset_of!(EniUsage, flows_lost))?,
            denials_lost: count(offset_of!(EniUsage, denials_lost))?,
            conns_refused: count(offset_of!(EniUsage, conns_refused))?,
            fragments_lost: count(offset_of!(EniUsage, fragments_lost))?,
        })
    }

    fn set_window(&mut self, window: u32) -> io::Result<()> {
        self.image.set_window(window);
        Ok(())
    }

    fn now(&mut self) -> io::Result<u32> {
        sys::call(self.clock.as_fd()).map_err(|error| named("run", program::CLOCK, &error))
    }

    fn ticks_per_second(&self) -> u32 {
        self.ticks_per_second
    }
}

/// The rate of the kernel's jiffies, by the length of one.
pub(super) fn rate(tick_nanoseconds: u32) -> u32 {
    const RATES: [u32; 4] = [100, 250, 300, 1000];
    let off = |rate: &u32| (1_000_000_000 / rate).abs_diff(tick_nanoseconds);
    RATES.into_iter().min_by_key(off).unwrap_or(RATES[0])
}

/// A connection table for each family.
#[derive(Debug)]
pub(super) struct FlowsByFamily<V> {
    pub(super) v4: MappedTable<Key4, V>,
    pub(super) v6: MappedTable<Key6, V>,
}

impl FlowsByFamily<Conn> {
    fn set_admitted(&self, id: FlowId, was: u64, is: u64) {
        if id.is_v6() {
            self.v6.set_admitted(id, was, is);
        } else {
            self.v4.set_admitted(id, was, is);
        }
    }
}

impl<V: TableValue> FlowsByFamily<V> {
    fn new(object: &BpfObject, v4: FlowMaps, v6: FlowMaps) -> Result<Self, LoadError> {
        Ok(Self {
            v4: MappedTable::open(v4, |map| object.words(map))?,
            v6: MappedTable::open(v6, |map| object.words(map))?,
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(FlowId, FlowKey, V)) {
        self.v4
            .visit(|way, word, key, value| visit(FlowId::new(false, way, word), FlowKey::V4(key), value));
        self.v6
            .visit(|way, word, key, value| visit(FlowId::new(true, way, word), FlowKey::V6(key), value));
    }

    /// Marks entries, then waits for one grace period for all of them.
    fn mark(&self, ids: &[FlowId]) -> io::Result<()> {
        for id in ids {
            if id.is_v6() {
                self.v6.mark(*id);
            } else {
                self.v4.mark(*id);
            }
        }
        sys::wait_grace_period()
    }

    fn marked(&self, id: FlowId) -> Option<(FlowKey, V)> {
        if id.is_v6() {
            self.v6.marked(id).map(|(key, value)| (FlowKey::V6(key), value))
        } else {
            self.v4.marked(id).map(|(key, value)| (FlowKey::V4(key), value))
        }
    }

    fn unmark(&self, id: FlowId) {
        if id.is_v6() {
            self.v6.unmark(id);
        } else {
            self.v4.unmark(id);
        }
    }

    fn freeze(&self, id: FlowId) -> Option<(FlowKey, V)> {
        if id.is_v6() {
            self.v6.freeze(id).map(|(key, value)| (FlowKey::V6(key), value))
        } else {
            self.v4.freeze(id).map(|(key, value)| (FlowKey::V4(key), value))
        }
    }

    fn free(&self, id: FlowId) -> Option<(FlowKey, V)> {
        if id.is_v6() {
            self.v6.free(id).map(|(key, value)| (FlowKey::V6(key), value))
        } else {
            self.v4.free(id).map(|(key, value)| (FlowKey::V4(key), value))
        }
    }

    fn visit_frozen(&self, visit: &mut dyn FnMut(FlowId, FlowKey, V)) {
        self.v4
            .visit_frozen(|way, word, key, value| visit(FlowId::new(false, way, word), FlowKey::V4(key), value));
        self.v6
            .visit_frozen(|way, word, key, value| visit(FlowId::new(true, way, word), FlowKey::V6(key), value));
    }
}

/// Fragments by family.
#[derive(Debug)]
pub(super) struct Fragments {
    pub(super) v4: BpfHashMap<Key4, Fragment>,
    pub(super) v6: BpfHashMap<Key6, Fragment>,
}

impl Fragments {
    fn new(object: &BpfObject) -> Result<Self, LoadError> {
        let open = |map| move |cause| LoadError::Open { map, cause };
        let (v4, v6) = (map::FRAGMENTS_V4, map::FRAGMENTS_V6);
        Ok(Self {
            v4: BpfHashMap::new(object.map(v4)?).map_err(open(v4))?,
            v6: BpfHashMap::new(object.map(v6)?).map_err(open(v6))?,
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(FlowKey, &Fragment)) -> io::Result<()> {
        let each = |key: &Key4, value: &Fragment| visit(FlowKey::V4(*key), value);
        let read = |name| move |error| named("read", name, &error);
        self.v4.for_each(each).map_err(read(map::FRAGMENTS_V4))?;
        let each = |key: &Key6, value: &Fragment| visit(FlowKey::V6(*key), value);
        self.v6.for_each(each).map_err(read(map::FRAGMENTS_V6))
    }

    fn take(&self, key: &FlowKey) -> io::Result<Option<Fragment>> {
        let (taken, name) = match key {
            FlowKey::V4(key) => (self.v4.lookup_and_delete(key), map::FRAGMENTS_V4),
            FlowKey::V6(key) => (self.v6.lookup_and_delete(key), map::FRAGMENTS_V6),
        };
        taken.map_err(|error| named("take from", name, &error))
    }
}

pub(super) fn named(operation: &str, object: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot {operation} `{object}`: {error}"))
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn the_rate_is_the_nearest_that_kernels_are_built_with() {
        let ticks = [10_000_000, 4_000_000, 3_333_333, 1_000_000, 3_999_999];
        assert_eq!(ticks.map(rate), [100, 250, 300, 1000, 250]);
    }
}
