//! Only for tests and benchmarks: runs the loaded programs on packets, reads the verifier's counts, and fills and empties tables
//! directly. taskgate itself is built without this module.

use std::{os::fd::AsFd as _, sync::atomic::AtomicU64};

use taskgate_ebpf::abi::{Conn, Denial, Fragment, Key4, Key6, LinkLocal, LinkLocalKey, map, program};
use taskgate_net::link::Link;

use super::{
    conntable::MappedTable,
    gate::{AttachKind, Gate, GateError, GateProgram},
    load::LoadError,
    object::BpfObject,
    tables::KernelTables,
};
use crate::sys::{self, BpfHashMap, MmapArray, TestPacket, TestRunResult};

impl BpfObject {
    /// [`GatePrograms::attach`](crate::gate::GatePrograms::attach) of a gate that judges.
    pub fn attach(&self, link: &Link) -> Result<Gate, GateError> {
        self.gates.attach(link, GateProgram::Judge)
    }

    /// [`GatePrograms::attach_by`](crate::gate::GatePrograms::attach_by) of a gate that judges.
    pub fn attach_by(&self, link: &Link, hook: AttachKind) -> Result<Gate, GateError> {
        self.gates.attach_by(link, GateProgram::Judge, hook)
    }

    /// Runs one of [`Self::PROGRAMS`] on a packet `repeat` times, outside of any link. It counts the packet as usual.
    pub fn test_run(
        &self,
        program: &'static str,
        packet: &TestPacket<'_>,
        repeat: u32,
    ) -> Result<TestRunResult, LoadError> {
        let fd = self.program(program)?;
        sys::test_run(fd.as_fd(), packet, repeat).map_err(|cause| LoadError::Run { program, cause })
    }

    /// Runs the prefilter on a frame that the link with this ifindex received. It is loaded first, if it was not.
    pub fn test_run_prefilter(&mut self, frame: &[u8], ifindex: u32, repeat: u32) -> Result<TestRunResult, LoadError> {
        let program = self.load_prefilter()?;
        let fd = self.program(program)?;
        sys::test_run_prefilter(fd.as_fd(), frame, ifindex, repeat).map_err(|cause| LoadError::Run { program, cause })
    }

    /// Loads the prefilter's program for kernels before 5.18.
    pub fn load_prefilter_linear(&mut self) -> Result<&'static str, LoadError> {
        self.load_prefilter_as(program::PREFILTER_LINEAR)
    }

    /// How many instructions the verifier processed for each program; `None` before Linux 5.16, which does not report it.
    pub fn verified_instructions(&self) -> Result<Vec<(&'static str, Option<u32>)>, LoadError> {
        let loaded = Self::PROGRAMS.into_iter().chain(self.prefilter);
        loaded
            .map(|program| {
                let missing = LoadError::Missing {
                    kind: "program",
                    name: program,
                };
                let info = self.ebpf.program(program).ok_or(missing)?.info();
                let info = info.map_err(|cause| LoadError::Program { program, cause })?;
                Ok((program, info.verified_instruction_count()))
            })
            .collect()
    }

    /// Maps the words of a [`taskgate_ebpf::abi::EniUsage`] for each slot.
    pub fn usage(&self) -> Result<MmapArray<AtomicU64>, LoadError> {
        self.usage_words()
    }

    /// Maps the words of a [`taskgate_ebpf::abi::NeighbourCache`] for each slot.
    pub fn neighbours(&self) -> Result<MmapArray<AtomicU64>, LoadError> {
        self.shared(map::NEIGHBOURS)
    }

    /// The table of link-local addresses. taskgate itself never reads it.
    pub fn link_locals(&self) -> Result<BpfHashMap<LinkLocalKey, LinkLocal>, LoadError> {
        let map = map::LINK_LOCALS;
        BpfHashMap::new(self.map(map)?).map_err(|cause| LoadError::Open { map, cause })
    }
}

impl KernelTables {
    /// The tables of tracked connections by family.
    pub fn raw_conns(&self) -> (&MappedTable<Key4, Conn>, &MappedTable<Key6, Conn>) {
        (&self.conns.v4, &self.conns.v6)
    }

    /// The tables of denied flows by family.
    pub fn raw_denials(&self) -> (&MappedTable<Key4, Denial>, &MappedTable<Key6, Denial>) {
        (&self.denials.v4, &self.denials.v6)
    }

    /// The tables of first fragments by family.
    pub fn raw_fragments(&self) -> (&BpfHashMap<Key4, Fragment>, &BpfHashMap<Key6, Fragment>) {
        (&self.fragments.v4, &self.fragments.v6)
    }
}
