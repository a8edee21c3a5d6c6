//! Suggests a rule for a packet that no rule allows, in the form of its group's definition: no wider than the packet needs,
//! except that a peer with a group, or in a list that the group's rules use, is referred to by the group or list, which
//! outlives its address.

use std::net::IpAddr;

use taskgate_model::{
    Dialect, Direction, Eni, GroupIndex, IcmpMatch, Location, Model, Peer, Ports, PrefixListIndex, Protocol, Rule,
    misleading_protocol, protocol_name,
};

use super::{
    advised_peer::{AdvisedPeer, host_cidr},
    aws_command::aws_command,
    gates::{Explainer, Verdict},
    nearest::Nearest,
    question::{End, Question},
};
use crate::display;
use crate::frame::Message;

/// A rule to add.
pub struct Advice {
    /// The name of the group to add the rule to.
    pub group: String,
    /// The traffic that it allows, as text.
    pub says: String,
    /// The text to write or the command to run. `None` if an id is not safe in a command.
    pub how: Option<String>,
    /// The remaining steps.
    pub then: &'static str,
}

/// The rule to add for an ENI's gate. `nearest`: the rule that missed by least, if any. `None` if no rule would help.
pub fn advice(
    model: &Model,
    question: &Question<'_>,
    direction: Direction,
    eni: &Eni,
    nearest: Option<&Nearest>,
) -> Option<Advice> {
    let (end, word) = match direction {
        Direction::Ingress => (question.from, "from"),
        Direction::Egress => (question.to, "to"),
    };
    let group = nearest
        .map(|nearest| nearest.at)
        .or_else(|| eni.groups.first().copied())?;
    let far = candidates(model, group, end, nearest)
        .into_iter()
        .find(|far| lets_through(model, question, direction, eni, group, *far))?;
    let dialect = model.group(group).dialect;
    let how = match dialect {
        Dialect::Native => Some(format!(
            "- {{ {}, {word}: [{}] }}",
            protocol(question.message),
            native(model, far)
        )),
        Dialect::Aws => {
            let owner = end.eni.and_then(|far| far.account.as_deref());
            let foreign = owner.filter(|owner| eni.account.as_deref().is_some_and(|own| own != *owner));
            aws_command(model, group, direction, question.message, far, foreign)
        }
    };
    Some(Advice {
        group: format!("`{}`", display::group_name(model, group)),
        says: format!("{} {word} {}", question.message, in_words(model, far)),
        how,
        then: match dialect {
            Dialect::Native => "",
            Dialect::Aws => "; then print its files again",
        },
    })
}

/// The possible peers of the rule, the best first.
fn candidates(model: &Model, group: GroupIndex, end: End<'_>, nearest: Option<&Nearest>) -> Vec<AdvisedPeer> {
    let groups = end.eni.map_or(&[][..], |eni| &eni.groups);
    let named = groups.iter().filter(|named| may_name(model, group, **named));
    // If the address is in the nearest rule's list, that rule missed by another field.
    let list = match nearest.map(|nearest| &nearest.peer) {
        Some(Peer::PrefixList(list)) if in_list(model, *list, end.address) => Some(AdvisedPeer::List(*list)),
        _ => None,
    };
    let named = named.copied().map(AdvisedPeer::Group);
    named.chain(list).chain([AdvisedPeer::Address(end.address)]).collect()
}

/// Whether the gate passes the packet once the rule is there. A rule with a group may not match if several ENIs have the
/// address.
fn lets_through(
    model: &Model,
    question: &Question<'_>,
    direction: Direction,
    eni: &Eni,
    group: GroupIndex,
    far: AdvisedPeer,
) -> bool {
    let mut advised = model.clone();
    let Some(changed) = advised.groups.get_mut(group.0) else {
        return false;
    };
    let rules = match direction {
        Direction::Ingress => &mut changed.ingress,
        Direction::Egress => &mut changed.egress,
    };
    rules.push(Rule {
        id: String::from("advised"),
        protocol: rule_protocol(question.message),
        peer: match far {
            AdvisedPeer::Group(group) => Peer::Group(group),
            AdvisedPeer::List(list) => Peer::PrefixList(list),
            AdvisedPeer::Address(IpAddr::V4(address)) => Peer::V4(address.into()),
            AdvisedPeer::Address(IpAddr::V6(address)) => Peer::V6(address.into()),
        },
        description: String::new(),
        location: Location::default(),
    });
    let Ok(explainer) = Explainer::new(&advised, [eni]) else {
        return false;
    };
    let mut gates = explainer.explain(question).gates.into_iter();
    gates.any(|gate| gate.direction == direction && gate.verdict == Verdict::Accept)
}

fn rule_protocol(message: Message) -> Protocol {
    let one = |port| Ports { from: port, to: port };
    match message {
        Message::Tcp { port, .. } => Protocol::Tcp(one(port)),
        Message::Udp { port, .. } => Protocol::Udp(one(port)),
        Message::Icmp { kind, code } => Protocol::Icmp(IcmpMatch::TypeCode(kind, code)),
        Message::Icmpv6 { kind, code } => Protocol::Icmpv6(IcmpMatch::TypeCode(kind, code)),
        Message::Other(number) => Protocol::Number(number),
    }
}

/// Whether a rule of `group` can refer to `named`: AWS does not know native groups, and within one VPC no peering is needed.
fn may_name(model: &Model, group: GroupIndex, named: GroupIndex) -> bool {
    let (group, named) = (model.group(group), model.group(named));
    let one_vpc = match (&group.vpc, &named.vpc) {
        (Some(own), Some(other)) => own == other,
        _ => true,
    };
    group.dialect == Dialect::Native || named.dialect == Dialect::Aws && one_vpc
}

fn in_list(model: &Model, list: PrefixListIndex, address: IpAddr) -> bool {
    let mut entries = model.prefix_list(list).entries.iter().flatten();
    entries.any(|entry| entry.contains(&address))
}

fn in_words(model: &Model, far: AdvisedPeer) -> String {
    match far {
        AdvisedPeer::Group(group) => format!("group `{}`", display::group_name(model, group)),
        AdvisedPeer::List(list) => format!("prefix list `{}`", display::list_name(model, list)),
        AdvisedPeer::Address(address) => host_cidr(address),
    }
}

/// The peer in the native form.
fn native(model: &Model, far: AdvisedPeer) -> String {
    let text = match far {
        AdvisedPeer::Group(group) => format!("group:{}", display::group_name(model, group)),
        AdvisedPeer::List(list) => format!("prefix-list:{}", display::list_name(model, list)),
        AdvisedPeer::Address(address) => address.to_string(),
    };
    let name = text.split_once(':').map_or(&*text, |(_, name)| name);
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.chars().all(plain) {
        return text;
    }
    // A JSON string is also a YAML string.
    serde_json::Value::from(text).to_string()
}

fn protocol(message: Message) -> String {
    match message {
        Message::Tcp { port, .. } => format!("protocol: tcp, ports: {port}"),
        Message::Udp { port, .. } => format!("protocol: udp, ports: {port}"),
        Message::Icmp { kind, code } => format!("protocol: icmp, type: {kind}, code: {code}"),
        Message::Icmpv6 { kind, code } => format!("protocol: icmpv6, type: {kind}, code: {code}"),
        Message::Other(number) => match protocol_name(number) {
            Some(name) if misleading_protocol(name).is_none() => format!("protocol: {name}"),
            _ => format!("protocol: {number}"),
        },
    }
}
