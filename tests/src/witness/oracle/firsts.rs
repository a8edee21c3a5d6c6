//! Fragments: later ones are judged by what the first one of their datagram said.

use std::{collections::BTreeMap, net::IpAddr};

use taskgate_ebpf::abi::image::Timeout;

use super::{
    super::reading::{Body, Ip, Reading},
    names::Case,
};

/// A datagram: link, source, destination, identification; for IPv4 the protocol too.
type Datagram = (u32, IpAddr, IpAddr, u32, Option<u8>);

/// What a first fragment said.
#[derive(Clone, Debug)]
struct First {
    protocol: u8,
    body: Body,
    last: u32,
    slot: u16,
    /// 0 once all of it has passed.
    missing: i64,
}

/// The first fragments that were let through.
#[derive(Clone, Debug, Default)]
pub(in crate::witness) struct Firsts(BTreeMap<Datagram, First>);

fn datagram(case: &Case<'_>, ip: &Ip, id: u32) -> Datagram {
    let protocol = ip.source.is_ipv4().then_some(ip.protocol);
    (case.link, ip.source, ip.destination, id, protocol)
}

impl Firsts {
    /// Makes all of them older.
    pub(in crate::witness) fn age(&mut self, ticks: u32) {
        for first in self.0.values_mut() {
            first.last = first.last.wrapping_sub(ticks);
        }
    }

    /// A packet as it is judged: a later fragment has the ports of its first one, if that was let through lately.
    pub(super) fn rejoined(&self, case: &Case<'_>, reading: Reading) -> Reading {
        let Reading::Ip(ip) = &reading else {
            return reading;
        };
        let Some(part) = ip.fragment.filter(|part| !part.is_first && ip.body == LATER) else {
            return reading;
        };
        let Some(first) = self.0.get(&datagram(case, ip, part.datagram)) else {
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

    /// Takes notice of a fragment that was let through: a first one is remembered, and a datagram that is whole forgotten.
    pub(super) fn remember(&mut self, case: &Case<'_>, ip: &Ip) {
        // Neighbour discovery is no business of rules, nor are its fragments.
        let (Some(part), false) = (ip.fragment, matches!(ip.body, Body::Neighbour { .. })) else {
            return;
        };
        let key = datagram(case, ip, part.datagram);
        if !part.is_first {
            if let Some(first) = self.0.get_mut(&key) {
                first.missing += part.step;
                if first.missing == 0 {
                    self.0.remove(&key);
                }
            }
            return;
        }
        let Some((_, gate, slot)) = case.world.eni_on(case.link) else {
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
        let share = |limit: usize| limit / 8;
        let v4 = ip.source.is_ipv4();
        let of_slot = self.0.values().filter(|first| first.slot == slot).count();
        let of_family = self.0.keys().filter(|key| key.1.is_ipv4() == v4).count();
        let full = of_slot >= share(gate.denials as usize) || of_family >= share(case.world.room).max(1);
        if !self.0.contains_key(&key) && full {
            return;
        }
        let slot = self.0.get(&key).map_or(slot, |first| first.slot);
        let first = First {
            protocol: ip.protocol,
            body,
            last: case.now,
            slot,
            missing: part.step,
        };
        self.0.insert(key, first);
    }
}

const LATER: Body = Body::Bad(taskgate_ebpf::abi::Reason::FragmentWithoutFirst);
