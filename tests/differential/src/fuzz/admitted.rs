//! The flows admitted so far, by a rule or without needing one: no other packet may pass as part of a connection. Flows
//! are named by the packets themselves, independently of the tables' keys.

use std::{collections::BTreeSet, net::IpAddr};

use taskgate_ebpf::abi::{Direction, Outcome, PassReason};

use crate::{Body, Reading};

/// The part that distinguishes flows between two addresses; unknown for a later fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Unknown,
    Ports(u16, u16),
    /// An ICMP request and its reply.
    Identifier(u16),
    /// Any other ICMP message: type and code, without its body.
    Message(u8, u8),
    Pair,
}

/// A flow: link, task's address, peer's address, protocol, and the part that distinguishes flows between two addresses.
type Flow = (u32, IpAddr, IpAddr, u8, What);

/// The flows that were let in.
#[derive(Debug, Default)]
pub(super) struct Admitted(BTreeSet<Flow>);

/// A packet's flow, and, if it is an answer, the flow that it may answer.
fn flows(reading: &Reading, link: u32, direction: Direction) -> Option<(Flow, Option<Flow>)> {
    let Reading::Ip(ip) = reading else {
        return None;
    };
    let (local, remote) = match direction {
        Direction::Egress => (ip.source, ip.destination),
        Direction::Ingress => (ip.destination, ip.source),
    };
    let mut answers = None;
    let what = match ip.body {
        Body::Bad(_) => What::Unknown,
        Body::Ports {
            source, destination, ..
        } if direction == Direction::Egress => What::Ports(source, destination),
        Body::Ports {
            source, destination, ..
        } => What::Ports(destination, source),
        Body::Icmp {
            kind, code, identifier, ..
        } => match (ip.source.is_ipv6(), kind) {
            (false, 8 | 13 | 15 | 17) | (true, 128) => What::Identifier(identifier),
            (false, 0 | 14 | 16 | 18) | (true, 129) => {
                answers = Some(What::Identifier(identifier));
                What::Message(kind, code)
            }
            _ => What::Message(kind, code),
        },
        Body::Neighbour { kind, code, .. } => What::Message(kind, code),
        Body::Other | Body::IgmpQuery => What::Pair,
    };
    let flow = |what| (link, local, remote, ip.protocol, what);
    Some((flow(what), answers.map(flow)))
}

/// A flow whose answers may come from, and go to, other addresses than its own.
fn is_dhcp((.., protocol, what): Flow) -> bool {
    protocol == 17 && matches!(what, What::Ports(68, 67) | What::Ports(546, 547))
}

impl Admitted {
    /// Notes a packet that passed; panics if it passed as part of a flow that was never admitted.
    pub(super) fn note(&mut self, reading: &Reading, link: u32, direction: Direction, outcome: Outcome) {
        let (Outcome::Pass(pass), Some((flow, answers))) = (outcome, flows(reading, link, direction)) else {
            return;
        };
        if pass == PassReason::Host {
            return;
        }
        if pass != PassReason::Tracked {
            self.0.insert(flow);
            return;
        }
        let (link, local, remote, _, what) = flow;
        // Only a first fragment shows its flow, and an admitted fragment may be of any flow between the addresses.
        let known = if what == What::Unknown {
            let begin = self.0.iter().any(|(l, a, b, ..)| (*l, *a, *b) == (link, local, remote));
            begin || self.0.iter().any(|known| is_dhcp(*known))
        } else if is_dhcp(flow) {
            self.0.iter().any(|known| known.0 == link && is_dhcp(*known))
        } else {
            let pieces = self.0.iter().filter(|known| known.4 == What::Unknown);
            let mut pieces = pieces.map(|(l, a, b, ..)| (*l, *a, *b));
            let answered = answers.is_some_and(|asked| self.0.contains(&asked));
            answered || self.0.contains(&flow) || pieces.any(|piece| piece == (link, local, remote))
        };
        assert!(known, "{flow:?} passes as tracked, and was never let in: {:?}", self.0);
    }
}
