//! The loaded program, run packet by packet outside of any link.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    os::fd::{BorrowedFd, OwnedFd},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use anyhow::{Context as _, Result, bail, ensure};
use taskgate::dataplane::{
    flow::{FlowTables as _, UsageState},
    load::LoadOptions,
    object::Object,
    raw::{Hash, Packet, Plain, Shared, test_run},
    tables::KernelTables,
};
use taskgate_ebpf::abi::{Conn, Direction, Fragment, Key4, Key6, outcome::OUTCOMES, program};

use super::{DataPath, SECOND, Sent, State, Uplink, frames};
use crate::sandbox::ip_batch;

/// The loaded program with its tables. There is one for all tests of a process, which take turns.
pub struct Kernel {
    object: Object,
    tables: KernelTables,
    usage: Shared<AtomicU64>,
    neighbours: Shared<AtomicU64>,
    /// What the counters were when the tables were empty last.
    counted: BTreeMap<(u16, Direction), [u64; OUTCOMES]>,
}

static KERNEL: Mutex<Option<Kernel>> = Mutex::new(None);

/// What tc programs return for a packet that goes on, and for one that is dropped.
const PASS: u32 = u32::MAX;
const SHOT: u32 = 2;

/// What XDP programs return.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;

impl Kernel {
    /// Room in each table.
    pub const ROOM: u32 = 400;
    /// Links that a test may name.
    pub const LINKS: std::ops::RangeInclusive<u32> = 101..=108;
    const SLOTS: u32 = 64;

    /// Loads the program, or takes the one that another test has loaded, and makes [`Self::LINKS`]. To be called in a
    /// sandbox.
    pub fn turn() -> Result<MutexGuard<'static, Option<Self>>> {
        let mut links = String::new();
        for index in Self::LINKS {
            let other = index + 100;
            writeln!(
                links,
                "link add tg{index} index {index} type veth peer name tg{other} index {other}"
            )?;
        }
        ip_batch(&links)?;
        // A test that failed leaves tables that the next one clears.
        let mut turn = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_none() {
            *turn = Some(Self::load().context("cannot load the kernel program: run it as root")?);
        }
        Ok(turn)
    }

    fn load() -> Result<Self> {
        let object = Object::load(&LoadOptions {
            conns: Self::ROOM,
            denials: Self::ROOM,
            slots: Self::SLOTS,
            policy_banks: 2,
            ..LoadOptions::default()
        })?;
        let tables = KernelTables::new(&object)?;
        ensure!(
            tables.ticks_per_second() <= SECOND,
            "a second has more ticks than expected"
        );
        Ok(Self {
            usage: object.usage()?,
            neighbours: object.neighbours()?,
            counted: BTreeMap::new(),
            tables,
            object,
        })
    }

    /// The program of a gate, which any number of CPUs may run at once.
    pub fn program(&self, direction: Direction) -> Result<OwnedFd> {
        let name = match direction {
            Direction::Egress => program::FROM_TASK,
            Direction::Ingress => program::TO_TASK,
        };
        Ok(self.object.program(name)?)
    }

    /// Runs such a program with a packet on a link.
    pub fn run(program: BorrowedFd<'_>, frame: &[u8], link: u32) -> Result<()> {
        let packet = Packet {
            frame,
            ifindex: link,
            ..Packet::default()
        };
        test_run(program, &packet, 1)?;
        Ok(())
    }

    /// A view of the image.
    pub fn image(&self) -> Result<Shared<AtomicU64>> {
        Ok(self.object.image()?)
    }
}

fn keys<K: Copy + Default + Plain, V: Default + Plain>(table: &Hash<K, V>) -> Result<Vec<K>> {
    let mut keys = Vec::new();
    table.visit(|key, _| keys.push(*key))?;
    Ok(keys)
}

fn empty<K: Copy + Default + Plain, V: Default + Plain>(table: &Hash<K, V>) -> Result<()> {
    for key in keys(table)? {
        table.take(&key)?;
    }
    Ok(())
}

fn make_older<K: Copy + Default + Plain>(table: &Hash<K, Conn>, ticks: u32) -> Result<()> {
    for key in keys(table)? {
        if let Some(conn) = table.get(&key)? {
            let (last, tail) = conn.seen.get();
            conn.seen.set(last.wrapping_sub(ticks), tail);
            table.put(&key, &conn)?;
        }
    }
    Ok(())
}

fn make_fragments_older<K: Copy + Default + Plain>(table: &Hash<K, Fragment>, ticks: u32) -> Result<()> {
    for key in keys(table)? {
        if let Some(first) = table.get(&key)? {
            let (last, tail) = first.seen.get();
            first.seen.set(last.wrapping_sub(ticks), tail);
            table.put(&key, &first)?;
        }
    }
    Ok(())
}

impl DataPath for Kernel {
    fn judge(&mut self, sent: &Sent<'_>) -> Result<bool> {
        let program = match sent.direction {
            Direction::Egress => program::FROM_TASK,
            Direction::Ingress => program::TO_TASK,
        };
        let packet = Packet {
            frame: sent.frame,
            ifindex: sent.link,
            came_by: sent.came_by,
            gso_segs: sent.segments.0,
            gso_size: sent.segments.1,
        };
        let ran = self.object.test_run(program, &packet, 1);
        match ran.with_context(|| format!("{sent:02x?}"))?.returned {
            PASS => Ok(true),
            SHOT => Ok(false),
            other => bail!("`{program}` returned {other}"),
        }
    }

    fn early(&mut self, frame: &[u8], uplink: Uplink) -> Result<bool> {
        let frame = match uplink {
            Uplink::Trunk { tag } => frames::tagged(tag, frame),
            Uplink::Routed => frame.to_vec(),
        };
        match self.object.test_run_early(&frame, Uplink::LINK, 1)?.returned {
            XDP_PASS => Ok(true),
            XDP_DROP => Ok(false),
            other => bail!("the early verdict returned {other}"),
        }
    }

    fn now(&mut self) -> Result<u32> {
        Ok(self.tables.now()?)
    }

    fn age(&mut self, ticks: u32) -> Result<()> {
        make_older::<Key4>(self.tables.raw_conns_v4(), ticks)?;
        make_older::<Key6>(self.tables.raw_conns_v6(), ticks)?;
        let (v4, v6) = self.tables.raw_fragments();
        make_fragments_older(v4, ticks)?;
        make_fragments_older(v6, ticks)
    }

    fn state(&mut self, highest: u16) -> Result<State> {
        let mut state = State::default();
        self.tables.conns(&mut |key, conn| {
            state.conns.insert(key, conn);
        })?;
        self.tables.denials(&mut |key, denial| {
            state.denials.insert(key, denial);
        })?;
        for slot in 0..=highest {
            let usage = self.tables.usage(slot)?;
            if usage != UsageState::default() {
                state.usage.insert(slot, usage);
            }
            for direction in [Direction::Egress, Direction::Ingress] {
                let before = self.counted.get(&(slot, direction)).copied().unwrap_or_default();
                let now = self.tables.counters(slot, direction)?;
                for (outcome, (now, before)) in (0..).zip(now.into_iter().zip(before)) {
                    if now != before {
                        state.counters.insert((slot, direction, outcome), now - before);
                    }
                }
            }
        }
        Ok(state)
    }

    fn clear(&mut self) -> Result<()> {
        empty(self.tables.raw_conns_v4())?;
        empty(self.tables.raw_conns_v6())?;
        empty(self.tables.raw_denials_v4())?;
        empty(self.tables.raw_denials_v6())?;
        let (v4, v6) = self.tables.raw_fragments();
        empty(v4)?;
        empty(v6)?;
        for word in self.usage.iter().chain(&*self.neighbours) {
            word.store(0, Relaxed);
        }
        for slot in 0..Self::SLOTS as u16 {
            for direction in [Direction::Egress, Direction::Ingress] {
                self.counted
                    .insert((slot, direction), self.tables.counters(slot, direction)?);
            }
        }
        Ok(())
    }
}
