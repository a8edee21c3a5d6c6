//! The established path, and what to make of an entry that is there but does not decide.

use super::{Scene, Way, admit::Plan};
use crate::{
    abi::{Conn, Direction, Pass, Reason, image::control, tables::state},
    conntrack::{advance, closed, finished, idle, initiator, opens, timeout_of},
    family::Family,
    flow::Flow,
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
        loop {
            let key = F::key(&mut self.work.keys);
            F::set_key(key, flow.local, flow.remote, flow.ports, tail);
            let standing = match self.tables.conn(key) {
                Some(conn) => {
                    let standing = self.standing(&conn, tail, self.packet);
                    if standing == Standing::Live {
                        if !D::EARLY {
                            self.account(&conn, tail);
                        }
                        return None;
                    }
                    standing
                }
                None => Standing::Absent,
            };
            match standing {
                Standing::Rejudge(initiator) => return Some(Plan::again(initiator)),
                // No request that this answers is tracked: the packet stands for itself.
                Standing::Stale | Standing::Absent | Standing::Live if flow.special => {
                    flow = Flow::plain(self.packet, D::DIRECTION);
                }
                Standing::Stale => return Some(Plan::anew(D::DIRECTION).refilling()),
                Standing::Closed => return Some(Plan::refused(Reason::ConnectionClosed)),
                Standing::Absent | Standing::Live => return Some(Plan::anew(D::DIRECTION)),
            }
        }
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
        let was = conn.flags.state();
        let timeout = self.control.timeout(timeout_of(packet.protocol, was));
        let (epoch, generation) = conn.admitted();
        let (_, slot) = conn.by();
        if epoch != self.control.epoch(slot) {
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
        // A request with another code is another question to the rules; what answers it may say what it likes.
        if matches!(packet.exchange, Exchange::Request) && packet.destination_port as u8 != conn.code() {
            return Standing::Stale;
        }
        let changed = generation != self.control.generation;
        if changed && (was & state::UNTRACKED != 0 || self.control.flags & control::CUT != 0) {
            return if opening {
                Standing::Stale
            } else {
                Standing::Rejudge(initiator(was))
            };
        }
        Standing::Live
    }

    /// Adds the packet to an entry.
    #[inline(always)]
    pub(super) fn account(&self, conn: &Conn, tail: u32) {
        let packet = self.packet;
        let totals = &conn.totals[D::DIRECTION.index()];
        self.tables.add(&totals.packets, packet.packets as u64);
        self.tables.add(&totals.bytes, packet.bytes as u64);
        conn.seen.set(self.now, tail);
        let state = advance(conn.flags.state(), packet.protocol, D::DIRECTION, packet.tcp_flags);
        conn.flags
            .update(state, self.control.window, D::DIRECTION, packet.tcp_flags);
    }
}
