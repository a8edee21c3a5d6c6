//! Fragments: later fragments are judged by the first fragment of their datagram.

use std::{collections::BTreeMap, net::IpAddr};

use taskgate_ebpf::abi::image::{NO_CAP, Timeout};

use super::{
    super::naive_parser::{Body, Ip, Reading},
    names::Case,
    room::{Taken, keeps_free, pays},
};

/// A datagram: link, source, destination, identification; for IPv4 the protocol too.
type Datagram = (u32, IpAddr, IpAddr, u32, Option<u8>);

/// The values of a first fragment.
#[derive(Clone, Debug)]
struct First {
    protocol: u8,
    body: Body,
    last: u32,
    slot: u16,
    pooled: bool,
    /// 0 once the whole datagram has passed.
    missing: i64,
}

/// The first fragments that were let through.
#[derive(Clone, Debug, Default)]
pub(crate) struct Firsts {
    firsts: BTreeMap<Datagram, First>,
    /// How many were not remembered for want of room, by slot.
    pub(crate) lost: BTreeMap<u16, u64>,
}

fn datagram(case: &Case<'_>, ip: &Ip, id: u32) -> Datagram {
    let protocol = ip.source.is_ipv4().then_some(ip.protocol);
    (case.link, ip.source, ip.destination, id, protocol)
}

impl Firsts {
    /// The slot of each entry, and whether it is charged to the pool.
    pub(crate) fn owners(&self) -> impl Iterator<Item = (u16, bool)> {
        self.firsts.values().map(|first| (first.slot, first.pooled))
    }

    /// Makes all of them older.
    pub(crate) fn age(&mut self, ticks: u32) {
        for first in self.firsts.values_mut() {
            first.last = first.last.wrapping_sub(ticks);
        }
    }

    /// A packet as it is judged: a later fragment gets the ports of its first one, if that was let through recently.
    pub(super) fn rejoined(&self, case: &Case<'_>, reading: Reading) -> Reading {
        let Reading::Ip(ip) = &reading else {
            return reading;
        };
        let Some(part) = ip.fragment.filter(|part| !part.is_first && ip.body == LATER) else {
            return reading;
        };
        let Some(first) = self.firsts.get(&datagram(case, ip, part.datagram)) else {
            return reading;
        };
        let timeout = if ip.source.is_ipv4() {
            Timeout::FragmentV4
        } else {
            Timeout::FragmentV6
        };
        if case.now.wrapping_sub(first.last) > case.world.timeouts[timeout as usize] {
            return reading;
        }
        Reading::Ip(Ip {
            protocol: first.protocol,
            body: first.body.clone(),
            ..ip.clone()
        })
    }

    /// Notes a fragment that was let through: a first one is remembered, and a complete datagram forgotten.
    pub(super) fn remember(&mut self, case: &Case<'_>, ip: &Ip) {
        // Rules do not judge neighbour discovery, nor its fragments.
        let (Some(part), false) = (ip.fragment, matches!(ip.body, Body::Neighbour { .. })) else {
            return;
        };
        let key = datagram(case, ip, part.datagram);
        if !part.is_first {
            if let Some(first) = self.firsts.get_mut(&key) {
                first.missing += part.step;
                if first.missing == 0 {
                    self.firsts.remove(&key);
                }
            }
            return;
        }
        let Some((.., slot)) = case.world.eni_on(case.link) else {
            return;
        };
        let body = match &ip.body {
            Body::Ports {
                source, destination, ..
            } => Body::Ports {
                source: *source,
                destination: *destination,
                flags: 0,
                segment: None,
            },
            Body::Icmp {
                kind, code, identifier, ..
            } => Body::Icmp {
                kind: *kind,
                code: *code,
                identifier: *identifier,
                quoted: None,
            },
            other => other.clone(),
        };
        let v4 = ip.source.is_ipv4();
        let taken = Taken::by(slot, self.owners());
        let pays = pays(taken, case.world.shares[2], NO_CAP, keeps_free(case.direction));
        let of_family = self.firsts.keys().filter(|key| key.1.is_ipv4() == v4).count();
        let (slot, pooled) = match (self.firsts.get(&key), pays) {
            (Some(first), _) => (first.slot, first.pooled),
            (None, Err(_)) => {
                *self.lost.entry(slot).or_default() += 1;
                return;
            }
            (None, Ok(_)) if of_family >= (case.world.room / 8).max(1) => return,
            (None, Ok(pooled)) => (slot, pooled),
        };
        let first = First {
            protocol: ip.protocol,
            body,
            last: case.now,
            slot,
            pooled,
            missing: part.step,
        };
        self.firsts.insert(key, first);
    }
}

const LATER: Body = Body::Bad(taskgate_ebpf::abi::DropReason::FragmentWithoutFirst);
