//! Rules and their parts as text.

use std::net::IpAddr;

use taskgate_model::{
    Direction, Eni, Family, GroupIndex, IcmpMatch, Model, Peer, Ports, PrefixListIndex, Protocol, Rule, protocol_name,
    protocol_text,
};

/// The family of an address.
pub fn family_of(address: IpAddr) -> Family {
    if address.is_ipv4() { Family::V4 } else { Family::V6 }
}

/// A packet's protocol in one word: its name, or its number if it has none.
pub fn protocol_word(number: u8) -> String {
    protocol_name(number).map_or_else(|| number.to_string(), str::to_owned)
}

/// A rule's protocol and ports: `tcp port 443`, `icmp type 8`, `all traffic`.
pub fn protocol(protocol: Protocol) -> String {
    match protocol {
        Protocol::All => String::from("all traffic"),
        Protocol::Tcp(range) => ports("tcp", range),
        Protocol::Udp(range) => ports("udp", range),
        Protocol::Icmp(messages) => icmp("icmp", messages),
        Protocol::Icmpv6(messages) => icmp("icmpv6", messages),
        Protocol::Number(number) => protocol_text(number),
    }
}

fn ports(name: &str, range: Ports) -> String {
    match range {
        Ports::ALL => name.to_owned(),
        Ports { from, to } if from == to => format!("{name} port {from}"),
        Ports { from, to } => format!("{name} ports {from}-{to}"),
    }
}

fn icmp(name: &str, messages: IcmpMatch) -> String {
    match messages {
        IcmpMatch::All => name.to_owned(),
        IcmpMatch::Type(kind) => format!("{name} type {kind}"),
        IcmpMatch::TypeCode(kind, code) => format!("{name} type {kind} code {code}"),
    }
}

/// A rule's peer.
pub fn peer(model: &Model, peer: &Peer) -> String {
    match peer {
        Peer::V4(net) => net.to_string(),
        Peer::V6(net) => net.to_string(),
        Peer::PrefixList(list) => format!("prefix list {}", list_name(model, *list)),
        Peer::Group(group) => format!("group {}", group_name(model, *group)),
        Peer::Missing(id) => format!("{id}, which is not known"),
    }
}

/// A whole rule: `tcp port 5432 from group web`.
pub fn rule(model: &Model, direction: Direction, rule: &Rule) -> String {
    let way = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    format!("{} {way} {}", protocol(rule.protocol), peer(model, &rule.peer))
}

/// A group's name for output, or its id if the name is ambiguous.
pub fn group_name(model: &Model, group: GroupIndex) -> &str {
    let (index, group) = (group, model.group(group));
    let same = |text: &str| text.eq_ignore_ascii_case(&group.name);
    let mut others = model.groups.iter().enumerate().filter(|(at, _)| *at != index.0);
    if group.name.is_empty() || others.any(|(_, other)| same(&other.name) || same(&other.id)) {
        &group.id
    } else {
        &group.name
    }
}

/// A prefix list's name for output, or its id if the name is ambiguous.
pub fn list_name(model: &Model, list: PrefixListIndex) -> &str {
    let (index, list) = (list, model.prefix_list(list));
    let Some(name) = list.name.as_deref() else {
        return &list.id;
    };
    let same = |text: &str| text.eq_ignore_ascii_case(name);
    let mut others = model.prefix_lists.iter().enumerate().filter(|(at, _)| *at != index.0);
    if others.any(|(_, other)| other.name.as_deref().is_some_and(same) || same(&other.id)) {
        &list.id
    } else {
        name
    }
}

/// An ENI's groups, in backticks.
pub fn groups_of(model: &Model, eni: &Eni) -> String {
    let names: Vec<&str> = eni.groups.iter().map(|&group| group_name(model, group)).collect();
    all(&names)
}

/// These names joined by "and", in backticks.
pub fn all(names: &[&str]) -> String {
    joined(names, "and")
}

/// These names joined by "or", in backticks.
pub fn either(names: &[&str]) -> String {
    joined(names, "or")
}

fn joined(names: &[&str], word: &str) -> String {
    let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} {word} {last}", rest.join(", ")),
    }
}

/// An id in AWS's form, which is safe in a shell command. `None` for any other: a file could inject a command with it.
pub fn plain_id(id: &str) -> Option<&str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!id.is_empty() && !id.starts_with('-') && id.chars().all(fits)).then_some(id)
}

/// A number of bytes in a readable unit.
pub fn bytes(count: usize) -> String {
    const UNITS: [&str; 4] = ["bytes", "KiB", "MiB", "GiB"];
    let mut whole = count;
    let mut rest = 0;
    let mut unit = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    if unit == 0 {
        format!("{whole} {}", UNITS[0])
    } else {
        format!("{whole}.{} {}", rest * 10 / 1024, UNITS[unit])
    }
}
