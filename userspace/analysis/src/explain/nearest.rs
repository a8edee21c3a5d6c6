//! The rule that missed by least, and its mismatches. As rules only allow, that is the only explanation of a denial.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use taskgate_model::{
    Direction, Eni, Family, GroupIndex, IcmpMatch, Model, Peer, Ports, Protocol, Rule, protocol_name, protocol_text,
};

use super::question::Question;
use crate::display;
use crate::frame::Message;

/// The rule that missed by least.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Nearest {
    /// The id of its group.
    pub group: String,
    /// That group's name.
    pub group_name: String,
    /// The rule.
    pub rule: String,
    /// The field that did not match; the first one if there are several.
    pub field: Field,
    /// The mismatches, as text.
    pub message: String,
    /// The traffic that the rule allows, as text.
    #[serde(skip)]
    pub allows: String,
    #[serde(skip)]
    pub(super) at: GroupIndex,
    /// The rule's peer.
    #[serde(skip)]
    pub(super) peer: Peer,
}

/// A field of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Field {
    /// The protocol.
    Protocol,
    /// The destination port.
    Port,
    /// The ICMP type.
    Type,
    /// The ICMP code.
    Code,
    /// The peer's address.
    Peer,
}

/// A field that did not match, and its distance in bits: the fewest bits to change for a match.
struct Miss {
    field: Field,
    bits: u32,
    message: String,
}

/// Distances where bits cannot be counted: a similar protocol, an unrelated one.
const SIMILAR_PROTOCOL: u32 = 8;
const OTHER_PROTOCOL: u32 = 32;
/// ICMP types have no order: any other type has the distance of eight bits.
const OTHER_TYPE: u32 = 8;
/// A group or list without the address: the address could be added.
const NOT_A_MEMBER: u32 = 6;
/// A peer that cannot match any address of the packet's family.
const NEVER: u32 = 64;

/// Finds the rule of the ENI's groups that missed by least: by the fewest fields, then by the fewest bits, then the first
/// one. Rules that cannot match the packet's family are skipped. `None` if no rules are left.
pub(super) fn nearest(model: &Model, question: &Question<'_>, direction: Direction, eni: &Eni) -> Option<Nearest> {
    let far = far(question, direction);
    let rules = eni.groups.iter().flat_map(|&group| {
        let rules = model.group(group).rules(direction);
        rules.iter().map(move |rule| (group, rule))
    });
    let family = question.family();
    rules
        .filter(|(_, rule)| of_family(model, rule, family))
        .filter_map(|(group, rule)| {
            let misses = misses(model, eni, question.message, far, rule);
            // A rule without mismatches would have allowed the packet.
            (!misses.is_empty()).then_some((group, rule, misses))
        })
        .min_by_key(|(_, _, misses)| (misses.len(), misses.iter().map(|miss| miss.bits).sum::<u32>()))
        .map(|(at, rule, misses)| {
            let group = model.group(at);
            let messages: Vec<&str> = misses.iter().map(|miss| &*miss.message).collect();
            Nearest {
                group: group.id.clone(),
                group_name: group.name.clone(),
                rule: rule.id.clone(),
                field: misses[0].field,
                message: messages.join(", and "),
                allows: display::rule(model, direction, rule),
                at,
                peer: rule.peer.clone(),
            }
        })
}

/// Whether a rule can match packets of a family. A list with unknown entries may match both.
pub(super) fn of_family(model: &Model, rule: &Rule, family: Family) -> bool {
    rule.protocol.goes_over(family)
        && match &rule.peer {
            Peer::V4(_) => family == Family::V4,
            Peer::V6(_) => family == Family::V6,
            Peer::PrefixList(list) => {
                let list = model.prefix_list(*list);
                list.entries.is_none() || list.entries_of(family).next().is_some()
            }
            Peer::Group(_) | Peer::Missing(_) => true,
        }
}

/// Whether a rule allows the packet for some peer.
pub(super) fn allows_message(message: Message, rule: &Rule) -> bool {
    transport(rule.protocol, message).is_empty()
}

/// Whether a rule allows the packet.
pub fn allows(model: &Model, question: &Question<'_>, direction: Direction, rule: &Rule) -> bool {
    let near = match direction {
        Direction::Ingress => question.to.eni,
        Direction::Egress => question.from.eni,
    };
    near.is_some_and(|gate| misses(model, gate, question.message, far(question, direction), rule).is_empty())
}

/// The peer's address, as seen from a gate.
pub(super) fn far(question: &Question<'_>, direction: Direction) -> IpAddr {
    match direction {
        Direction::Ingress => question.from.address,
        Direction::Egress => question.to.address,
    }
}

/// The fields of a rule that do not match, in the order protocol, port, peer.
fn misses(model: &Model, gate: &Eni, message: Message, far: IpAddr, rule: &Rule) -> Vec<Miss> {
    let mut misses = transport(rule.protocol, message);
    misses.extend(peer(model, gate, &rule.peer, far));
    misses
}

fn transport(protocol: Protocol, message: Message) -> Vec<Miss> {
    let (name, similar, inner) = match (protocol, message) {
        (Protocol::All, _) => return Vec::new(),
        (Protocol::Number(number), Message::Other(other)) if number == other => return Vec::new(),
        (Protocol::Tcp(ports), Message::Tcp { port, .. }) | (Protocol::Udp(ports), Message::Udp { port, .. }) => {
            return port_miss(ports, port).into_iter().collect();
        }
        (Protocol::Icmp(messages), Message::Icmp { kind, code })
        | (Protocol::Icmpv6(messages), Message::Icmpv6 { kind, code }) => {
            return icmp_miss(messages, kind, code).into_iter().collect();
        }
        (Protocol::Tcp(ports), Message::Udp { port, .. }) => (String::from("tcp"), true, port_miss(ports, port)),
        (Protocol::Udp(ports), Message::Tcp { port, .. }) => (String::from("udp"), true, port_miss(ports, port)),
        (Protocol::Tcp(_), _) => (String::from("tcp"), false, None),
        (Protocol::Udp(_), _) => (String::from("udp"), false, None),
        (Protocol::Icmp(_), _) => (String::from("icmp"), false, None),
        (Protocol::Icmpv6(_), _) => (String::from("icmpv6"), false, None),
        (Protocol::Number(number), _) => (number_text(number), false, None),
    };
    let own = match message {
        Message::Tcp { .. } => String::from("tcp"),
        Message::Udp { .. } => String::from("udp"),
        Message::Icmp { .. } => String::from("icmp"),
        Message::Icmpv6 { .. } => String::from("icmpv6"),
        Message::Other(number) => number_text(number),
    };
    let miss = Miss {
        field: Field::Protocol,
        bits: if similar { SIMILAR_PROTOCOL } else { OTHER_PROTOCOL },
        message: format!("protocol {own} is not {name}"),
    };
    [miss].into_iter().chain(inner).collect()
}

/// A protocol behind the word `protocol`.
fn number_text(number: u8) -> String {
    protocol_name(number).map_or_else(|| number.to_string(), |_| protocol_text(number))
}

fn port_miss(ports: Ports, port: u16) -> Option<Miss> {
    let Ports { from, to } = ports;
    let away = from.saturating_sub(port).max(port.saturating_sub(to));
    (away != 0).then(|| Miss {
        field: Field::Port,
        bits: u16::BITS - away.leading_zeros(),
        message: if from == to {
            format!("port {port} is not {from}")
        } else {
            format!("port {port} not in {from}-{to}")
        },
    })
}

fn icmp_miss(messages: IcmpMatch, kind: u8, code: u8) -> Option<Miss> {
    match messages {
        _ if messages.contains(kind, code) => None,
        IcmpMatch::TypeCode(wanted, only) if wanted == kind => Some(Miss {
            field: Field::Code,
            bits: 1,
            message: format!("code {code} is not {only}"),
        }),
        IcmpMatch::Type(wanted) | IcmpMatch::TypeCode(wanted, _) => Some(Miss {
            field: Field::Type,
            bits: OTHER_TYPE,
            message: format!("type {kind} is not {wanted}"),
        }),
        IcmpMatch::All => None,
    }
}

fn peer(model: &Model, gate: &Eni, peer: &Peer, far: IpAddr) -> Option<Miss> {
    let bits = match peer {
        Peer::V4(net) => bits_outside(IpNet::V4(*net), far),
        Peer::V6(net) => bits_outside(IpNet::V6(*net), far),
        Peer::PrefixList(list) => {
            let entries = model.prefix_list(*list).entries.iter().flatten();
            let nearest = entries.map(|entry| bits_outside(*entry, far)).min();
            nearest.unwrap_or(NEVER)
        }
        Peer::Group(group) => {
            if model.is_member(gate, far, *group) {
                0
            } else {
                NOT_A_MEMBER
            }
        }
        Peer::Missing(_) => NEVER,
    };
    let unknown = matches!(peer, Peer::Group(_)) && model.enis_by_address(far).next().is_none();
    (bits != 0).then(|| Miss {
        field: Field::Peer,
        bits,
        message: if unknown {
            format!("peer {far} is in no file, so not in {}", display::peer(model, peer))
        } else {
            format!("peer {far} not in {}", display::peer(model, peer))
        },
    })
}

/// The number of prefix bits of a CIDR from the first one in which an address differs.
fn bits_outside(net: IpNet, address: IpAddr) -> u32 {
    let (shared, length) = match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => (
            (net.addr().to_bits() ^ address.to_bits()).leading_zeros(),
            net.prefix_len(),
        ),
        (IpNet::V6(net), IpAddr::V6(address)) => (
            (net.addr().to_bits() ^ address.to_bits()).leading_zeros(),
            net.prefix_len(),
        ),
        _ => return NEVER,
    };
    // Even a distant IPv6 address is closer than an address of the other family.
    u32::from(length).saturating_sub(shared).min(NEVER - 1)
}
