//! The expected flow records, compared with the records written.

use std::{fmt, net::SocketAddr};

use anyhow::Result;

use super::{
    attempts::{Way, What},
    explain::Gate,
};
use testkit::{
    ledger::{Action, Flow, protocol},
    record::Record,
};

/// A line of taskgate's output, and its record.
pub(super) struct Line {
    /// The line as printed.
    pub(super) text: String,
    pub(super) record: Record,
}

impl Line {
    /// Parses lines; a line that is no flow record is an error.
    pub(super) fn all(lines: &[String]) -> Result<Vec<Self>> {
        let line = |text: &String| {
            let record = text.parse()?;
            let text = text.clone();
            Ok(Self { text, record })
        };
        lines.iter().map(line).collect()
    }
}

/// An expected record: its ENI, flow and action. A client's port changes from run to run: it is 0 here and not compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The attempt's place in the plan.
    attempt: usize,
    eni: String,
    flow: Flow,
    action: Action,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}: {:?}", self.action, self.eni, self.flow)
    }
}

impl Expected {
    /// The records of an attempt: one at each gate that it reaches, and, if all gates let it through, one of the answer
    /// at each gate.
    pub(super) fn of(attempt: usize, what: What, way: &Way<'_>, gates: &[Gate]) -> Vec<Self> {
        let ((_, from), (_, to)) = (way.from(), way.to());
        let (protocol, port) = match what {
            What::Tcp(port) => (protocol::TCP, port),
            What::Ping if way.is_v6() => (protocol::ICMPV6, 0),
            What::Ping => (protocol::ICMP, 0),
        };
        let there = Flow {
            source: SocketAddr::new(from, 0),
            destination: SocketAddr::new(to, port),
            protocol,
        };
        let reached = gates.iter().position(|gate| !gate.accepts());
        let reached = reached.map_or(gates, |denied| &gates[..=denied]);
        let one = |gate: &Gate, flow: Flow| Self {
            attempt,
            eni: gate.eni.clone(),
            flow,
            action: if gate.accepts() { Action::Accept } else { Action::Reject },
        };
        let mut expected: Vec<_> = reached.iter().map(|gate| one(gate, there)).collect();
        if gates.iter().all(Gate::accepts) {
            expected.extend(gates.iter().rev().map(|gate| one(gate, there.back())));
        }
        expected
    }

    /// Whether this is about a record's flow.
    pub(super) fn is_about(&self, record: &Record) -> bool {
        let fits = |wanted: SocketAddr, seen: SocketAddr| {
            wanted.ip() == seen.ip() && (wanted.port() == 0 || wanted.port() == seen.port())
        };
        record.eni == self.eni
            && record.flow.as_ref().is_some_and(|seen| {
                seen.tuple.protocol == self.flow.protocol
                    && fits(self.flow.source, seen.tuple.source)
                    && fits(self.flow.destination, seen.tuple.destination)
            })
    }

    /// Whether one gate let the attempt out and another did not let it in.
    pub(super) fn is_denied_between_tasks(&self, all: &[Self]) -> bool {
        let has = |action: Action| {
            all.iter()
                .any(|one| one.attempt == self.attempt && one.action == action)
        };
        has(Action::Accept) && has(Action::Reject)
    }

    /// Whether one of the records matches.
    pub(super) fn is_met(&self, lines: &[Line]) -> bool {
        lines
            .iter()
            .any(|line| self.is_about(&line.record) && action(&line.record) == Some(self.action))
    }

    /// Whether a record of the same flow has the other action.
    pub(super) fn is_contradicted(&self, record: &Record) -> bool {
        self.is_about(record) && action(record) != Some(self.action)
    }
}

/// A record's action.
pub(super) fn action(record: &Record) -> Option<Action> {
    record.flow.as_ref().map(|seen| seen.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "2 123456789012 eni-0123456789abcdef0 10.0.1.30 10.0.1.20 40001 5432 6 1 60 1763617000 1763617005 REJECT OK";

    fn expected(action: Action, port: u16) -> Expected {
        let address = |last, port| SocketAddr::from(([10, 0, 1, last], port));
        Expected {
            attempt: 1,
            eni: String::from("eni-0123456789abcdef0"),
            flow: Flow::tcp(address(30, 0), address(20, port)),
            action,
        }
    }

    #[test]
    fn a_record_meets_contradicts_or_is_about_something_else() -> Result<()> {
        let lines = Line::all(&[LINE.to_owned()])?;
        for (action, port, met, contradicted) in [
            (Action::Reject, 5432, true, false),
            (Action::Accept, 5432, false, true),
            (Action::Reject, 443, false, false),
        ] {
            let expected = expected(action, port);
            let said = (expected.is_met(&lines), expected.is_contradicted(&lines[0].record));
            assert_eq!(said, (met, contradicted), "{expected}");
        }
        Ok(())
    }
}
