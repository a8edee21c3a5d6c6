//! The naive data path: what design and facts say of a packet, with plain collections and the model itself, and nothing
//! of the core but its numbers.

use std::{collections::BTreeMap, net::IpAddr};

use taskgate::{
    compile::{Gate, oracle},
    dataplane::flow::Count,
    model::{self, Eni, Model},
};
use taskgate_ebpf::abi::{
    Direction, Outcome, Pass, Reason,
    image::{Timeout, control},
};

use super::reading::{Arp, Body, Ip, Reading};

/// What the world is to the naive data path.
pub struct World {
    /// The configuration.
    pub model: Model,
    /// The gate of each ENI, in the model's order.
    pub gates: Vec<Option<Gate>>,
    /// The ENI that each link carries, by its id.
    pub links: BTreeMap<u32, String>,
    /// The slots of ENIs.
    pub slots: BTreeMap<String, u16>,
    /// Epochs by slot.
    pub epochs: Vec<u32>,
    /// Which configuration it is.
    pub generation: u32,
    /// The capture window.
    pub window: u32,
    /// Control flags.
    pub flags: u64,
    /// Idle time-outs in ticks, by [`Timeout`].
    pub timeouts: [u32; 7],
    /// Room in each table.
    pub room: usize,
}

/// The name of a tracked connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The link.
    pub link: u32,
    /// The task's address and the peer's. For DHCP those of a task that has no address yet and of all servers, as the
    /// answer comes from others and goes to others.
    pub addresses: (IpAddr, IpAddr),
    /// The protocol.
    pub protocol: u8,
    /// What else tells it from others.
    pub what: What,
}

/// What tells connections between the same addresses apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The task's port and the peer's.
    Ports(u16, u16),
    /// A request: its identifier, its type, and who asks.
    Asked(u16, u8, Direction),
    /// Any other ICMP message: which way it goes, type and code.
    Message(Direction, u8, u8),
    /// Nothing.
    Pair,
}

/// A tracked connection.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Packets and bytes by direction.
    pub totals: [Count; 2],
    /// When the last one came.
    pub last: u32,
    /// The slot that it counts for, and that slot's epoch when it was admitted.
    pub slot: u16,
    /// See `slot`.
    pub epoch: u32,
    /// The configuration that admitted it.
    pub generation: u32,
    /// The rule that did, or none for what is never filtered.
    pub rule: Option<(String, String)>,
    /// Who opened it.
    pub opener: Direction,
    /// Whether it is untracked, in AWS's words.
    pub untracked: bool,
    /// Whether a packet came back.
    pub replied: bool,
    /// Whether the opener went on after that.
    pub confirmed: bool,
    /// TCP: FIN seen, by direction.
    pub fin: [bool; 2],
    /// TCP: whether the last packet was a RST, by direction.
    pub reset: [bool; 2],
    /// TCP flags as flow records have them, by window and direction.
    pub windows: BTreeMap<u32, [u8; 2]>,
}

/// A denied flow: slot, direction, addresses, protocol, ports, reason.
pub type Denied = (u16, Direction, IpAddr, IpAddr, u8, (u16, u16), u8);

/// What is kept of a denied flow.
#[derive(Clone, Debug, Default)]
pub struct Denial {
    /// What was dropped.
    pub totals: Count,
    /// When the last one came.
    pub last: u32,
    /// As in [`Entry`].
    pub windows: BTreeMap<u32, [u8; 2]>,
}

/// The naive data path.
#[derive(Default)]
pub struct Oracle {
    /// Tracked connections.
    pub conns: BTreeMap<Name, Entry>,
    /// Denied flows.
    pub denials: BTreeMap<Denied, Denial>,
    /// Packets by slot, direction and outcome.
    pub counters: BTreeMap<(u16, Direction, u8), u64>,
    /// Packets that passed or were dropped without a record, by slot.
    pub lost: BTreeMap<u16, (u64, u64)>,
}

/// One packet on its way.
struct Case<'a> {
    world: &'a World,
    link: u32,
    direction: Direction,
    now: u32,
}

/// Why a packet is let in.
struct Admission {
    pass: Pass,
    rule: Option<(String, String)>,
    untracked: bool,
    dhcp: bool,
}

fn model_direction(direction: Direction) -> model::Direction {
    match direction {
        Direction::Egress => model::Direction::Egress,
        Direction::Ingress => model::Direction::Ingress,
    }
}

/// What flow records say of a packet's TCP flags.
fn record_flags(flags: u8) -> u8 {
    let syn = match flags & 18 {
        18 => 18,
        2 => 2,
        _ => 0,
    };
    flags & 5 | syn
}

/// A task without an address, and all DHCP servers.
fn dhcp_ends(v6: bool) -> (IpAddr, IpAddr) {
    let (task, servers) = if v6 {
        ("fe80::", "ff02::1:2")
    } else {
        ("0.0.0.0", "255.255.255.255")
    };
    (task.parse().expect("an address"), servers.parse().expect("an address"))
}

fn as_dhcp(name: &Name) -> Name {
    Name {
        addresses: dhcp_ends(name.is_v6()),
        ..name.clone()
    }
}

impl Name {
    /// Whether it is one of IPv6.
    pub fn is_v6(&self) -> bool {
        self.addresses.0.is_ipv6()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The type of the request that an ICMP message asks or answers, and whether it answers.
fn exchange(v6: bool, kind: u8) -> Option<(u8, bool)> {
    match (v6, kind) {
        (false, 8 | 13 | 15 | 17) | (true, 128) => Some((kind, false)),
        (false, 0) => Some((8, true)),
        (false, 14 | 16 | 18) | (true, 129) => Some((kind - 1, true)),
        _ => None,
    }
}

fn is_error(v6: bool, kind: u8) -> bool {
    if v6 {
        kind < 128
    } else {
        [3, 4, 5, 11, 12].contains(&kind)
    }
}

impl World {
    fn eni_on(&self, link: u32) -> Option<(&Eni, Gate, u16)> {
        if self.generation == 0 {
            return None;
        }
        let id = self.links.get(&link)?;
        let at = self.model.enis.iter().position(|eni| eni.id == *id)?;
        Some((&self.model.enis[at], self.gates[at]?, *self.slots.get(id)?))
    }

    fn epoch(&self, slot: u16) -> u32 {
        self.epochs[usize::from(slot)]
    }

    fn is_exempt(&self, address: IpAddr) -> bool {
        self.model.exempt().addresses.contains(&address)
    }
}

impl Entry {
    fn is_closed(&self) -> bool {
        self.fin == [true; 2] || self.reset.contains(&true)
    }

    /// How long it may be idle.
    fn timeout(&self, protocol: u8, world: &World) -> u32 {
        let timeout = match protocol {
            6 if self.is_closed() => Timeout::TcpClosed,
            6 if self.confirmed => Timeout::TcpEstablished,
            6 => Timeout::TcpHalfOpen,
            17 if self.confirmed => Timeout::UdpStream,
            17 => Timeout::Udp,
            1 | 58 => Timeout::Icmp,
            _ => Timeout::Other,
        };
        world.timeouts[timeout as usize]
    }

    /// Adds a packet.
    fn count(&mut self, case: &Case<'_>, ip: &Ip) {
        let way = case.direction as usize;
        self.totals[way].packets += ip.packets;
        self.totals[way].bytes += ip.bytes;
        self.last = case.now;
        if case.direction != self.opener {
            self.replied = true;
        } else if self.replied {
            self.confirmed = true;
        }
        let flags = match ip.body {
            Body::Ports { flags, .. } if ip.protocol == 6 => flags,
            _ => 0,
        };
        if ip.protocol == 6 {
            self.fin[way] |= flags & 1 != 0;
            self.reset[way] = flags & 4 != 0;
        }
        self.windows.entry(case.world.window).or_default()[way] |= record_flags(flags);
    }
}

impl Oracle {
    /// Judges a frame at the gate of a link.
    pub fn judge(&mut self, world: &World, reading: &Reading, link: u32, direction: Direction, now: u32) -> Outcome {
        let case = Case {
            world,
            link,
            direction,
            now,
        };
        let slot = world.eni_on(link).map_or(0, |(_, _, slot)| slot);
        let judged = match reading {
            Reading::Nameless(reason) => self.unless_unknown(&case, *reason),
            Reading::Arp(arp) => neighbour(&case, |eni| arp_takes_part(&case, eni, arp)),
            Reading::Ip(ip) => match ip.body {
                Body::Bad(reason) => self.unless_unknown(&case, reason),
                Body::Neighbour { kind, target } => {
                    neighbour(&case, |eni| discovery_takes_part(&case, eni, ip, kind, target))
                }
                _ => self.follow(&case, ip),
            },
        };
        let outcome = match judged {
            Ok(pass) => Outcome::Pass(pass),
            Err(reason) => Outcome::Drop(reason),
        };
        let packets = match reading {
            Reading::Ip(ip) => ip.packets,
            _ => 1,
        };
        if outcome != Outcome::Pass(Pass::Tracked) {
            *self.counters.entry((slot, direction, outcome.number())).or_default() += packets;
        }
        if let (Outcome::Drop(reason), Reading::Ip(ip)) = (outcome, reading)
            && slot > 0
        {
            self.record(&case, ip, reason, slot);
        }
        outcome
    }

    fn unless_unknown(&self, case: &Case<'_>, reason: Reason) -> Result<Pass, Reason> {
        Err(case.world.eni_on(case.link).map_or(Reason::UnknownTask, |_| reason))
    }

    /// Keeps a denied packet.
    fn record(&mut self, case: &Case<'_>, ip: &Ip, reason: Reason, slot: u16) {
        let (local, remote) = case.ends(ip);
        let ports = match ip.body {
            Body::Ports {
                source, destination, ..
            } => case.of_ends(source, destination),
            _ => (0, 0),
        };
        let name = (slot, case.direction, local, remote, ip.protocol, ports, reason as u8);
        let limit = case
            .world
            .eni_on(case.link)
            .map_or(0, |(_, gate, _)| gate.denials as usize);
        let of_slot = self.denials.keys().filter(|name| name.0 == slot).count();
        let of_family = self
            .denials
            .keys()
            .filter(|name| name.2.is_ipv6() == local.is_ipv6())
            .count();
        let is_new = !self.denials.contains_key(&name);
        if is_new && (of_slot >= limit || of_family >= case.world.room) {
            self.lost.entry(slot).or_default().1 += ip.packets;
            return;
        }
        let denial = self.denials.entry(name).or_default();
        denial.totals.packets += ip.packets;
        denial.totals.bytes += ip.bytes;
        denial.last = case.now;
        let flags = match ip.body {
            Body::Ports { flags, .. } => record_flags(flags),
            _ => 0,
        };
        denial.windows.entry(case.world.window).or_default()[case.direction as usize] |= flags;
    }

    /// Passes what belongs to a connection, and judges the rest.
    fn follow(&mut self, case: &Case<'_>, ip: &Ip) -> Result<Pass, Reason> {
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
            if entry.epoch != case.world.epoch(entry.slot) || idle || is_error || opens && entry.is_closed() {
                continue;
            }
            let cut = entry.untracked || case.world.flags & control::CUT != 0;
            if entry.generation != case.world.generation && cut {
                if opens {
                    continue;
                }
                let opener = entry.opener;
                let admission = self.admit(case, ip, opener)?;
                return self.enter(case, ip, name, opener, true, admission);
            }
            entry.count(case, ip);
            return Ok(Pass::Tracked);
        }
        let admission = self.admit(case, ip, case.direction)?;
        let name = names.last().expect("a packet has a name");
        self.enter(case, ip, name, case.direction, false, admission)
    }

    /// Judges a packet by the rules of a direction.
    fn admit(&self, case: &Case<'_>, ip: &Ip, judged: Direction) -> Result<Admission, Reason> {
        let world = case.world;
        let (eni, gate, _) = world.eni_on(case.link).ok_or(Reason::UnknownTask)?;
        if gate.isolated {
            return Err(Reason::Isolated);
        }
        let (local, remote) = case.ends(ip);
        let own = eni.addresses.contains(&local);
        let exempt = |dhcp| {
            Ok(Admission {
                pass: Pass::Exempt,
                rule: None,
                untracked: false,
                dhcp,
            })
        };
        if case.direction == Direction::Egress && world.model.exempt().dhcp && case.is_dhcp(ip) {
            let unknown = match local {
                IpAddr::V4(address) => address.is_unspecified(),
                IpAddr::V6(_) => is_link_local(local),
            };
            if own || unknown {
                return exempt(true);
            }
        }
        if eni.source_dest_check && !own {
            return Err(match case.direction {
                Direction::Egress => Reason::SpoofedSource,
                Direction::Ingress => Reason::NotForTask,
            });
        }
        if case.direction == Direction::Ingress && eni.addresses.contains(&remote) {
            return Err(Reason::SpoofedSource);
        }
        if judged == Direction::Egress && world.is_exempt(remote) {
            return exempt(false);
        }
        let packet = case.asked(ip, remote, judged != case.direction);
        let allowed = oracle::judge(&world.model, eni, model_direction(judged), &packet).ok_or(Reason::NoRule)?;
        Ok(Admission {
            pass: Pass::Rule,
            rule: Some((world.model.group(allowed.group).id.clone(), allowed.rule.id.clone())),
            untracked: allowed.untracked,
            dhcp: false,
        })
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
    ) -> Result<Pass, Reason> {
        let world = case.world;
        let (_, gate, slot) = world.eni_on(case.link).ok_or(Reason::UnknownTask)?;
        let name = if admission.dhcp { as_dhcp(name) } else { name.clone() };
        if !self.conns.contains_key(&name) {
            let of_slot = self.conns.values().filter(|entry| entry.slot == slot).count();
            let of_family = self.conns.keys().filter(|other| other.is_v6() == name.is_v6()).count();
            let refused = if of_slot >= gate.connections as usize {
                Some(Reason::TaskConnectionsFull)
            } else if of_family >= world.room {
                Some(Reason::ConnectionsFull)
            } else {
                None
            };
            match refused {
                Some(reason) if !admission.untracked => return Err(reason),
                Some(_) => {
                    self.lost.entry(slot).or_default().0 += ip.packets;
                    return Ok(admission.pass);
                }
                None => {}
            }
        }
        let new = Entry {
            totals: [Count::default(); 2],
            last: case.now,
            slot,
            epoch: world.epoch(slot),
            generation: world.generation,
            rule: admission.rule,
            opener,
            untracked: admission.untracked,
            replied: false,
            confirmed: false,
            fin: [false; 2],
            reset: [false; 2],
            windows: BTreeMap::new(),
        };
        let entry = match self.conns.remove(&name) {
            // Totals and flags of a window only grow; a life is kept where the connection goes on.
            Some(old) if goes_on => Entry {
                totals: old.totals,
                windows: old.windows,
                replied: old.replied,
                confirmed: old.confirmed,
                fin: old.fin,
                reset: old.reset,
                ..new
            },
            Some(old) => Entry {
                totals: old.totals,
                windows: old.windows,
                ..new
            },
            None => new,
        };
        self.conns.entry(name).or_insert(entry).count(case, ip);
        Ok(admission.pass)
    }
}

impl Case<'_> {
    /// What belongs to the source and what to the destination, as the task's and the peer's.
    fn of_ends<T>(&self, source: T, destination: T) -> (T, T) {
        match self.direction {
            Direction::Egress => (source, destination),
            Direction::Ingress => (destination, source),
        }
    }

    fn ends(&self, ip: &Ip) -> (IpAddr, IpAddr) {
        self.of_ends(ip.source, ip.destination)
    }

    fn is_dhcp(&self, ip: &Ip) -> bool {
        let Body::Ports {
            source, destination, ..
        } = ip.body
        else {
            return false;
        };
        let v6 = ip.source.is_ipv6();
        let (local, remote) = self.of_ends(source, destination);
        let (_, servers) = dhcp_ends(v6);
        let client = if v6 { (546, 547) } else { (68, 67) };
        let asks_all = self.direction == Direction::Ingress || ip.destination == servers;
        ip.protocol == 17 && (local, remote) == client && asks_all
    }

    /// The names under which a packet's connection may be known, in the order in which they are tried.
    fn names(&self, ip: &Ip) -> Vec<Name> {
        let v6 = ip.source.is_ipv6();
        let name = |what| Name {
            link: self.link,
            addresses: self.ends(ip),
            protocol: ip.protocol,
            what,
        };
        match ip.body {
            Body::Ports {
                source, destination, ..
            } => {
                let (local, remote) = self.of_ends(source, destination);
                let plain = name(What::Ports(local, remote));
                if self.is_dhcp(ip) && self.direction == Direction::Ingress {
                    vec![as_dhcp(&plain), plain]
                } else {
                    vec![plain]
                }
            }
            Body::Icmp { kind, code, identifier } => match exchange(v6, kind) {
                Some((asks, false)) => vec![name(What::Asked(identifier, asks, self.direction))],
                Some((asks, true)) => vec![
                    name(What::Asked(identifier, asks, self.direction.opposite())),
                    name(What::Message(self.direction, kind, code)),
                ],
                None => vec![name(What::Message(self.direction, kind, code))],
            },
            _ => vec![name(What::Pair)],
        }
    }

    /// What the rules are asked; `reply`: by those of the other direction, as if the packet's opener had sent it.
    fn asked(&self, ip: &Ip, peer: IpAddr, reply: bool) -> oracle::Packet {
        let mut packet = oracle::Packet {
            peer,
            protocol: ip.protocol,
            source_port: 0,
            destination_port: 0,
            icmp_type: 0,
            icmp_code: 0,
        };
        match ip.body {
            Body::Ports {
                source, destination, ..
            } => {
                let (source, destination) = if reply {
                    (destination, source)
                } else {
                    (source, destination)
                };
                packet.source_port = source;
                packet.destination_port = destination;
            }
            Body::Icmp { kind, code, .. } => {
                (packet.icmp_type, packet.icmp_code) = match exchange(ip.source.is_ipv6(), kind) {
                    Some((asks, true)) if reply => (asks, 0),
                    _ => (kind, code),
                };
            }
            _ => {}
        }
        packet
    }
}

/// ARP and neighbour discovery need no rule, but a task takes part only as itself.
fn neighbour(case: &Case<'_>, takes_part: impl FnOnce(&Eni) -> bool) -> Result<Pass, Reason> {
    let (eni, gate, _) = case.world.eni_on(case.link).ok_or(Reason::UnknownTask)?;
    if gate.isolated {
        return Err(Reason::Isolated);
    }
    if eni.source_dest_check && !takes_part(eni) {
        return Err(match case.direction {
            Direction::Egress => Reason::SpoofedSource,
            Direction::Ingress => Reason::NotForTask,
        });
    }
    Ok(Pass::Neighbour)
}

fn arp_takes_part(case: &Case<'_>, eni: &Eni, arp: &Arp) -> bool {
    let probe = arp.sender.is_unspecified();
    let named = if case.direction == Direction::Egress && !probe {
        arp.sender
    } else {
        arp.target
    };
    eni.addresses.contains(&named)
}

fn discovery_takes_part(case: &Case<'_>, eni: &Eni, ip: &Ip, kind: u8, target: Option<IpAddr>) -> bool {
    let own = |address: IpAddr| is_link_local(address) || eni.addresses.contains(&address);
    let nobody = ip.source.is_unspecified();
    let target = || target.is_some_and(own);
    let all_nodes: IpAddr = "ff02::1".parse().expect("an address");
    match (case.direction, kind) {
        // Solicitations.
        (Direction::Egress, 135) if !nobody => own(ip.source),
        (_, 135) => target(),
        // Advertisements.
        (Direction::Egress, 136) => target(),
        (Direction::Ingress, 136) if ip.destination == all_nodes => target(),
        (Direction::Ingress, 136) => own(ip.destination),
        // Router solicitations and listener reports go out, router advertisements, redirects and queries come in.
        (Direction::Egress, 133 | 131 | 132 | 143) => nobody || own(ip.source),
        (Direction::Ingress, 134 | 137 | 130) => is_link_local(ip.source),
        _ => false,
    }
}
