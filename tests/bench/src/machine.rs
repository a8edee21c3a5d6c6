//! The machine of the measurements.

use std::{fs, thread};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// The machine, described for readers of the figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The CPU's name.
    pub cpu: String,
    pub cpus: usize,
    /// The CPU of the measurements.
    #[serde(rename = "measured_on")]
    pub on: usize,
    /// The kernel's release and build.
    pub kernel: String,
    /// Load averages at the start: one, five and fifteen minutes.
    pub load: String,
}

impl Machine {
    /// Pins this thread to the last CPU that it may use, and describes the machine.
    pub fn pinned() -> Result<Self> {
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("cannot ask for the CPUs of this thread")?;
        let on = (0..CpuSet::count())
            .rev()
            .find(|&cpu| allowed.is_set(cpu).unwrap_or(false))
            .context("this thread may use no CPU")?;
        let mut one = CpuSet::new();
        one.set(on)?;
        sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("cannot stay on CPU {on}"))?;

        let release = read("/proc/sys/kernel/osrelease")?;
        let build = read("/proc/sys/kernel/version")?;
        Ok(Self {
            cpu: cpu()?,
            cpus,
            on,
            kernel: format!("{release} {build} {}", std::env::consts::ARCH),
            load: load()?,
        })
    }

    /// As lines to read.
    pub fn text(&self) -> String {
        let Self {
            cpu,
            cpus,
            on,
            kernel,
            load,
        } = self;
        format!(
            "machine: {cpu}, {cpus} CPUs, measured on CPU {on}\n\
             kernel:  {kernel}\n\
             load:    {load} when it began\n"
        )
    }
}

/// The machine as lines of text, for benchmarks of several processes, which are not pinned to CPUs.
pub fn unpinned() -> Result<String> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let (cpu, kernel, load) = (cpu()?, read("/proc/sys/kernel/osrelease")?, load()?);
    Ok(format!(
        "machine: {cpu}, {cpus} CPUs\n\
         kernel:  {kernel}\n\
         load:    {load} when it began\n"
    ))
}

fn cpu() -> Result<String> {
    let cpu = read("/proc/cpuinfo")?;
    Ok(value_of(&cpu, "model name").unwrap_or("of unknown make").to_owned())
}

fn load() -> Result<String> {
    let load = read("/proc/loadavg")?;
    Ok(load.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

fn read(file: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read `{file}`"))?;
    Ok(text.trim().to_owned())
}

/// The first value under `key` in lines of `key : value`.
fn value_of<'a>(lines: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = lines.lines().filter_map(|line| line.split_once(':'));
    pairs
        .find(|(name, _)| name.trim() == key)
        .map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_by_its_name() {
        let lines = "processor\t: 0\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\nmodel name\t: other\n";
        assert_eq!(value_of(lines, "model name"), Some("AMD EPYC"));
        assert_eq!(value_of(lines, "stepping"), None);
    }
}
