//! Models in few words.

use taskgate::model::{
    Binding, Dialect, Direction, EcsFields, Eni, GroupIndex, Location, Model, Peer, Ports, PrefixListIndex, Protocol,
    Rule, SecurityGroup,
};

/// An ENI that is gated here: its id, its addresses, and its groups by position.
pub fn gated(id: &str, addresses: &[&str], groups: &[usize]) -> Eni {
    Eni {
        id: id.into(),
        task: None,
        account: None,
        addresses: addresses
            .iter()
            .map(|address| address.parse().expect("an address"))
            .collect(),
        groups: groups.iter().map(|&group| GroupIndex(group)).collect(),
        groups_known: true,
        gate_known: true,
        binding: Some(Binding::Device(id.into())),
        source_dest_check: true,
        vpc: None,
        subnet: None,
        ecs: EcsFields::default(),
    }
}

/// An ENI that is elsewhere.
pub fn member(id: &str, addresses: &[&str], groups: &[usize]) -> Eni {
    Eni {
        binding: None,
        ..gated(id, addresses, groups)
    }
}

/// What a rule allows of TCP.
pub fn tcp_to(from: u16, to: u16) -> Protocol {
    Protocol::Tcp(Ports { from, to })
}

/// What a rule allows of UDP.
pub fn udp_to(from: u16, to: u16) -> Protocol {
    Protocol::Udp(Ports { from, to })
}

/// A rule's far side: a CIDR, `group:N` or `list:N` by position.
pub fn peer(text: &str) -> Peer {
    if let Some(group) = text.strip_prefix("group:") {
        return Peer::Group(GroupIndex(group.parse().expect("a position")));
    }
    if let Some(list) = text.strip_prefix("list:") {
        return Peer::PrefixList(PrefixListIndex(list.parse().expect("a position")));
    }
    match text.parse() {
        Ok(net) => Peer::V4(net),
        Err(_) => Peer::V6(text.parse().expect("a CIDR")),
    }
}

/// A group; its rules are named by direction and position, from 1.
pub fn group(name: &str, ingress: &[(Protocol, &str)], egress: &[(Protocol, &str)]) -> SecurityGroup {
    let rules = |direction: Direction, rules: &[(Protocol, &str)]| {
        let named = rules.iter().zip(1..).map(|((protocol, far), number)| Rule {
            id: format!("{name}/{direction}/{number}"),
            protocol: *protocol,
            peer: peer(far),
            description: String::new(),
            location: Location::default(),
        });
        named.collect()
    };
    SecurityGroup {
        id: format!("sg-{name}"),
        name: name.into(),
        vpc: None,
        rules_known: true,
        dialect: Dialect::Native,
        location: Location::default(),
        ingress: rules(Direction::Ingress, ingress),
        egress: rules(Direction::Egress, egress),
    }
}

/// A model of groups and ENIs.
pub fn model(groups: Vec<SecurityGroup>, enis: Vec<Eni>) -> Model {
    Model {
        groups,
        enis,
        ..Model::default()
    }
}
