//! Commit: the entry of an allowed packet, new or filled anew, within the task's share.

use super::{
    Hook, PacketContext,
    evaluation::{Admission, Evaluation},
    share::{Accounts, NoRoom},
};
use crate::{
    abi::{
        Conn, Direction, DropReason, Outcome, PassReason,
        image::{Claim, Shared},
        tables::{Next, Seen, Totals, pair, state},
    },
    conntrack::{Life, begin, initiator},
    family::Family,
    flow::{Flow, is_dhcp},
    packet::IcmpKind,
    tables::{Flows, Inserted, Tables},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Keeps an allowed packet's entry: the one that is there, filled anew, or a new one.
    #[inline(always)]
    pub(super) fn ct_commit<F: Family>(
        &mut self,
        evaluation: Evaluation,
        admission: Admission,
    ) -> Result<PassReason, DropReason>
    where
        T: Flows<F::Key>,
    {
        let tail = self.tail();
        let mut refills = evaluation.0 & Evaluation::REPLACE_ENTRY != 0;
        let mut goes_on = evaluation.0 & Evaluation::KEEP_STATE != 0;
        if admission.dhcp {
            let flow = Flow::dhcp(self.packet);
            F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, flow.ports, tail);
            refills = true;
        } else if matches!(D::DIRECTION, Direction::Ingress) && is_dhcp(self.packet, Direction::Ingress) {
            // It answers nothing that the task asked.
            let flow = Flow::plain(self.packet, D::DIRECTION);
            F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, flow.ports, tail);
        }
        let opened = self.tables.opaque((evaluation.opened() | admission.state) as u32) as u16;
        let packet = self.packet;
        let segment = packet.segment_in_any_case(|value| self.tables.opaque(value));
        let life = begin(opened, packet.protocol, D::DIRECTION, segment);
        let life = life.opaque(|number| self.tables.opaque(number));
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
                self.refresh_entry(&conn, tail, opened, admission.rule, (!goes_on).then_some(life));
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
        self.emit_event(outcome, admission.rule);
        Ok(admission.pass)
    }

    /// Adds an entry under the key in hand, if its ENI may have one more.
    #[inline(always)]
    fn insert<F: Family>(&mut self, opened: u16, life: Life, admission: Admission) -> Result<Inserted, DropReason>
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
            Err(NoRoom::Cap) => return Err(DropReason::TaskConnectionsFull),
            Err(NoRoom::Full) => return Err(DropReason::ConnectionsFull),
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
            accounts.rollback(self.tables, charge);
        }
        match inserted {
            Inserted::Full => Err(DropReason::ConnectionsFull),
            inserted => Ok(inserted),
        }
    }

    /// What an entry says of who admitted it. Rules name codes, so a request's is part of that; for everything else it
    /// means nothing.
    #[inline(always)]
    fn by(&self, rule: u32, opened: u16, slot: u16) -> u64 {
        let code = match self.packet.exchange {
            IcmpKind::Request => self.packet.destination_port as u8,
            _ => 0,
        };
        Conn::pack_by(rule, opened, code, slot)
    }

    /// Fills an entry anew in place: its totals stay, since they only grow. `goes_on`: so does what it knows. Where another CPU
    /// is just making some entry another slot's, who admits it stays for the next packet to say.
    #[inline(always)]
    fn refresh_entry(&self, conn: &Conn, tail: u32, opened: u16, rule: u32, anew: Option<Life>) {
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
}
