//! Reads a folder of files into a [`Model`]: AWS CLI output as printed, and the native form, in JSON or YAML.
//!
//! Files are recognised by their top-level keys. Reading has two steps: each form converts its part of a file to raw objects
//! with their places (`aws`, `native`), then all objects together are compared, joined and checked (`resolve`). Errors do
//! not stop the reading: all of them are reported at once, and a configuration with an error is refused as a whole.
//!
//! Rules are named by their `sgr-` id if a file has it. Others are named `NAME/ingress/N` or `NAME/egress/N`: in the native
//! form N counts the entries of the list, from 1; in AWS permissions, which merge the peers of one port range, N counts the
//! peers, from 1, in the order of the file.
//!
//! Within one VPC, or if a VPC is unknown, an address belongs to one ENI: two ENIs with one address and different groups are
//! refused; with the same groups, the gated ENI keeps the address, or else the first one read. Address ranges of different
//! VPCs may overlap. Two gated ENIs with one address are always refused.

mod aws;
mod bounds;
mod content;
mod distinct;
mod document;
mod folder;
mod json;
mod native;
mod node;
mod object;
mod problem;
mod raw;
mod recognise;
mod resolve;
mod sources;
mod value;
mod yaml;

use std::path::Path;

pub use problem::{Problem, Problems, count_problems};
pub use sources::Sources;
pub use value::derived_id;

use problem::{Diagnostics, Location};
use raw::Collected;
use taskgate_model::Model;

/// A valid configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The model.
    pub model: Model,
    /// Warnings, in the order of files and lines.
    pub warnings: Vec<Problem>,
    /// The files that were read, under the names given to the reader, in the order of reading.
    pub files: Vec<String>,
}

/// Reads the files `*.json`, `*.yaml` and `*.yml` of a folder, sorted by name, without subfolders and dot-files.
///
/// # Errors
///
/// All errors in the folder, in its files and in their contents.
pub fn load(folder: &Path) -> Result<Loaded, Problems> {
    Sources::open(folder).resolve()
}

/// Reads files that are already in memory, in the given order: each one a name for messages, and its text.
///
/// # Errors
///
/// All errors in their contents.
pub fn read(files: &[(&str, &str)]) -> Result<Loaded, Problems> {
    Sources::of(files).resolve()
}

/// Reads one file.
fn read_file(file: Location, text: &str, collected: &mut Collected, report: &mut Diagnostics) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let values = bounds::VALUES - collected.values;
    match json::outline(file, text, values) {
        Ok(outline) => {
            collected.values += outline.values;
            document::read_json(&outline, collected, report);
        }
        Err(json::Unread::NotJson) => read_yaml(file, text, values, collected, report),
        Err(json::Unread::Second(location)) => report.second_document(location),
        Err(json::Unread::Beyond(location, message, hint)) => {
            report.error(location, message, hint);
            report.objects_lost = true;
        }
    }
}

fn read_yaml(file: Location, text: &str, values: usize, collected: &mut Collected, report: &mut Diagnostics) {
    if let Some((message, hint)) = recognise::text(text) {
        report.error(file, message, hint);
        report.objects_lost = true;
    } else if let Some((root, values)) = yaml::parse(file, text, values, report) {
        collected.values += values;
        document::read_tree(&root, collected, report);
    } else {
        report.objects_lost = true;
    }
}
