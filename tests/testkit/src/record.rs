//! Flow records, read by the letter: a line that AWS's own text would not allow is an error.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::ledger::{Action, Count, Flow};

/// A line of the default format, version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Twelve digits.
    pub account: String,
    /// The ENI's id.
    pub eni: String,
    /// The flow; none in NODATA and SKIPDATA.
    pub flow: Option<RecordedFlow>,
    /// The start of the window, in Unix seconds.
    pub start: u64,
    /// The end of the window.
    pub end: u64,
    /// `OK`, `NODATA` or `SKIPDATA`.
    pub status: Status,
}

/// A record's flow, with its counts and action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedFlow {
    pub tuple: Flow,
    /// Packets and bytes.
    pub count: Count,
    /// Whether they passed.
    pub action: Action,
}

/// `log-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Nothing happened.
    NoData,
    /// Something was lost.
    SkipData,
}

impl FromStr for Record {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        parse(line).with_context(|| format!("this is no flow record: `{line}`"))
    }
}

/// Joins the records of successive processes, each of which but the last was killed. If a process is killed while it
/// writes a window, or before it could note that it has, the next process writes that window again.
pub fn join_runs(runs: impl IntoIterator<Item = Vec<Record>>) -> Vec<Record> {
    let window = |record: &Record| (record.start, record.end);
    let mut joined: Vec<Record> = Vec::new();
    for run in runs {
        let again = joined
            .last()
            .map(window)
            .filter(|last| run.first().map(window) == Some(*last));
        let written: Vec<_> = joined
            .iter()
            .filter(|record| again == Some(window(record)))
            .cloned()
            .collect();
        joined.extend(run.into_iter().filter(|record| !written.contains(record)));
    }
    joined
}

fn parse(line: &str) -> Result<Record> {
    let fields: Vec<&str> = line.split(' ').collect();
    let number = fields.len();
    let Ok(fields) = <[&str; 14]>::try_from(fields) else {
        bail!("it has {number} fields and not fourteen");
    };
    let [
        version,
        account,
        eni,
        source,
        destination,
        source_port,
        destination_port,
        protocol,
        packets,
        bytes,
        start,
        end,
        action,
        status,
    ] = fields;
    ensure!(version == "2", "its version is `{version}`");
    ensure!(
        account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit()),
        "`{account}` is no account"
    );
    let id = eni.strip_prefix("eni-").unwrap_or_default();
    ensure!(
        id.len() == 17
            && id
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)),
        "`{eni}` is no ENI"
    );
    let start = canonical("start", start)?;
    let end = canonical("end", end)?;
    ensure!(start <= end, "it ends before it starts");
    let (account, eni) = (account.to_owned(), eni.to_owned());
    let status = match status {
        "OK" => Status::Ok,
        "NODATA" => Status::NoData,
        "SKIPDATA" => Status::SkipData,
        other => bail!("`{other}` is no log status"),
    };
    let flow = if status == Status::Ok {
        let source = SocketAddr::new(
            canonical::<IpAddr>("srcaddr", source)?,
            canonical("srcport", source_port)?,
        );
        let destination = SocketAddr::new(
            canonical::<IpAddr>("dstaddr", destination)?,
            canonical("dstport", destination_port)?,
        );
        ensure!(
            source.is_ipv4() == destination.is_ipv4(),
            "its addresses are of two families"
        );
        let count = Count::new(canonical("packets", packets)?, canonical("bytes", bytes)?);
        let header = if source.is_ipv4() { 20 } else { 40 };
        ensure!(count.packets > 0, "it counts no packet");
        ensure!(
            count.bytes >= header * count.packets,
            "its packets are shorter than their headers"
        );
        let action = match action {
            "ACCEPT" => Action::Accept,
            "REJECT" => Action::Reject,
            other => bail!("`{other}` is no action"),
        };
        let protocol = canonical("protocol", protocol)?;
        let tuple = Flow {
            source,
            destination,
            protocol,
        };
        let has_ports = matches!(protocol, 6 | 17);
        ensure!(
            has_ports || source.port() == 0 && destination.port() == 0,
            "protocol {protocol} has no ports"
        );
        Some(RecordedFlow { tuple, count, action })
    } else {
        let dashes = [
            source,
            destination,
            source_port,
            destination_port,
            protocol,
            packets,
            bytes,
            action,
        ];
        ensure!(
            dashes.iter().all(|field| *field == "-"),
            "it is no flow, so seven fields and the action are `-`"
        );
        None
    };
    Ok(Record {
        account,
        eni,
        flow,
        start,
        end,
        status,
    })
}

/// Parses a value in its canonical form: no sign, no leading zero, IPv6 as in RFC 5952.
fn canonical<T: FromStr + Display>(field: &str, text: &str) -> Result<T> {
    match text.parse::<T>() {
        Ok(value) if value.to_string() == text => Ok(value),
        _ => bail!("`{field}` is `{text}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "2 111122223333 eni-0123456789abcdef0 10.0.1.5 10.0.1.20 49152 443 6 12 3480 1767225600 1767225658 ACCEPT OK";

    #[test]
    fn a_window_that_is_written_again_counts_once() -> Result<()> {
        let record = |port: u16, start: u64| -> Result<Record> {
            let line = GOOD.replace("49152", &port.to_string());
            let line = line.replace("1767225600 1767225658", &format!("{start} {}", start + 1));
            line.parse()
        };
        let first = vec![record(1, 10)?, record(1, 11)?, record(2, 11)?];
        // The whole window again, of which the killed process had written a part.
        let second = vec![record(1, 11)?, record(2, 11)?, record(3, 11)?, record(1, 12)?];
        let third = vec![record(1, 13)?];
        let joined = join_runs([first.clone(), second.clone(), Vec::new(), third.clone()]);
        assert_eq!(joined, [&first[..], &second[2..], &third[..]].concat());
        Ok(())
    }

    #[test]
    fn good_lines_are_read() -> Result<()> {
        let record: Record = GOOD.parse()?;
        let expected = Record {
            account: "111122223333".into(),
            eni: "eni-0123456789abcdef0".into(),
            flow: Some(RecordedFlow {
                tuple: Flow::tcp("10.0.1.5:49152".parse()?, "10.0.1.20:443".parse()?),
                count: Count::new(12, 3480),
                action: Action::Accept,
            }),
            start: 1_767_225_600,
            end: 1_767_225_658,
            status: Status::Ok,
        };
        assert_eq!(record, expected);
        for status in ["NODATA", "SKIPDATA"] {
            let line = format!("2 111122223333 eni-0123456789abcdef0 - - - - - - - 1767225660 1767225718 - {status}");
            assert_eq!(line.parse::<Record>()?.flow, None);
        }
        for good in [
            "2 000000000000 eni-0123456789abcdef0 fd00::1 fd00::2 0 0 58 1 104 0 60 REJECT OK",
            "2 000000000000 eni-0123456789abcdef0 10.0.0.1 10.0.0.2 0 0 50 2 40 60 60 REJECT OK",
        ] {
            good.parse::<Record>()?;
        }
        Ok(())
    }

    #[test]
    fn anything_else_is_refused() {
        for (from, to) in [
            ("2 111122223333", "3 111122223333"),
            ("2 111122223333", "2  111122223333"),
            ("2 111122223333", " 2 111122223333"),
            ("111122223333", "1111222233"),
            ("eni-0123456789abcdef0", "eni-0123456789ABCDEF0"),
            ("eni-0123456789abcdef0", "i-0123456789abcdef0"),
            ("eni-0123456789abcdef0", "-"),
            ("10.0.1.5", "10.0.1.05"),
            ("10.0.1.5", "10.0.1.5/32"),
            ("10.0.1.5", "::ffff:10.0.1.5"),
            ("10.0.1.5", "fd00::1"),
            ("10.0.1.5", "-"),
            ("49152", "49152.0"),
            ("49152", "65536"),
            (" 443 ", " 0443 "),
            (" 6 ", " tcp "),
            (" 6 ", " 256 "),
            (" 6 ", " 1 "),
            (" 12 ", " 0 "),
            (" 12 ", " +12 "),
            (" 3480 ", " 239 "),
            ("1767225658", "1767225599"),
            ("1767225658", "1767225658.5"),
            ("ACCEPT", "accept"),
            ("ACCEPT", "-"),
            ("ACCEPT OK", "ACCEPT ok"),
            ("ACCEPT OK", "ACCEPT NODATA"),
            ("ACCEPT OK", "ACCEPT OK "),
            ("ACCEPT OK", "ACCEPT OK -"),
            ("ACCEPT OK", "ACCEPT"),
        ] {
            let line = GOOD.replacen(from, to, 1);
            assert_ne!(line, GOOD, "`{from}` is not there");
            assert!(line.parse::<Record>().is_err(), "`{line}` was taken");
        }
    }
}
