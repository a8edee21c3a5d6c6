//! Everything that no entry lets through: the ENI of the link, the source-address check, what is never filtered, the
//! policy; and the entry of what is allowed.

use super::{
    Scene, Way,
    link_local::Says,
    neighbour::{of_link, same},
    share::{Accounts, NoRoom},
};
use crate::{
    abi::{
        Conn, Direction, Event, Outcome, Pass, Reason,
        image::{Claim, Class, Shared, address, control, rule, slot},
        tables::{Next, RULE_EXEMPT, Seen, Totals, denial_tail, pair, state},
    },
    conntrack::{ICMP, ICMPV6, Life, TCP, UDP, begin, initiator, opened_by},
    family::Family,
    flow::{BROADCAST, Flow, is_dhcp},
    packet::{self, Exchange, Kind, Packet, is_group, link_local, request_of},
    policy::{Allowed, Image, Judgement, PeerKey as _, Rows, Subject, judge},
    tables::{Flows, Inserted, Tables},
};

/// How a packet that no entry lets through is to be judged, as bits.
#[derive(Clone, Copy)]
pub(super) struct Plan(pub(super) u32);

impl Plan {
    const INGRESS: u32 = 1;
    const GOES_ON: u32 = 2;
    const REFILLS: u32 = 4;
    const ANSWERS_DHCP: u32 = 8;
    /// From here on, the number of a reason.
    const REFUSED: u32 = 8;

    /// As a flow that begins, by the rules of this direction.
    #[inline(always)]
    pub(super) const fn anew(direction: Direction) -> Self {
        Self(match direction {
            Direction::Egress => 0,
            Direction::Ingress => Self::INGRESS,
        })
    }

    /// Its entry, which is there, is filled anew.
    #[inline(always)]
    pub(super) const fn refilling(self) -> Self {
        Self(self.0 | Self::REFILLS)
    }

    /// Not at all: it is refused, once it is known for whom.
    #[inline(always)]
    pub(super) const fn refused(reason: Reason) -> Self {
        Self((reason as u32) << Self::REFUSED)
    }

    /// What it is refused for.
    #[inline(always)]
    const fn refusal(self) -> Option<Reason> {
        const LATE: u32 = Reason::ConnectionClosed as u32;
        const FRAGMENT: u32 = Reason::FragmentWithoutFirst as u32;
        const ROUTED: u32 = Reason::SourceRouted as u32;
        const SPOOFED: u32 = Reason::SpoofedSource as u32;
        match self.0 >> Self::REFUSED {
            0 => None,
            LATE => Some(Reason::ConnectionClosed),
            FRAGMENT => Some(Reason::FragmentWithoutFirst),
            ROUTED => Some(Reason::SourceRouted),
            SPOOFED => Some(Reason::SpoofedSource),
            _ => Some(Reason::Malformed),
        }
    }

    /// As part of a connection that `initiator` opened under another generation: its entry stays.
    #[inline(always)]
    pub(super) const fn again(initiator: Direction) -> Self {
        Self(Self::anew(initiator).0 | Self::REFILLS | Self::GOES_ON)
    }

    /// As an answer to the DHCP that the task itself began, if it goes to the task.
    #[inline(always)]
    pub(super) const fn answering_dhcp(self) -> Self {
        Self(self.0 | Self::ANSWERS_DHCP)
    }

    /// The state of the connection that it admits. One bit becomes the other, so that there is no branch.
    #[inline(always)]
    const fn opened(self) -> u16 {
        const INGRESS: u16 = opened_by(Direction::Ingress);
        const { assert!(Self::INGRESS == 1 && INGRESS.is_power_of_two() && opened_by(Direction::Egress) == 0) };
        ((self.0 & Self::INGRESS) as u16) << INGRESS.trailing_zeros()
    }

    /// Whose rules decide.
    #[inline(always)]
    const fn judged(self) -> Direction {
        if self.0 & Self::INGRESS == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }
}

/// Why a packet is let in, and what its entry says of that.
#[derive(Clone, Copy)]
pub(super) struct Admission {
    pass: Pass,
    rule: u32,
    /// What it adds to the state of its entry.
    state: u16,
    dhcp: bool,
}

impl Admission {
    /// Whether it is an error about a connection, let through for that connection's sake.
    #[inline(always)]
    const fn is_error(self) -> bool {
        matches!(self.pass, Pass::IcmpError)
    }
}

impl<T: Tables, D: Way> Scene<'_, T, D> {
    /// Looks up the ENI of the packet's link and keeps it.
    #[inline(always)]
    pub(super) fn find_eni(&mut self) -> Result<Rows<<T as Image>::Bank>, Reason> {
        self.work.eni.slot = 0;
        let rows = Rows::read(self.tables, self.control).ok_or(Reason::UnknownTask)?;
        rows.eni_of(self.packet.link, &mut self.work.eni)
            .ok_or(Reason::UnknownTask)?;
        Ok(rows)
    }

    /// Judges a packet by its ENI and the rules that `plan` names. `related`: the rule of the connection that it is an
    /// error about, else 0.
    #[inline(always)]
    pub(super) fn admit<F: Family>(&mut self, plan: Plan, related: u32) -> Result<Admission, Reason> {
        let judged = plan.judged();
        let rows = self.find_eni()?;
        if let Some(reason) = plan.refusal() {
            return Err(reason);
        }
        let packet = self.packet;
        let eni = self.work.eni;
        if eni.flags & slot::ISOLATED != 0 {
            return Err(Reason::Isolated);
        }
        let flow = Flow::plain(packet, D::DIRECTION);
        // Both looks before anything is told apart: the verifier walks every probe of each, once for each state it comes in.
        let owner = self.tables.blur(rows.address(flow.local).slot as u32);
        let remote = self.tables.blur_row(rows.address(flow.remote));
        let says = match D::DIRECTION {
            Direction::Egress => Says::Used,
            Direction::Ingress => Says::Meant,
        };
        let own_on_link = F::Peer::V6 && link_local(flow.local) && self.owns(flow.local, says);
        let own_on_link = self.tables.blur(own_on_link as u32) != 0;
        // Link-local addresses mean nothing beyond their link.
        let stays = own_on_link && (matches!(D::DIRECTION, Direction::Ingress) || of_link(flow.remote));
        let own = self.tables.blur((owner == eni.slot as u32 || stays) as u32) != 0;
        let local = self.tables.blur((remote.slot != 0) as u32) as u16 * state::LOCAL;
        let exempt = Admission {
            pass: Pass::Exempt,
            rule: RULE_EXEMPT,
            state: local,
            dhcp: false,
        };
        let is_dhcp = match D::DIRECTION {
            Direction::Egress => {
                eni.flags & slot::EXEMPT_DHCP != 0
                    && is_dhcp(packet, Direction::Egress)
                    && (own || own_on_link || may_ask_for_address(packet))
            }
            // To a task that has no address yet it goes by broadcast (RFC 2131, 4.1), or to a link-local one.
            Direction::Ingress => plan.0 & Plan::ANSWERS_DHCP != 0 && (own || same(packet.destination, BROADCAST)),
        };
        if is_dhcp {
            return Ok(Admission {
                state: 0,
                dhcp: true,
                ..exempt
            });
        }
        let checked = eni.flags & slot::SOURCE_DEST_CHECK != 0;
        let mut several = 0;
        if !own {
            if matches!(D::DIRECTION, Direction::Egress) {
                if checked {
                    return Err(Reason::SpoofedSource);
                }
            } else {
                self.work.destination = self.way.destination();
                // What the frame's header says makes no address that of many: hosts take for themselves what comes to one of
                // theirs in a frame for all.
                several = is_group(F::Peer::V6, packet.destination);
                let elsewhere = (1 ^ several) * (checked as u64 | self.is_to_another());
                if self.tables.blur(elsewhere as u32) != 0 {
                    return Err(Reason::NotForTask);
                }
            }
        }
        let group = self.tables.blur(several as u32 * state::GROUP as u32) as u16;
        if matches!(D::DIRECTION, Direction::Ingress) && remote.slot == eni.slot {
            return Err(Reason::SpoofedSource);
        }
        // What a task of this host sends to another one comes by its own link.
        if remote.slot != 0 && self.is_from_wire(packet) && self.is_on_device(remote.slot) {
            return Err(Reason::SpoofedSource);
        }
        if related != 0 {
            return Ok(Admission {
                pass: Pass::IcmpError,
                rule: related,
                state: local | group,
                dhcp: false,
            });
        }
        if matches!(judged, Direction::Egress) && remote.flags & address::EXEMPT != 0 {
            return Ok(exempt);
        }
        let (class, port) = rule_key(packet, judged as u8 != D::DIRECTION as u8);
        let axis = self.tables.blur(class as u32);
        let port = self.tables.blur(port);
        let subject = Subject {
            axis,
            port,
            peer: F::peer(flow.remote),
            group_set: remote.group_set,
        };
        match judge(self.tables, eni.roots[(plan.0 & Plan::INGRESS) as usize], subject) {
            Judgement::Allowed(Allowed { rule, flags }) => {
                let untracked = if axis == Class::Tcp as u32 {
                    flags & rule::UNTRACKED_TCP != 0
                } else {
                    axis == Class::Udp as u32 && flags & rule::UNTRACKED_UDP != 0
                };
                Ok(Admission {
                    pass: Pass::Rule,
                    rule,
                    state: local | group | (untracked as u16 * state::UNTRACKED),
                    dhcp: false,
                })
            }
            // Whom no rule lets hear it is not meant.
            Judgement::NoRule if group != 0 => Err(Reason::NotForTask),
            Judgement::NoRule => Err(Reason::NoRule),
            Judgement::NoPolicy => Err(Reason::NoPolicy),
        }
    }

    /// Whether a slot's ENI is on a link of its own. Branches of the trunk talk to each other by the wire.
    #[inline(always)]
    fn is_on_device(&self, slot: u16) -> bool {
        self.control.link_of(slot).is_some_and(|link| !link.is_branch())
    }

    /// 1 if the frame goes to another hardware address than the task's, as far as both are known, else 0.
    #[inline(always)]
    fn is_to_another(&self) -> u64 {
        let (mac, to) = (self.control.mac_of(self.work.eni.slot), self.work.destination);
        1 ^ (packet::same(mac, 0) | packet::same(to, 0) | packet::same(to, mac))
    }

    /// Keeps an allowed packet's entry: the one that is there, filled anew, or a new one.
    #[inline(always)]
    pub(super) fn enter<F: Family>(&mut self, plan: Plan, admission: Admission) -> Result<Pass, Reason>
    where
        T: Flows<F::Key>,
    {
        let tail = self.tail();
        let mut refills = plan.0 & Plan::REFILLS != 0;
        let mut goes_on = plan.0 & Plan::GOES_ON != 0;
        if admission.dhcp {
            let flow = Flow::dhcp(self.packet);
            F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, flow.ports, tail);
            refills = true;
        } else if matches!(D::DIRECTION, Direction::Ingress) && is_dhcp(self.packet, Direction::Ingress) {
            // It answers nothing that the task asked.
            let flow = Flow::plain(self.packet, D::DIRECTION);
            F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, flow.ports, tail);
        }
        let opened = self.tables.blur((plan.opened() | admission.state) as u32) as u16;
        let packet = self.packet;
        let segment = packet.segment_in_any_case(|value| self.tables.blur(value));
        let life = begin(opened, packet.protocol, D::DIRECTION, segment);
        let life = life.blurred(|number| self.tables.blur(number));
        let mut refused = None;
        let mut kept = false;
        let mut found = None;
        // Twice at most: an entry can come, or go, between a look and the next step.
        for _ in 0..2 {
            if refills && let Some(conn) = self.tables.conn(F::key(&mut self.work.keys)) {
                found = Some(conn);
                break;
            }
            match self.insert::<F>(opened, life, admission) {
                Ok(Inserted::Exists) => {
                    refills = true;
                    goes_on = true;
                }
                // A busy table is no fault of the packet's.
                Ok(inserted) => {
                    kept = inserted == Inserted::Done;
                    break;
                }
                Err(reason) => {
                    refused = Some(reason);
                    break;
                }
            }
        }
        if let Some(conn) = found {
            if matches!(D::DIRECTION, Direction::Ingress) && admission.dhcp {
                // Only the task keeps it open.
                self.add_totals(&conn);
            } else {
                self.readmit(&conn, tail, opened, admission.rule, (!goes_on).then_some(life));
            }
            kept = true;
        }
        if !kept && let Some(usage) = self.tables.usage(self.work.eni.slot) {
            let packets = self.packet.packets as u64;
            if let Some(reason) = refused
                && admission.state & state::UNTRACKED == 0
                && !admission.is_error()
            {
                self.tables.add(&usage.conns_refused, packets);
                return Err(reason);
            }
            // It needs no entry to pass, only to be recorded.
            self.tables.add(&usage.flows_lost, packets);
        }
        let outcome = self.count(Outcome::Pass(admission.pass));
        self.tell(outcome, admission.rule);
        Ok(admission.pass)
    }

    /// Adds an entry under the key in hand, if its ENI may have one more.
    #[inline(always)]
    fn insert<F: Family>(&mut self, opened: u16, life: Life, admission: Admission) -> Result<Inserted, Reason>
    where
        T: Flows<F::Key>,
    {
        let slot = self.work.eni.slot;
        let accounts = Accounts::of(slot, Shared::Connections);
        let share = self.control.share(Shared::Connections);
        let claim = if admission.is_error() {
            Claim::Error
        } else if opened & state::INGRESS != 0 {
            Claim::Inward
        } else {
            Claim::Outward
        };
        let charge = match accounts.charge(self.tables, share, self.work.eni.conn_cap, claim) {
            Ok(charge) => charge,
            Err(NoRoom::Cap) => return Err(Reason::TaskConnectionsFull),
            Err(NoRoom::Full) => return Err(Reason::ConnectionsFull),
        };
        let opened = opened | charge.state();
        self.work.conn = Conn {
            totals: match D::DIRECTION {
                Direction::Egress => [self.totals(), Totals::default()],
                Direction::Ingress => [Totals::default(), self.totals()],
            },
            seen: Seen::new(self.now, self.tail()),
            admitted: pair(self.control.epoch(slot), self.control.generation).into(),
            by: self.by(admission.rule, opened, slot).into(),
            next: Next::new(life.next),
            flags: self.flags(life.state),
        };
        let inserted = self.tables.insert_conn(F::key(&mut self.work.keys), &self.work.conn);
        if inserted != Inserted::Done {
            accounts.take_back(self.tables, charge);
        }
        match inserted {
            Inserted::Full => Err(Reason::ConnectionsFull),
            inserted => Ok(inserted),
        }
    }

    /// What an entry says of who admitted it. Rules name codes, so a request's is part of that; for everything else it
    /// means nothing.
    #[inline(always)]
    fn by(&self, rule: u32, opened: u16, slot: u16) -> u64 {
        let code = match self.packet.exchange {
            Exchange::Request => self.packet.destination_port as u8,
            _ => 0,
        };
        Conn::pack_by(rule, opened, code, slot)
    }

    /// Fills an entry anew in place: its totals stay, since they only grow. `goes_on`: so does what it knows. Where another CPU
    /// is just making some entry another slot's, who admits it stays for the next packet to say.
    #[inline(always)]
    fn readmit(&self, conn: &Conn, tail: u32, opened: u16, rule: u32, anew: Option<Life>) {
        let slot = self.work.eni.slot;
        let was = conn.state();
        // A SYN of the side that was opened to takes nothing over from the one that opened it.
        if anew.is_some() || initiator(was) as u8 == initiator(opened) as u8 {
            let by = self.by(rule, opened | was & state::POOL, slot);
            if conn.by().1 == slot || self.move_charge(conn, by) {
                conn.admitted
                    .set(pair(self.control.epoch(slot), self.control.generation));
                conn.by.set(by);
            }
        }
        self.account(conn, tail, anew);
    }

    /// Tells whoever follows of a flow's first packet.
    #[inline(always)]
    pub(super) fn tell(&mut self, outcome: Outcome, rule: u32) {
        if self.control.flags & control::FOLLOW == 0 {
            return;
        }
        let packet = self.packet;
        let flow = Flow::plain(packet, D::DIRECTION);
        self.work.event = Event {
            local: flow.local,
            remote: flow.remote,
            ports: flow.ports,
            tail: denial_tail(self.work.eni.slot, packet.protocol, D::DIRECTION, outcome.number()),
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

/// Whether a task that has no address yet may ask for one. In IPv6 it has a link-local one by then.
#[inline(always)]
fn may_ask_for_address(packet: &Packet) -> bool {
    !matches!(packet.kind, Kind::V6) && packet.source[1] as u32 == 0
}

/// The port axis and the key on it. `reply`: the packet goes against the direction that is judged.
#[inline(always)]
fn rule_key(packet: &Packet, reply: bool) -> (Class, u32) {
    let port = if reply {
        packet.source_port
    } else {
        packet.destination_port
    } as u32;
    match (packet.protocol, packet.kind) {
        (TCP, _) => (Class::Tcp, port),
        (UDP, _) => (Class::Udp, port),
        (ICMP, Kind::V4) | (ICMPV6, Kind::V6) => {
            let kind = (packet.destination_port >> 8) as u8;
            match packet.exchange {
                Exchange::Reply if reply => (Class::Icmp, (request_of(packet.kind, kind) as u32) << 8),
                _ => (Class::Icmp, packet.destination_port as u32),
            }
        }
        (other, _) => (Class::Other, other as u32),
    }
}
