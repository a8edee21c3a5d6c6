//! The native `flow-logs`.

use std::path::{Component, Path, PathBuf};

use taskgate_model::{Destination, FlowLog, LogFile, LogFolder, RecordFormat, Rotate, Traffic};

use super::super::node::{Node, Value};
use super::super::object::{Object, items, text};
use super::super::problem::{Diagnostic, Diagnostics};
use super::super::raw::RawFlowLog;
use super::super::value;

/// The keys of every flow log.
const COMMON: [&str; 6] = ["destination", "format", "traffic", "tasks", "interval", "nodata"];
/// The default number of earlier files that are kept.
const KEEP: u32 = 7;

/// Reads `flow-logs`.
pub(super) fn read(node: &Node, found: &mut Vec<RawFlowLog>, report: &mut Diagnostics) {
    let list = items(node, "flow-logs", report);
    if list.is_empty() && matches!(node.value, Value::List(_)) {
        let hint = "name a destination, or leave `flow-logs` out for standard output";
        report.error(node.location, "`flow-logs` is empty", hint);
    }
    for item in list {
        let log = Object::of(item, "a flow log", report).and_then(|object| flow_log(&object, report));
        found.extend(log.map(|log| RawFlowLog {
            log,
            location: item.location,
        }));
    }
}

fn flow_log(object: &Object<'_>, report: &mut Diagnostics) -> Option<FlowLog> {
    let default = FlowLog::default();
    let traffic = [
        ("ALL", Traffic::All),
        ("ACCEPT", Traffic::Accept),
        ("REJECT", Traffic::Reject),
    ];
    let destination = destination(object, report);
    let format = object.value("format", report, |text| {
        RecordFormat::parse(text).map_err(|error| Diagnostic::new(error.to_string(), error.hint()))
    });
    let log = FlowLog {
        format: format.unwrap_or_default(),
        destination: destination.clone().unwrap_or(default.destination),
        traffic: object.word("traffic", &traffic, report).unwrap_or(default.traffic),
        tasks: tasks(object, report),
        interval: object.number("interval", 1..=600, report).unwrap_or(default.interval),
        nodata: object.boolean("nodata", report).unwrap_or(default.nodata),
    };
    destination.map(|_| log)
}

fn built(key: &str, built: &str, text: &str) -> Result<(), Diagnostic> {
    let fault = || {
        Diagnostic::new(
            format!("the {key} `{text}` is not built yet"),
            format!("write `{built}`"),
        )
    };
    if text == built { Ok(()) } else { Err(fault()) }
}

fn tasks(object: &Object<'_>, report: &mut Diagnostics) -> Vec<String> {
    let list = object.items("tasks", report);
    if let (Some(node), []) = (object.get("tasks"), list)
        && matches!(node.value, Value::List(_))
    {
        report.error(
            node.location,
            "`tasks` is empty",
            "name tasks, or leave it out for all of them",
        );
    }
    let mut names: Vec<String> = Vec::new();
    for item in list {
        let name = text(item, "tasks", report).map(value::task_name);
        let name = name.and_then(|name| report.take(item.location, name));
        names.extend(name.map(|name| name.to_lowercase()));
    }
    names.sort();
    names.dedup();
    names
}

fn destination(object: &Object<'_>, report: &mut Diagnostics) -> Option<Destination> {
    /// A kind of destination, with its keys in addition to [`COMMON`].
    type Kind = (
        &'static [&'static str],
        fn(&Object<'_>, &mut Diagnostics) -> Option<Destination>,
    );
    let kinds: [(&str, Kind); 3] = [
        ("stdout", (&[], |_, _| Some(Destination::Stdout))),
        ("file", (&["path", "rotate"], file)),
        (
            "s3",
            (
                &[
                    "url",
                    "file-format",
                    "hive-partitions",
                    "hourly-partitions",
                    "region",
                    "account",
                    "endpoint",
                ],
                folder,
            ),
        ),
    ];
    object.required("destination", "write `stdout`, `file` or `s3`", report)?;
    let (keys, read) = object.value("destination", report, |text| {
        let kind = kinds.iter().find(|(name, _)| *name == text).map(|(_, kind)| *kind);
        kind.ok_or_else(|| {
            let message = if text == "otlp" {
                String::from("the destination `otlp` is not built yet")
            } else {
                format!("`{text}` is no destination")
            };
            Diagnostic::new(message, "write `stdout`, `file` or `s3`")
        })
    })?;
    object.only(&[&COMMON, keys].concat(), report);
    read(object, report)
}

fn file(object: &Object<'_>, report: &mut Diagnostics) -> Option<Destination> {
    let hint = "write the file's whole path, such as `/var/log/taskgate/flows.log`";
    let path = object.required_value("path", hint, report, |text| path(text, hint))?;
    let rotate = match object.get("rotate") {
        None => None,
        Some(node) => Some(rotate(&Object::of(node, "`rotate`", report)?, report)?),
    };
    Some(Destination::File(LogFile { path, rotate }))
}

fn rotate(object: &Object<'_>, report: &mut Diagnostics) -> Option<Rotate> {
    object.only(&["size", "age", "keep"], report);
    if object.get("size").is_none() && object.get("age").is_none() {
        let hint = "write `size`, `age` or both, such as `{ size: 100MiB, age: 1d, keep: 7 }`";
        report.error(object.location, "`rotate` has neither `size` nor `age`", hint);
        return None;
    }
    Some(Rotate {
        size: object.value("size", report, size),
        age: object.value("age", report, age),
        keep: object.number("keep", 1..=1000, report).unwrap_or(KEEP),
    })
}

fn folder(object: &Object<'_>, report: &mut Diagnostics) -> Option<Destination> {
    if let Some(node) = object.get("endpoint") {
        let hint = "leave `endpoint` out, and write `url: file:///…`: a folder";
        report.error(
            node.location,
            "buckets, and with them `endpoint`, are not built yet",
            hint,
        );
    }
    object.value("file-format", report, |text| built("file-format", "plain-text", text));
    let hint = "write `file:///` and the folder's whole path, such as `file:///var/log/taskgate`";
    let read = object.required_value("url", hint, report, |text| match text.split_once("://") {
        Some(("s3", _)) => Err(Diagnostic::new(
            format!("`{text}` is a bucket, which is not built yet"),
            hint,
        )),
        Some(("file", folder)) => Ok((path(folder, hint)?, value::derived_id("fl", text))),
        _ => Err(Diagnostic::new(format!("`{text}` is no folder's URL"), hint)),
    });
    let (path, id) = read?;
    let flag = |key, report: &mut Diagnostics| object.boolean(key, report).unwrap_or_default();
    Some(Destination::Folder(LogFolder {
        path,
        id,
        account: object.value("account", report, value::account).unwrap_or_default(),
        region: object
            .value("region", report, region)
            .unwrap_or_else(|| String::from("local")),
        hive_partitions: flag("hive-partitions", report),
        hourly_partitions: flag("hourly-partitions", report),
    }))
}

/// An absolute path of a file or folder.
fn path(text: &str, hint: &str) -> Result<PathBuf, Diagnostic> {
    let path = Path::new(text);
    let fault = |what| Err(Diagnostic::new(format!("`{text}` {what}"), hint));
    if !path.is_absolute() {
        return fault("is no whole path");
    }
    if text.chars().any(char::is_control) || path.components().any(|part| part == Component::ParentDir) {
        return fault("has `..` or control characters in it");
    }
    if path.file_name().is_none() {
        return fault("names no file or folder");
    }
    Ok(path.components().collect())
}

/// A region: 1 to 32 lower-case letters, digits and `-`, since it becomes part of paths.
fn region(text: &str) -> Result<String, Diagnostic> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text.to_owned());
    }
    Err(Diagnostic::new(
        format!("`{text}` is no region"),
        "write one such as `eu-west-1`: lower-case letters, digits and `-`",
    ))
}

/// A number followed by one of these units.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// A size in bytes.
fn size(text: &str) -> Result<u64, Diagnostic> {
    let units = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let size = with_unit(text, &units).filter(|size| (4 << 10..=1 << 40).contains(size));
    size.ok_or_else(|| {
        Diagnostic::new(
            format!("`size` is `{text}`"),
            "write one such as `100MiB`, from 4KiB to 1024GiB, with KiB, MiB or GiB",
        )
    })
}

/// An age in seconds.
fn age(text: &str) -> Result<u64, Diagnostic> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let age = with_unit(text, &units).filter(|age| (60..=3_650 * 86_400).contains(age));
    age.ok_or_else(|| {
        Diagnostic::new(
            format!("`age` is `{text}`"),
            "write one such as `1d`, from 1m to 3650d, with s, m, h or d",
        )
    })
}
