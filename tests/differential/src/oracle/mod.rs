//! The naive data path: judges packets straight from the model, after docs/aws-semantics.md, with plain collections. It
//! uses only numbers of the core.

mod admission;
mod entries;
mod firsts;
mod link_locals;
mod names;
mod neighbours;
mod room;
mod tcp;

use std::{collections::BTreeMap, net::IpAddr};

use taskgate_compiler::EniLimits;
use taskgate_ebpf::abi::{
    Direction, DropReason, LinkId, Outcome, PassReason,
    image::{NO_CAP, Share, TIMEOUTS, control},
};
use taskgate_model::{Eni, Model};
use taskgate_tables::FlowCount;

use self::{
    admission::Admission,
    entries::record_flags,
    firsts::Firsts,
    link_locals::LinkLocals,
    names::{Case, as_dhcp, is_error, request_code},
    neighbours::{Kepts, speaks_as_router},
    room::{Refused, Taken, keeps_free, pays},
    tcp::Tcp,
};
use super::naive_parser::{Body, Ip, Reading};

pub(super) use self::{
    entries::{Denial, Denied, Entry},
    names::{Name, What},
};

/// The world of the naive data path.
pub(crate) struct World {
    /// The configuration.
    pub(crate) model: Model,
    /// The gate of each ENI, in the model's order.
    pub(crate) gates: Vec<Option<EniLimits>>,
    /// The ENI that each link carries, by its id.
    pub(crate) links: BTreeMap<u32, String>,
    /// The link that is the trunk, or 0.
    pub(crate) trunk: u32,
    /// The link that was last bound to each slot's ENI.
    pub(crate) carriers: BTreeMap<u16, u32>,
    /// The slots of ENIs.
    pub(crate) slots: BTreeMap<String, u16>,
    /// The hardware addresses of slots, where they are known.
    pub(crate) macs: BTreeMap<u16, [u8; 6]>,
    /// The bridges of slots' links, for links that are ports of one.
    pub(crate) segments: BTreeMap<u16, u32>,
    /// Epochs by slot.
    pub(crate) epochs: Vec<u32>,
    /// The configuration's number.
    pub(crate) generation: u32,
    /// The capture window.
    pub(crate) window: u32,
    /// Control flags.
    pub(crate) flags: u64,
    /// How connections, denied flows and first fragments are shared.
    pub(crate) shares: [Share; 3],
    /// Idle time-outs in ticks, by `Timeout`.
    pub(crate) timeouts: [u32; TIMEOUTS],
    /// The room of the other tables, in entries; the first fragments of each family have an eighth of it.
    pub(crate) room: usize,
}

/// The naive data path.
#[derive(Clone, Default)]
pub(crate) struct Oracle {
    /// Tracked connections.
    pub(crate) conns: BTreeMap<Name, Entry>,
    /// Denied flows.
    pub(crate) denials: BTreeMap<Denied, Denial>,
    /// Packets by slot, direction and outcome.
    pub(crate) counters: BTreeMap<(u16, Direction, u8), u64>,
    /// First fragments that were let through.
    pub(crate) firsts: Firsts,
    /// Addresses that tasks probed, and neighbours that they heard.
    pub(crate) kepts: Kepts,
    /// The known owners of link-local addresses.
    pub(crate) link_locals: LinkLocals,
    /// Packets that passed or were dropped without a record, by slot.
    pub(crate) lost: BTreeMap<u16, (u64, u64)>,
    /// Packets whose connections found no room, by slot.
    pub(crate) refused: BTreeMap<u16, u64>,
}

impl World {
    /// The ENI that a link carries, its gate, and its slot.
    pub(crate) fn eni_on(&self, link: u32) -> Option<(&Eni, EniLimits, u16)> {
        if self.generation == 0 {
            return None;
        }
        let id = self.links.get(&link)?;
        let at = self.model.enis.iter().position(|eni| eni.id == *id)?;
        Some((&self.model.enis[at], self.gates[at]?, *self.slots.get(id)?))
    }

    /// The link of the gated ENI that has an address.
    pub(crate) fn link_to(&self, address: IpAddr) -> Option<u32> {
        if self.generation == 0 {
            return None;
        }
        let mut enis = self.model.enis.iter().zip(&self.gates);
        let (eni, _) = enis.find(|(eni, gate)| gate.is_some() && eni.addresses.contains(&address))?;
        self.carriers.get(self.slots.get(&eni.id)?).copied()
    }

    pub(crate) fn bind(&mut self, link: u32, eni: String, slot: u16) {
        self.unbind(link);
        self.carriers.insert(slot, link);
        self.links.insert(link, eni);
    }

    /// Makes a link no task's.
    pub(crate) fn unbind(&mut self, link: u32) {
        self.carriers.retain(|_, carrier| *carrier != link);
        self.links.remove(&link);
    }

    fn epoch(&self, slot: u16) -> u32 {
        self.epochs[usize::from(slot)]
    }

    /// Whether an address is an ENI's that is gated here.
    fn is_local(&self, address: IpAddr) -> bool {
        let mut enis = self.model.enis.iter().zip(&self.gates);
        enis.any(|(eni, gate)| gate.is_some() && eni.addresses.contains(&address))
    }

    /// Whether the address is that of a task on a network device, by which all its packets come in. Branches of the
    /// trunk talk to each other over the wire.
    fn speaks_here(&self, address: IpAddr) -> bool {
        self.link_to(address).is_some_and(|link| link < LinkId::DEVICES)
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        self.model.exempt().addresses.contains(&address)
    }
}

impl Oracle {
    /// Judges a frame at the gate of a link.
    pub(crate) fn judge(
        &mut self,
        world: &World,
        reading: &Reading,
        link: u32,
        direction: Direction,
        (to, from_wire, tagged): (Option<[u8; 6]>, bool, bool),
        now: u32,
    ) -> Outcome {
        let case = Case {
            world,
            link,
            direction,
            from_wire: from_wire && direction == Direction::Ingress,
            to,
            now,
        };
        let slot = world.eni_on(link).map_or(0, |(_, _, slot)| slot);
        let lies = self.kepts.lies_beyond(&case, &mut self.link_locals, reading);
        let as_sent = self.firsts.rejoined(&case, self.kepts.as_sent(&case, reading));
        let reading = &as_sent;
        let judged = match reading {
            Reading::Nameless(reason) => unless_unknown(&case, *reason),
            Reading::Arp(_) => self.kepts.judge(&case, &mut self.link_locals, reading),
            Reading::Ip(ip) if ip.overwritten => unless_unknown(&case, DropReason::Malformed),
            Reading::Ip(ip) => match ip.body {
                Body::Bad(reason) => unless_unknown(&case, reason),
                Body::Neighbour { .. } => self.kepts.judge(&case, &mut self.link_locals, reading),
                _ if lies => unless_unknown(&case, DropReason::SpoofedSource),
                _ if speaks_as_router(&case, ip) => match world.eni_on(link) {
                    Some((_, gate, _)) if gate.isolated && ip.source.is_ipv6() => Err(DropReason::Isolated),
                    _ => unless_unknown(&case, DropReason::SpoofedSource),
                },
                _ => self.follow(&case, ip),
            },
        };
        let outcome = match judged {
            Ok(pass) => Outcome::Pass(pass),
            Err(DropReason::UnknownTask) if link == world.trunk && !tagged => beside_branches(&case, reading),
            Err(reason) => Outcome::Drop(reason),
        };
        let packets = match reading {
            Reading::Ip(ip) => ip.packets,
            _ => 1,
        };
        if outcome != Outcome::Pass(PassReason::Tracked) {
            *self.counters.entry((slot, direction, outcome.number())).or_default() += packets;
        }
        if let (Outcome::Pass(_), Reading::Ip(ip)) = (outcome, reading)
            && outcome != Outcome::Pass(PassReason::Host)
        {
            self.firsts.remember(&case, ip);
        }
        // Neighbour discovery leaves no record, as ARP.
        if let (Outcome::Drop(reason), Reading::Ip(ip)) = (outcome, reading)
            && slot > 0
            && (ip.overwritten || !is_neighbours(&case, ip))
            && is_meant(&case, ip, reason, slot)
        {
            self.record(&case, ip, reason, slot);
        }
        outcome
    }

    /// Keeps a denied packet.
    fn record(&mut self, case: &Case<'_>, ip: &Ip, reason: DropReason, slot: u16) {
        let (local, remote) = case.ends(ip);
        let ports = match ip.body {
            Body::Ports {
                source, destination, ..
            } => case.of_ends(source, destination),
            _ => (0, 0),
        };
        let name = (slot, case.direction, local, remote, ip.protocol, ports, reason as u8);
        let taken = Taken::by(slot, self.denials.iter().map(|(name, denial)| (name.0, denial.pooled)));
        let pays = pays(taken, case.world.shares[1], NO_CAP, keeps_free(case.direction));
        let is_new = !self.denials.contains_key(&name);
        if is_new && pays.is_err() {
            self.lost.entry(slot).or_default().1 += ip.packets;
            return;
        }
        let denial = self.denials.entry(name).or_insert_with(|| Denial {
            pooled: pays == Ok(true),
            ..Denial::default()
        });
        denial.totals.packets += ip.packets;
        denial.totals.bytes += ip.bytes;
        denial.last = case.now;
        let flags = match ip.body {
            Body::Ports { flags, .. } => record_flags(flags),
            _ => 0,
        };
        denial.windows.entry(case.world.window).or_default()[case.direction as usize] |= flags;
    }

    /// Passes packets of tracked connections, and judges all others.
    fn follow(&mut self, case: &Case<'_>, ip: &Ip) -> Result<PassReason, DropReason> {
        let (opens, is_error) = match ip.body {
            Body::Ports { flags, .. } => (ip.protocol == 6 && flags & 0b1_0111 == 2, false),
            Body::Icmp { kind, .. } => (false, is_error(ip.source.is_ipv6(), kind)),
            _ => (false, false),
        };
        let names = case.names(ip);
        for name in &names {
            let Some(entry) = self.conns.get_mut(name) else {
                continue;
            };
            let idle = case.now.wrapping_sub(entry.last) > entry.timeout(ip.protocol, case.world);
            // Rules name ICMP codes: a request with another code is another request.
            let asks_else = request_code(ip).is_some_and(|code| code != entry.code);
            // A group address does not send, so the task's packets do not belong to a connection to one.
            if entry.epoch != case.world.epoch(entry.slot) || entry.to_group && case.direction == Direction::Egress {
                continue;
            }
            if idle && !opens && entry.tcp.farewells.len() == 2 && !entry.untracked {
                return unless_unknown(case, DropReason::ConnectionClosed);
            }
            if idle || is_error || asks_else || opens && entry.tcp.is_closed() {
                continue;
            }
            let changed = entry.generation != case.world.generation;
            let cut = changed && (entry.untracked || case.world.flags & control::CUT != 0);
            // An opening packet is judged by the present rules, and the other side has opened nothing yet.
            let asks = opens && (changed || entry.tcp.established && entry.opener != case.direction);
            if asks && !entry.tcp.established {
                continue;
            }
            if asks || cut || entry.local && case.from_wire {
                let judged = if asks { case.direction } else { entry.opener };
                let admission = self.admit(case, ip, judged, false)?;
                return self.enter(case, ip, name, judged, true, admission);
            }
            entry.count(case, ip, false);
            return Ok(PassReason::Tracked);
        }
        let answers_dhcp = case.is_dhcp(ip) && case.direction == Direction::Ingress && {
            let asked = self.conns.get(&as_dhcp(&names[0]));
            asked.is_some_and(|asked| {
                let idle = case.now.wrapping_sub(asked.last) > asked.timeout(17, case.world);
                // One that an untracked rule let out by this name is its rule's.
                let cut = (asked.untracked || case.world.flags & control::CUT != 0)
                    && asked.generation != case.world.generation;
                !idle && !cut && asked.epoch == case.world.epoch(asked.slot)
            })
        };
        let admission = self.admit(case, ip, case.direction, answers_dhcp)?;
        let name = names.last().expect("a packet has a name");
        self.enter(case, ip, name, case.direction, false, admission)
    }

    /// Keeps an allowed packet.
    fn enter(
        &mut self,
        case: &Case<'_>,
        ip: &Ip,
        name: &Name,
        opener: Direction,
        goes_on: bool,
        admission: Admission,
    ) -> Result<PassReason, DropReason> {
        let world = case.world;
        let (_, gate, slot) = world.eni_on(case.link).ok_or(DropReason::UnknownTask)?;
        let name = if admission.dhcp { as_dhcp(name) } else { name.clone() };
        let mut pooled = self.conns.get(&name).is_some_and(|entry| entry.pooled);
        if !self.conns.contains_key(&name) {
            // Errors leave half of the room to connections, and need no entry to pass.
            let is_error = admission.pass == PassReason::IcmpError;
            let keeps_free = if is_error { 2 } else { keeps_free(opener) };
            let taken = Taken::by(slot, self.conns.values().map(|entry| (entry.slot, entry.pooled)));
            let refused = match pays(taken, world.shares[0], gate.connections, keeps_free) {
                Err(Refused::Cap) => Some(DropReason::TaskConnectionsFull),
                Err(Refused::Full) => Some(DropReason::ConnectionsFull),
                Ok(by_pool) => {
                    pooled = by_pool;
                    None
                }
            };
            match refused {
                Some(reason) if !admission.untracked && !is_error => {
                    *self.refused.entry(slot).or_default() += ip.packets;
                    return Err(reason);
                }
                Some(_) => {
                    self.lost.entry(slot).or_default().0 += ip.packets;
                    return Ok(admission.pass);
                }
                None => {}
            }
        }
        let new = Entry {
            totals: [FlowCount::default(); 2],
            last: case.now,
            slot,
            epoch: world.epoch(slot),
            generation: world.generation,
            pooled,
            rule: admission.rule,
            code: request_code(ip).unwrap_or_default(),
            opener,
            untracked: admission.untracked,
            to_group: admission.to_group,
            turns: 0,
            tcp: Tcp::default(),
            local: admission.local,
            windows: BTreeMap::new(),
        };
        let known = self.conns.remove(&name);
        // Only the task keeps its DHCP open.
        if admission.dhcp && case.direction == Direction::Ingress {
            let mut asked = known.expect("it answers what is there");
            asked.weigh(case, ip);
            self.conns.insert(name, asked);
            return Ok(admission.pass);
        }
        let goes_on = goes_on && known.is_some();
        let entry = match known {
            // A SYN from the side that did not open the connection changes nothing in the entry.
            Some(old) if goes_on && old.opener != opener => old,
            // Totals, and flags of a window, only grow. Turns and TCP state are kept only if the connection goes on.
            Some(old) if goes_on => Entry {
                totals: old.totals,
                windows: old.windows,
                turns: old.turns,
                tcp: old.tcp,
                ..new
            },
            Some(old) => Entry {
                totals: old.totals,
                windows: old.windows,
                ..new
            },
            None => new,
        };
        self.conns.entry(name).or_insert(entry).count(case, ip, !goes_on);
        Ok(admission.pass)
    }
}

/// Whether an address is that of several hosts.
pub(crate) fn is_of_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// Whether the packet was meant for the task, so that the denial is recorded.
fn is_meant(case: &Case<'_>, ip: &Ip, reason: DropReason, slot: u16) -> bool {
    if case.direction == Direction::Egress {
        return true;
    }
    if is_of_many(ip.destination) {
        return [DropReason::ConnectionsFull, DropReason::TaskConnectionsFull].contains(&reason);
    }
    reason != DropReason::NotForTask || case.to.is_some() && case.world.macs.get(&slot) == case.to.as_ref()
}

/// Whether the message is neighbour traffic, which rules do not judge.
fn is_neighbours(case: &Case<'_>, ip: &Ip) -> bool {
    matches!(ip.body, Body::Neighbour { .. }) || ip.source.is_ipv6() && speaks_as_router(case, ip)
}

/// The outcome of an untagged frame on the trunk: it is the host's, unless it comes in for a branch.
fn beside_branches(case: &Case<'_>, reading: &Reading) -> Outcome {
    match reading {
        Reading::Ip(ip)
            if case.direction == Direction::Ingress
                && !matches!(ip.body, Body::Neighbour { .. })
                && case
                    .world
                    .link_to(ip.destination)
                    .is_some_and(|link| link >= LinkId::DEVICES) =>
        {
            Outcome::Drop(DropReason::NotForTask)
        }
        _ => Outcome::Pass(PassReason::Host),
    }
}

fn unless_unknown(case: &Case<'_>, reason: DropReason) -> Result<PassReason, DropReason> {
    Err(case.world.eni_on(case.link).map_or(DropReason::UnknownTask, |_| reason))
}
