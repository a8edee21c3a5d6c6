//! The kernel's tables, as the rest of user space reads them.

use std::{
    io,
    mem::offset_of,
    os::fd::{AsFd as _, OwnedFd},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aya::maps::{Map, MapData, PerCpuArray};
use taskgate_ebpf::abi::{
    Charge, Charges, Conn, Denial, Direction, EniUsage, Fragment, Key4, Key6, LinkLocal, LinkLocalKey,
    image::{CONTROL_WINDOW, TIMEOUTS, Timeout},
    map,
    outcome::OUTCOMES,
    program,
};
use taskgate_tables::{ConnState, DenialState, FlowKey, FlowTables, UsageState, Used};

use taskgate_ebpf::conntrack::idle;

use super::{load::LoadError, object::Object};
use crate::sys::{self, Hash, Packet, Plain, Shared};

/// The tables of a loaded kernel program. Any number of these may be open at once; they live on without the
/// [`Object`].
pub struct KernelTables {
    conns: ByFamily<Conn>,
    denials: ByFamily<Denial>,
    fragments: ByFamily<Fragment>,
    link_locals: Hash<LinkLocalKey, LinkLocal>,
    usage: Shared<AtomicU64>,
    image: Shared<AtomicU64>,
    counters: PerCpuArray<MapData, [u64; OUTCOMES]>,
    clock: OwnedFd,
    ticks_per_second: u32,
}

impl KernelTables {
    /// Opens the tables of a loaded program.
    pub fn new(object: &Object) -> Result<Self, LoadError> {
        let counters = PerCpuArray::try_from(Map::PerCpuArray(object.map(map::COUNTERS)?));
        let clock = |cause| LoadError::Run {
            program: program::CLOCK,
            cause,
        };
        Ok(Self {
            conns: ByFamily::new(object, map::CONNS_V4, map::CONNS_V6)?,
            denials: ByFamily::new(object, map::DENIALS_V4, map::DENIALS_V6)?,
            fragments: ByFamily::new(object, map::FRAGMENTS_V4, map::FRAGMENTS_V6)?,
            link_locals: Hash::new(object.map(map::LINK_LOCALS)?).map_err(|cause| LoadError::Open {
                map: map::LINK_LOCALS,
                cause,
            })?,
            usage: object.usage()?,
            image: object.image()?,
            counters: counters.map_err(|cause| LoadError::Map {
                map: map::COUNTERS,
                cause,
            })?,
            clock: object.program(program::CLOCK)?,
            ticks_per_second: rate(sys::tick_nanoseconds().map_err(clock)?),
        })
    }

    /// Packets of a slot in one direction by outcome number, over all CPUs. Tracked ones are counted in their entries
    /// instead.
    pub fn counters(&self, slot: u16, direction: Direction) -> io::Result<[u64; OUTCOMES]> {
        let index = u32::from(slot) * 2 + direction as u32;
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

    /// The tracked connections of one family, as they lie in the kernel. For tests and measurements, which fill them.
    pub fn raw_conns_v4(&self) -> &Hash<Key4, Conn> {
        &self.conns.v4
    }

    /// As [`Self::raw_conns_v4`].
    pub fn raw_conns_v6(&self) -> &Hash<Key6, Conn> {
        &self.conns.v6
    }

    /// The denied flows of one family, likewise.
    pub fn raw_denials_v4(&self) -> &Hash<Key4, Denial> {
        &self.denials.v4
    }

    /// As [`Self::raw_denials_v4`].
    pub fn raw_denials_v6(&self) -> &Hash<Key6, Denial> {
        &self.denials.v6
    }

    /// The fragments' tables themselves, for tests and tools.
    pub fn raw_fragments(&self) -> (&Hash<Key4, Fragment>, &Hash<Key6, Fragment>) {
        (&self.fragments.v4, &self.fragments.v6)
    }

    /// Who has link-local addresses, likewise.
    pub fn raw_link_locals(&self) -> &Hash<LinkLocalKey, LinkLocal> {
        &self.link_locals
    }

    /// Gives a removed entry's charge back; `removed`: the offset of the table's counts in a slot's usage.
    fn give_back(&self, slot: u16, removed: usize, charge: Charge) -> io::Result<()> {
        let word = removed + Charges::offset(charge);
        self.usage_word(slot, word)?.fetch_add(1, Relaxed);
        if charge == Charge::POOL {
            self.usage_word(0, word)?.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    /// The word at `offset` bytes in a slot's usage.
    fn usage_word(&self, slot: u16, offset: usize) -> io::Result<&AtomicU64> {
        let none = || io::Error::new(io::ErrorKind::InvalidInput, format!("there is no slot {slot}"));
        let at = (usize::from(slot) * size_of::<EniUsage>() + offset) / size_of::<AtomicU64>();
        self.usage.get(at).ok_or_else(none)
    }
}

impl FlowTables for KernelTables {
    fn conns(&mut self, visit: &mut dyn FnMut(FlowKey, ConnState)) -> io::Result<()> {
        self.conns.visit(&mut |key, conn| visit(key, conn.into()))
    }

    fn denials(&mut self, visit: &mut dyn FnMut(FlowKey, DenialState)) -> io::Result<()> {
        self.denials.visit(&mut |key, denial| visit(key, denial.into()))
    }

    fn conn(&mut self, key: &FlowKey) -> io::Result<Option<ConnState>> {
        Ok(self.conns.get(key)?.as_ref().map(ConnState::from))
    }

    fn take_conn(&mut self, key: &FlowKey) -> io::Result<Option<ConnState>> {
        let Some(conn) = self.conns.take(key)? else {
            return Ok(None);
        };
        let conn = ConnState::from(&conn);
        self.give_back(
            conn.slot,
            offset_of!(EniUsage, conns_removed),
            Charge::of_state(conn.state),
        )?;
        Ok(Some(conn))
    }

    fn take_denial(&mut self, key: &FlowKey) -> io::Result<Option<DenialState>> {
        let Some(denial) = self.denials.take(key)? else {
            return Ok(None);
        };
        let (slot, ..) = key.denial_parts();
        let charge = Charge::new(denial.charge.get());
        self.give_back(slot, offset_of!(EniUsage, denials_removed), charge)?;
        Ok(Some((&denial).into()))
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
                self.give_back(fragment.slot(), removed, fragment.charge())?;
            }
        }
        Ok(())
    }

    fn usage(&mut self, slot: u16) -> io::Result<UsageState> {
        let count = |offset| -> io::Result<u64> { Ok(self.usage_word(slot, offset)?.load(Relaxed)) };
        // What was removed first: an entry that comes and goes between two reads must not make it less than nothing.
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
        self.image[CONTROL_WINDOW as usize / 8].store(window.into(), Relaxed);
        Ok(())
    }

    fn now(&mut self) -> io::Result<u32> {
        let packet = Packet {
            frame: &[0; 14],
            ..Packet::default()
        };
        let ran = sys::test_run(self.clock.as_fd(), &packet, 1);
        ran.map(|ran| ran.returned)
            .map_err(|error| named("run", program::CLOCK, &error))
    }

    fn ticks_per_second(&self) -> u32 {
        self.ticks_per_second
    }
}

/// The rate of the kernel's jiffies, by the length of one.
fn rate(tick_nanoseconds: u32) -> u32 {
    const RATES: [u32; 4] = [100, 250, 300, 1000];
    let off = |rate: &u32| (1_000_000_000 / rate).abs_diff(tick_nanoseconds);
    RATES.into_iter().min_by_key(off).unwrap_or(RATES[0])
}

/// A table for each family.
#[derive(Debug)]
struct ByFamily<V: Plain> {
    v4: Hash<Key4, V>,
    v6: Hash<Key6, V>,
    names: [&'static str; 2],
}

impl<V: Plain + Default> ByFamily<V> {
    fn new(object: &Object, v4: &'static str, v6: &'static str) -> Result<Self, LoadError> {
        let open = |map| move |cause| LoadError::Open { map, cause };
        Ok(Self {
            v4: Hash::new(object.map(v4)?).map_err(open(v4))?,
            v6: Hash::new(object.map(v6)?).map_err(open(v6))?,
            names: [v4, v6],
        })
    }

    fn visit(&self, visit: &mut dyn FnMut(FlowKey, &V)) -> io::Result<()> {
        let [v4, v6] = self.names;
        let each = |key: &Key4, value: &V| visit(FlowKey::V4(*key), value);
        self.v4.visit(each).map_err(|error| named("read", v4, &error))?;
        let each = |key: &Key6, value: &V| visit(FlowKey::V6(*key), value);
        self.v6.visit(each).map_err(|error| named("read", v6, &error))
    }

    fn get(&self, key: &FlowKey) -> io::Result<Option<V>> {
        let (found, name) = match key {
            FlowKey::V4(key) => (self.v4.get(key), self.names[0]),
            FlowKey::V6(key) => (self.v6.get(key), self.names[1]),
        };
        found.map_err(|error| named("read", name, &error))
    }

    fn take(&self, key: &FlowKey) -> io::Result<Option<V>> {
        let (taken, name) = match key {
            FlowKey::V4(key) => (self.v4.take(key), self.names[0]),
            FlowKey::V6(key) => (self.v6.take(key), self.names[1]),
        };
        taken.map_err(|error| named("take from", name, &error))
    }
}

fn named(operation: &str, object: &str, error: &io::Error) -> io::Error {
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
