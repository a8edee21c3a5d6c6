//! Detection of files in other formats, with a remedy for each.

use super::aws;
use super::content::Top;
use super::native;
use super::node::{Node, Value};
use super::object::all;
use super::problem::{Diagnostics, Location};

/// The problem, and the remedy.
type Advice = (String, String);

fn advice(message: impl Into<String>, hint: impl Into<String>) -> Advice {
    (message.into(), hint.into())
}

const PRINT_JSON: &str = "print it again with `--output json`";
const APPLY: &str = "apply it and print the groups with `aws ec2 describe-security-groups`";
const TAKE_OUT: &str = "take the file out of the folder";

/// Known formats that are not UTF-8 text.
pub(super) fn bytes(bytes: &[u8]) -> Option<Advice> {
    let wide = bytes.get(..4).and_then(|unit| <[u8; 4]>::try_from(unit).ok());
    let utf32 = |unit: u32| {
        matches!(
            char::from_u32(unit),
            Some('\u{feff}' | '{' | '[' | ' ' | '\n' | '\r' | 't' | '-' | '#')
        )
    };
    if wide.is_some_and(|unit| utf32(u32::from_le_bytes(unit)) || utf32(u32::from_be_bytes(unit))) {
        return Some(advice("the file is UTF-32", "save it as UTF-8"));
    }
    let utf16 = bytes.starts_with(b"\xff\xfe")
        || bytes.starts_with(b"\xfe\xff")
        || matches!(
            bytes,
            [b'{' | b'[' | b' ' | b'\n' | b'\r' | b't', 0, ..] | [0, b'{' | b'[' | b' ' | b'\n' | b'\r' | b't', ..]
        );
    if utf16 {
        return Some(advice(
            "the file is UTF-16, as `>` writes it in Windows PowerShell",
            "save it as UTF-8: `… | Out-File -Encoding utf8 FILE`",
        ));
    }
    let packed = [
        (&b"\x1f\x8b"[..], "gzip"),
        (b"PK\x03\x04", "zip"),
        (b"BZh", "bzip2"),
        (b"\xfd7zXZ", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
    ];
    let kind = packed.iter().find(|(magic, _)| bytes.starts_with(magic))?.1;
    Some(advice(format!("the file is compressed ({kind})"), "unpack it"))
}

/// Known text formats that are not JSON and would be meaningless as YAML.
pub(super) fn text(text: &str) -> Option<Advice> {
    let mut lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let (first, second) = (lines.next()?, lines.next().unwrap_or_default());
    let mut words = first.split('\t');
    let tabular = words.clone().count() > 1
        && words.all(|word| !word.ends_with(':'))
        && !first.contains(": ")
        && !first.starts_with(['{', '[', '"', '\'', '#', '-', '%', '\t', ' ']);
    if tabular {
        return Some(advice(
            "the file is what the AWS CLI prints with `--output text`",
            PRINT_JSON,
        ));
    }
    if first.starts_with('\u{1b}') {
        return Some(advice(
            "the file begins with what steers a terminal, as a pager or `script` writes it",
            "print it again with `--no-cli-pager` and `> FILE`",
        ));
    }
    if first.contains("aws: ") && first.ends_with("not found") || first.ends_with("command not found: aws") {
        return Some(advice(
            format!("the file holds an error of the shell: `{first}`"),
            "install the AWS CLI and print it again",
        ));
    }
    let rule = |line: &str| line.len() > 3 && line.bytes().all(|byte| matches!(byte, b'-' | b'+'));
    if rule(first) && (second.starts_with('|') || second.starts_with('+')) {
        return Some(advice(
            "the file is what the AWS CLI prints with `--output table`",
            PRINT_JSON,
        ));
    }
    let errors = [
        "An error occurred",
        "Unable to locate credentials",
        "Unable to parse config",
        "usage: aws",
        "aws: error",
        "aws: [ERROR]",
        "Could not connect to the endpoint",
        "Error when retrieving",
        "Partial credentials found",
        "You must specify a region",
        "The config profile",
        "The SSO session",
        "Error loading SSO",
        "Token has expired",
    ];
    if errors.iter().any(|error| first.starts_with(error)) {
        let message = format!("the file holds an error of the AWS CLI: `{first}`");
        return Some(advice(message, "mend that and print it again"));
    }
    if first.starts_with('<') {
        return Some(advice(
            "the file is XML or HTML",
            "print it with the AWS CLI and `--output json`",
        ));
    }
    let blocks = [
        "resource \"",
        "variable \"",
        "provider \"",
        "module \"",
        "data \"",
        "output \"",
        "terraform {",
        "locals {",
    ];
    if blocks.iter().any(|block| first.starts_with(block)) {
        return Some(advice(
            "the file is in Terraform's language, which taskgate does not read",
            APPLY,
        ));
    }
    None
}

/// The advice for a file that is a single value.
pub(super) fn value(node: &Node<'_>) -> Advice {
    match &node.value {
        Value::Null => advice(
            "the file should be an object and is empty",
            "write keys and values; the AWS CLI prints `null` where `--query` finds nothing",
        ),
        Value::Scalar(text) => advice(
            format!("the file should be an object and is the single value `{text}`"),
            "write keys and values",
        ),
        Value::List(_) | Value::Map(_) => advice("the file should be an object", "write keys and values"),
    }
}

/// The advice for an item of a file's top list.
pub(super) fn item(node: &Node<'_>) -> Advice {
    let hint = "print it without `--query`, or whole objects: `--query 'SecurityGroups[]'`";
    match &node.value {
        Value::Map(entries) => {
            let keys = entries.iter().map(|entry| &*entry.key).take(8);
            let message = match entries.len() {
                0 => String::from("the object is empty"),
                _ => format!("the object, with {}, is nothing that taskgate knows", all(keys)),
            };
            advice(message, hint)
        }
        Value::Null => advice(
            "the file is a list of `null`, which the AWS CLI prints where `--query` asks for what is not there",
            hint,
        ),
        _ => advice(
            format!("the file is a list in which {} stands", node.kind()),
            format!("it should be an object, or a list of pages or objects: {hint}"),
        ),
    }
}

/// Other output of the AWS CLI, by its top-level key.
const OTHER_OUTPUT: [(&str, &str); 22] = [
    ("Reservations", "ec2 describe-instances"),
    ("RouteTables", "ec2 describe-route-tables"),
    ("NetworkAcls", "ec2 describe-network-acls"),
    ("VpcPeeringConnections", "ec2 describe-vpc-peering-connections"),
    ("VpcEndpoints", "ec2 describe-vpc-endpoints"),
    ("InternetGateways", "ec2 describe-internet-gateways"),
    ("NatGateways", "ec2 describe-nat-gateways"),
    ("TransitGateways", "ec2 describe-transit-gateways"),
    ("Addresses", "ec2 describe-addresses"),
    ("Tags", "ec2 describe-tags"),
    ("StaleSecurityGroupSet", "ec2 describe-stale-security-groups"),
    ("SecurityGroupReferenceSet", "ec2 describe-security-group-references"),
    (
        "SecurityGroupVpcAssociations",
        "ec2 describe-security-group-vpc-associations",
    ),
    ("SecurityGroupForVpcs", "ec2 get-security-groups-for-vpc"),
    ("PrefixListAssociations", "ec2 get-managed-prefix-list-associations"),
    ("DhcpOptions", "ec2 describe-dhcp-options"),
    ("taskArns", "ecs list-tasks"),
    ("clusters", "ecs describe-clusters"),
    ("containerInstances", "ecs describe-container-instances"),
    ("taskDefinition", "ecs describe-task-definition"),
    ("UserId", "sts get-caller-identity"),
    ("DBInstances", "rds describe-db-instances"),
];

/// The advice for an object without known keys.
pub(super) fn object(top: &Top<'_, '_>) -> (Location, String, String) {
    let at = |key: &str| top.get(key).map_or(top.location, |(location, _)| location);
    let refuse = |location: Location, message: String, hint: &str| (location, message, hint.to_owned());
    let not_built = |key: &str, what: &str| refuse(at(key), format!("reading {what} is not built yet"), TAKE_OUT);
    if top.has("terraform_version") && (top.has("values") || top.has("planned_values")) {
        return not_built("terraform_version", "the output of `terraform show -json`");
    }
    if ["version", "serial", "lineage"].into_iter().all(|key| top.has(key)) {
        return not_built("lineage", "a state file of Terraform or OpenTofu");
    }
    if top.has("AWSTemplateFormatVersion") || top.has("Resources") {
        let key = if top.has("Resources") {
            "Resources"
        } else {
            "AWSTemplateFormatVersion"
        };
        return not_built(key, "a CloudFormation template");
    }
    if let Some(key) = ["Error", "Errors", "__type"].into_iter().find(|key| top.has(key)) {
        let message = String::from("the file holds an error of AWS instead of an answer");
        return refuse(at(key), message, "mend that and print it again");
    }
    let blocks = [
        "terraform",
        "resource",
        "data",
        "module",
        "provider",
        "variable",
        "output",
        "locals",
    ];
    if let Some((_, location)) = top
        .keys()
        .next()
        .filter(|_| top.keys().all(|(key, _)| key == "//" || blocks.contains(&key)))
    {
        let message =
            String::from("the file is Terraform's language as JSON (`.tf.json`), which taskgate does not read");
        return refuse(location, message, APPLY);
    }
    if top.has("services") && !top.has("taskgate") {
        return refuse(
            at("services"),
            String::from("the file is a Compose file of Docker"),
            TAKE_OUT,
        );
    }
    if top.has("apiVersion") && top.has("kind") {
        return refuse(at("kind"), String::from("the file is a Kubernetes manifest"), TAKE_OUT);
    }
    if let Some(kind) = aws::bare_kind(|key| top.has(key)) {
        let message = format!("the file is {} alone", kind.what);
        let hint = format!(
            "write `{{\"{}\": [` before it and `]}}` after it, or print it without `--query` or with `{}[]`",
            kind.key, kind.key
        );
        return (top.location, message, hint);
    }
    if top.has("taskArn") {
        let hint = "write `{\"tasks\": [` before it and `]}` after it";
        return refuse(top.location, String::from("the file is an ECS task alone"), hint);
    }
    if let Some((key, location)) = top.keys().find(|(key, _)| native::KEYS.contains(key)) {
        let message = format!("`{key}` belongs to the native form, and `taskgate` is missing");
        return refuse(location, message, "write `taskgate: v1` at the top");
    }
    if let Some((key, command)) = OTHER_OUTPUT.into_iter().find(|(key, _)| top.has(key)) {
        let message = format!("the file is the output of `aws {command}`, which taskgate does not read");
        return refuse(at(key), message, TAKE_OUT);
    }
    let known = aws::keys().chain([native::HEADER]);
    (
        top.location,
        String::from("the file has no key that taskgate knows"),
        format!("known are {}", all(known)),
    )
}

/// Whether a file has `FlowLogs`, which is ignored with a warning: only flow records would use it.
pub(super) fn passed_over(top: &Top<'_, '_>, report: &mut Diagnostics) -> bool {
    let Some((location, _)) = top.get("FlowLogs") else {
        return false;
    };
    report.warn(
        location,
        "`FlowLogs`, the output of `aws ec2 describe-flow-logs`, is not read yet, so records go where the native `flow-logs` says",
        "it may stay: nothing else depends on it",
    );
    true
}

/// Whether `tasks` is the output of `aws ecs describe-tasks`, and not that of the native form.
pub(super) fn has_ecs_tasks(top: &Top<'_, '_>, report: &mut Diagnostics) -> bool {
    let Some((_, tasks)) = top.get("tasks") else {
        return false;
    };
    let native = top.keys().any(|(key, _)| key != "tasks" && native::KEYS.contains(&key));
    match &tasks.node(report).value {
        Value::Null => !native,
        Value::List(tasks) if tasks.is_empty() => !native,
        Value::List(tasks) => tasks.iter().any(is_ecs_task),
        _ => false,
    }
}

pub(super) fn is_ecs_task(node: &Node<'_>) -> bool {
    matches!(&node.value, Value::Map(entries) if entries.iter().any(|entry| entry.key == "taskArn"))
}
