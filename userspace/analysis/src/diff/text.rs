//! A difference as text: a line for each object, with a sign as in patches, and the counts at the end.

use taskgate_api::{Change, ChangeCounts, FieldChange, ModelDiff, ObjectChange, ObjectKind};

/// The most values of a field in a line.
const SHOWN: usize = 6;

/// A line for each object that differs, without line ending. Each begins with a sign: `+` added, `~` changed, `-` removed.
pub fn lines(diff: &ModelDiff) -> impl Iterator<Item = String> {
    diff.changes.iter().map(line)
}

/// `1 to add, 2 to change, 0 to remove`.
pub fn counts_text(counts: ChangeCounts) -> String {
    let ChangeCounts {
        added,
        changed,
        removed,
    } = counts;
    format!("{added} to add, {changed} to change, {removed} to remove")
}

fn line(change: &ObjectChange) -> String {
    let title = title(change);
    let fields: Vec<String> = change.fields.iter().filter_map(|field| words(change, field)).collect();
    let sign = match change.change {
        Change::Added => '+',
        Change::Changed => '~',
        Change::Removed => '-',
    };
    if fields.is_empty() {
        format!("{sign} {title}")
    } else {
        format!("{sign} {title}: {}", fields.join("; "))
    }
}

fn title(change: &ObjectChange) -> String {
    let ObjectChange {
        kind,
        id,
        name,
        direction,
        ..
    } = change;
    let (name, kind_name) = (name.as_deref().filter(|name| !name.is_empty()), kind_name(*kind));
    match (kind, name, direction) {
        (ObjectKind::Rule, Some(group), Some(direction)) if !id.starts_with(&format!("{group}/{direction}/")) => {
            format!("{kind_name} {id} ({direction} of {group})")
        }
        (ObjectKind::Rule, ..) | (_, None, _) => format!("{kind_name} {id}"),
        (_, Some(name), _) => format!("{kind_name} {name} ({id})"),
    }
}

/// A field as text; `None` if the title already has it.
fn words(change: &ObjectChange, field: &FieldChange) -> Option<String> {
    let FieldChange { field, before, after } = field;
    let said = matches!(field.as_str(), "allows" | "value");
    let name = if said { String::new() } else { format!("{field} ") };
    let whole = match change.change {
        Change::Changed => return Some(format!("{name}{}", differing(before, after))),
        Change::Added => after,
        Change::Removed => before,
    };
    let is_title = field == "name" && whole.iter().eq(change.name.iter());
    (!is_title).then(|| format!("{name}{}", listed(whole.iter().map(String::as_str))))
}

/// Lists of values by their added and removed items; a single value, or a changed order, as a whole.
fn differing(before: &[String], after: &[String]) -> String {
    let only = |of: &[String], other: &[String]| -> Vec<String> {
        of.iter().filter(|value| !other.contains(value)).cloned().collect()
    };
    let (gone, new) = (only(before, after), only(after, before));
    let whole = |values: &[String]| match values {
        [] => String::from("none"),
        values => listed(values.iter().map(String::as_str)),
    };
    if before.len().max(after.len()) <= 1 || gone.is_empty() && new.is_empty() {
        return format!("{} -> {}", whole(before), whole(after));
    }
    let signed = |sign: &str, values: Vec<String>| -> Vec<String> {
        values.into_iter().map(|value| format!("{sign}{value}")).collect()
    };
    let parts = [signed("+", new), signed("-", gone)].concat();
    listed(parts.iter().map(String::as_str))
}

/// The first few values.
fn listed<'a>(values: impl Iterator<Item = &'a str>) -> String {
    let values: Vec<&str> = values.collect();
    let shown = values[..values.len().min(SHOWN)].join(", ");
    match values.len() - values.len().min(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The name of a kind in output.
const fn kind_name(kind: ObjectKind) -> &'static str {
    match kind {
        ObjectKind::Group => "group",
        ObjectKind::Rule => "rule",
        ObjectKind::PrefixList => "prefix list",
        ObjectKind::Task => "task",
        ObjectKind::Member => "member",
        ObjectKind::Uplink => "uplink",
        ObjectKind::Setting => "setting",
        ObjectKind::FlowLog => "flow log",
    }
}
