//! The figures, as text and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    PathEffort,
    compile::{self, CompileTime},
    machine::Machine,
    measure::Path,
    paths::Programs,
    spread::{Spread, excess},
    table::table,
    veth::{LEAST_SHARE, VethTraffic},
};

/// The most instructions that the verifier may go through for one program.
pub const MOST_INSTRUCTIONS: u32 = 250_000;
/// By how much the slowest denial may be above the fastest.
const MOST_EXCESS: f64 = 0.15;

#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub effort: PathEffort,
    pub machine: Machine,
    pub paths: Vec<Path>,
    /// Traffic over veth.
    pub traffic: Vec<VethTraffic>,
    /// The programs, with the number of instructions that the verifier went through.
    pub programs: Programs,
    pub compiled: Vec<CompileTime>,
}

fn judged(met: Option<bool>) -> &'static str {
    match met {
        Some(true) => "met",
        Some(false) => "not met",
        None => "",
    }
}

fn whole(value: f64) -> String {
    format!("{value:.0}")
}

impl Report {
    /// By how much the slowest of the denials that should take the same time is above the fastest.
    fn unevenness(&self) -> Option<f64> {
        excess(self.paths.iter().filter(|path| path.flat).map(|path| path.net.median))
    }

    /// Programs that took the verifier more than [`MOST_INSTRUCTIONS`]: a build that must be refused.
    pub fn too_long(&self) -> impl Iterator<Item = &'static str> {
        let too_long = |(name, verified): &(&'static str, Option<u32>)| {
            verified
                .is_some_and(|verified| verified > MOST_INSTRUCTIONS)
                .then_some(*name)
        };
        self.programs.iter().filter_map(too_long)
    }

    pub fn text(&self) -> String {
        let paths: Vec<_> = self
            .paths
            .iter()
            .map(|path| {
                let Spread { median, least, most } = path.net;
                let budget = path.budget.map_or(String::new(), |budget| budget.to_string());
                let numbers = [median, least, most, path.gross.median, path.empty.median].map(whole);
                let [net, least, most, gross, empty] = numbers;
                let verdict = judged(path.met()).to_owned();
                [path.name.clone(), net, least, most, gross, empty, budget, verdict]
            })
            .collect();
        let heading = [
            "nanoseconds for one packet",
            "net",
            "least",
            "most",
            "with gate",
            "empty",
            "budget",
            "",
        ];
        let mut text = format!(
            "{}rounds:  {}, medians of them; net is the difference to the empty program of the same round\n",
            self.machine.text(),
            self.effort.rounds
        );
        if self.effort == PathEffort::QUICK {
            text += "quick:   these figures are not to be quoted\n";
        }
        let _infallible = write!(text, "\n{}", table(heading, &paths));
        if let Some(excess) = self.unevenness() {
            let _infallible = writeln!(
                text,
                "\ndenied over IPv4: the slowest is {:.0} % above the fastest, budget {:.0} %: {}",
                excess * 100.0,
                MOST_EXCESS * 100.0,
                judged(Some(excess <= MOST_EXCESS))
            );
        }
        let traffic: Vec<_> = self
            .traffic
            .iter()
            .map(|traffic| {
                let [without, with] = [traffic.without, traffic.with].map(|rate| whole(rate.median));
                let Spread { median, least, most } = traffic.share;
                let [share, least, most] = [median, least, most].map(|share| format!("{share:.1}"));
                let budget = whole(LEAST_SHARE);
                let verdict = judged(Some(traffic.met())).to_owned();
                [traffic.name.clone(), without, with, share, least, most, budget, verdict]
            })
            .collect();
        let heading = [
            "over veth, both links gated",
            "no program",
            "with gates",
            "%",
            "least",
            "most",
            "budget",
            "",
        ];
        let _infallible = write!(text, "\n{}", table(heading, &traffic));

        let programs: Vec<_> = self
            .programs
            .iter()
            .map(|(name, verified)| {
                let met = verified.map(|verified| verified <= MOST_INSTRUCTIONS);
                let verified = verified.map_or_else(|| "not told".to_owned(), |verified| verified.to_string());
                let budget = MOST_INSTRUCTIONS.to_string();
                [(*name).to_owned(), verified, budget, judged(met).to_owned()]
            })
            .collect();
        let heading = ["verified instructions", "count", "budget", ""];
        let _infallible = write!(text, "\n{}", table(heading, &programs));

        let compiled: Vec<_> = self
            .compiled
            .iter()
            .map(|time| {
                let [compile, write] = [time.compile, time.write].map(|time| whole(time.median));
                let bytes = time.policy_bytes.to_string();
                [time.name.clone(), compile, write, bytes, String::new()]
            })
            .collect();
        let heading = ["microseconds, model to image", "compile", "write", "policy bytes", ""];
        let _infallible = write!(text, "\n{}", table(heading, &compiled));
        let _infallible = writeln!(text, "the whole image: {} bytes", compile::image_bytes());
        text
    }

    pub fn json(&self) -> Value {
        let paths = self.paths.iter().map(|path| {
            json!({
                "path": path.name,
                "packets_per_round": path.packets,
                "net_ns": path.net,
                "with_gate_ns": path.gross,
                "empty_ns": path.empty,
                "budget_ns": path.budget,
                "met": path.met(),
            })
        });
        let traffic = self.traffic.iter().map(|traffic| {
            json!({
                "traffic": traffic.name,
                "unit": traffic.unit,
                "no_program": traffic.without,
                "with_gates": traffic.with,
                "percent": traffic.share,
                "budget_percent": LEAST_SHARE,
                "met": traffic.met(),
            })
        });
        let programs = self.programs.iter().map(|(name, verified)| {
            json!({
                "program": name,
                "verified_instructions": verified,
                "budget": MOST_INSTRUCTIONS,
                "met": verified.map(|verified| verified <= MOST_INSTRUCTIONS),
            })
        });
        let compiled = self.compiled.iter().map(|time| {
            json!({
                "rules": time.name,
                "compile_us": time.compile,
                "write_us": time.write,
                "policy_bytes": time.policy_bytes,
            })
        });
        json!({
            "machine": self.machine,
            "rounds": self.effort.rounds,
            "quick": self.effort == PathEffort::QUICK,
            "paths": paths.collect::<Vec<_>>(),
            "denied_ipv4_excess": { "value": self.unevenness(), "budget": MOST_EXCESS },
            "veth_rounds": self.effort.veth_rounds,
            "veth_slice_ms": self.effort.slice.as_millis() as u64,
            "veth": traffic.collect::<Vec<_>>(),
            "programs": programs.collect::<Vec<_>>(),
            "compile": compiled.collect::<Vec<_>>(),
            "image_bytes": compile::image_bytes(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64) -> Spread {
        Spread {
            median,
            least: median - 1.0,
            most: median + 2.0,
        }
    }

    fn path(name: &str, budget: Option<u32>, flat: bool, net: f64) -> Path {
        Path {
            name: name.into(),
            budget,
            flat,
            packets: 1000,
            gross: spread(net + 30.0),
            empty: spread(30.0),
            net: spread(net),
        }
    }

    fn traffic(name: &str, share: f64) -> VethTraffic {
        VethTraffic {
            name: name.into(),
            unit: "Mbit/s",
            without: spread(1000.0),
            with: spread(10.0 * share),
            share: spread(share),
        }
    }

    fn report() -> Report {
        Report {
            effort: PathEffort::QUICK,
            machine: Machine {
                cpu: "a CPU".into(),
                cpus: 2,
                on: 1,
                kernel: "6.1.0".into(),
                load: "0.1 0.2 0.3".into(),
            },
            paths: vec![
                path("established", Some(35), false, 35.0),
                path("denied, 1 rule", Some(90), true, 80.0),
                path("denied, 10 rules", Some(90), true, 100.0),
                path("control", None, false, 7.0),
            ],
            traffic: vec![traffic("throughput", 98.0), traffic("transactions", 96.5)],
            programs: vec![
                ("from_task", Some(MOST_INSTRUCTIONS)),
                ("to_task", Some(MOST_INSTRUCTIONS + 1)),
                ("clock", None),
            ],
            compiled: vec![CompileTime {
                name: "1,000 rules".into(),
                compile: spread(900.0),
                write: spread(80.0),
                policy_bytes: 4096,
            }],
        }
    }

    #[test]
    fn what_is_over_its_budget_is_said_so() {
        let expected = "\
machine: a CPU, 2 CPUs, measured on CPU 1
kernel:  6.1.0
load:    0.1 0.2 0.3 when it began
rounds:  3, medians of them; net is the difference to the empty program of the same round
quick:   these figures are not to be quoted

nanoseconds for one packet  net  least  most  with gate  empty  budget
established                  35     34    37         65     30      35  met
denied, 1 rule               80     79    82        110     30      90  met
denied, 10 rules            100     99   102        130     30      90  not met
control                       7      6     9         37     30

denied over IPv4: the slowest is 25 % above the fastest, budget 15 %: not met

over veth, both links gated  no program  with gates     %  least   most  budget
throughput                         1000         980  98.0   97.0  100.0      97  met
transactions                       1000         965  96.5   95.5   98.5      97  not met

verified instructions     count  budget
from_task                250000  250000  met
to_task                  250001  250000  not met
clock                  not told  250000

microseconds, model to image  compile  write  policy bytes
1,000 rules                       900     80          4096
the whole image: 27262976 bytes
";
        assert_eq!(report().text(), expected);
    }

    #[test]
    fn programs_that_are_too_long_are_named() {
        assert_eq!(report().too_long().collect::<Vec<_>>(), ["to_task"]);
    }

    #[test]
    fn figures_are_the_same_in_json() {
        let json = report().json();
        assert_eq!(
            json["paths"][2],
            json!({
                "path": "denied, 10 rules",
                "packets_per_round": 1000,
                "net_ns": { "median": 100.0, "min": 99.0, "max": 102.0 },
                "with_gate_ns": { "median": 130.0, "min": 129.0, "max": 132.0 },
                "empty_ns": { "median": 30.0, "min": 29.0, "max": 32.0 },
                "budget_ns": 90,
                "met": false,
            })
        );
        assert_eq!(
            json["veth"][1],
            json!({
                "traffic": "transactions",
                "unit": "Mbit/s",
                "no_program": { "median": 1000.0, "min": 999.0, "max": 1002.0 },
                "with_gates": { "median": 965.0, "min": 964.0, "max": 967.0 },
                "percent": { "median": 96.5, "min": 95.5, "max": 98.5 },
                "budget_percent": 97.0,
                "met": false,
            })
        );
        assert_eq!(json["denied_ipv4_excess"], json!({ "value": 0.25, "budget": 0.15 }));
    }
}
