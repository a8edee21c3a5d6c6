//! The native `groups`.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use taskgate_model::{Direction, Family, IcmpMatch, Protocol, misleading_protocol, protocol_number};

use super::super::bounds;
use super::super::node::{Node, Value};
use super::super::object::{Object, items};
use super::super::problem::{Diagnostic, Diagnostics, Location};
use super::super::raw::{Dialect, RawGroup, RawPeer, RawRule, families};
use super::super::value::{self, ProtocolName};
use super::{identity, one_or_more};

/// Reads one group.
pub(super) fn read(group: &Object<'_>, report: &mut Diagnostics) -> Option<RawGroup> {
    group.only(&["name", "id", "ingress", "egress"], report);
    let (name, id) = identity(group, "sg", report)?;
    let before = report.errors();
    let rules = |direction: Direction, report: &mut Diagnostics| {
        let node = group.get(direction.as_str())?;
        let rules = items(node, direction.as_str(), report).iter().enumerate();
        Some(
            rules
                .flat_map(|(position, node)| rule(node, position + 1, direction, report))
                .collect(),
        )
    };
    let ingress = rules(Direction::Ingress, report).unwrap_or_default();
    let egress = rules(Direction::Egress, report).unwrap_or_else(|| all_to_any(group.location));
    let partial = report.errors() > before;
    Some(RawGroup {
        id,
        name: Some(name),
        vpc: None,
        dialect: Dialect::Native,
        rules_known: true,
        lacks: None,
        ingress,
        egress,
        location: group.location,
        partial,
    })
}

/// The egress rule of a group without `egress`: everything, as in a new group on AWS.
fn all_to_any(location: Location) -> Vec<RawRule> {
    let protocol = Protocol::All;
    any(protocol)
        .map(|peer| RawRule {
            id: None,
            number: 1,
            protocol,
            peer,
            peering: None,
            description: String::new(),
            location,
        })
        .collect()
}

/// `0.0.0.0/0` and `::/0`, each one if the protocol exists in its family.
fn any(protocol: Protocol) -> impl Iterator<Item = RawPeer> {
    families(protocol, None).map(|family| {
        RawPeer::Net(match family {
            Family::V4 => IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
            Family::V6 => IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
        })
    })
}

/// Reads one entry: a rule for each combination of port and peer, all with the entry's number.
fn rule(node: &Node, number: usize, direction: Direction, report: &mut Diagnostics) -> Vec<RawRule> {
    let Some(object) = Object::of(node, "a rule", report) else {
        return Vec::new();
    };
    let (key, wrong) = match direction {
        Direction::Ingress => ("from", "to"),
        Direction::Egress => ("to", "from"),
    };
    if let Some(entry) = object.entry(wrong) {
        report.error(
            entry.location,
            format!("an {direction} rule has no `{wrong}`"),
            format!("write `{key}`"),
        );
    }
    object.only(
        &["protocol", "ports", "type", "code", "from", "to", "description"],
        report,
    );
    let name = match object.required(
        "protocol",
        "write `tcp`, `udp`, `icmp`, `icmpv6`, another one's name or number, or `all`",
        report,
    ) {
        Some(node) => {
            let name = object.value("protocol", report, value::protocol);
            misleading(node, report);
            name
        }
        None => None,
    };
    let protocols = name.map(|name| protocols(name, &object, report)).unwrap_or_default();
    let description = object.value("description", report, description).unwrap_or_default();
    if object.has(wrong) {
        return Vec::new();
    }
    let hint = format!("write `{key}: any`, or whom it allows");
    let Some(peers) = object
        .required(key, &hint, report)
        .map(|node| one_or_more(node, key, report))
    else {
        return Vec::new();
    };
    let mut rules = Vec::new();
    // Each peer is read once for all ports, so that an error is reported once.
    let peers: Vec<(Option<RawPeer>, Location)> = peers
        .into_iter()
        .filter_map(|(text, location)| report.take(location, peer(text)).map(|peer| (peer, location)))
        .collect();
    let stands_for = protocols.len().saturating_mul(peers.len());
    if stands_for > bounds::RULES_OF_ENTRY {
        let message = format!("the rule stands for {stands_for}, one for each of its ports and peers");
        report.error(
            object.location,
            message,
            format!("at most {} are read", bounds::RULES_OF_ENTRY),
        );
        return Vec::new();
    }
    if !report.more_rules(object.location, stands_for) {
        return Vec::new();
    }
    for protocol in protocols {
        for (peer, location) in &peers {
            let expanded: Vec<RawPeer> = match peer {
                Some(peer) => vec![peer.clone()],
                None => any(protocol).collect(),
            };
            rules.extend(expanded.into_iter().map(|peer| {
                let description = description.clone();
                RawRule {
                    id: None,
                    number,
                    protocol,
                    peer,
                    peering: None,
                    description,
                    location: *location,
                }
            }));
        }
    }
    rules
}

/// Warns about a protocol name that is often misunderstood.
fn misleading(node: &Node, report: &mut Diagnostics) {
    if let Value::Scalar(name) = &node.value
        && let (Some(meant), Some(number)) = (misleading_protocol(name), protocol_number(name))
    {
        let hint = format!("{meant}; if protocol {number} is meant, write the number");
        report.warn(node.location, format!("`{name}` is protocol {number}"), hint);
    }
}

/// The protocol with each of its ports.
fn protocols(name: ProtocolName, rule: &Object<'_>, report: &mut Diagnostics) -> Vec<Protocol> {
    let mut refuse = |key: &str, hint: &str| {
        if let Some(entry) = rule.entry(key) {
            let protocol = value::protocol_text(name.whole());
            report.error(entry.location, format!("`{key}` does not go with `{protocol}`"), hint);
        }
    };
    if !name.has_ports() {
        let hint = if name.has_types() {
            "write `type` and `code`"
        } else {
            "leave it out: all of it is allowed"
        };
        refuse("ports", hint);
    }
    if !name.has_types() {
        let hint = if name.has_ports() {
            "write `ports`"
        } else {
            "leave it out: all of it is allowed"
        };
        refuse("type", hint);
        refuse("code", hint);
    }
    match name {
        ProtocolName::Tcp => ports(rule, report, Protocol::Tcp),
        ProtocolName::Udp => ports(rule, report, Protocol::Udp),
        ProtocolName::Icmp => icmp(rule, report).map(Protocol::Icmp).into_iter().collect(),
        ProtocolName::Icmpv6 => icmp(rule, report).map(Protocol::Icmpv6).into_iter().collect(),
        ProtocolName::All | ProtocolName::Number(_) => vec![name.whole()],
    }
}

fn ports(
    rule: &Object<'_>,
    report: &mut Diagnostics,
    protocol: fn(taskgate_model::Ports) -> Protocol,
) -> Vec<Protocol> {
    let Some(node) = rule.get("ports") else {
        return vec![protocol(taskgate_model::Ports::ALL)];
    };
    let ranges = one_or_more(node, "ports", report).into_iter();
    ranges
        .filter_map(|(text, location)| report.take(location, value::ports(text)).map(protocol))
        .collect()
}

fn icmp(rule: &Object<'_>, report: &mut Diagnostics) -> Option<IcmpMatch> {
    let before = report.errors();
    let kind = rule.number("type", 0..=u8::MAX, report);
    let code = rule.number("code", 0..=u8::MAX, report);
    if report.errors() > before {
        return None;
    }
    match (kind, code) {
        (None, None) => Some(IcmpMatch::All),
        (Some(kind), None) => Some(IcmpMatch::Type(kind)),
        (Some(kind), Some(code)) => Some(IcmpMatch::TypeCode(kind, code)),
        (None, Some(_)) => {
            let location = rule.get("code").map_or(rule.location, |node| node.location);
            report.error(
                location,
                "`code` stands without `type`",
                "write the type, or leave the code out",
            );
            None
        }
    }
}

/// A description, at most as long as AWS allows.
fn description(text: &str) -> Result<String, Diagnostic> {
    const LONGEST: usize = 255;
    if text.chars().count() <= LONGEST {
        return Ok(text.to_owned());
    }
    let message = format!("the description `{text}` is too long");
    Err(Diagnostic::new(message, format!("write at most {LONGEST} characters")))
}

/// One peer; `None` is `any`.
fn peer(text: &str) -> Result<Option<RawPeer>, Diagnostic> {
    let named = |name: &str, peer: fn(String) -> RawPeer| match name.trim() {
        "" => Err(Diagnostic::new(
            format!("`{text}` names nothing"),
            "write a name or an id after the colon",
        )),
        name if name.len() > 1_020 => Err(Diagnostic::new(
            format!("`{name}` is too long for a name or an id"),
            "write at most 255 characters",
        )),
        name => Ok(Some(peer(name.to_owned()))),
    };
    match text.trim() {
        "any" => Ok(None),
        "self" => Ok(Some(RawPeer::Itself)),
        text => {
            if let Some(name) = text.strip_prefix("group:") {
                return named(name, RawPeer::Group);
            }
            if let Some(name) = text.strip_prefix("prefix-list:") {
                return named(name, RawPeer::PrefixList);
            }
            value::cidr(text).map(|net| Some(RawPeer::Net(net))).map_err(|fault| {
                if text.contains(['.', ':', '/']) {
                    return fault;
                }
                let hint = "write `any`, `self`, `group:NAME`, `prefix-list:NAME`, an address or a CIDR";
                Diagnostic::new(format!("`{text}` is no peer"), hint)
            })
        }
    }
}
