//! Everything that no entry lets through: the ENI of the link, the source-address check, what is never filtered, the
//! policy; and the entry of what is allowed.

use core::sync::atomic::Ordering::Relaxed;

use super::Scene;
use crate::{
    abi::{
        Conn, Direction, Event, Outcome, Pass, Reason,
        image::{Class, address, control, rule, slot},
        tables::{RULE_EXEMPT, Totals, denial_tail, state},
    },
    conntrack::{ICMP, ICMPV6, TCP, UDP, advance, opened_by},
    family::Family,
    flow::{Flow, is_dhcp},
    packet::{Exchange, Kind, Packet, request_of},
    policy::{Allowed, EniRow, Judgement, Rows, Subject, judge, roots_of},
    tables::{Flows, Inserted, Tables},
};

/// A packet that needs a rule.
pub(super) struct Candidate<K> {
    /// Where its entry goes.
    pub(super) key: K,
    /// That key's tail.
    pub(super) tail: u32,
    /// The direction whose rules decide: the packet's own, or that of the connection's initiator.
    pub(super) judged: Direction,
    /// Whether it belongs to a connection that was admitted before and is judged again.
    pub(super) goes_on: bool,
}

/// Why a packet is let in, and what its entry says of that.
struct Admission {
    pass: Pass,
    rule: u32,
    untracked: bool,
    dhcp: bool,
}

impl<T: Tables> Scene<'_, T> {
    /// The ENI of the packet's link.
    #[inline(always)]
    pub(super) fn eni(&self) -> Option<EniRow> {
        Rows::read(self.tables, self.control)?.eni_of(self.packet.link)
    }

    /// Judges a packet by its ENI. `found`: its entry, where one is there that does not decide.
    #[inline(always)]
    pub(super) fn admit<F: Family>(
        &self,
        mut candidate: Candidate<F::Key>,
        mut found: Option<<T as Flows<F::Key>>::Conn>,
    ) -> Outcome
    where
        T: Flows<F::Key>,
    {
        let Some(rows) = Rows::read(self.tables, self.control) else {
            return self.drop_unknown();
        };
        let Some(eni) = rows.eni_of(self.packet.link) else {
            return self.drop_unknown();
        };
        let admission = match self.judge_at::<F>(&rows, &eni, candidate.judged) {
            Ok(admission) => admission,
            Err(reason) => return self.deny::<F>(&eni, reason),
        };
        if admission.dhcp {
            let flow = Flow::dhcp(Flow::plain(self.packet, self.direction).ports);
            candidate.key = F::key(flow.local, flow.remote, flow.ports, candidate.tail);
            found = None;
        }
        self.enter::<F>(&eni, &candidate, found, &admission)
    }

    #[inline(always)]
    fn judge_at<F: Family>(
        &self,
        rows: &Rows<<T as crate::policy::Image>::Bank>,
        eni: &EniRow,
        judged: Direction,
    ) -> Result<Admission, Reason> {
        let packet = self.packet;
        if eni.flags & slot::ISOLATED != 0 {
            return Err(Reason::Isolated);
        }
        let plain = Flow::plain(packet, self.direction);
        let own = rows.address(plain.local).slot == eni.slot;
        let remote = rows.address(plain.remote);
        let exempt = Admission {
            pass: Pass::Exempt,
            rule: RULE_EXEMPT,
            untracked: false,
            dhcp: false,
        };
        if matches!(self.direction, Direction::Egress)
            && eni.flags & slot::EXEMPT_DHCP != 0
            && is_dhcp(packet, Direction::Egress)
            && (own || may_ask_for_address(packet))
        {
            return Ok(Admission { dhcp: true, ..exempt });
        }
        if eni.flags & slot::SOURCE_DEST_CHECK != 0 && !own {
            return Err(match self.direction {
                Direction::Egress => Reason::SpoofedSource,
                Direction::Ingress => Reason::NotForTask,
            });
        }
        if matches!(self.direction, Direction::Ingress) && remote.slot == eni.slot {
            return Err(Reason::SpoofedSource);
        }
        if matches!(judged, Direction::Egress) && remote.flags & address::EXEMPT != 0 {
            return Ok(exempt);
        }
        let (class, port) = rule_key(packet, judged as u8 != self.direction as u8);
        let subject = Subject {
            class,
            port,
            peer: F::peer(plain.remote),
            group_set: remote.group_set,
        };
        match judge(self.tables, roots_of(eni, judged), subject) {
            Judgement::Allowed(Allowed { rule, flags }) => {
                let untracked = match class {
                    Class::Tcp => flags & rule::UNTRACKED_TCP != 0,
                    Class::Udp => flags & rule::UNTRACKED_UDP != 0,
                    Class::Icmp | Class::Other => false,
                };
                Ok(Admission {
                    pass: Pass::Rule,
                    rule,
                    untracked,
                    dhcp: false,
                })
            }
            Judgement::NoRule => Err(Reason::NoRule),
            Judgement::NoPolicy => Err(Reason::NoPolicy),
        }
    }

    /// Keeps an allowed packet's entry: the one that is there, filled anew, or a new one.
    #[inline(always)]
    fn enter<F: Family>(
        &self,
        eni: &EniRow,
        candidate: &Candidate<F::Key>,
        found: Option<<T as Flows<F::Key>>::Conn>,
        admission: &Admission,
    ) -> Outcome
    where
        T: Flows<F::Key>,
    {
        let packet = self.packet;
        let mut opened = opened_by(candidate.judged);
        if admission.untracked {
            opened |= state::UNTRACKED;
        }
        let outcome = Outcome::Pass(admission.pass);
        let passed = |scene: &Self| {
            scene
                .tables
                .count(eni.slot, scene.direction, outcome, packet.packets as u64);
            scene.tell(eni, outcome, admission.rule);
            outcome
        };
        if let Some(conn) = found {
            self.readmit(&conn, eni, opened, admission.rule, candidate.goes_on);
            return passed(self);
        }
        let fresh = Conn {
            totals: match self.direction {
                Direction::Egress => [totals(packet), Totals::default()],
                Direction::Ingress => [Totals::default(), totals(packet)],
            },
            last: self.now.into(),
            tail: candidate.tail.into(),
            epoch: self.control.epoch(eni.slot).into(),
            generation: self.control.generation.into(),
            rule: admission.rule.into(),
            slot: eni.slot.into(),
            state: advance(opened, packet.protocol, self.direction, packet.tcp_flags).into(),
            windows: match self.control.window & 1 {
                0 => [self.window_word(0).into(), u32::MAX.into()],
                _ => [u32::MAX.into(), self.window_word(0).into()],
            },
        };
        let Some(usage) = self.tables.usage(eni.slot) else {
            return self.deny::<F>(eni, Reason::NoPolicy);
        };
        let used = usage
            .conns_inserted
            .load(Relaxed)
            .wrapping_sub(usage.conns_removed.load(Relaxed));
        let inserted = if used >= eni.conn_limit as u64 {
            Err(Reason::TaskConnectionsFull)
        } else {
            match self.tables.insert_conn(&candidate.key, &fresh) {
                Inserted::Done => {
                    self.tables.add(&usage.conns_inserted, 1);
                    Ok(())
                }
                Inserted::Exists => {
                    if let Some(conn) = self.tables.conn(&candidate.key) {
                        self.readmit(&conn, eni, opened, admission.rule, true);
                    }
                    Ok(())
                }
                Inserted::Full => Err(Reason::ConnectionsFull),
            }
        };
        match inserted {
            Ok(()) => passed(self),
            // It needs no entry to pass, only to be recorded.
            Err(_) if admission.untracked => {
                self.tables.add(&usage.flows_lost, packet.packets as u64);
                passed(self)
            }
            Err(reason) => self.deny::<F>(eni, reason),
        }
    }

    /// Fills an entry anew in place: its totals stay, since they only grow.
    #[inline(always)]
    fn readmit(&self, conn: &Conn, eni: &EniRow, opened: u16, rule: u32, goes_on: bool) {
        let was = conn.state.load(Relaxed);
        let kept = if goes_on {
            was & !(state::UNTRACKED | state::INGRESS)
        } else {
            0
        };
        conn.state.store(kept | opened, Relaxed);
        let slot = conn.slot.load(Relaxed);
        if slot != eni.slot {
            if let (Some(old), Some(new)) = (self.tables.usage(slot), self.tables.usage(eni.slot)) {
                self.tables.add(&old.conns_inserted, u64::MAX);
                self.tables.add(&new.conns_inserted, 1);
            }
            conn.slot.store(eni.slot, Relaxed);
        }
        conn.epoch.store(self.control.epoch(eni.slot), Relaxed);
        conn.generation.store(self.control.generation, Relaxed);
        conn.rule.store(rule, Relaxed);
        self.account(conn);
    }

    /// Tells whoever follows of a flow's first packet.
    #[inline(always)]
    pub(super) fn tell(&self, eni: &EniRow, outcome: Outcome, rule: u32) {
        if self.control.flags & control::FOLLOW == 0 {
            return;
        }
        let flow = Flow::plain(self.packet, self.direction);
        self.tables.emit(&Event {
            local: flow.local,
            remote: flow.remote,
            ports: flow.ports,
            tail: denial_tail(eni.slot, self.packet.protocol, self.direction, outcome.number()),
            rule,
            time: self.now,
            bytes: self.packet.bytes,
            tcp_flags: self.packet.tcp_flags as u32,
            generation: self.control.generation,
            spare: 0,
        });
    }
}

/// Whether a task that has no address yet, or only a link-local one, may ask for one.
#[inline(always)]
fn may_ask_for_address(packet: &Packet) -> bool {
    match packet.kind {
        Kind::V6 => packet.source[0] >> 54 == 0xfe80 >> 6,
        _ => packet.source[1] as u32 == 0,
    }
}

#[inline(always)]
fn totals(packet: &Packet) -> Totals {
    Totals {
        packets: (packet.packets as u64).into(),
        bytes: (packet.bytes as u64).into(),
    }
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
