//! Lookup: the connection of a packet, and how it is to be judged if there is none that decides.

use super::{Hook, PacketContext, evaluation::Evaluation, status::CtStatus};
use crate::{
    abi::{Direction, DropReason},
    family::IpVersion,
    flow::{Flow, is_dhcp},
    tables::{Flows, Tables},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Counts the packet in its connection, if it has one that decides; else says how it is to be judged.
    #[inline(always)]
    pub(super) fn ct_lookup<F: IpVersion>(&mut self, tail: u32) -> Option<Evaluation>
    where
        T: Flows<F::Key>,
    {
        let mut flow = Flow::tracked(self.packet, D::DIRECTION);
        let mut evaluation = Evaluation::anew(D::DIRECTION);
        let mut answers_dhcp = false;
        // As what it answers, as itself, as the task's DHCP. Counted: before Linux 6.8 the verifier takes only a jump for the
        // way back of a loop (check_cfg), and without a count the compiler may lay the steps so that there is none.
        for _ in 0..3 {
            let key = F::key(&mut self.work.keys);
            F::set_key(key, flow.local, flow.remote, flow.ports, tail);
            let standing = match self.tables.conn(key) {
                Some(conn) => {
                    let standing = self.standing(&conn, self.packet);
                    if standing == CtStatus::Live && !answers_dhcp {
                        if !D::EARLY {
                            self.account(&conn, None);
                        }
                        return None;
                    }
                    standing
                }
                None => CtStatus::Absent,
            };
            match standing {
                // Whether it goes to the task is still to be seen.
                CtStatus::Live if answers_dhcp => return Some(evaluation.answering_dhcp()),
                _ if answers_dhcp => return Some(evaluation),
                CtStatus::Rejudge(initiator) => return Some(Evaluation::again(initiator)),
                // No request that this answers is tracked: the packet stands for itself.
                CtStatus::Stale | CtStatus::Absent | CtStatus::Live if flow.special => {
                    flow = Flow::plain(self.packet, D::DIRECTION);
                }
                CtStatus::Closed => return Some(Evaluation::refused(DropReason::ConnectionClosed)),
                CtStatus::Stale | CtStatus::Absent | CtStatus::Live => {
                    if standing == CtStatus::Stale {
                        evaluation = evaluation.refilling();
                    }
                    if matches!(D::DIRECTION, Direction::Egress) || !is_dhcp(self.packet, D::DIRECTION) {
                        return Some(evaluation);
                    }
                    flow = Flow::dhcp(self.packet);
                    answers_dhcp = true;
                }
            }
        }
        Some(evaluation)
    }

    /// The tail of the packet's key among tracked connections.
    #[inline(always)]
    pub(super) fn tail(&self) -> u32 {
        self.packet.link << 8 | self.packet.protocol as u32
    }
}
