//! The native `settings` and `uplink`.

use std::net::{IpAddr, SocketAddr};

use taskgate_model::{
    AddressList, Attach, ConnectionLimits, DenialLimits, Floor, IcmpErrors, OnRuleRemoval, Settings, Timeouts, Uplink,
    UplinkMode,
};

use super::super::node::{Node, Value};
use super::super::object::{Object, number, text};
use super::super::problem::{Diagnostic, Diagnostics};
use super::super::value;

/// The range of `total` for tracked connections and for denied flows.
const TOTALS: std::ops::RangeInclusive<u32> = 1_024..=16_777_216;

/// Reads `settings`.
pub(super) fn read(node: &Node, report: &mut Diagnostics) -> Option<Settings> {
    let object = Object::of(node, "`settings`", report)?;
    object.only(
        &[
            "icmp-errors",
            "on-rule-removal",
            "exempt",
            "unlogged",
            "timeouts",
            "connections",
            "denials",
            "attach",
        ],
        report,
    );
    let icmp_errors = [
        ("pmtu", IcmpErrors::Pmtu),
        ("all", IcmpErrors::All),
        ("none", IcmpErrors::None),
    ];
    let attach = [("auto", Attach::Auto), ("tcx", Attach::Tcx), ("clsact", Attach::Clsact)];
    let removal = [("keep", OnRuleRemoval::Keep), ("cut", OnRuleRemoval::Cut)];
    Some(Settings {
        icmp_errors: object.word("icmp-errors", &icmp_errors, report).unwrap_or_default(),
        on_rule_removal: object.word("on-rule-removal", &removal, report).unwrap_or_default(),
        exempt: address_list(&object, "exempt", report),
        unlogged: address_list(&object, "unlogged", report),
        timeouts: timeouts(&object, report),
        connections: connections(&object, report),
        denials: denials(&object, report),
        attach: object.word("attach", &attach, report).unwrap_or_default(),
    })
}

/// `aws`, `none` or a list of addresses.
fn address_list(settings: &Object<'_>, key: &str, report: &mut Diagnostics) -> AddressList {
    let Some(node) = settings.get(key) else {
        return AddressList::default();
    };
    let mut addresses: Vec<IpAddr> = match &node.value {
        Value::Scalar(word) if word == "aws" => return AddressList::Aws,
        Value::Scalar(word) if word == "none" => return AddressList::None,
        Value::List(items) => {
            let texts = items
                .iter()
                .filter_map(|item| text(item, key, report).map(|text| (text, item.location)));
            let texts: Vec<_> = texts.collect();
            texts
                .into_iter()
                .filter_map(|(text, location)| report.take(location, value::any_address(text)))
                .collect()
        }
        Value::Scalar(word) => {
            report.error(
                node.location,
                format!("`{key}` is `{word}`"),
                "write `aws`, `none` or a list of addresses",
            );
            return AddressList::None;
        }
        Value::Null | Value::Map(_) => {
            let message = format!("`{key}` is {}", node.kind());
            report.error(node.location, message, "write `aws`, `none` or a list of addresses");
            return AddressList::None;
        }
    };
    addresses.sort();
    addresses.dedup();
    AddressList::List(addresses)
}

/// AWS's ranges: [EC2 API ConnectionTrackingSpecificationRequest].
fn timeouts(settings: &Object<'_>, report: &mut Diagnostics) -> Timeouts {
    let mut read = Timeouts::default();
    let object = settings
        .get("timeouts")
        .and_then(|node| Object::of(node, "`timeouts`", report));
    let Some(object) = object else {
        return read;
    };
    object.only(&["tcp-established", "udp", "udp-stream"], report);
    read.tcp_established = object
        .number("tcp-established", 60..=432_000, report)
        .unwrap_or(read.tcp_established);
    read.udp = object.number("udp", 30..=60, report).unwrap_or(read.udp);
    read.udp_stream = object.number("udp-stream", 60..=180, report).unwrap_or(read.udp_stream);
    read
}

fn connections(settings: &Object<'_>, report: &mut Diagnostics) -> ConnectionLimits {
    let mut read = ConnectionLimits::default();
    let object = settings
        .get("connections")
        .and_then(|node| Object::of(node, "`connections`", report));
    let Some(object) = object else {
        return read;
    };
    object.only(&["total", "floor", "per-task"], report);
    (read.total, read.floor) = total_and_floor(&object, (read.total, read.floor), report);
    // `auto` used to be the total divided by the number of tasks; floor and pool have replaced it.
    let words = [("none", None), ("auto", None)];
    read.per_task = up_to(&object, "per-task", &words, read.total, Some, report).unwrap_or(read.per_task);
    read
}

fn denials(settings: &Object<'_>, report: &mut Diagnostics) -> DenialLimits {
    let mut read = DenialLimits::default();
    let object = settings
        .get("denials")
        .and_then(|node| Object::of(node, "`denials`", report));
    let Some(object) = object else {
        return read;
    };
    object.only(&["total", "floor"], report);
    (read.total, read.floor) = total_and_floor(&object, (read.total, read.floor), report);
    read
}

fn total_and_floor(object: &Object<'_>, default: (u32, Floor), report: &mut Diagnostics) -> (u32, Floor) {
    let total = object.number("total", TOTALS, report).unwrap_or(default.0);
    let floor = up_to(object, "floor", &[("auto", Floor::Auto)], total, Floor::Fixed, report);
    (total, floor.unwrap_or(default.1))
}

/// A number from 1 to `most`, or one of `words`, of which messages suggest the first.
fn up_to<T: Copy>(
    object: &Object<'_>,
    key: &str,
    words: &[(&str, T)],
    most: u32,
    of_number: fn(u32) -> T,
    report: &mut Diagnostics,
) -> Option<T> {
    object.value(key, report, |text| {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        number(text, key, &(1..=most)).map(of_number).map_err(|_fault| {
            Diagnostic::new(
                format!("`{key}` is `{text}`"),
                format!("write `{}` or a number from 1 to {most}", words[0].0),
            )
        })
    })
}

/// Reads `metrics`: the address for metrics in addition to the socket.
pub(super) fn metrics(node: &Node, report: &mut Diagnostics) -> Option<SocketAddr> {
    let object = Object::of(node, "`metrics`", report)?;
    object.only(&["listen"], report);
    object.required_value(
        "listen",
        "write a loopback address and a port: \"127.0.0.1:9477\"",
        report,
        value::loopback,
    )
}

/// Reads `uplink`. If that fails, tasks on a trunk are not reported.
pub(super) fn uplink(node: &Node, report: &mut Diagnostics) -> Option<Uplink> {
    let uplink = uplink_of(node, report);
    report.objects_lost |= uplink.is_none();
    uplink
}

fn uplink_of(node: &Node, report: &mut Diagnostics) -> Option<Uplink> {
    let object = Object::of(node, "`uplink`", report)?;
    object.only(&["device", "mode"], report);
    let modes = [("routed", UplinkMode::Routed), ("trunk", UplinkMode::Trunk)];
    let device = object.required_value("device", "write the link that faces the wire", report, value::link_name);
    let mode = object.required("mode", "write `routed` or `trunk`", report);
    let mode = mode.and_then(|_| object.word("mode", &modes, report));
    Some(Uplink {
        device: device?,
        mode: mode?,
    })
}
