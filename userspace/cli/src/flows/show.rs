//! Records as people and programs read them.

use std::{fmt::Write as _, net::SocketAddr};

use jiff::Timestamp;
use serde_json::{Map, Value};
use taskgate_analysis::{
    display::protocol_word,
    flows::{Side, StoredRecord},
};
use taskgate_ebpf::wire::{TCP, UDP};
use taskgate_model::{RecordField, RecordFormat};

use super::super::output::{BAD, GOOD, UNSURE};

/// The time of a record's end, in UTC.
fn time(record: &StoredRecord) -> String {
    let seconds = record.number(RecordField::End).and_then(|end| i64::try_from(end).ok());
    let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| String::from("-"), |time| time.to_string())
}

/// `web-1(web):49152`, or the address where the task is not known.
fn end(record: &StoredRecord, side: Side) -> String {
    let has_ports = matches!(record.protocol(), Some(TCP | UDP));
    let port = record.port(side).filter(|_| has_ports);
    let groups = record.groups(side);
    let Some(task) = record.task(side) else {
        return match (record.address(side), port) {
            (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
            (Some(address), None) => address.to_string(),
            (None, _) => String::from("-"),
        };
    };
    let mut text = task.to_owned();
    if let Some(group) = groups.first() {
        write!(text, "({group})").ok();
    }
    if let Some(port) = port {
        write!(text, ":{port}").ok();
    }
    text
}

fn protocol(record: &StoredRecord) -> String {
    record.protocol().map_or_else(|| String::from("-"), protocol_word)
}

/// What decided: the rule, or the reasons.
fn cause(record: &StoredRecord) -> String {
    if let Some(rule) = record.get(RecordField::TaskgateRule) {
        let group = record
            .get(RecordField::TaskgateGroup)
            .or_else(|| record.get(RecordField::TaskgateGroupId));
        return match group {
            // Native rules are named after their groups.
            Some(group) if !rule.starts_with(&format!("{group}/")) => format!("by {group}/{rule}"),
            _ => format!("by {rule}"),
        };
    }
    record.reasons().collect::<Vec<_>>().join(", ")
}

fn of(record: &StoredRecord, field: RecordField) -> &str {
    record.get(field).unwrap_or("-")
}

/// A line: time, verdict, direction, both ends, protocol, packets and bytes, and what decided. For [`output::styled`].
///
/// [`output::styled`]: super::super::output::styled
pub(super) fn compact(record: &StoredRecord) -> String {
    if !record.is_flow() {
        let who = record
            .get(RecordField::TaskgateTask)
            .unwrap_or(of(record, RecordField::InterfaceId));
        let status = of(record, RecordField::LogStatus);
        return format!("{} {UNSURE}{status}{UNSURE:#} {who}\n", time(record));
    }
    let verdict = of(record, RecordField::Action);
    let style = if verdict == "ACCEPT" { GOOD } else { BAD };
    let mut line = format!(
        "{} {style}{verdict}{style:#} {:<7} {} → {} {} {}/{}",
        time(record),
        of(record, RecordField::FlowDirection),
        end(record, Side::From),
        end(record, Side::To),
        protocol(record),
        of(record, RecordField::Packets),
        of(record, RecordField::Bytes),
    );
    let cause = cause(record);
    if !cause.is_empty() {
        write!(line, " {cause}").ok();
    }
    line.push('\n');
    line
}

/// Columns as wide as most need: rows are shown before the last ones are known.
fn columns([time, verdict, direction, from, to, protocol, packets, bytes, cause]: [&str; 9]) -> String {
    let line = format!(
        "{time:<20}  {verdict:<8}  {direction:<9}  {from:<28}  {to:<28}  {protocol:<8}  {packets:>8}  {bytes:>10}  {cause}"
    );
    format!("{}\n", line.trim_end())
}

/// The heading of [`row`].
pub(super) fn heading() -> String {
    columns([
        "TIME",
        "VERDICT",
        "DIRECTION",
        "FROM",
        "TO",
        "PROTOCOL",
        "PACKETS",
        "BYTES",
        "CAUSE",
    ])
}

/// A row of a table.
pub(super) fn row(record: &StoredRecord) -> String {
    if !record.is_flow() {
        let who = record
            .get(RecordField::TaskgateTask)
            .unwrap_or(of(record, RecordField::InterfaceId));
        return columns([
            &time(record),
            of(record, RecordField::LogStatus),
            "",
            who,
            "",
            "",
            "",
            "",
            "",
        ]);
    }
    columns([
        &time(record),
        of(record, RecordField::Action),
        of(record, RecordField::FlowDirection),
        &end(record, Side::From),
        &end(record, Side::To),
        &protocol(record),
        of(record, RecordField::Packets),
        of(record, RecordField::Bytes),
        &cause(record),
    ])
}

/// An object of JSON with every value that the record has, by the field's name.
pub(super) fn json(record: &StoredRecord) -> String {
    let mut object = Map::new();
    for (field, value) in record.values() {
        let value = match field {
            RecordField::TaskgatePeerGroups => {
                let names = record.peer_groups();
                Value::Array(names.into_iter().map(|name| Value::String(name.into_owned())).collect())
            }
            RecordField::TaskgateSameHost => Value::Bool(value == "true"),
            field if is_number(field) => value
                .parse::<u64>()
                .map_or_else(|_error| Value::String(value.to_owned()), Value::from),
            _ => Value::String(value.to_owned()),
        };
        object.insert(field.name().to_owned(), value);
    }
    format!("{}\n", Value::Object(object))
}

const fn is_number(field: RecordField) -> bool {
    matches!(
        field,
        RecordField::Version
            | RecordField::SrcPort
            | RecordField::DstPort
            | RecordField::Protocol
            | RecordField::Packets
            | RecordField::Bytes
            | RecordField::Start
            | RecordField::End
            | RecordField::TcpFlags
            | RecordField::TrafficPath
            | RecordField::TaskgateGeneration
    )
}

/// A line in a format of VPC Flow Logs. A value with a space would be two words, so it is encoded.
pub(super) fn words(record: &StoredRecord, format: &RecordFormat) -> String {
    let fields = format.fields();
    let word = |field: &RecordField| match field {
        RecordField::Version => format.version().to_string(),
        field => of(record, *field).replace(' ', "%20"),
    };
    let words: Vec<String> = fields.iter().map(word).collect();
    format!("{}\n", words.join(" "))
}
