//! The demo's standard output.

use std::{env, io, io::IsTerminal as _, time::Duration};

use super::{
    attempts::{Attempt, Happened, PATIENCE},
    expected::{Expected, Line, action},
    explain::Gate,
    hosts::Hosts,
};
use testkit::ledger::Action;

/// Standard output, with colours where a terminal shows them and `NO_COLOR` does not forbid them.
pub(super) struct Show {
    colours: bool,
}

impl Show {
    /// Standard output.
    pub(super) fn stdout() -> Self {
        let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colours: !forbidden && io::stdout().is_terminal(),
        }
    }

    /// The hosts that take part.
    pub(super) fn opening(&self, hosts: &Hosts) {
        for host in hosts.all() {
            let [v4, v6] = host.addresses;
            let what = if host.eni.is_some() { "task" } else { "outside the host" };
            println!(
                "{}  {v4:<12}  {v6:<17}  {what}",
                self.bold(&format!("{:<6}", host.name))
            );
        }
    }

    /// An attempt: its description, the outcome over each family, and the verdict of each gate on the way; IPv4 before
    /// IPv6.
    pub(super) fn attempt(&self, number: usize, attempt: &Attempt, happened: &[Happened; 2], gates: &[Vec<Gate>; 2]) {
        println!(
            "\n{number}. {} {}  ({})",
            self.bold(&attempt.to_string()),
            said(happened),
            attempt.shows
        );
        let [v4, v6] = gates;
        for (v4, v6) in v4.iter().zip(v6) {
            let Gate {
                direction,
                task,
                verdict,
                ..
            } = v4;
            println!("   {direction:<7} {task:<6} {} {}", self.verdict(verdict), why(v4, v6));
        }
    }

    /// The flow records in the order of the attempts. Denials between two tasks are marked: the sender's gate let the
    /// packet out, the receiver's did not let it in.
    pub(super) fn records(&self, hosts: &Hosts, lines: &[Line], expected: &[Expected]) {
        println!("\nflow records, as `taskgate run` printed them; > marks a denial between tasks, seen from both ends");
        let place = |line: &Line| {
            let about = expected.iter().position(|expected| expected.is_about(&line.record));
            about.unwrap_or(usize::MAX)
        };
        let mut sorted: Vec<_> = lines.iter().map(|line| (place(line), line)).collect();
        sorted.sort_by_key(|(place, _)| *place);
        for (place, line) in sorted {
            let denied = expected
                .get(place)
                .is_some_and(|about| about.is_denied_between_tasks(expected));
            let owner = hosts.owner(&line.record.eni).map_or("?", |owner| &*owner.name);
            let word = match action(&line.record) {
                Some(Action::Accept) => "ACCEPT",
                _ => "REJECT",
            };
            let text = match line.text.rsplit_once(word) {
                Some((before, after)) if denied => format!("{}{}{after}", self.bold(before), self.verdict(word)),
                _ => line.text.clone(),
            };
            println!("{} {owner:<6} {text}", if denied { '>' } else { ' ' });
        }
    }

    /// Says that only the gates are left to judge packets.
    pub(super) fn killed(&self) {
        println!(
            "\n{}: its gates stand, and no process runs",
            self.bold("taskgate is killed")
        );
    }

    /// How an attempt went meanwhile.
    pub(super) fn without_taskgate(&self, attempt: &Attempt, happened: &[Happened; 2]) {
        println!("   {} {}", self.bold(&attempt.to_string()), said(happened));
    }

    /// Says that the next run took over; `recorded` and `crossed`: packets from web and to web.
    pub(super) fn taken_over(&self, answered: usize, recorded: [u64; 2], crossed: [u64; 2]) {
        println!("{}, and takes over", self.bold("taskgate is started again"));
        println!("   a connection from web to db, open all the time: {answered} of {answered} requests answered");
        println!(
            "   its packets in the records of both runs: {} and {} back; across web's interface: {} and {} back",
            recorded[0], recorded[1], crossed[0], crossed[1]
        );
    }

    fn verdict(&self, verdict: &str) -> String {
        self.paint(if verdict == "ACCEPT" { "1;32" } else { "1;31" }, verdict)
    }

    fn bold(&self, text: &str) -> String {
        self.paint("1", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The reason for a gate's verdict: the rule that allows it over each family, or the missing rule.
fn why(v4: &Gate, v6: &Gate) -> String {
    match (&v4.rule, &v6.rule, &v4.group_name, &v4.nearest) {
        (Some(one), Some(other), Some(group), _) if one == other => format!("by rule {one} of group {group}"),
        (Some(one), Some(other), Some(group), _) => {
            format!("by rules {one} (IPv4) and {other} (IPv6) of group {group}")
        }
        (_, _, _, Some(nearest)) => format!("{}: nearest is {}, {}", v4.reason, nearest.rule, nearest.message),
        _ => format!("{}: its groups have no {} rule", v4.reason, v4.direction),
    }
}

/// The outcome over both families, in one clause.
fn said(happened: &[Happened; 2]) -> String {
    match happened {
        [Happened::Answered(v4), Happened::Answered(v6)] => {
            let ms = |time: &Duration| time.as_secs_f64() * 1000.0;
            format!(
                "passed: answered in {:.2} ms over IPv4, {:.2} ms over IPv6",
                ms(v4),
                ms(v6)
            )
        }
        [Happened::Silence, Happened::Silence] => {
            format!("denied: no answer in {} ms over IPv4 and IPv6", PATIENCE.as_millis())
        }
        [v4, v6] => format!("differs: IPv4 {v4}, IPv6 {v6}"),
    }
}
