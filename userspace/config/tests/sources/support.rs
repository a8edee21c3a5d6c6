//! Readable output of a model, and tables of bad input.

use std::fmt::Write as _;

use taskgate_config::{Loaded, Problem, read};
use taskgate_model::{Direction, Model};

/// A whole model, with a line for each item.
pub(crate) fn shown(loaded: &Loaded) -> String {
    let Model {
        account,
        groups,
        prefix_lists,
        enis,
        uplink,
        settings,
        flow_logs,
        metrics,
        reserved,
    } = &loaded.model;
    let mut text = format!("account {account}\n");
    let mut line = |indent: usize, line: String| {
        writeln!(text, "{:indent$}{line}", "").expect("writing to a string");
    };
    for (position, group) in groups.iter().enumerate() {
        let rules = if group.rules_known { "" } else { ", rules not known" };
        line(
            0,
            format!(
                "group {position}: {} {:?} in {:?}{rules}",
                group.id, group.name, group.vpc
            ),
        );
        for direction in [Direction::Ingress, Direction::Egress] {
            for rule in group.rules(direction) {
                let (id, protocol, peer) = (&rule.id, rule.protocol, &rule.peer);
                line(
                    2,
                    format!("{direction} {id}: {protocol:?} {peer:?} {:?}", rule.description),
                );
            }
        }
    }
    for (position, list) in prefix_lists.iter().enumerate() {
        let (name, most) = (&list.name, list.max_entries);
        line(
            0,
            format!("list {position}: {} {name:?} max {most:?} {:?}", list.id, list.entries),
        );
    }
    for eni in enis {
        line(
            0,
            format!("eni {} of {:?}, account {:?}", eni.id, eni.task, eni.account),
        );
        line(2, format!("{:?} {:?}", eni.addresses, eni.groups));
        line(
            2,
            format!(
                "{:?}, check {}, {:?} {:?}",
                eni.binding, eni.source_dest_check, eni.vpc, eni.subnet
            ),
        );
        line(2, format!("{:?}", eni.ecs));
    }
    line(0, format!("{uplink:?}"));
    line(0, format!("{settings:?}"));
    line(0, format!("{flow_logs:?}"));
    if let Some(metrics) = metrics {
        line(0, format!("metrics on {metrics}"));
    }
    line(0, format!("reserved {reserved:?}"));
    for warning in &loaded.warnings {
        line(0, format!("warning: {warning}"));
    }
    text
}

/// A configuration that loads, from one native file.
pub(crate) fn native(text: &str) -> Loaded {
    match read(&[("t.yaml", text)]) {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{text}\n{problems}"),
    }
}

/// Messages of problems, one for each line.
pub(crate) fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// One kind of bad input: its description, its files, and the complete message.
pub(crate) type Case<'c> = (&'c str, &'c [(&'c str, &'c str)], &'c str);

/// Runs a table, and shows every row with another result.
pub(crate) fn refused(cases: &[Case<'_>]) {
    let mut wrong = String::new();
    for (what, files, expected) in cases {
        let told = match read(files) {
            Ok(_) => String::from("(it loads)"),
            Err(problems) => problems.to_string(),
        };
        if told != *expected {
            writeln!(wrong, "{what}\n  expected: {expected}\n  told:     {told}").expect("writing to a string");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// The native form, in [`refused_in`].
pub(crate) const V1: &str = "taskgate: v1\n@";

/// [`refused`] for one file: description, the text in place of `@` in `template`, and the complete message.
pub(crate) fn refused_in(file: &str, template: &str, cases: &[(&str, &str, &str)]) {
    let texts: Vec<_> = cases
        .iter()
        .map(|(_, text, _)| [(file, template.replace('@', text))])
        .collect();
    let files: Vec<_> = texts.iter().map(|[(file, text)]| [(*file, text.as_str())]).collect();
    let cases: Vec<_> = cases
        .iter()
        .zip(&files)
        .map(|((what, _, expected), files)| (*what, &files[..], *expected))
        .collect();
    refused(&cases);
}
