//! `PrefixLists` and `Entries`: the heads of prefix lists, and what is in them.

use std::path::Path;

use super::super::node::Node;
use super::super::object::{Object, items};
use super::super::problem::Report;
use super::super::raw::RawPrefixList;
use super::super::value;
use super::{AS_PRINTED, id};

/// Reads one list's head.
pub(super) fn read(list: &Object<'_>, report: &mut Report) -> Option<RawPrefixList> {
    let id = id(list, "PrefixListId", report)?;
    let before = report.errors();
    Some(RawPrefixList {
        id,
        name: list.text("PrefixListName", report).map(str::to_owned),
        max_entries: list.number("MaxEntries", 0..=u32::MAX, report),
        entries: None,
        spot: list.spot,
        partial: report.errors() > before,
    })
}

/// Reads `Entries`: the list that they belong to stands only in the file's name.
pub(super) fn read_entries(node: &Node, report: &mut Report) -> Option<RawPrefixList> {
    let before = report.errors();
    let stem = Path::new(report.file_name(node.spot))
        .file_stem()
        .map(|stem| stem.to_string_lossy().into_owned());
    let Ok(id) = value::id(&stem.unwrap_or_default(), "pl-") else {
        let hint = "name the file after the list: `pl-….json`";
        report.error(
            node.spot,
            "`Entries` does not say which prefix list it belongs to",
            hint,
        );
        report.objects_lost = true;
        return None;
    };
    let mut entries = Vec::new();
    for item in items(node, "Entries", report) {
        let Some(entry) = Object::of(item, "an entry", report) else {
            continue;
        };
        if entry.required("Cidr", AS_PRINTED, report).is_none() {
            continue;
        }
        if let Some(net) = entry.value("Cidr", report, value::cidr)
            && !entries.contains(&net)
        {
            entries.push(net);
        }
    }
    let partial = report.errors() > before;
    Some(RawPrefixList {
        id,
        name: None,
        max_entries: None,
        entries: Some(entries),
        spot: node.spot,
        partial,
    })
}
