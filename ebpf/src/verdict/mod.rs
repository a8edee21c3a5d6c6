//! The verdict: the one function that the kernel's entry points, the tests and `explain` call.
//!
//! [`PacketContext::process`] lists the steps for a packet with addresses, each in the file of its name: [`related`],
//! [`lookup`], [`evaluate`], [`commit`]. [`account`] updates counters and conntrack state, [`deny`] drops and records a
//! packet that a step refused. Steps do not call each other: their results are types in [`evaluation`] or [`status`].
//!
//! A packet of a tracked connection costs one lookup: no policy, no ENI, no event. ARP and neighbour discovery are handled
//! by [`neighbour`]; later fragments use the transport header of their first fragment ([`fragment`]).

mod account;
mod commit;
mod deny;
mod evaluate;
mod evaluation;
mod fragment;
mod link_local;
mod lookup;
mod neighbour;
mod prefilter;
mod related;
mod share;
mod status;

pub use prefilter::{branch, prefilter};

use evaluation::Evaluation;

use crate::{
    abi::{
        Conn, Denial, Direction, DropReason, Event, Fragment, LinkLocal, LinkLocalKey, Outcome, PassReason,
        image::control,
        tables::{Flags, KeyTag},
    },
    family::{IpVersion, Keys, V4, V6},
    flow::Flow,
    packet::{Ethernet, Frame, Kind, Neighbour, Packet, Unparsed, hardware_number, parse, parse_quoted},
    policy::{Control, EniRow, Image, PeerKey as _},
    tables::{Flows, Tables},
};

/// Per-CPU scratch memory of a verdict: too large for the stack, of which a BPF program has 512 bytes.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Scratch {
    /// The packet, as the parser leaves it.
    pub packet: Packet,
    /// The packet that an ICMP error quotes.
    quoted: Packet,
    work: Work,
}

#[derive(Debug, Default)]
#[repr(C)]
struct Work {
    /// The ENI of the packet's link, after the lookup; slot 0 if the link has no ENI.
    eni: EniRow,
    /// The frame's destination hardware address, set by `evaluate` for ingress: see [`Hook::destination`].
    destination: u64,
    /// Whether the destination is presumed to be the task's: a link-local address without a known owner, on a shared link.
    presumed: bool,
    /// The drop reason, once a step has refused the packet.
    reason: Option<DropReason>,
    keys: Keys,
    conn: Conn,
    denial: Denial,
    fragment: Fragment,
    link_local: (LinkLocalKey, LinkLocal),
    event: Event,
}

/// The context of a packet's verdict: read once, so that one generation decides.
struct PacketContext<'a, T: Tables, D: Hook> {
    tables: &'a T,
    packet: &'a Packet,
    quoted: &'a Packet,
    work: &'a mut Work,
    hook: D,
    control: Control<<T as Image>::Bank>,
    now: u32,
}

/// The direction of a gate, a compile-time constant: the verifier walks only one direction's code in each program.
pub trait Hook {
    /// The direction of the packets at this hook, seen from the task.
    const DIRECTION: Direction;
    /// Whether this hook runs before the gate: packets that it does not drop continue to the gate, which alone counts and
    /// records them.
    const IS_PREFILTER: bool = false;
    /// The frame's destination hardware address, as [`hardware_number`] encodes it; 0 where the header does not identify a
    /// task.
    fn destination(&self) -> u64 {
        0
    }
}

/// The gate for packets that a task sends.
pub struct FromTask;

/// The gate for packets that are sent to a task, with the frame's Ethernet header.
pub struct ToTask<E>(pub E);

impl Hook for FromTask {
    const DIRECTION: Direction = Direction::Egress;
}

impl<E: Ethernet> Hook for ToTask<E> {
    const DIRECTION: Direction = Direction::Ingress;

    #[inline(always)]
    fn destination(&self) -> u64 {
        self.0.destination().map_or(0, hardware_number)
    }
}

/// Parses a frame, and the packet quoted by an ICMP error, into `scratch`.
///
/// # Errors
/// As [`packet::parse`](crate::packet::parse).
#[inline(always)]
pub fn read<F: Frame>(frame: &F, scratch: &mut Scratch) -> Result<(), Unparsed> {
    parse(frame, &mut scratch.packet)?;
    parse_quoted(frame, &scratch.packet, &mut scratch.quoted)
}

/// Decides on the packet in `scratch` at a hook, counts the packet, and updates the tables. `parsed`: the parser's result.
///
/// [`Unparsed::Short`] here means that the bytes are missing even after a pull: the frame is malformed.
#[inline(always)]
pub fn decide<T: Tables, D: Hook>(tables: &T, hook: D, scratch: &mut Scratch, parsed: Result<(), Unparsed>) -> Outcome {
    let Some(control) = Control::read(tables) else {
        return Outcome::Drop(DropReason::NoPolicy);
    };
    let Scratch { packet, quoted, work } = scratch;
    let parsed = match parsed {
        // Left to the gate, which has the entry of the first fragment.
        Ok(()) if packet.later_fragment && D::IS_PREFILTER => return Outcome::Pass(PassReason::Tracked),
        Ok(()) if packet.later_fragment => match packet.kind {
            Kind::V6 => fragment::attach_to_first::<T, V6>(tables, &control, packet, &mut work.keys),
            _ => fragment::attach_to_first::<T, V4>(tables, &control, packet, &mut work.keys),
        },
        Ok(()) => Ok(()),
        Err(Unparsed::Short) => Err(DropReason::Malformed),
        Err(Unparsed::Bad(reason)) => Err(reason),
    };
    let mut context = PacketContext::<T, D> {
        tables,
        packet,
        quoted,
        work,
        hook,
        control,
        now: tables.now(),
    };
    // IPv4 has no neighbour discovery; ARP is a separate kind.
    let may_be_flowless = match context.packet.kind {
        Kind::V4 => false,
        Kind::V6 => parsed.is_ok() && !matches!(context.packet.neighbour, Neighbour::None),
        Kind::Arp | Kind::None => true,
    };
    let mut parsed = parsed;
    if may_be_flowless && let Some(outcome) = context.decide_flowless(&mut parsed) {
        outcome
    } else if matches!(context.packet.kind, Kind::V6) {
        context.decide_ip::<V6>(parsed)
    } else {
        context.decide_ip::<V4>(parsed)
    }
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    #[inline(always)]
    fn decide_ip<F: IpVersion>(&mut self, parsed: Result<(), DropReason>) -> Outcome
    where
        T: Flows<F::Key>,
    {
        match self.process::<F>(parsed) {
            Ok(pass) => {
                if self.packet.first_fragment && !D::IS_PREFILTER {
                    self.remember::<F>();
                }
                if self.packet.later_fragment && !D::IS_PREFILTER {
                    self.forget_whole::<F>();
                }
                Outcome::Pass(pass)
            }
            Err(reason) => self.deny::<F>(reason),
        }
    }

    /// Runs the steps for a packet with addresses. `parsed`: the reason if the packet is already refused.
    #[inline(always)]
    fn process<F: IpVersion>(&mut self, parsed: Result<(), DropReason>) -> Result<PassReason, DropReason>
    where
        T: Flows<F::Key>,
    {
        let tag = self.tag();
        let mut related = 0;
        let evaluation = if let Err(reason) = parsed {
            Evaluation::refused(reason)
        } else if !F::Peer::V6 && self.speaks_as_router() {
            // Checked before the conntrack lookup: an existing connection must not let router messages pass.
            Evaluation::refused(DropReason::SpoofedSource)
        } else {
            // 1. Related: an error about a tracked connection.
            related = self.related::<F>(tag);
            // 2. Lookup: a valid conntrack entry accepts the packet and accounts for it.
            match self.ct_lookup::<F>(tag) {
                Some(evaluation) => evaluation,
                None => return Ok(PassReason::Tracked),
            }
        };
        let evaluation = Evaluation(self.tables.opaque(evaluation.0));
        let related = self.tables.opaque(related);
        // 3. Evaluate: the ENI, the source and destination check, exemptions, the policy.
        let admission = self.evaluate::<F>(evaluation, related)?;
        // The gate creates the entries of packets that XDP passes.
        if D::IS_PREFILTER {
            return Ok(PassReason::Tracked);
        }
        // 4. Commit: create or refill the entry, and account for the packet there.
        self.ct_commit::<F>(evaluation, admission)
    }

    /// Decides on packets without flow records: ARP and neighbour discovery, as on AWS, and frames without addresses. They
    /// are only counted. `None`: an IPv6 packet that goes on to the rules; `parsed` then holds the reason if its contents
    /// are refused.
    #[inline(always)]
    fn decide_flowless(&mut self, parsed: &mut Result<(), DropReason>) -> Option<Outcome> {
        let rows = self.find_eni();
        let for_rules = matches!(self.packet.kind, Kind::V6) && !self.is_between_neighbours();
        let for_rules = self.tables.opaque(for_rules as u32) != 0;
        if for_rules && matches!(D::DIRECTION, Direction::Ingress) {
            return None;
        }
        let judged = match (rows, *parsed) {
            (Ok(rows), Ok(())) => self.neighbour(&rows, for_rules),
            (Err(reason), _) | (_, Err(reason)) => Err(reason),
        };
        if for_rules {
            // The packet may leave the link or stay on it, as a neighbour may have the destination address: so the contents
            // are checked here, and the rules decide on the destination.
            if let Err(DropReason::SpoofedSource) = judged {
                *parsed = Err(DropReason::SpoofedSource);
            }
            return None;
        }
        Some(self.count(match judged {
            Ok(pass) => Outcome::Pass(pass),
            Err(reason) => self.drop_or_host(reason),
        }))
    }

    /// The outcome of a refused packet without a flow record: untagged frames on a trunk belong to the host and pass.
    #[inline(always)]
    fn drop_or_host(&self, reason: DropReason) -> Outcome {
        if self.is_hosts(reason as u8) {
            Outcome::Pass(PassReason::Host)
        } else {
            Outcome::Drop(reason)
        }
    }

    /// Whether a packet refused with this reason number belongs to the host: an untagged frame on the trunk or the previous
    /// trunk.
    #[inline(always)]
    fn is_hosts(&self, number: u8) -> bool {
        let packet = self.packet;
        let on_trunk = || packet.link == self.control.trunk() || packet.link == self.control.previous_trunk();
        number == DropReason::UnknownTask as u8 && !packet.tagged && on_trunk()
    }

    /// Counts the packet for its ENI, or for slot 0 if the link has no ENI.
    #[inline(always)]
    fn count(&self, outcome: Outcome) -> Outcome {
        if D::IS_PREFILTER && outcome.passes() {
            return outcome;
        }
        let number = self.tables.opaque(outcome.number() as u32);
        self.tables
            .count(self.work.eni.slot, D::DIRECTION, number, self.packet.packets as u64);
        outcome
    }

    /// The flags word of a new entry: its state, and this packet's TCP flags.
    #[inline(always)]
    fn flags(&self, state: u16) -> Flags {
        let flags = Flags::new(state, self.control.window);
        flags.update(state, self.control.window, D::DIRECTION, self.packet.tcp_flags);
        flags
    }

    /// Emits the event of a flow's first packet. `number`: the number of the outcome.
    #[inline(always)]
    fn emit_event(&mut self, number: u8, rule: u32) {
        if self.control.flags & control::FOLLOW == 0 {
            return;
        }
        let packet = self.packet;
        let flow = Flow::plain(packet, D::DIRECTION);
        self.work.event = Event {
            local: flow.local,
            remote: flow.remote,
            ports: flow.ports,
            tag: KeyTag::of_denial(self.work.eni.slot, packet.protocol, D::DIRECTION, number),
            rule,
            time: self.now,
            bytes: packet.bytes,
            tcp_flags: packet.tcp_flags as u32,
            generation: self.control.generation,
            spare: 0,
        };
        self.tables.emit(&self.work.event);
    }
}
