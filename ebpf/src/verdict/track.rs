//! The established path, and what to make of an entry that is there but does not decide.

use core::sync::atomic::Ordering::Relaxed;

use super::{Scene, admit::Candidate};
use crate::{
    abi::{Conn, Direction, Outcome, Pass, image::control, tables::state, window},
    conntrack::{advance, closed, idle, initiator, opens, timeout_of},
    family::Family,
    flow::Flow,
    packet::Exchange,
    tables::{Flows, Tables},
};

/// What an entry means for a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The packet belongs to it and passes.
    Live,
    /// The configuration has changed since: the direction that opened it is judged again.
    Rejudge(Direction),
    /// It counts as absent; if the packet is allowed, the entry is filled anew.
    Stale,
    /// It is not this flow's: the element was given to another key meanwhile.
    Foreign,
}

impl<T: Tables> Scene<'_, T> {
    /// Passes what belongs to a tracked connection and judges the rest.
    #[inline(always)]
    pub(super) fn follow<F: Family>(&self) -> Outcome
    where
        T: Flows<F::Key>,
    {
        let packet = self.packet;
        let tail = packet.link << 8 | packet.protocol as u32;
        let mut flow = Flow::tracked(packet, self.direction);
        loop {
            let key = F::key(flow.local, flow.remote, flow.ports, tail);
            let found = self.tables.conn(&key);
            let standing = match &found {
                Some(conn) => self.standing(conn, tail),
                None => Standing::Foreign,
            };
            match (&found, standing) {
                (Some(conn), Standing::Live) => {
                    self.account(conn);
                    return Outcome::Pass(Pass::Tracked);
                }
                (_, Standing::Rejudge(direction)) => {
                    return self.admit::<F>(
                        Candidate {
                            key,
                            tail,
                            judged: direction,
                            goes_on: true,
                        },
                        found,
                    );
                }
                _ if flow.special => flow = Flow::plain(packet, self.direction),
                (_, Standing::Foreign) => {
                    return self.admit::<F>(
                        Candidate {
                            key,
                            tail,
                            judged: self.direction,
                            goes_on: false,
                        },
                        None,
                    );
                }
                _ => {
                    return self.admit::<F>(
                        Candidate {
                            key,
                            tail,
                            judged: self.direction,
                            goes_on: false,
                        },
                        found,
                    );
                }
            }
        }
    }

    #[inline(always)]
    fn standing(&self, conn: &Conn, tail: u32) -> Standing {
        if conn.tail.load(Relaxed) != tail {
            return Standing::Foreign;
        }
        let was = conn.state.load(Relaxed);
        let packet = self.packet;
        let timeout = self.control.timeout(timeout_of(packet.protocol, was));
        if conn.epoch.load(Relaxed) != self.control.epoch(conn.slot.load(Relaxed))
            || idle(self.now, conn.last.load(Relaxed), timeout)
        {
            return Standing::Stale;
        }
        let opening = opens(packet.protocol, packet.tcp_flags);
        if opening && closed(was) {
            return Standing::Stale;
        }
        // An error is let through for the packet that it quotes, or by a rule; that one like it passed says nothing.
        if matches!(packet.exchange, Exchange::Error) {
            return Standing::Stale;
        }
        let changed = conn.generation.load(Relaxed) != self.control.generation;
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
    pub(super) fn account(&self, conn: &Conn) {
        let packet = self.packet;
        let totals = &conn.totals[self.direction.index()];
        self.tables.add(&totals.packets, packet.packets as u64);
        self.tables.add(&totals.bytes, packet.bytes as u64);
        conn.last.store(self.now, Relaxed);
        let was = conn.state.load(Relaxed);
        let is = advance(was, packet.protocol, self.direction, packet.tcp_flags);
        if is != was {
            conn.state.store(is, Relaxed);
        }
        let word = &conn.windows[(self.control.window & 1) as usize];
        let was = word.load(Relaxed);
        let is = self.window_word(was);
        if is != was {
            word.store(is, Relaxed);
        }
    }

    /// What a window's word is once this packet is in it.
    #[inline(always)]
    pub(super) fn window_word(&self, word: u32) -> u32 {
        window::add(
            word,
            self.control.window,
            self.direction,
            window::of_tcp(self.packet.tcp_flags),
        )
    }
}
