//! The figures of all filters, as text and as JSON.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use taskgate_model::Family;

use super::{
    filter::PacketFilter,
    workload::{SERIES, Workload},
};
use crate::{machine::Machine, spread::Spread, table::table};

/// The number of rules at which taskgate must be faster.
const MANY: u16 = 1000;
/// The columns of a table: the row's name, the filters, [`SHARE`], and the text column at the end of every table.
const COLUMNS: usize = SHARE + 2;
/// The column with taskgate's rate in per cent of the rate without a filter.
const SHARE: usize = 1 + PacketFilter::ALL.len();

/// Everything that was measured; its JSON is this, field for field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeersReport {
    pub machine: Machine,
    /// Whether the figures are not to be quoted.
    pub quick: bool,
    /// How often all hosts were built again.
    pub builds: u32,
    /// Rounds of each build.
    pub rounds: u32,
    /// How long a workload lasted in each round.
    pub slice_ms: u64,
    pub peers: Vec<Rate>,
    /// Filters that are missing in them.
    pub not_measured: Vec<NotMeasured>,
    /// CPU time that taskgate's processes, one for each number of rules, used from the first round to the last.
    pub taskgate_cpu_ms: u64,
}

/// The rate of one workload through one filter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    /// The filter's name.
    pub filter: String,
    /// Rules for each task; 0 without a filter.
    pub rules: u16,
    /// The workload's name.
    pub traffic: String,
    /// The family's name.
    pub family: String,
    pub unit: String,
    pub rate: Spread,
}

/// A filter that could not be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotMeasured {
    /// The filter's name.
    pub filter: String,
    pub why: String,
}

impl PeersReport {
    /// The numbers of rules, ascending.
    pub fn counts(&self) -> Vec<u16> {
        let mut counts: Vec<_> = self.peers.iter().map(|rate| rate.rules).filter(|&n| n > 0).collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    }

    /// The rate of a workload through a filter; without a filter the number of rules does not matter.
    pub fn rate(&self, filter: PacketFilter, rules: u16, workload: Workload, family: Family) -> Option<Spread> {
        let rules = if filter == PacketFilter::Absent { 0 } else { rules };
        let [filter, traffic, family] = [filter.to_string(), workload.to_string(), family.to_string()];
        let found = self.peers.iter().find(|rate| {
            rate.rules == rules && rate.filter == filter && rate.traffic == traffic && rate.family == family
        });
        found.map(|rate| rate.rate)
    }

    /// The filters whose median taskgate's does not exceed, with taskgate's in per cent of theirs.
    fn not_ahead_of(&self, rules: u16, workload: Workload, family: Family) -> Vec<String> {
        let median = |filter| Some(self.rate(filter, rules, workload, family)?.median);
        let Some(ours) = median(PacketFilter::Taskgate) else {
            return Vec::new();
        };
        let others = PacketFilter::ALL.into_iter().filter(|&f| f != PacketFilter::Taskgate);
        let others = others.filter_map(|filter| Some((filter, median(filter)?)));
        others
            .filter(|(_, theirs)| ours <= *theirs)
            .map(|(filter, theirs)| format!("{filter} ({:.1} % of it)", ours / theirs * 100.0))
            .collect()
    }

    pub fn text(&self) -> String {
        let Self {
            builds,
            rounds,
            slice_ms,
            ..
        } = self;
        let mut text = format!(
            "{}rounds:  {builds} times {rounds} of {slice_ms} ms each, medians of them; all on one CPU\n",
            self.machine.text()
        );
        if self.quick {
            text += "quick:   these figures are not to be quoted\n";
        }
        for NotMeasured { filter, why } in &self.not_measured {
            let _infallible = writeln!(text, "not measured: {filter}: {why}");
        }
        for rules in self.counts() {
            let title = format!("rules for each task: {rules}");
            let names = PacketFilter::ALL.map(|filter| filter.to_string());
            let mut heading = [""; COLUMNS];
            heading[0] = &title;
            for (cell, name) in heading[1..].iter_mut().zip(&names) {
                *cell = name;
            }
            heading[SHARE] = "% of no filter";
            let rows = SERIES.map(|(workload, family)| self.row(rules, workload, family));
            let _infallible = write!(text, "\n{}", table(heading, &rows));
        }
        if self.counts().contains(&MANY) {
            let behind: Vec<_> = SERIES
                .into_iter()
                .filter_map(|(workload, family)| {
                    let others = self.not_ahead_of(MANY, workload, family);
                    (!others.is_empty()).then(|| format!("  {workload}, {family}: {}", others.join(", ")))
                })
                .collect();
            let _infallible = match behind.as_slice() {
                [] => writeln!(
                    text,
                    "\nwith {MANY} rules taskgate is ahead of all that was measured, in each row"
                ),
                _ => writeln!(
                    text,
                    "\nwith {MANY} rules taskgate is not ahead of:\n{}",
                    behind.join("\n")
                ),
            };
        }
        let _infallible = writeln!(
            text,
            "\ntaskgate's processes, one for each number of rules, used {} ms of CPU time in all rounds and slices",
            self.taskgate_cpu_ms
        );
        text
    }

    fn row(&self, rules: u16, workload: Workload, family: Family) -> [String; COLUMNS] {
        let median = |filter| Some(self.rate(filter, rules, workload, family)?.median);
        let cell = |filter| median(filter).map_or_else(|| "-".to_owned(), |median| format!("{median:.0}"));
        let share = match (median(PacketFilter::Taskgate), median(PacketFilter::Absent)) {
            (Some(ours), Some(theirs)) => format!("{:.1}", ours / theirs * 100.0),
            _ => "-".to_owned(),
        };
        let mut row: [String; COLUMNS] = Default::default();
        row[0] = format!("{workload}, {family}, {}", workload.unit());
        for (at, filter) in (1..).zip(PacketFilter::ALL) {
            row[at] = cell(filter);
        }
        row[SHARE] = share;
        row
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn rate(filter: PacketFilter, rules: u16, workload: Workload, median: f64) -> Rate {
        Rate {
            filter: filter.to_string(),
            rules,
            traffic: workload.to_string(),
            family: Family::V4.to_string(),
            unit: workload.unit().to_owned(),
            rate: Spread {
                median,
                least: median - 10.0,
                most: median + 20.0,
            },
        }
    }

    pub(crate) fn report() -> PeersReport {
        use PacketFilter::{Absent, NftSets, Taskgate};
        use Workload::{Denied, Throughput};
        PeersReport {
            machine: Machine {
                cpu: "a CPU".into(),
                cpus: 2,
                on: 1,
                kernel: "6.1.0".into(),
                load: "0.1 0.2 0.3".into(),
            },
            quick: true,
            builds: 1,
            rounds: 2,
            slice_ms: 25,
            peers: vec![
                rate(Absent, 0, Throughput, 1000.0),
                rate(NftSets, 1000, Throughput, 800.0),
                rate(NftSets, 1000, Denied, 500.0),
                rate(Taskgate, 1000, Throughput, 900.0),
                rate(Taskgate, 1000, Denied, 1500.0),
            ],
            not_measured: vec![NotMeasured {
                filter: "ipset".into(),
                why: "there is no `ipset`: install the Debian package `ipset`".into(),
            }],
            taskgate_cpu_ms: 70,
        }
    }

    #[test]
    fn rows_where_taskgate_is_not_ahead_are_named() {
        let text = report().text();
        // The widths of columns are the table's affair.
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        for line in [
            "quick: these figures are not to be quoted",
            "not measured: ipset: there is no `ipset`: install the Debian package `ipset`",
            "rules for each task: 1000 no filter nft linear nft sets nft flowtable ipset taskgate % of no filter",
            "throughput, IPv4, Mbit/s 1000 - 800 - - 900 90.0",
            "denied packets, IPv4, packets/s - - 500 - - 1500 -",
        ] {
            assert!(lines.iter().any(|other| other == line), "no `{line}` in:\n{text}");
        }
        let end = "\nwith 1000 rules taskgate is not ahead of:\n  throughput, IPv4: no filter (90.0 % of it)\n\n\
                   taskgate's processes, one for each number of rules, used 70 ms of CPU time in all rounds and slices\n";
        assert!(text.ends_with(end), "{text}");
    }

    #[test]
    fn a_report_survives_its_json() -> anyhow::Result<()> {
        let json = serde_json::to_string(&report())?;
        assert_eq!(serde_json::from_str::<PeersReport>(&json)?, report());
        Ok(())
    }
}
