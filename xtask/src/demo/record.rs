//! Flow records: read, and compared with what the gates said.

use std::{fmt, net::IpAddr, str::FromStr};

use anyhow::{Error, Result, bail};

use super::{
    attempt::{Way, What},
    explain::Gate,
};

/// What identifies a record's flow: the ENI, and the 5-tuple in the direction of the packets. Ports are absent where a
/// client's changes from run to run.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Flow {
    eni: String,
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
}

/// A line of the version 2 format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    line: String,
    flow: Flow,
    ports: [u16; 2],
    action: String,
}

impl FromStr for Record {
    type Err = Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [
            "2",
            _account,
            eni,
            from,
            to,
            from_port,
            to_port,
            protocol,
            _packets,
            _bytes,
            _start,
            _end,
            action,
            "OK",
        ] = fields[..]
        else {
            bail!("taskgate printed `{line}`, which is no flow record of version 2");
        };
        Ok(Self {
            line: line.to_owned(),
            flow: Flow {
                eni: eni.to_owned(),
                from: from.parse()?,
                to: to.parse()?,
                protocol: protocol.parse()?,
            },
            ports: [from_port.parse()?, to_port.parse()?],
            action: action.to_owned(),
        })
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl Record {
    /// The ENI that it was made at.
    pub(super) fn eni(&self) -> &str {
        &self.flow.eni
    }

    /// `ACCEPT` or `REJECT`.
    pub(super) fn action(&self) -> &str {
        &self.action
    }

    /// The port that tells attempts apart: the server's, 0 for ping.
    fn has_port(&self, port: u16) -> bool {
        self.ports.contains(&port)
    }
}

/// A record that there has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// The attempt's place in the plan.
    attempt: usize,
    flow: Flow,
    port: u16,
    action: String,
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Flow {
            eni,
            from,
            to,
            protocol,
        } = &self.flow;
        let Self { port, action, .. } = self;
        write!(f, "{action} at {eni}: {from} to {to}, protocol {protocol}, port {port}")
    }
}

impl Expected {
    /// The records that an attempt leaves: one at each gate that it reaches, and where all let it through the answer's
    /// at each.
    pub(super) fn of(attempt: usize, what: What, way: &Way<'_>, gates: &[Gate]) -> Vec<Self> {
        let ((_, from), (_, to)) = (way.from(), way.to());
        let (protocol, port) = match what {
            What::Tcp(port) => (6, port),
            What::Ping if way.is_v6() => (58, 0),
            What::Ping => (1, 0),
        };
        let reached = gates.iter().position(|gate| !gate.accepts());
        let reached = reached.map_or(gates, |denied| &gates[..=denied]);
        let one = |gate: &Gate, from, to| Self {
            attempt,
            flow: Flow {
                eni: gate.eni.clone(),
                from,
                to,
                protocol,
            },
            port,
            action: gate.verdict.clone(),
        };
        let mut expected: Vec<_> = reached.iter().map(|gate| one(gate, from, to)).collect();
        if gates.iter().all(Gate::accepts) {
            expected.extend(gates.iter().rev().map(|gate| one(gate, to, from)));
        }
        expected
    }

    /// Whether this is about the record's flow.
    pub(super) fn is_about(&self, record: &Record) -> bool {
        self.flow == record.flow && record.has_port(self.port)
    }

    /// Whether its attempt was let out by one gate and not let in by another.
    pub(super) fn is_denied_between_tasks(&self, all: &[Self]) -> bool {
        let has = |action: &str| {
            all.iter()
                .any(|one| one.attempt == self.attempt && one.action == action)
        };
        has("ACCEPT") && has("REJECT")
    }

    /// Whether a record says the same.
    pub(super) fn is_met(&self, records: &[Record]) -> bool {
        records
            .iter()
            .any(|record| self.is_about(record) && record.action == self.action)
    }

    /// Whether a record says the contrary.
    pub(super) fn is_contradicted(&self, record: &Record) -> bool {
        self.is_about(record) && record.action != self.action
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "2 123456789012 eni-0a 10.0.1.30 10.0.1.20 40001 5432 6 1 60 1763617000 1763617005 REJECT OK";

    fn expected(action: &str, port: u16) -> Expected {
        let address = |last| IpAddr::from([10, 0, 1, last]);
        Expected {
            attempt: 1,
            flow: Flow {
                eni: String::from("eni-0a"),
                from: address(30),
                to: address(20),
                protocol: 6,
            },
            port,
            action: action.to_owned(),
        }
    }

    #[test]
    fn a_record_meets_contradicts_or_is_about_something_else() {
        let record: Record = LINE.parse().unwrap();
        for (action, port, met, contradicted) in [
            ("REJECT", 5432, true, false),
            ("ACCEPT", 5432, false, true),
            ("REJECT", 443, false, false),
        ] {
            let expected = expected(action, port);
            let said = (
                expected.is_met(std::slice::from_ref(&record)),
                expected.is_contradicted(&record),
            );
            assert_eq!(said, (met, contradicted), "{expected}");
        }
    }

    #[test]
    fn a_line_is_a_record_or_an_error() {
        let record: Record = LINE.parse().unwrap();
        assert_eq!(
            (record.to_string().as_str(), record.eni(), record.action()),
            (LINE, "eni-0a", "REJECT")
        );
        for line in ["", "2 1 eni-0a - - - - - - - 1 2 - NODATA", "NaN"] {
            assert!(line.parse::<Record>().is_err(), "{line}");
        }
    }
}
