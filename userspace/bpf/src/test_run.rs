//! The loaded programs run on packets of our own: for tests and benchmarks alone.

use std::os::fd::AsFd as _;

use super::{load::LoadError, object::Object};
use crate::sys::{self, Packet, TestRunResult};

impl Object {
    /// Runs one of [`Self::PROGRAMS`] on a packet `repeat` times, outside of any link. What it counts, it counts.
    pub fn test_run(
        &self,
        program: &'static str,
        packet: &Packet<'_>,
        repeat: u32,
    ) -> Result<TestRunResult, LoadError> {
        let fd = self.program(program)?;
        sys::test_run(fd.as_fd(), packet, repeat).map_err(|cause| LoadError::Run { program, cause })
    }

    /// Runs the early verdict likewise, on a frame that the link with this ifindex received. It is loaded first, if it was
    /// not.
    pub fn test_run_early(&mut self, frame: &[u8], ifindex: u32, repeat: u32) -> Result<TestRunResult, LoadError> {
        let program = self.load_early()?;
        let fd = self.program(program)?;
        sys::test_run_early(fd.as_fd(), frame, ifindex, repeat).map_err(|cause| LoadError::Run { program, cause })
    }
}
