//! The naive oracle: evaluates a packet directly from the model.
//!
//! For tests only. Independent of the compiler except for the model, so that both do not share a mistake: each rule is
//! checked in turn, in the order of precedence.

use std::net::IpAddr;

use taskgate_model::{Direction, Eni, Family, GroupIndex, Model, Peer, Protocol, Rule};

/// The fields of a flow's first packet that rules match. Its family is the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OraclePacket {
    /// The peer's address: the source for ingress, the destination for egress.
    pub peer: IpAddr,
    /// The protocol: the field in IPv4, or the end of the header chain in IPv6.
    pub protocol: u8,
    /// TCP and UDP: the source port.
    pub source_port: u16,
    /// TCP and UDP: the destination port.
    pub destination_port: u16,
    /// ICMP and ICMPv6: the type.
    pub icmp_type: u8,
    /// ICMP and ICMPv6: the code.
    pub icmp_code: u8,
}

impl OraclePacket {
    /// The packet's family.
    pub fn family(&self) -> Family {
        if self.peer.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// The rule that allows a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatchedRule<'a> {
    /// The rule's group.
    pub group: GroupIndex,
    /// The rule.
    pub rule: &'a Rule,
    /// Whether the flow is untracked.
    pub untracked: bool,
}

/// The rule of the ENI's groups that allows `packet` in `direction`. Precedence: rules for particular peers before rules
/// open to any, then the order of the groups on the ENI, then the order in the file.
pub fn classify<'a>(
    model: &'a Model,
    eni: &Eni,
    direction: Direction,
    packet: &OraclePacket,
) -> Option<MatchedRule<'a>> {
    for open in [false, true] {
        for &group in &eni.groups {
            for rule in model.group(group).rules(direction) {
                if rule.peer.is_any() == open && allows(model, eni, rule, packet) {
                    let untracked = open && untracked(model, eni, direction, packet);
                    return Some(MatchedRule { group, rule, untracked });
                }
            }
        }
    }
    None
}

/// Whether a rule allows a packet.
fn allows(model: &Model, gate: &Eni, rule: &Rule, packet: &OraclePacket) -> bool {
    let v4 = packet.family() == Family::V4;
    let protocol = match rule.protocol {
        Protocol::All => true,
        Protocol::Tcp(ports) => packet.protocol == 6 && ports.contains(packet.destination_port),
        Protocol::Udp(ports) => packet.protocol == 17 && ports.contains(packet.destination_port),
        Protocol::Icmp(messages) => v4 && packet.protocol == 1 && messages.contains(packet.icmp_type, packet.icmp_code),
        Protocol::Icmpv6(messages) => {
            !v4 && packet.protocol == 58 && messages.contains(packet.icmp_type, packet.icmp_code)
        }
        Protocol::Number(number) => packet.protocol == number,
    };
    protocol && is_peer(model, gate, &rule.peer, packet.peer)
}

/// Whether an address matches a rule's peer.
fn is_peer(model: &Model, gate: &Eni, peer: &Peer, address: IpAddr) -> bool {
    match (peer, address) {
        (Peer::V4(net), IpAddr::V4(address)) => net.contains(&address),
        (Peer::V6(net), IpAddr::V6(address)) => net.contains(&address),
        (Peer::PrefixList(list), _) => model
            .prefix_list(*list)
            .entries
            .iter()
            .flatten()
            .any(|net| net.contains(&address)),
        (Peer::Group(group), _) => is_member(model, gate, *group, address),
        (Peer::V4(_) | Peer::V6(_) | Peer::Missing(_), _) => false,
    }
}

/// Whether an address counts as a member of a group for a gate. Some ENIs with the address are ruled out: an ENI of the
/// gate's VPC excludes all others, and an ENI of a VPC that shares a rule with it excludes those of other VPCs. An ENI bound
/// to this host always counts. All remaining ENIs must have the group.
fn is_member(model: &Model, gate: &Eni, group: GroupIndex, address: IpAddr) -> bool {
    let holders: Vec<&Eni> = model
        .enis
        .iter()
        .filter(|eni| eni.addresses.contains(&address))
        .collect();
    let home = |eni: &Eni| gate.vpc.is_some() && (eni.vpc.is_none() || eni.vpc == gate.vpc);
    let peered = |eni: &Eni| gate.vpc.is_some() && eni.vpc.is_some() && share_a_rule(model, gate, eni);
    let heard = |eni: &Eni| {
        let kept_off = if holders.iter().any(|other| home(other)) {
            !home(eni)
        } else {
            holders.iter().any(|other| peered(other)) && !peered(eni)
        };
        !kept_off || gate.binding.is_some() && eni.binding.is_some()
    };
    let mut left = holders.iter().filter(|eni| heard(eni)).peekable();
    left.peek().is_some() && left.all(|eni| eni.groups.contains(&group))
}

/// Whether a rule of a group in one ENI's VPC refers to a group in the other's VPC.
fn share_a_rule(model: &Model, one: &Eni, other: &Eni) -> bool {
    let names = |from: &Eni, to: &Eni| {
        let groups = model.groups.iter().filter(|group| group.vpc == from.vpc);
        groups
            .flat_map(|group| group.ingress.iter().chain(&group.egress))
            .any(|rule| matches!(rule.peer, Peer::Group(named) if model.group(named).vpc == to.vpc))
    };
    names(one, other) || names(other, one)
}

/// Whether a flow admitted by a rule open to any is untracked: TCP or UDP, and a rule of the opposite direction allows all
/// ports to any address of the family.
fn untracked(model: &Model, eni: &Eni, direction: Direction, packet: &OraclePacket) -> bool {
    let v4 = packet.family() == Family::V4;
    eni.groups
        .iter()
        .flat_map(|&group| model.group(group).rules(direction.opposite()))
        .any(|rule| {
            let any = match rule.peer {
                Peer::V4(net) => v4 && net.prefix_len() == 0,
                Peer::V6(net) => !v4 && net.prefix_len() == 0,
                _ => false,
            };
            let all_ports = match rule.protocol {
                Protocol::All => [6, 17].contains(&packet.protocol),
                Protocol::Tcp(ports) => packet.protocol == 6 && ports.from == 0 && ports.to == u16::MAX,
                Protocol::Udp(ports) => packet.protocol == 17 && ports.from == 0 && ports.to == u16::MAX,
                _ => false,
            };
            any && all_ports
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use taskgate_model::{Dialect, IcmpMatch, Location, Ports, SecurityGroup};

    const V4: &str = "0.0.0.0/0";

    fn rule(protocol: Protocol, peer: &str) -> Rule {
        Rule {
            id: "r".into(),
            protocol,
            peer: Peer::V4(peer.parse().unwrap()),
            description: String::new(),
            location: Location::default(),
        }
    }

    fn tcp(from: u16, to: u16) -> Protocol {
        Protocol::Tcp(Ports { from, to })
    }

    /// AWS's own examples of tracked and untracked flows (EC2 User Guide, connection tracking).
    #[test]
    fn the_examples_of_the_documentation() {
        let out = rule(Protocol::All, V4);
        let out_narrow = rule(Protocol::All, "203.0.113.0/24");
        let ping = |peer| rule(Protocol::Icmp(IcmpMatch::All), peer);
        for (ingress, egress, protocol, expected) in [
            (rule(tcp(22, 22), "203.0.113.1/32"), Some(&out), 6, Some(false)),
            (rule(tcp(22, 22), V4), Some(&out), 6, Some(true)),
            (rule(tcp(22, 22), V4), None, 6, Some(false)),
            (rule(tcp(22, 22), V4), Some(&out_narrow), 6, Some(false)),
            (ping(V4), Some(&out), 1, Some(false)),
            (ping(V4), Some(&out), 17, None),
            (rule(tcp(23, 80), V4), Some(&out), 6, None),
        ] {
            let model = Model {
                groups: vec![SecurityGroup {
                    id: "sg-a".into(),
                    name: "a".into(),
                    vpc: None,
                    rules_known: true,
                    dialect: Dialect::Native,
                    location: Location::default(),
                    ingress: vec![ingress.clone()],
                    egress: egress.into_iter().cloned().collect(),
                }],
                ..Model::default()
            };
            let eni = crate::tests::eni("eni-a", &["10.0.0.1"], &[0]);
            let packet = OraclePacket {
                peer: "203.0.113.1".parse().unwrap(),
                protocol,
                source_port: 40000,
                destination_port: 22,
                icmp_type: 8,
                icmp_code: 0,
            };
            let allowed = classify(&model, &eni, Direction::Ingress, &packet);
            assert_eq!(
                allowed.map(|allowed| allowed.untracked),
                expected,
                "{ingress:?} {egress:?}"
            );
        }
    }
}
