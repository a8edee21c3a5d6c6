//! Baselines of the kernel's counters, for ENIs in reused slots.

use std::io;

use taskgate_bpf::tables::KernelTables;
use taskgate_ebpf::abi::{Direction, outcome::OUTCOMES};
use taskgate_tables::FlowTables as _;

/// A slot's counters at the time its ENI got it: slots are reused, and the kernel's counters only grow.
#[derive(Debug)]
pub(super) struct CountersBase {
    pub(super) packets: [[u64; OUTCOMES]; 2],
    pub(super) passed: u64,
    pub(super) denied: u64,
}

impl CountersBase {
    /// The baseline of a slot that had no earlier ENI.
    pub(super) const NONE: Self = Self {
        packets: [[0; OUTCOMES]; 2],
        passed: 0,
        denied: 0,
    };

    /// Reads a slot's current counters.
    pub(super) fn read(tables: &mut KernelTables, slot: u16) -> io::Result<Self> {
        let usage = tables.usage(slot)?;
        let mut packets = [[0; OUTCOMES]; 2];
        for direction in Direction::BOTH {
            packets[direction.index()] = tables.counters(slot, direction)?;
        }
        Ok(Self {
            packets,
            passed: usage.flows_lost,
            denied: usage.denials_lost,
        })
    }
}
