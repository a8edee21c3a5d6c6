//! The rule sets and the model that are measured with.

use std::net::{Ipv4Addr, Ipv6Addr};

use taskgate_compiler::EniLimits;
use taskgate_model::{Eni, Family, Model, Protocol, SecurityGroup};
use testkit::fixture::model::{gated, group, member, model, tcp_to};

/// How a set's rules lie to the packet that they deny.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleKind {
    /// As in a real set: each rule has a different port and peer.
    Plain,
    /// Every other rule has the packet's port, every other its peer, and none has both: the verdict must read every word
    /// of the bitmaps.
    NearMiss,
}

/// The ingress rules of an ENI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    /// Family of their peers.
    pub family: Family,
    /// How many: 1 to 1,000.
    pub rules: u16,
    pub kind: RuleKind,
}

/// The ENI with [`WIDE`] rules comes first, then an ENI for each of these, in this order.
pub const SETS: [Set; 6] = {
    const fn set(family: Family, rules: u16, kind: RuleKind) -> Set {
        Set { family, rules, kind }
    }
    [
        set(Family::V4, 1, RuleKind::Plain),
        set(Family::V4, 10, RuleKind::Plain),
        set(Family::V4, 100, RuleKind::Plain),
        set(Family::V4, 1000, RuleKind::Plain),
        set(Family::V4, 1000, RuleKind::NearMiss),
        set(Family::V6, 1000, RuleKind::Plain),
    ]
};

/// The place in [`SETS`] of 1,000 plain rules over IPv4.
pub const THOUSAND: usize = 3;
/// The same over IPv6.
pub const THOUSAND_V6: usize = 5;
/// The ENI whose connections are measured: all of TCP to and from its network.
pub const WIDE: usize = 0;
/// How many ENIs are gated.
pub const GATED: usize = 1 + SETS.len();
/// The port that is open to all peers at an ENI of a set with more than one rule.
pub const OPEN_PORT: u16 = 443;

/// The gate of every gated ENI, without limits.
pub const NO_LIMITS: EniLimits = EniLimits {
    connections: u32::MAX,
    isolated: false,
};

/// The group that the members are in, by its position.
const MEMBERS: &str = "group:0";

/// Id of the gated ENI at this place.
pub fn eni(place: usize) -> String {
    format!("eni-{place}")
}

/// A network for each number below 4,096, in CIDR notation.
pub fn network(family: Family, number: u16) -> String {
    match family {
        Family::V4 => {
            let [high, low] = number.to_be_bytes();
            format!("172.{}.{low}.0/24", 16 + high)
        }
        Family::V6 => format!("fd00:172:{number:x}::/64"),
    }
}

/// Addresses of the gated ENI at this place.
pub fn addresses(place: usize) -> (Ipv4Addr, Ipv6Addr) {
    let host = 1 + place as u16;
    (
        Ipv4Addr::new(10, 1, 0, host as u8),
        Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, host),
    )
}

/// Addresses of a member of the referenced group.
pub fn member_addresses(number: u32) -> (Ipv4Addr, Ipv6Addr) {
    let [_, _, high, low] = number.to_be_bytes();
    (
        Ipv4Addr::new(10, 64, high, low),
        Ipv6Addr::new(0xfd00, 64, 0, 0, 0, 0, 0, number as u16),
    )
}

impl Set {
    /// The port of a packet from a member that the set denies: the hardest case, since the port is open to other peers
    /// and other ports are open to the members.
    pub const fn denied_port(self) -> u16 {
        const MULTIPLE: u16 = 3;
        20_000 + self.rules / 2 / MULTIPLE * MULTIPLE
    }

    fn rule(self, number: u16) -> (Protocol, String) {
        let port = 20_000 + number;
        match (self.kind, number) {
            (RuleKind::Plain, _) => match number % 3 {
                0 => (tcp_to(port, port), network(self.family, number)),
                1 => (tcp_to(port, port), MEMBERS.to_owned()),
                _ => (tcp_to(port, port + 50), network(self.family, number)),
            },
            (RuleKind::NearMiss, _) if number.is_multiple_of(2) => {
                (tcp_to(1000, 30_000 + number), network(self.family, number))
            }
            (RuleKind::NearMiss, _) => (tcp_to(40_000 + number, 40_000 + number), MEMBERS.to_owned()),
        }
    }

    /// The group of the ENI; the last of several rules opens [`OPEN_PORT`] to all peers.
    pub fn group(self) -> SecurityGroup {
        let Self { family, rules, kind } = self;
        let mut ingress: Vec<_> = (0..rules).map(|number| self.rule(number)).collect();
        if rules > 1 {
            let everybody = match family {
                Family::V4 => "0.0.0.0/0",
                Family::V6 => "::/0",
            };
            ingress[usize::from(rules) - 1] = (tcp_to(OPEN_PORT, OPEN_PORT), everybody.to_owned());
        }
        let ingress: Vec<_> = ingress.iter().map(|(what, peer)| (*what, peer.as_str())).collect();
        group(&format!("{family:?}-{rules}-{kind:?}"), &ingress, &[])
    }
}

/// The gated ENIs, and this many members of the group that rules refer to.
pub fn host(members: u32) -> Model {
    let all = tcp_to(0, u16::MAX);
    let near = ["10.0.0.0/8", "fd00::/8"].map(|net| (all, net));
    let mut groups = vec![group("members", &[], &[]), group("wide", &near, &near)];
    groups.extend(SETS.map(Set::group));
    let mut enis: Vec<Eni> = (0..GATED)
        .map(|place| {
            let (v4, v6) = addresses(place);
            gated(&eni(place), &[&v4.to_string(), &v6.to_string()], &[1 + place])
        })
        .collect();
    enis.extend((0..members).map(|number| {
        let (v4, v6) = member_addresses(number);
        member(
            &format!("eni-member-{number}"),
            &[&v4.to_string(), &v6.to_string()],
            &[0],
        )
    }));
    model(groups, enis)
}
