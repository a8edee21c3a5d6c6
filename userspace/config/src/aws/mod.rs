//! The AWS forms: the output of the AWS CLI, unchanged.
//!
//! Keys that taskgate does not use are ignored: AWS may add keys at any time. `null` and the empty string count as absent:
//! other tools write them where the AWS CLI omits the key.

mod ecs;
mod enis;
mod groups;
mod ranges;
mod zones;

use super::content::Content;
use super::node::{Node, Value};
use super::object::Object;
use super::problem::{Diagnostic, Diagnostics};
use super::raw::Collected;
use ranges::Entries;

/// The remedy when the CLI's output has been edited.
const AS_PRINTED: &str = "keep the AWS CLI's output as it was printed";

/// The key of a prefix list's entries. They do not name their list: the file's name does.
const ENTRIES: &str = "Entries";

/// One kind of object in the AWS CLI's output.
pub(super) struct Kind {
    /// The top-level key of its list.
    pub(super) key: &'static str,
    /// The name in messages, with the article.
    pub(super) what: &'static str,
    /// The keys that identify such an object in a bare list.
    marks: &'static [&'static str],
    read: fn(&Object<'_>, &mut Collected, &mut Diagnostics),
}

/// All kinds. An object belongs to the first kind whose marks match.
const KINDS: [Kind; 6] = [
    Kind {
        key: "SecurityGroups",
        what: "a security group",
        marks: &["GroupId", "IpPermissions"],
        read: |group, all, report| all.groups.extend(groups::read(group, report)),
    },
    Kind {
        key: "SecurityGroupRules",
        what: "a security group rule",
        marks: &["SecurityGroupRuleId"],
        read: |rule, all, report| {
            let read = groups::read_rule(rule, report);
            report.rules_lost |= read.is_none();
            all.rules.extend(read);
        },
    },
    Kind {
        key: "NetworkInterfaces",
        what: "a network interface",
        marks: &["NetworkInterfaceId", "Groups"],
        read: |eni, all, report| all.enis.extend(enis::read(eni, report)),
    },
    Kind {
        key: "PrefixLists",
        what: "a prefix list",
        marks: &["PrefixListId"],
        read: |list, all, report| all.prefix_lists.extend(ranges::read_list(list, report)),
    },
    Kind {
        key: "Vpcs",
        what: "a VPC",
        marks: &["VpcId", "CidrBlock", "DhcpOptionsId"],
        read: |vpc, all, report| all.networks.extend(ranges::read_network(vpc, &ranges::VPC, report)),
    },
    Kind {
        key: "Subnets",
        what: "a subnet",
        marks: &["SubnetId", "CidrBlock"],
        read: |subnet, all, report| {
            all.networks
                .extend(ranges::read_network(subnet, &ranges::SUBNET, report));
        },
    },
];

/// The top-level keys that are read.
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.key).chain([ENTRIES])
}

/// Reads the value of one of the [`keys`]. Once an object could not be read, unknown references are not reported.
pub(super) fn read(key: &str, content: Content<'_, '_>, all: &mut Collected, report: &mut Diagnostics) {
    if let Some(kind) = KINDS.iter().find(|kind| kind.key == key) {
        content.for_each(key, report, |item, report| {
            if !report.another_object(item.location) {
                return;
            }
            match Object::of_aws(item, kind.what, report) {
                Some(object) => (kind.read)(&object, all, report),
                None => report.objects_lost = true,
            }
        });
    } else if let Some(mut entries) = Entries::begin(content.location(), report) {
        content.for_each(key, report, |item, report| entries.add(item, report));
        all.prefix_lists.push(entries.finish());
    }
}

/// Reads `tasks` of `aws ecs describe-tasks`.
pub(super) fn read_ecs_tasks(content: Content<'_, '_>, all: &mut Collected, report: &mut Diagnostics) {
    content.for_each("tasks", report, |item, report| read_ecs_task(item, all, report));
}

/// Reads one of these tasks. Tasks without an ENI are skipped.
pub(super) fn read_ecs_task(item: &Node<'_>, all: &mut Collected, report: &mut Diagnostics) {
    if report.another_object(item.location)
        && let Some(task) = Object::of_aws(item, "an ECS task", report)
    {
        all.ecs_tasks.extend(ecs::read(&task, report));
    }
}

/// The kind of an object with these keys.
pub(super) fn bare_kind(has: impl Fn(&str) -> bool) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.marks.iter().all(|mark| has(mark)))
}

/// Reads an object of a bare list; `false` if its kind is unknown.
pub(super) fn read_bare(
    item: &Node<'_>,
    entries: &mut Option<Entries>,
    all: &mut Collected,
    report: &mut Diagnostics,
) -> bool {
    let Value::Map(keys) = &item.value else { return false };
    let has = |key: &str| keys.iter().any(|entry| entry.key == key);
    if let Some(kind) = bare_kind(has) {
        if report.another_object(item.location)
            && let Some(object) = Object::of_aws(item, kind.what, report)
        {
            (kind.read)(&object, all, report);
        }
        return true;
    }
    if !has("Cidr") {
        return false;
    }
    if entries.is_none() {
        *entries = Entries::begin(item.location, report);
    }
    if let Some(entries) = entries {
        entries.add(item, report);
    }
    true
}

/// The object's id, which is required; without one the object cannot be read.
fn id(object: &Object<'_>, key: &str, report: &mut Diagnostics) -> Option<String> {
    let id = object.required_value(key, AS_PRINTED, report, word);
    report.objects_lost |= id.is_none();
    id
}

/// A name or an id within AWS's limits: longer ones, and ones with terminal control characters, are refused.
fn word(text: &str) -> Result<String, Diagnostic> {
    if text.len() <= 255 && !text.contains(char::is_control) {
        return Ok(text.trim().to_owned());
    }
    let message = format!("`{text}` is longer than 255 bytes, or has control characters");
    Err(Diagnostic::new(message, AS_PRINTED))
}
