//! taskgate compared with its alternatives. `cargo xtask bench peers` runs this; docs/performance.md describes the
//! method.

mod conntrack;
pub mod filter;
mod host;
pub mod plot;
pub mod report;
pub mod rules;
pub mod workload;

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};

use self::{
    filter::PacketFilter,
    host::FilteredHost,
    report::{NotMeasured, PeersReport, Rate},
    workload::SERIES,
};
use crate::{machine::Machine, spread::Spread};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeersEffort {
    /// How often all hosts are built again: each time their memory lies elsewhere in caches and tables.
    pub builds: u32,
    /// Rounds over all hosts of each build, after an uncounted one.
    pub rounds: u32,
    /// The duration of each workload on each host in a round.
    pub slice: Duration,
    /// Rules for each task.
    pub rules: &'static [u16],
}

impl PeersEffort {
    /// For published figures: some minutes.
    pub const FULL: Self = Self {
        builds: 3,
        rounds: 4,
        slice: Duration::from_millis(250),
        rules: &[1, 100, 1000],
    };
    /// Enough to see that everything works: seconds.
    pub const QUICK: Self = Self {
        builds: 1,
        rounds: 2,
        slice: Duration::from_millis(25),
        rules: Self::FULL.rules,
    };
}

/// The rates of a series on the hosts with one filter and one number of rules; numbers are indices into
/// [`PacketFilter::ALL`] and [`SERIES`].
type Rates = BTreeMap<(usize, u16, usize), Vec<f64>>;

/// Measures all filters on the caller's thread and one CPU. `say` is called with a line for each step.
pub fn run(effort: PeersEffort, say: &dyn Fn(&str)) -> Result<PeersReport> {
    let machine = Machine::pinned()?;
    let mut rates = Rates::new();
    let mut not_measured = Vec::new();
    let mut cpu = Duration::ZERO;
    for build in 1..=effort.builds {
        say(&format!("hosts with filters, {build} of {}", effort.builds));
        let mut hosts = Vec::new();
        not_measured.clear();
        for filter in PacketFilter::ALL {
            // Without a filter there are no rules.
            let counts = match filter {
                PacketFilter::Absent => &[0],
                _ => effort.rules,
            };
            for &count in counts {
                match FilteredHost::new(filter, count)? {
                    Ok(host) => hosts.push(host),
                    Err(why) => {
                        say(&format!("{filter} is not measured: {why}"));
                        let filter = filter.to_string();
                        not_measured.push(NotMeasured { filter, why });
                        break;
                    }
                }
            }
        }
        let cpu_of = |hosts: &[FilteredHost]| hosts.iter().map(FilteredHost::cpu).sum::<Result<Duration>>();
        let before = cpu_of(&hosts)?;
        for round in 0..=effort.rounds {
            say(&format!("round {round} of {}", effort.rounds));
            // The first round fills caches and resolves neighbours.
            let counted = (round > 0).then_some(&mut rates);
            measure(&mut hosts, effort.slice, counted)?;
            // The next round has the reverse order, so that no host always follows the same one.
            hosts.reverse();
        }
        cpu += cpu_of(&hosts)?.saturating_sub(before);
        hosts.into_iter().try_for_each(FilteredHost::end)?;
    }
    let rates = rates.into_iter().map(|((filter, rules, series), rates)| {
        let (workload, family) = SERIES[series];
        Ok(Rate {
            filter: PacketFilter::ALL[filter].to_string(),
            rules,
            traffic: workload.to_string(),
            family: family.to_string(),
            unit: workload.unit().to_owned(),
            rate: Spread::of(rates).context("no rounds")?,
        })
    });
    Ok(PeersReport {
        machine,
        quick: effort == PeersEffort::QUICK,
        builds: effort.builds,
        rounds: effort.rounds,
        slice_ms: effort.slice.as_millis() as u64,
        peers: rates.collect::<Result<_>>()?,
        not_measured,
        taskgate_cpu_ms: cpu.as_millis() as u64,
    })
}

/// One round: each workload on all hosts, one host after the other.
fn measure(hosts: &mut [FilteredHost], slice: Duration, mut rates: Option<&mut Rates>) -> Result<()> {
    for (series, (workload, family)) in SERIES.into_iter().enumerate() {
        for host in hosts.iter_mut().filter(|host| host.has(workload)) {
            let rate = host
                .slice(workload, family, slice)
                .with_context(|| format!("{workload}, {family}, {}, {} rules", host.filter, host.rules))?;
            let filter = PacketFilter::ALL.into_iter().position(|filter| filter == host.filter);
            let key = (filter.context("no such filter")?, host.rules, series);
            if let Some(rates) = &mut rates {
                rates.entry(key).or_default().push(rate);
            }
        }
    }
    Ok(())
}
