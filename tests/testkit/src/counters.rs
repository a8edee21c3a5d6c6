//! How packets ended, as the kernel counts them, recorded or not: ARP and frames that carry no addresses leave no record.

use anyhow::{Context as _, Result, bail};
use aya::maps::{Map, MapData, MapInfo, PerCpuArray};
use taskgate_ebpf::abi::{
    Direction, DropReason, Outcome, map,
    outcome::{OUTCOMES, counters_index},
};

use crate::{daemon::Daemon, netns::until};

/// The counters of a running taskgate.
pub struct Counters(PerCpuArray<MapData, [u64; OUTCOMES]>);

impl Counters {
    /// Opens them.
    pub fn of(daemon: &Daemon) -> Result<Self> {
        for id in daemon.objects()?.maps {
            if MapInfo::from_id(id)?.name_as_str() == Some(map::COUNTERS) {
                return Ok(Self(Map::PerCpuArray(MapData::from_id(id)?).try_into()?));
            }
        }
        bail!("taskgate holds no counters")
    }

    /// The packets that were dropped for this reason, of all tasks and of no task.
    pub fn dropped(&self, direction: Direction, reason: DropReason) -> Result<u64> {
        self.ended(direction, Outcome::Drop(reason))
    }

    /// The packets with this outcome, of all tasks and of no task. Packets of tracked connections are not counted here.
    pub fn ended(&self, direction: Direction, outcome: Outcome) -> Result<u64> {
        let mut sum = 0;
        for slot in 0..(self.0.len() / 2) as u16 {
            let of_cpus = self.0.get(&counters_index(slot, direction), 0)?;
            sum += of_cpus
                .iter()
                .map(|counters| counters[usize::from(outcome.number())])
                .sum::<u64>();
        }
        Ok(sum)
    }

    /// Waits until exactly this many packets were dropped for this reason.
    pub fn await_dropped(&self, direction: Direction, reason: DropReason, packets: u64) -> Result<()> {
        let what = || format!("{packets} packets dropped for `{}`", reason.name());
        until(&what(), || Ok(self.dropped(direction, reason)? >= packets))
            .with_context(|| format!("{:?} were", self.dropped(direction, reason)))?;
        let dropped = self.dropped(direction, reason)?;
        anyhow::ensure!(dropped == packets, "{dropped} and not {}", what());
        Ok(())
    }
}
