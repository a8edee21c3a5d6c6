//! The native form, `taskgate: v1`. Unknown keys are errors.

mod flow_logs;
mod groups;
mod settings;
mod tasks;

use super::distinct::Distinct;
use super::node::{Node, Value};
use super::object::{Object, items, text};
use super::problem::{Diagnostics, Location};
use super::raw::{Collected, RawPrefixList, Reference, Section};
use super::value;

/// The key that makes a file native, and its only value so far.
pub(super) const HEADER: &str = "taskgate";
const VERSION: &str = "v1";

/// The top-level keys, [`HEADER`] excepted.
pub(super) const KEYS: [&str; 9] = [
    "account",
    "groups",
    "prefix-lists",
    "tasks",
    "members",
    "uplink",
    "settings",
    "flow-logs",
    "metrics",
];

/// Reads the native keys of a file that has the [`HEADER`].
pub(super) fn read(file: &Object<'_>, all: &mut Collected, report: &mut Diagnostics) {
    match file.required_text(HEADER, "write `taskgate: v1`", report) {
        Some(VERSION) => {}
        Some(other) => {
            let location = file.get(HEADER).map_or(file.location, |node| node.location);
            let message = format!("the native form `{other}` is not known");
            report.error(location, message, format!("write `{HEADER}: {VERSION}`"));
            report.objects_lost = true;
            return;
        }
        None => {
            report.objects_lost = true;
            return;
        }
    }
    if let Some(account) = file.value("account", report, value::account) {
        all.accounts.push(section("account", account, file));
    }
    each(file, "groups", "a group", report, |object, report| {
        all.groups.extend(groups::read(object, report));
    });
    each(file, "prefix-lists", "a prefix list", report, |object, report| {
        all.prefix_lists.extend(prefix_list(object, report));
    });
    each(file, "tasks", "a task", report, |object, report| {
        all.tasks.extend(tasks::read(object, report));
    });
    each(file, "members", "a member", report, |object, report| {
        all.members.extend(tasks::read_member(object, report));
    });
    if let Some(node) = file.get("uplink") {
        all.uplinks
            .extend(settings::uplink(node, report).map(|uplink| section("uplink", uplink, file)));
    }
    if let Some(node) = file.get("settings") {
        all.settings
            .extend(settings::read(node, report).map(|settings| section("settings", settings, file)));
    }
    if let Some(node) = file.get("metrics") {
        all.metrics
            .extend(settings::metrics(node, report).map(|listen| section("metrics", listen, file)));
    }
    if let Some(node) = file.get("flow-logs") {
        flow_logs::read(node, &mut all.flow_logs, report);
    }
}

/// A section of the native form, with the place of its key.
fn section<T>(key: &'static str, value: T, file: &Object<'_>) -> Section<T> {
    Section {
        key,
        value,
        location: file.entry(key).map_or(file.location, |entry| entry.location),
    }
}

/// Reads every object of a list. Once an object could not be read, unknown references are not reported.
fn each(
    file: &Object<'_>,
    key: &str,
    what: &'static str,
    report: &mut Diagnostics,
    mut read: impl FnMut(&Object<'_>, &mut Diagnostics),
) {
    for item in file.items(key, report) {
        if !report.another_object(item.location) {
            return;
        }
        match Object::of(item, what, report) {
            Some(object) => read(&object, report),
            None => report.objects_lost = true,
        }
    }
}

/// The name and id of a group or prefix list: the given id, or the derived one. `kind` is `sg` or `pl`.
fn identity(object: &Object<'_>, kind: &str, report: &mut Diagnostics) -> Option<(String, String)> {
    let prefix = format!("{kind}-");
    let name = object.required_value("name", "give it a name", report, |text| value::name(text, &prefix));
    let given = object.get("id").is_some();
    let id = object.value("id", report, |text| value::id(text, &prefix));
    let identity = match (name, id) {
        (Some(name), Some(id)) => Some((name, id)),
        (Some(name), None) if !given => {
            let id = value::derived_id(kind, &name);
            Some((name, id))
        }
        _ => None,
    };
    report.objects_lost |= identity.is_none();
    identity
}

fn prefix_list(list: &Object<'_>, report: &mut Diagnostics) -> Option<RawPrefixList> {
    list.only(&["name", "id", "entries"], report);
    let (name, id) = identity(list, "pl", report)?;
    let before = report.errors();
    let mut entries = Distinct::default();
    if list
        .required("entries", "list its CIDRs, or write `entries: []`", report)
        .is_some()
    {
        for node in list.items("entries", report) {
            let net = text(node, "entries", report).map(value::cidr);
            if let Some(net) = net.and_then(|net| report.take(node.location, net)) {
                entries.add(net);
            }
        }
    }
    let partial = report.errors() > before;
    Some(RawPrefixList {
        id,
        name: Some(name),
        max_entries: None,
        entries: Some(entries.into_items()),
        location: list.location,
        partial,
    })
}

/// A list of names or ids: `groups` of a task or member, at least one. `None` if the key is absent.
fn references(object: &Object<'_>, key: &str, report: &mut Diagnostics) -> Option<Vec<Reference>> {
    let node = object.get(key)?;
    let list = items(node, key, report);
    if list.is_empty() && matches!(node.value, Value::List(_)) {
        report.error(node.location, format!("`{key}` is empty"), "name at least one group");
    }
    let named = |node: &Node, report: &mut Diagnostics| {
        let text = text(node, key, report)?;
        Some(Reference {
            text: text.trim().to_owned(),
            location: node.location,
        })
    };
    Some(list.iter().filter_map(|node| named(node, report)).collect())
}

/// A value or a list of values, with their places: `from: any` is the same as `from: [any]`.
fn one_or_more<'n>(node: &'n Node<'n>, key: &str, report: &mut Diagnostics) -> Vec<(&'n str, Location)> {
    let nodes = match &node.value {
        Value::List(items) => items.as_slice(),
        _ => std::slice::from_ref(node),
    };
    if nodes.is_empty() {
        report.error(
            node.location,
            format!("`{key}` is empty"),
            "write at least one, or take the rule away",
        );
    }
    nodes
        .iter()
        .filter_map(|node| text(node, key, report).map(|text| (text, node.location)))
        .collect()
}
