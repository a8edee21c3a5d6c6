//! The resources that a running taskgate uses.

use std::{collections::BTreeMap, fs, io::ErrorKind, path::Path, time::Duration};

use crate::Daemon;
use anyhow::{Context as _, Result};

/// The unit of times in /proc (USER_HZ), which does not depend on the kernel's tick rate.
const TICK: Duration = Duration::from_millis(10);

/// A process's use of CPU and memory so far.
#[derive(Clone, Debug, Default)]
pub struct Process {
    /// User and system time.
    pub cpu: Duration,
    /// Resident memory, KiB.
    pub resident: u64,
    /// The highest resident memory so far, KiB.
    pub peak: u64,
    /// Private writable memory, KiB.
    pub data: u64,
    /// KiB of its maps in the kernel.
    pub maps: u64,
    /// Open files.
    pub files: u64,
}

impl Process {
    pub fn of(daemon: &Daemon) -> Result<Self> {
        let folder = Path::new("/proc").join(daemon.pid()?.to_string());
        let status = fs::read_to_string(folder.join("status"))?;
        let kib = |key: &str| -> Result<u64> {
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .context("no such line")?;
            Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?)
        };
        let stat = fs::read_to_string(folder.join("stat"))?;
        // After the name, which is in brackets, from the third field on.
        let (_, fields) = stat.rsplit_once(')').context("no name")?;
        let ticks: u32 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse::<u32>)
            .sum::<Result<_, _>>()?;

        let (mut files, mut maps) = (0, BTreeMap::new());
        for entry in fs::read_dir(folder.join("fdinfo"))? {
            let text = match fs::read_to_string(entry?.path()) {
                // The descriptor was closed meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                text => text?,
            };
            files += 1;
            let number = |key: &str| -> Option<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(key))?;
                line.trim_start_matches(':').trim().parse().ok()
            };
            if let (Some(id), Some(bytes)) = (number("map_id"), number("memlock")) {
                maps.insert(id, bytes);
            }
        }
        Ok(Self {
            cpu: ticks * TICK,
            resident: kib("VmRSS")?,
            peak: kib("VmHWM")?,
            data: kib("VmData")?,
            maps: maps.values().sum::<u64>() / 1024,
            files,
        })
    }
}
