//! The established path, and what to make of an entry that is there but does not decide.

use super::{Scene, Way, admit::Plan};
use crate::{
    abi::{Conn, Direction, Pass, Reason, image::control, tables::state},
    conntrack::{Life, advance, closed, finished, idle, initiator, opens, timeout_of},
    family::Family,
    flow::{Flow, is_dhcp},
    packet::{Exchange, Packet},
    policy::PeerKey as _,
    tables::{Flows, Tables},
};

/// What an entry means for a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The packet belongs to it and passes.
    Live,
    /// The configuration has changed since: the direction that opened it is judged again.
    Rejudge(Direction),
    /// Both sides have closed it, and the packet comes too late to belong to that.
    Closed,
    /// It counts as absent; if the packet is allowed, the entry is filled anew.
    Stale,
    /// It is not there, or not this flow's: the element was given to another key meanwhile.
    Absent,
}

impl<T: Tables, D: Way> Scene<'_, T, D> {
    /// Passes what belongs to a tracked connection and judges the rest. `parsed`: what it is refused for, if it is.
    #[inline(always)]
    pub(super) fn follow<F: Family>(&mut self, parsed: Result<(), Reason>) -> Result<Pass, Reason>
    where
        T: Flows<F::Key>,
    {
        let tail = self.tail();
        let mut related = 0;
        let plan = if let Err(reason) = parsed {
            Plan::refused(reason)
        } else if !F::Peer::V6 && self.speaks_as_router() {
            // Before any connection could vouch for it.
            Plan::refused(Reason::SpoofedSource)
        } else {
            related = self.related::<F>(tail);
            match self.find::<F>(tail) {
                Some(plan) => plan,
                None => return Ok(Pass::Tracked),
            }
        };
        let plan = Plan(self.tables.blur(plan.0));
        let related = self.tables.blur(related);
        let admission = self.admit::<F>(plan, related)?;
        if D::EARLY {
            return Ok(Pass::Tracked);
        }
        self.enter::<F>(plan, admission)
    }

    /// Counts the packet in its connection, if it has one that decides; else says how it is to be judged.
    #[inline(always)]
    fn find<F: Family>(&mut self, tail: u32) -> Option<Plan>
    where
        T: Flows<F::Key>,
    {
        let mut flow = Flow::tracked(self.packet, D::DIRECTION);
        let mut plan = Plan::anew(D::DIRECTION);
        let mut answers_dhcp = false;
        // As what it answers, as itself, as the task's DHCP. Counted: before Linux 6.8 the verifier takes only a jump for the
        // way back of a loop (check_cfg), and without a count the compiler may lay the steps so that there is none.
        for _ in 0..3 {
            let key = F::key(&mut self.work.keys);
            F::set_key(key, flow.local, flow.remote, flow.ports, tail);
            let standing = match self.tables.conn(key) {
                Some(conn) => {
                    let standing = self.standing(&conn, tail, self.packet);
                    if standing == Standing::Live && !answers_dhcp {
                        if !D::EARLY {
                            self.account(&conn, tail, None);
                        }
                        return None;
                    }
                    standing
                }
                None => Standing::Absent,
            };
            match standing {
                // Whether it goes to the task is still to be seen.
                Standing::Live if answers_dhcp => return Some(plan.answering_dhcp()),
                _ if answers_dhcp => return Some(plan),
                Standing::Rejudge(initiator) => return Some(Plan::again(initiator)),
                // No request that this answers is tracked: the packet stands for itself.
                Standing::Stale | Standing::Absent | Standing::Live if flow.special => {
                    flow = Flow::plain(self.packet, D::DIRECTION);
                }
                Standing::Closed => return Some(Plan::refused(Reason::ConnectionClosed)),
                Standing::Stale | Standing::Absent | Standing::Live => {
                    if standing == Standing::Stale {
                        plan = plan.refilling();
                    }
                    if matches!(D::DIRECTION, Direction::Egress) || !is_dhcp(self.packet, D::DIRECTION) {
                        return Some(plan);
                    }
                    flow = Flow::dhcp(self.packet);
                    answers_dhcp = true;
                }
            }
        }
        Some(plan)
    }

    /// The tail of the packet's key among tracked connections.
    #[inline(always)]
    pub(super) fn tail(&self) -> u32 {
        self.packet.link << 8 | self.packet.protocol as u32
    }

    #[inline(always)]
    pub(super) fn standing(&self, conn: &Conn, tail: u32, packet: &Packet) -> Standing {
        let (last, owner) = conn.seen.get();
        if owner != tail {
            return Standing::Absent;
        }
        let was = conn.state();
        let timeout = self.control.timeout(timeout_of(packet.protocol, was));
        let (epoch, generation) = conn.admitted();
        let (_, slot) = conn.by();
        if epoch != self.control.epoch(slot) {
            return Standing::Stale;
        }
        if matches!(D::DIRECTION, Direction::Egress) && was & state::GROUP != 0 {
            return Standing::Stale;
        }
        let opening = opens(packet.protocol, packet.tcp_flags);
        if idle(self.now, last, timeout) {
            // An untracked connection is its rule's, closed or not.
            return if finished(was) && was & state::UNTRACKED == 0 && !opening {
                Standing::Closed
            } else {
                Standing::Stale
            };
        }
        // An error is let through for the packet that it quotes, or by a rule; that one like it passed says nothing.
        if opening && closed(was) || matches!(packet.exchange, Exchange::Error) {
            return Standing::Stale;
        }
        let changed = generation != self.control.generation;
        // Whoever opens a connection asks the rules that there are now, and the side that was opened to asks its own. What
        // is there lives on: anybody can forge a SYN.
        let confirmed = was & state::CONFIRMED != 0;
        if opening && (changed || confirmed && D::DIRECTION as u8 != initiator(was) as u8) {
            return if confirmed {
                Standing::Rejudge(D::DIRECTION)
            } else {
                Standing::Stale
            };
        }
        if was & state::LOCAL != 0 && self.is_from_wire(packet) {
            return Standing::Rejudge(initiator(was));
        }
        // A request with another code is another question to the rules; what answers it may say what it likes.
        if matches!(packet.exchange, Exchange::Request) && packet.destination_port as u8 != conn.code() {
            return Standing::Stale;
        }
        if changed && (was & state::UNTRACKED != 0 || self.control.flags & control::CUT != 0) {
            return Standing::Rejudge(initiator(was));
        }
        Standing::Live
    }

    /// Whether a packet toward the task came in by the uplink.
    #[inline(always)]
    pub(super) fn is_from_wire(&self, packet: &Packet) -> bool {
        matches!(D::DIRECTION, Direction::Ingress) && packet.came_by != 0 && packet.came_by == self.control.uplink()
    }

    /// Adds the packet to an entry. `anew`: what that knows then, unless it goes on with what it knows.
    #[inline(always)]
    pub(super) fn account(&self, conn: &Conn, tail: u32, anew: Option<Life>) {
        let packet = self.packet;
        self.add_totals(conn);
        conn.seen.set(self.now, tail);
        let was = Life {
            state: conn.state(),
            next: conn.next.get(),
        };
        let is = if let Some(life) = anew {
            life
        } else {
            let blur = |number| self.tables.blur(number);
            advance(was, packet.protocol, D::DIRECTION, packet.segment(), blur)
        };
        if anew.is_some() || matches!(D::DIRECTION, Direction::Egress) {
            conn.next.set(is.next);
        } else {
            conn.next.set_ingress(is.next[1]);
        }
        conn.flags
            .update(is.state, self.control.window, D::DIRECTION, packet.tcp_flags);
    }

    /// Counts the packet in an entry, and does not renew that.
    #[inline(always)]
    pub(super) fn add_totals(&self, conn: &Conn) {
        let totals = &conn.totals[D::DIRECTION.index()];
        self.tables.add(&totals.packets, self.packet.packets as u64);
        self.tables.add(&totals.bytes, self.packet.bytes as u64);
    }
}
