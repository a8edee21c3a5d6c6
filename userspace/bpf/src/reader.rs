//! Read-only access to tracked connections, in pieces, for any thread: without locks, writes or waiting.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, atomic::AtomicU64},
};

use taskgate_ebpf::abi::{Conn, Key4, Key6, map, program};
use taskgate_tables::{ConnState, FlowId, FlowKey, TrackedConn, image::ImageControl};

use super::{
    ages::Ages,
    conntable::MappedTable,
    load::LoadError,
    object::BpfObject,
    tables::{named, rate},
};
use crate::sys::{self, MmapArray};

/// Read-only access to the tables of tracked connections. Any number of threads may read at a time, without an effect on packets
/// or on the process that removes entries.
#[derive(Debug)]
pub struct ConnReader {
    v4: MappedTable<Key4, Conn>,
    v6: MappedTable<Key6, Conn>,
    image: ImageControl<MmapArray<AtomicU64>>,
    clock: OwnedFd,
    ticks_per_second: u32,
    ages: Arc<Ages>,
}

/// How far the tables were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadPosition {
    is_v6: bool,
    way: u32,
}

impl ConnReader {
    /// Opens the tables of a loaded program. They stay valid without it. `ages`: when connections were first seen.
    pub fn new(object: &BpfObject, ages: Arc<Ages>) -> Result<Self, LoadError> {
        let tick = sys::tick_nanoseconds().map_err(|cause| LoadError::Run {
            program: program::CLOCK,
            cause,
        })?;
        Ok(Self {
            v4: MappedTable::open(map::CONNS_V4, |map| object.words(map))?,
            v6: MappedTable::open(map::CONNS_V6, |map| object.words(map))?,
            image: ImageControl::new(object.image()?),
            clock: object.program(program::CLOCK)?,
            ticks_per_second: rate(tick),
            ages,
        })
    }

    /// The kernel's clock now, in the ticks of [`ConnState::last`], wrapping.
    pub fn now(&self) -> io::Result<u32> {
        sys::call(self.clock.as_fd()).map_err(|error| named("run", program::CLOCK, &error))
    }

    /// Ticks in a second: one of 100, 250, 300, 1000.
    pub fn ticks_per_second(&self) -> u32 {
        self.ticks_per_second
    }

    /// Seconds since a connection was first seen; 0 if it is new.
    pub fn age(&self, conn: &TrackedConn) -> u32 {
        self.ages.of(conn.id)
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.image.generation()
    }

    /// Visits the connections in the next `ways` places of the tables from `from` on, and returns the position to continue at; `None`:
    /// the end. Connections that are inserted or removed meanwhile may be missed.
    pub fn read(&self, from: ReadPosition, ways: u32, visit: &mut dyn FnMut(&TrackedConn)) -> Option<ReadPosition> {
        let mut visit = |id, key, conn: &Conn| {
            let state = ConnState::from(conn);
            visit(&TrackedConn::new(id, key, state, self.image.epoch(state.slot)));
        };
        let ReadPosition { is_v6, way } = from;
        let end = way.saturating_add(ways);
        let is_over = if is_v6 {
            self.v6.visit_some(way..end, |way, word, key, conn| {
                visit(FlowId::new(true, way, word), FlowKey::V6(key), &conn);
            });
            end >= self.v6.ways()
        } else {
            self.v4.visit_some(way..end, |way, word, key, conn| {
                visit(FlowId::new(false, way, word), FlowKey::V4(key), &conn);
            });
            end >= self.v4.ways()
        };
        match (is_over, is_v6) {
            (false, _) => Some(ReadPosition { is_v6, way: end }),
            (true, false) => Some(ReadPosition { is_v6: true, way: 0 }),
            (true, true) => None,
        }
    }
}
