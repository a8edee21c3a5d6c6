//! `SecurityGroups`: groups with their rules, several peers merged into one permission; and `SecurityGroupRules`: one
//! object for each rule, with its id.

use ipnet::IpNet;
use taskgate_model::{Direction, IcmpMatch, Ports, Protocol};

use super::super::node::Node;
use super::super::object::{Object, all, text};
use super::super::problem::{Diagnostic, Diagnostics};
use super::super::raw::{AwsRule, Dialect, Peering, RawGroup, RawPeer, RawRule};
use super::super::value::{self, ProtocolName};
use super::{AS_PRINTED, id, word};

/// Reads one group.
pub(super) fn read(group: &Object<'_>, report: &mut Diagnostics) -> Option<RawGroup> {
    let id = id(group, "GroupId", report)?;
    let before = report.errors();
    let mut read = RawGroup {
        id,
        name: group.required_value("GroupName", AS_PRINTED, report, word),
        vpc: group.value("VpcId", report, word),
        dialect: Dialect::Aws,
        rules_known: true,
        lacks: None,
        ingress: Vec::new(),
        egress: Vec::new(),
        location: group.location,
        partial: false,
    };
    for (direction, key) in [
        (Direction::Ingress, "IpPermissions"),
        (Direction::Egress, "IpPermissionsEgress"),
    ] {
        let rules = read.rules_mut(direction);
        for node in group.items(key, report) {
            if let Some(permission) = Object::of_aws(node, "a permission", report) {
                read_permission(&permission, rules, report);
            }
        }
    }
    read.partial = report.errors() > before;
    // The key itself is missing; some tools write `null` for an empty list.
    read.lacks = match ["IpPermissions", "IpPermissionsEgress"].map(|key| group.has(key)) {
        [true, true] => None,
        [false, true] => Some("`IpPermissions`"),
        [true, false] => Some("`IpPermissionsEgress`"),
        [false, false] => Some("`IpPermissions` and `IpPermissionsEgress`"),
    };
    if read.lacks.is_some() {
        read.ingress.clear();
        read.egress.clear();
    }
    Some(read)
}

/// Reads one permission: a rule for each of its peers, in the order of the file.
fn read_permission(permission: &Object<'_>, rules: &mut Vec<RawRule>, report: &mut Diagnostics) {
    let Some(protocol) = protocol(permission, report) else {
        return;
    };
    for entry in permission.entries {
        let Some((what, read)) = peer_reader(&entry.key) else {
            continue;
        };
        for node in permission.items(&entry.key, report) {
            let Some(object) = Object::of_aws(node, what, report) else {
                continue;
            };
            let Some(peer) = read(&object, report) else {
                continue;
            };
            if !report.more_rules(object.location, 1) {
                return;
            }
            let description = object.text("Description", report).unwrap_or_default().to_owned();
            let number = rules.len() + 1;
            rules.push(RawRule {
                id: None,
                number,
                protocol,
                peer,
                peering: peering(&object, report),
                description,
                location: object.location,
            });
        }
    }
}

/// The peering connection of a group reference.
fn peering(group: &Object<'_>, report: &mut Diagnostics) -> Option<Peering> {
    let connection = group.value("VpcPeeringConnectionId", report, word);
    let status = group.value("PeeringStatus", report, word);
    (connection.is_some() || status.is_some()).then_some(Peering { connection, status })
}

type PeerReader = fn(&Object<'_>, &mut Diagnostics) -> Option<RawPeer>;

fn peer_reader(key: &str) -> Option<(&'static str, PeerReader)> {
    Some(match key {
        "IpRanges" => ("an IP range", |object, report| cidr(object, "CidrIp", report)),
        "Ipv6Ranges" => ("an IPv6 range", |object, report| cidr(object, "CidrIpv6", report)),
        "PrefixListIds" => ("a prefix list", |object, report| {
            object
                .required_value("PrefixListId", AS_PRINTED, report, word)
                .map(RawPeer::PrefixList)
        }),
        "UserIdGroupPairs" => ("a group", |object, report| {
            object
                .required_value("GroupId", AS_PRINTED, report, word)
                .map(RawPeer::Group)
        }),
        _ => return None,
    })
}

/// The keys of which a rule has exactly one.
const PEERS: [&str; 4] = ["CidrIpv4", "CidrIpv6", "PrefixListId", "ReferencedGroupInfo"];

/// Reads an item of `SecurityGroupRules`.
pub(super) fn read_rule(rule: &Object<'_>, report: &mut Diagnostics) -> Option<AwsRule> {
    let group = id(rule, "GroupId", report);
    let id = rule.required_value("SecurityGroupRuleId", AS_PRINTED, report, word);
    let egress = rule
        .required("IsEgress", AS_PRINTED, report)
        .and_then(|_| rule.boolean("IsEgress", report));
    let protocol = protocol(rule, report);
    let peer = only_peer(rule, report);
    let group_info = rule.get("ReferencedGroupInfo");
    let group_info = group_info.and_then(|node| Object::of_aws(node, "`ReferencedGroupInfo`", report));
    let peering = group_info.and_then(|group| peering(&group, report));
    let description = rule.text("Description", report).unwrap_or_default().to_owned();
    let (id, direction) = (id?, if egress? { Direction::Egress } else { Direction::Ingress });
    let (protocol, peer, location) = (protocol?, peer?, rule.location);
    // The number is unused: the rule is named by its id.
    let rule = RawRule {
        id: Some(id.clone()),
        number: 0,
        protocol,
        peer,
        peering,
        description,
        location,
    };
    Some(AwsRule {
        id,
        group: group?,
        direction,
        rule,
    })
}

fn only_peer(rule: &Object<'_>, report: &mut Diagnostics) -> Option<RawPeer> {
    let present: Vec<&str> = PEERS.into_iter().filter(|key| rule.get(key).is_some()).collect();
    let [key] = present[..] else {
        let message = if present.is_empty() {
            String::from("the rule has no peer")
        } else {
            format!("the rule has several peers: {}", all(present.into_iter()))
        };
        report.error(
            rule.location,
            message,
            format!("a rule has exactly one of {}", all(PEERS.into_iter())),
        );
        return None;
    };
    match key {
        "PrefixListId" => rule.value(key, report, word).map(RawPeer::PrefixList),
        "ReferencedGroupInfo" => {
            let group = Object::of_aws(rule.get(key)?, "`ReferencedGroupInfo`", report)?;
            group
                .required_value("GroupId", AS_PRINTED, report, word)
                .map(RawPeer::Group)
        }
        _ => cidr_at(rule.get(key)?, key, report).map(RawPeer::Net),
    }
}

/// A CIDR of the key's family.
fn cidr(object: &Object<'_>, key: &str, report: &mut Diagnostics) -> Option<RawPeer> {
    let node = object.required(key, AS_PRINTED, report)?;
    cidr_at(node, key, report).map(RawPeer::Net)
}

/// A CIDR of the key's family: IPv6 if the key ends in that.
pub(super) fn cidr_at(node: &Node, key: &str, report: &mut Diagnostics) -> Option<IpNet> {
    let text = text(node, key, report)?;
    let net = report.take(node.location, value::cidr(text))?;
    let wants_v6 = key.contains("v6");
    if matches!(net, IpNet::V6(_)) == wants_v6 {
        return Some(net);
    }
    let message = format!("`{key}` is `{text}`");
    report.error(
        node.location,
        message,
        format!("an {} CIDR belongs there", if wants_v6 { "IPv6" } else { "IPv4" }),
    );
    None
}

/// `IpProtocol` with `FromPort` and `ToPort`.
fn protocol(object: &Object<'_>, report: &mut Diagnostics) -> Option<Protocol> {
    let node = object.required("IpProtocol", AS_PRINTED, report)?;
    let before = report.errors();
    let name = object.value("IpProtocol", report, value::aws_protocol)?;
    let mut end = |key: &str| object.number(key, -1..=65535, report);
    let (from, to): (Option<i32>, Option<i32>) = (end("FromPort"), end("ToPort"));
    if report.errors() > before {
        return None;
    }
    let location = object.get("FromPort").map_or(node.location, |port| port.location);
    report.take(location, with_ports(name, from, to))
}

/// The protocol determines the meaning of the two port fields: ports, an ICMP type and code, or nothing.
fn with_ports(name: ProtocolName, from: Option<i32>, to: Option<i32>) -> Result<Protocol, Diagnostic> {
    match name {
        ProtocolName::All | ProtocolName::Number(_) => Ok(name.whole()),
        ProtocolName::Tcp => port_range("tcp", from, to).map(Protocol::Tcp),
        ProtocolName::Udp => port_range("udp", from, to).map(Protocol::Udp),
        ProtocolName::Icmp => icmp("icmp", from, to).map(Protocol::Icmp),
        ProtocolName::Icmpv6 if from.is_none() && to.is_none() => Ok(name.whole()),
        ProtocolName::Icmpv6 => icmp("icmpv6", from, to).map(Protocol::Icmpv6),
    }
}

fn port_range(name: &str, from: Option<i32>, to: Option<i32>) -> Result<Ports, Diagnostic> {
    let port = |end: Option<i32>| end.and_then(|port| u16::try_from(port).ok());
    match (port(from), port(to)) {
        (Some(from), Some(to)) if from <= to => Ok(Ports { from, to }),
        (Some(from), Some(to)) => Err(Diagnostic::new(
            format!("the ports go from {from} down to {to}"),
            "write the lower one as `FromPort`",
        )),
        _ => Err(Diagnostic::new(
            format!("a {name} rule has no ports"),
            "write `FromPort` and `ToPort`, 0 and 65535 for every port",
        )),
    }
}

fn icmp(name: &str, from: Option<i32>, to: Option<i32>) -> Result<IcmpMatch, Diagnostic> {
    let hint = "write the type as `FromPort` and the code as `ToPort`, each 0 to 255, or -1 for every one";
    let byte = |value: i32| u8::try_from(value).ok();
    match (from, to) {
        (Some(-1), Some(-1)) => Ok(IcmpMatch::All),
        (Some(-1), Some(code)) => Err(Diagnostic::new(
            format!("an {name} rule has code {code} of every type"),
            hint,
        )),
        (Some(kind), Some(code)) => match (byte(kind), byte(code)) {
            (Some(kind), None) if code == -1 => Ok(IcmpMatch::Type(kind)),
            (Some(kind), Some(code)) => Ok(IcmpMatch::TypeCode(kind, code)),
            _ => Err(Diagnostic::new(
                format!("an {name} rule has type {kind} and code {code}"),
                hint,
            )),
        },
        _ => Err(Diagnostic::new(format!("an {name} rule has no type and code"), hint)),
    }
}
