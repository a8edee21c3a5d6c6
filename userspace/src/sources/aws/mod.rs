//! The AWS forms: what the AWS CLI prints, as it prints it.
//!
//! Keys that taskgate has no use for are ignored: AWS adds new ones at any time.

mod enis;
mod groups;
mod ranges;

use super::node::Node;
use super::object::{Object, items};
use super::problem::Report;
use super::raw::Collected;

/// What is right when the CLI's output has been edited.
const AS_PRINTED: &str = "keep the AWS CLI's output as it was printed";

/// Reads the list under one of the [`KEYS`].
type Reader = fn(&Node, &mut Collected, &mut Report);

/// The top-level keys of the AWS forms, and who reads what is under them.
pub(super) const KEYS: [(&str, Reader); 7] = [
    ("SecurityGroups", |node, all, report| {
        each(node, "SecurityGroups", "a security group", report, |group, report| {
            all.groups.extend(groups::read(group, report));
        });
    }),
    ("SecurityGroupRules", |node, all, report| {
        each(
            node,
            "SecurityGroupRules",
            "a security group rule",
            report,
            |rule, report| {
                let read = groups::read_rule(rule, report);
                report.rules_lost |= read.is_none();
                all.rules.extend(read);
            },
        );
    }),
    ("NetworkInterfaces", |node, all, report| {
        each(
            node,
            "NetworkInterfaces",
            "a network interface",
            report,
            |eni, report| {
                all.enis.extend(enis::read(eni, report));
            },
        );
    }),
    ("PrefixLists", |node, all, report| {
        each(node, "PrefixLists", "a prefix list", report, |list, report| {
            all.prefix_lists.extend(ranges::read_list(list, report));
        });
    }),
    ("Entries", |node, all, report| {
        all.prefix_lists.extend(ranges::read_entries(node, report));
    }),
    ("Vpcs", |node, all, report| {
        each(node, "Vpcs", "a VPC", report, |vpc, report| {
            all.networks.extend(ranges::read_network(vpc, &ranges::VPC, report));
        });
    }),
    ("Subnets", |node, all, report| {
        each(node, "Subnets", "a subnet", report, |subnet, report| {
            all.networks
                .extend(ranges::read_network(subnet, &ranges::SUBNET, report));
        });
    }),
];

/// Reads every object of a list. One that cannot be read is lost, and what refers to it is then not complained of.
fn each(
    node: &Node,
    key: &str,
    what: &'static str,
    report: &mut Report,
    mut read: impl FnMut(&Object<'_>, &mut Report),
) {
    for item in items(node, key, report) {
        match Object::of(item, what, report) {
            Some(object) => read(&object, report),
            None => report.objects_lost = true,
        }
    }
}

/// The object's id, which has to be there; without it the object is lost.
fn id(object: &Object<'_>, key: &str, report: &mut Report) -> Option<String> {
    let id = object.required_text(key, AS_PRINTED, report);
    report.objects_lost |= id.is_none();
    id.map(str::to_owned)
}
