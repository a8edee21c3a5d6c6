//! Two runs of the same benchmark, side by side.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::table::table;

/// Medians by their names, in the order of the file.
#[derive(Clone, Debug, PartialEq)]
struct Medians {
    rows: Vec<(String, f64)>,
    quick: bool,
    machine: Value,
}

/// A list in a benchmark's JSON: its key, the keys that name a row, and each figure's key with its unit; a unit that
/// begins with a slash is itself a key.
type List = (
    &'static str,
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
);

/// All lists that have figures to compare.
const LISTS: [List; 5] = [
    ("paths", &["path"], &[("net_ns", "net ns")]),
    (
        "veth",
        &["traffic"],
        &[("with_gates", "with gates"), ("percent", "% of no program")],
    ),
    (
        "programs",
        &["program"],
        &[("verified_instructions", "verified instructions")],
    ),
    (
        "compile",
        &["rules"],
        &[("compile_us", "compile µs"), ("write_us", "write µs")],
    ),
    ("peers", &["traffic", "family", "rules", "filter"], &[("rate", "/unit")]),
];

impl Medians {
    fn of(report: &Value) -> Result<Self> {
        let mut rows = Vec::new();
        for (list, names, figures) in LISTS {
            for row in report[list].as_array().into_iter().flatten() {
                let name: Vec<_> = names.iter().filter_map(|name| shown(name, &row[*name])).collect();
                for (figure, unit) in figures {
                    let value = &row[*figure];
                    // A figure without a spread is a number; one that was not available is null.
                    let Some(value) = value["median"].as_f64().or_else(|| value.as_f64()) else {
                        continue;
                    };
                    let unit = match unit.strip_prefix('/') {
                        Some(key) => row[key].as_str().unwrap_or_default(),
                        None => unit,
                    };
                    rows.push((format!("{}: {unit}", name.join(", ")), value));
                }
            }
        }
        if rows.is_empty() {
            bail!("it has no figures: it has to be what `--json` of `cargo xtask bench path` or `peers` wrote");
        }
        Ok(Self {
            rows,
            quick: report["quick"].as_bool().unwrap_or_default(),
            machine: report["machine"].clone(),
        })
    }
}

/// A part of a row's name; `None` where there are no rules.
fn shown(key: &str, value: &Value) -> Option<String> {
    match (key, value, value.as_u64()) {
        (_, Value::String(text), _) => Some(text.clone()),
        ("rules", _, Some(0)) => None,
        ("rules", _, Some(1)) => Some("1 rule".to_owned()),
        ("rules", number, _) => Some(format!("{number} rules")),
        (_, other, _) => Some(other.to_string()),
    }
}

/// Compares two files that `--json` wrote.
pub fn files(before: &Path, after: &Path) -> Result<String> {
    let read = |file: &Path| -> Result<Medians> {
        let text = fs::read_to_string(file)?;
        Medians::of(&serde_json::from_str(&text)?)
    };
    let [a, b] = [before, after].map(|file| read(file).with_context(|| format!("cannot compare `{}`", file.display())));
    Ok(compared(&a?, &b?))
}

/// The medians of both reports, the difference in per cent of the first, and the rows that only one report has.
fn compared(a: &Medians, b: &Medians) -> String {
    let mut text = String::new();
    for (name, medians) in [("A", a), ("B", b)] {
        if medians.quick {
            let _infallible = writeln!(text, "{name} is a quick run: its figures are not to be quoted");
        }
    }
    let place = |medians: &Medians| ["cpu", "kernel"].map(|key| medians.machine[key].clone());
    if place(a) != place(b) {
        text += "A and B were measured on different machines or kernels\n";
    }
    let of_b: BTreeMap<_, _> = b.rows.iter().map(|(name, value)| (name, *value)).collect();
    let of_a: BTreeMap<_, _> = a.rows.iter().map(|(name, value)| (name, *value)).collect();
    let both: Vec<_> = a
        .rows
        .iter()
        .filter_map(|(name, value)| Some((name, *value, *of_b.get(name)?)))
        .map(|(name, a, b)| [name.clone(), number(a), number(b), difference(a, b), String::new()])
        .collect();
    if both.is_empty() {
        text += "A and B have no row in common\n";
    } else {
        text += &table(["medians", "A", "B", "difference, %", ""], &both);
    }
    for (name, medians, other) in [("A", a, &of_b), ("B", b, &of_a)] {
        let only: Vec<_> = medians
            .rows
            .iter()
            .filter(|(row, _)| !other.contains_key(row))
            .collect();
        if !only.is_empty() {
            let _infallible = writeln!(text, "\nonly in {name}:");
            for (row, value) in only {
                let _infallible = writeln!(text, "  {row}: {}", number(*value));
            }
        }
    }
    text
}

/// With one decimal if it is significant.
fn number(value: f64) -> String {
    if value.abs() < 1000.0 && value.fract() != 0.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// By how much `b` is above `a`, in per cent of `a`.
fn difference(a: f64, b: f64) -> String {
    if a == 0.0 {
        return "-".to_owned();
    }
    format!("{:+.1}", (b / a - 1.0) * 100.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::peers::report;

    fn path(net: f64) -> Value {
        json!({
            "machine": { "cpu": "a CPU", "kernel": "6.1.0", "load": net.to_string() },
            "quick": false,
            "paths": [{ "path": "established", "net_ns": { "median": net, "min": 1.0, "max": 99.0 }, "budget_ns": 35 }],
            "veth": [{ "traffic": "throughput", "with_gates": { "median": 1717.5 }, "percent": { "median": 98.25 } }],
            "programs": [
                { "program": "from_task", "verified_instructions": 144_729 },
                { "program": "clock", "verified_instructions": null },
            ],
            "compile": [],
        })
    }

    #[test]
    fn medians_are_compared_row_by_row() -> Result<()> {
        let (a, mut b) = (path(50.0), path(40.0));
        b["programs"][0]["program"] = json!("to_task");
        b["quick"] = json!(true);
        b["machine"]["kernel"] = json!("6.18.0");
        let expected = "\
B is a quick run: its figures are not to be quoted
A and B were measured on different machines or kernels
medians                         A     B  difference, %
established: net ns            50    40          -20.0
throughput: with gates       1718  1718           +0.0
throughput: % of no program  98.2  98.2           +0.0

only in A:
  from_task: verified instructions: 144729

only in B:
  to_task: verified instructions: 144729
";
        assert_eq!(compared(&Medians::of(&a)?, &Medians::of(&b)?), expected);
        Ok(())
    }

    #[test]
    fn rates_of_peers_are_compared_by_filter_and_number_of_rules() -> Result<()> {
        let before = report::tests::report();
        let mut after = before.clone();
        after.peers[3].rate.median = 990.0;
        after.peers.remove(0);
        let medians = |report| Medians::of(&serde_json::to_value(report)?);
        let text = compared(&medians(&before)?, &medians(&after)?);
        // The widths of columns are the table's affair.
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let lines: Vec<_> = text.lines().map(words).collect();
        for line in [
            "throughput, IPv4, 1000 rules, taskgate: Mbit/s 900 990 +10.0",
            "denied packets, IPv4, 1000 rules, taskgate: packets/s 1500 1500 +0.0",
            "only in A:",
            "throughput, IPv4, no filter: Mbit/s: 1000",
        ] {
            assert!(lines.iter().any(|other| other == line), "no `{line}` in:\n{text}");
        }
        Ok(())
    }

    #[test]
    fn what_has_no_figures_is_refused_by_its_name() -> Result<()> {
        let file = std::env::temp_dir().join(format!("taskgate-compare-{}.json", std::process::id()));
        fs::write(&file, "{}")?;
        let refused = files(&file, &file);
        fs::remove_file(&file)?;
        let message = format!("{:#}", refused.unwrap_err());
        assert!(
            message.contains(&file.display().to_string()) && message.contains("cargo xtask bench path"),
            "{message}"
        );
        Ok(())
    }

    #[test]
    fn nothing_is_divided_by_nothing() {
        assert_eq!([difference(0.0, 5.0), difference(4.0, 5.0)], ["-", "+25.0"]);
    }
}
