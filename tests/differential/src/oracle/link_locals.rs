//! The owners of a link's link-local addresses: the first one seen with an address, or one that asked for it and got no
//! answer.

use std::{collections::BTreeMap, net::Ipv6Addr};

use taskgate_ebpf::abi::image::Timeout;

use super::names::Case;
use testkit::fixture::Uplink;

/// The host that was last seen with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A task: its slot, and the slot's epoch.
    Task(u16, u32),
    /// Another host, or a task that only probed: the link by which the address was seen, and the time.
    Neighbour(u32, u32),
    /// No known host, but a task probed for the address.
    Nobody,
}

/// All known owners.
#[derive(Clone, Debug, Default)]
pub(crate) struct LinkLocals {
    seen: BTreeMap<(u32, Ipv6Addr), Seen>,
    /// The last task that probed for an address that another host had, and has had no answer since: its link, and the
    /// time.
    asked: BTreeMap<(u32, Ipv6Addr), (u32, u32)>,
    /// When a task, or its neighbours, began to name new addresses, and how many they have.
    named: BTreeMap<(u16, bool), (u32, u32)>,
}

fn fits(mac: [u8; 6], address: Ipv6Addr) -> bool {
    let mut identifier = [&mac[..3], &[0xff, 0xfe], &mac[3..]].concat();
    identifier[0] ^= 2;
    address.octets()[8..] == identifier
}

fn is_address(address: Ipv6Addr) -> bool {
    address.octets()[..8] == [0xfe, 0x80, 0, 0, 0, 0, 0, 0]
}

impl LinkLocals {
    fn key(case: &Case<'_>, slot: u16, address: Ipv6Addr) -> (u32, Ipv6Addr) {
        (case.world.segments.get(&slot).copied().unwrap_or(case.link), address)
    }

    /// Whether an address is the task's.
    pub(super) fn is_own(&self, case: &Case<'_>, slot: u16, address: Ipv6Addr) -> bool {
        let by_mac = case.world.macs.get(&slot).is_some_and(|mac| fits(*mac, address));
        let seen = self.seen.get(&Self::key(case, slot, address));
        is_address(address) && (by_mac || seen == Some(&Seen::Task(slot, case.world.epoch(slot))))
    }

    /// Whether a packet to an address is meant for the task: a link with two ends has no other host.
    pub(super) fn is_meant(&self, case: &Case<'_>, slot: u16, address: Ipv6Addr) -> bool {
        let key = Self::key(case, slot, address);
        let others = self.task(case, key).is_some() || self.neighbour(case, key).is_some_and(|by| by != case.link);
        self.is_own(case, slot, address) || is_address(address) && !others
    }

    /// Whether an address is only presumed to be the task's: it may be, but other hosts are on the link.
    pub(super) fn is_presumed(&self, case: &Case<'_>, slot: u16, address: Ipv6Addr) -> bool {
        case.world.segments.contains_key(&slot) && !self.is_own(case, slot, address)
    }

    /// The link and the time of a recent probe for the address.
    fn asked(&self, case: &Case<'_>, key: (u32, Ipv6Addr)) -> Option<(u32, u32)> {
        let patience = case.world.timeouts[Timeout::LinkLocal as usize];
        let asked = self.asked.get(&key).copied();
        asked.filter(|(_, when)| case.now.wrapping_sub(*when) <= patience)
    }

    /// The task that has the address now, if any.
    fn task(&self, case: &Case<'_>, key: (u32, Ipv6Addr)) -> Option<u16> {
        match self.seen.get(&key) {
            Some(Seen::Task(slot, epoch)) if case.world.epoch(*slot) == *epoch => {
                case.world.carriers.contains_key(slot).then_some(*slot)
            }
            _ => None,
        }
    }

    /// The link by which the neighbour that has the address now was heard.
    fn neighbour(&self, case: &Case<'_>, key: (u32, Ipv6Addr)) -> Option<u32> {
        match self.seen.get(&key) {
            Some(Seen::Neighbour(by, last)) => {
                let patience = case.world.timeouts[Timeout::LinkLocal as usize];
                (case.now.wrapping_sub(*last) <= patience).then_some(*by)
            }
            _ => None,
        }
    }

    /// Whether another new address may be named: their number is limited within the time that a neighbour keeps one.
    fn has_room(&mut self, case: &Case<'_>, slot: u16, by_neighbours: bool) -> bool {
        let patience = case.world.timeouts[Timeout::LinkLocal as usize];
        let named = self.named.entry((slot, by_neighbours)).or_default();
        if named.1 == 0 || case.now.wrapping_sub(named.0) > patience {
            *named = (case.now, 0);
        }
        let has_room = named.1 < if by_neighbours { 1024 } else { 64 };
        named.1 += u32::from(has_room);
        has_room
    }

    /// Whether a task may speak from an address, or probe for it. If it may, it has the address from now on, or is noted
    /// as the one that probed first.
    pub(super) fn is_said(&mut self, case: &Case<'_>, slot: u16, address: Ipv6Addr, asks: bool) -> bool {
        let (eni, ..) = case.world.eni_on(case.link).expect("it was judged by one");
        let key = Self::key(case, slot, address);
        if !is_address(address) || self.is_own(case, slot, address) {
            if !asks && self.seen.get(&key) == Some(&Seen::Task(slot, case.world.epoch(slot))) {
                self.asked.remove(&key);
            }
            return is_address(address);
        }
        let own = Seen::Task(slot, case.world.epoch(slot));
        let Some(seen) = self.seen.get(&key).copied() else {
            let has_room = self.has_room(case, slot, false);
            if has_room {
                let first = if asks {
                    Seen::Neighbour(case.link, case.now)
                } else {
                    own
                };
                self.seen.insert(key, first);
            }
            return has_room;
        };
        if asks {
            // A gated task that has the address keeps it for now.
            if !matches!(seen, Seen::Task(..)) {
                self.seen.insert(key, Seen::Nobody);
            }
            self.asked.insert(key, (case.link, case.now));
            return true;
        }
        let others = self.neighbour(case, key).is_some_and(|by| by != case.link);
        let asked = self.asked(case, key).filter(|(by, _)| *by == case.link);
        if self.task(case, key).is_some() || others || asked.is_some() {
            let answers = case.world.timeouts[Timeout::LinkLocal as usize] / 512;
            let is_given = asked.is_some_and(|(_, when)| case.now.wrapping_sub(when) > answers);
            if is_given {
                self.seen.insert(key, own);
                self.asked.remove(&key);
            }
            // A task that forwards for others, without the source/destination check, may also speak for them.
            return is_given || others && !eni.source_dest_check;
        }
        self.seen.insert(key, own);
        self.asked.remove(&key);
        true
    }

    /// A host on the other side speaks from an address, or is about to.
    pub(super) fn is_heard(&mut self, case: &Case<'_>, slot: u16, address: Ipv6Addr) {
        let key = Self::key(case, slot, address);
        if !is_address(address) || self.is_own(case, slot, address) || self.task(case, key).is_some() {
            return;
        }
        if !self.seen.contains_key(&key) && !self.has_room(case, slot, true) {
            return;
        }
        let by = if case.from_wire { Uplink::LINK } else { 0 };
        if self.asked(case, key).is_some_and(|(asked, _)| asked == by) {
            return;
        }
        let first = self.neighbour(case, key).filter(|first| *first != case.link);
        self.seen.insert(key, Seen::Neighbour(first.unwrap_or(by), case.now));
        self.asked.remove(&key);
    }

    /// Shifts all observations into the past.
    pub(crate) fn age(&mut self, ticks: u32) {
        for seen in self.seen.values_mut() {
            if let Seen::Neighbour(_, last) = seen {
                *last = last.wrapping_sub(ticks);
            }
        }
        for (_, when) in self.asked.values_mut() {
            *when = when.wrapping_sub(ticks);
        }
    }
}
