//! From a folder of files to a [`Model`]: AWS CLI output as it is printed, and the native form, in JSON or YAML.
//!
//! Files are told apart by their top-level keys. Reading goes in two steps: each form turns its part of a file into
//! raw objects that know their place (`aws`, `native`), then all objects together are compared, joined and checked
//! (`resolve`). Errors do not end the reading: everything that is wrong is shown at once, and a configuration with
//! an error is refused whole.
//!
//! Rules are named by their `sgr-` id where a file holds it. Others are named `NAME/ingress/N` or `NAME/egress/N`: in
//! the native form N counts the entries of the list, from 1; in AWS permissions, which merge the peers of one port
//! range, N counts the peers, from 1, in the order of the file.
//!
//! An address belongs to one ENI. Two gated ENIs with one address are refused, and so are two ENIs with one address and
//! different groups; where the groups are the same, the gated one keeps the address, or the one read first.

mod aws;
mod native;
mod node;
mod object;
mod problem;
mod raw;
mod resolve;
mod value;

use std::path::{Path, PathBuf};

use crate::model::Model;

pub use problem::{Problem, Problems};
pub use value::derived_id;

use node::{Node, Value};
use object::{Object, all};
use problem::Report;
use raw::Collected;

/// The key that the AWS CLI leaves in a list that goes on elsewhere.
const CUT: &str = "NextToken";

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What it says.
    pub model: Model,
    /// What deserves a look, in the order of files and lines.
    pub warnings: Vec<Problem>,
    /// The files that were read, by their names as the reader knows them, in the order of reading.
    pub files: Vec<String>,
}

/// Reads the `*.json`, `*.yaml` and `*.yml` of a folder in the order of their names, not recursively and without
/// dot-files.
///
/// # Errors
///
/// Everything that is wrong with the folder, its files and what they say.
pub fn load(folder: &Path) -> Result<Loaded, Problems> {
    let mut report = Report::default();
    let mut all = Collected::default();
    let paths = match files(folder) {
        Ok(paths) => paths,
        Err(error) => {
            let spot = report.file(folder.display().to_string());
            report.error(
                spot,
                format!("the folder cannot be read: {error}"),
                "name another one with `--config`",
            );
            Vec::new()
        }
    };
    if paths.is_empty() && report.errors() == 0 {
        let spot = report.file(folder.display().to_string());
        let hint = "put AWS CLI output or a native file into it";
        report.error(spot, "the folder holds no `.json`, `.yaml` or `.yml` file", hint);
    }
    for path in paths {
        let file = report.file(path.display().to_string());
        match read_bytes(&path).map(String::from_utf8) {
            Ok(Ok(text)) => read_file(file, &text, &mut all, &mut report),
            Ok(Err(error)) => {
                let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
                let spot = node::end_of(file, &valid);
                report.error(spot, "what stands here is not UTF-8", "save the file as UTF-8");
                report.objects_lost = true;
            }
            Err(error) => {
                report.error(
                    file,
                    format!("the file cannot be read: {error}"),
                    "make it readable, or take it away",
                );
                report.objects_lost = true;
            }
        }
    }
    finish(all, report)
}

/// Reads files that are already in memory, in the order given: each a name, as it is shown in messages, and its text.
///
/// # Errors
///
/// Everything that is wrong with what they say.
pub fn read(files: &[(&str, &str)]) -> Result<Loaded, Problems> {
    let mut report = Report::default();
    let mut all = Collected::default();
    for (name, text) in files {
        let file = report.file(*name);
        read_file(file, text, &mut all, &mut report);
    }
    finish(all, report)
}

fn finish(all: Collected, mut report: Report) -> Result<Loaded, Problems> {
    let model = resolve::model(all, &mut report);
    let (warnings, files) = report.finish()?;
    Ok(Loaded { model, warnings, files })
}

/// A file's bytes. A pipe without a writer would never end.
fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    if std::fs::metadata(path)?.is_file() {
        std::fs::read(path)
    } else {
        Err(std::io::Error::other("it is a pipe, a socket or a device"))
    }
}

/// The files of a folder that are read, in the order of their names.
fn files(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let known = path
            .extension()
            .is_some_and(|end| end == "json" || end == "yaml" || end == "yml");
        // A link that leads nowhere stays in: reading it says so.
        let folder = std::fs::metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        if known && !hidden && !folder {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Reads one file: every key that is known.
fn read_file(file: problem::Spot, text: &str, collected: &mut Collected, report: &mut Report) {
    let Some(root) = node::parse(file, text, report) else {
        report.objects_lost = true;
        return;
    };
    let Some(top) = Object::of(&root, "the file", report) else {
        report.objects_lost = true;
        return;
    };
    if let Some(token) = top.entry(CUT) {
        let hint = "print it again without `--max-items` and `--no-paginate`";
        report.error(token.spot, format!("the list is cut: there is a `{CUT}`"), hint);
        report.objects_lost = true;
        report.rules_lost = true;
    }
    let mut known = false;
    for (key, read) in aws::KEYS {
        if let Some(entry) = top.entry(key) {
            known = true;
            read(&entry.value, collected, report);
        }
    }
    if top.has(native::HEADER) {
        let known = |key: &str| {
            let aws = aws::KEYS.iter().any(|(aws, _)| *aws == key);
            aws || native::KEYS.contains(&key) || key == native::HEADER || key == CUT
        };
        for entry in top.entries.iter().filter(|entry| !known(&entry.key)) {
            let hint = format!(
                "its keys are {}, and those of the AWS CLI",
                all(native::KEYS.into_iter())
            );
            report.error(entry.spot, format!("the native form has no key `{}`", entry.key), hint);
        }
        native::read(&top, collected, report);
    } else if !not_read_yet(&top, report) && !known {
        unknown(&top, report);
    }
}

/// Forms that are known and not read yet. What only flow records would show is passed over with a warning; what holds
/// rules is refused.
fn not_read_yet(top: &Object<'_>, report: &mut Report) -> bool {
    let ecs = |node: &Node| match &node.value {
        Value::List(tasks) => tasks.iter().any(|task| match &task.value {
            Value::Map(entries) => entries.iter().any(|entry| entry.key == "taskArn"),
            _ => false,
        }),
        _ => false,
    };
    let hint = "take the file out of the folder";
    if let Some(tasks) = top.entry("tasks").filter(|entry| ecs(&entry.value)) {
        report.warn(
            tasks.spot,
            "`tasks`, the output of `aws ecs describe-tasks`, is not read yet, so no flow record has ECS fields",
            "it may stay: nothing else depends on it",
        );
        return true;
    }
    if let Some(version) = top.entry("terraform_version")
        && (top.has("values") || top.has("planned_values"))
    {
        report.error(
            version.spot,
            "reading the output of `terraform show -json` is not built yet",
            hint,
        );
        report.objects_lost = true;
        return true;
    }
    false
}

/// A file of which nothing is known: the error names what would be.
fn unknown(top: &Object<'_>, report: &mut Report) {
    report.objects_lost = true;
    let own = top
        .entries
        .iter()
        .find(|entry| native::KEYS.contains(&entry.key.as_str()));
    if let Some(entry) = own {
        let message = format!("`{}` belongs to the native form, and `taskgate` is missing", entry.key);
        report.error(entry.spot, message, "write `taskgate: v1` at the top");
        return;
    }
    let known = aws::KEYS.iter().map(|(key, _)| *key).chain([native::HEADER]);
    report.error(
        top.spot,
        "the file has no key that taskgate knows",
        format!("known are {}", all(known)),
    );
}
