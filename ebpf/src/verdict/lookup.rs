//! Lookup: the conntrack entry of a packet, and how to evaluate the packet if no entry accepts it.

use super::{Hook, PacketContext, evaluation::Evaluation, status::CtStatus};
use crate::{
    abi::{Direction, DropReason, LinkId, tables::KeyTag},
    family::IpVersion,
    flow::{Flow, is_dhcp},
    tables::{Flows, Tables},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Looks up the packet's entry. A valid entry accepts and counts the packet (`None`); otherwise returns how to evaluate
    /// it.
    #[inline(always)]
    pub(super) fn ct_lookup<F: IpVersion>(&mut self, tag: KeyTag) -> Option<Evaluation>
    where
        T: Flows<F::Key>,
    {
        let mut flow = Flow::tracked(self.packet, D::DIRECTION);
        let mut evaluation = Evaluation::anew(D::DIRECTION);
        let mut answers_dhcp = false;
        // Up to three keys: of the request that the packet answers, of the packet itself, of the task's DHCP. A counted
        // loop: before Linux 6.8 the verifier takes only a jump for the back edge of a loop (check_cfg), and without a count
        // the compiler may lay out the steps without one.
        for _ in 0..3 {
            let key = F::key(&mut self.work.keys);
            F::set_key(key, flow.local, flow.remote, flow.ports, tag);
            let status = match self.tables.conn(key) {
                Some(conn) => {
                    let status = self.ct_status(&conn, self.packet);
                    if status == CtStatus::Established && !answers_dhcp {
                        if !D::IS_PREFILTER {
                            self.account(&conn, None);
                        }
                        return None;
                    }
                    status
                }
                None => CtStatus::Miss,
            };
            match status {
                // `evaluate` checks whether the packet is addressed to the task.
                CtStatus::Established if answers_dhcp => return Some(evaluation.answering_dhcp()),
                _ if answers_dhcp => return Some(evaluation),
                CtStatus::Reevaluate(initiator) => return Some(Evaluation::again(initiator)),
                // No tracked request matches this reply: look up the packet's own addresses.
                CtStatus::Expired | CtStatus::Miss | CtStatus::Established if flow.special => {
                    flow = Flow::plain(self.packet, D::DIRECTION);
                }
                CtStatus::Closed => return Some(Evaluation::refused(DropReason::ConnectionClosed)),
                CtStatus::Expired | CtStatus::Miss | CtStatus::Established => {
                    if status == CtStatus::Expired {
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

    /// The tag of the packet's conntrack key.
    #[inline(always)]
    pub(super) fn tag(&self) -> KeyTag {
        KeyTag::of_conn(LinkId::from_number(self.packet.link), self.packet.protocol)
    }
}
