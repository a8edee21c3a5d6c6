//! Dropping: a denial is never silent. Record, reason, counter; if its table is full, counter and loss.

use super::{Scene, Way, share::Accounts};
use crate::{
    abi::{
        Denial, Outcome, Reason,
        image::{NO_CAP, Shared},
        tables::{Seen, denial_tail},
    },
    conntrack::{TCP, UDP},
    family::Family,
    flow::Flow,
    tables::{Flows, Inserted, Tables},
};

impl<T: Tables, D: Way> Scene<'_, T, D> {
    /// Drops a packet, counts it and records it for its ENI. A link that no task has is counted under slot 0: there is no
    /// ENI to record it for.
    #[inline(always)]
    pub(super) fn deny<F: Family>(&mut self, reason: Reason) -> Outcome
    where
        T: Flows<F::Key>,
    {
        let outcome = self.count(self.refuse(reason));
        let number = self.tables.blur(reason as u32) as u8;
        let slot = self.work.eni.slot;
        if slot == 0 {
            return outcome;
        }
        let packet = self.packet;
        let flow = Flow::plain(packet, D::DIRECTION);
        let tail = denial_tail(slot, packet.protocol, D::DIRECTION, number);
        // Records name no ports for other protocols, so neither do their keys.
        let ports = if matches!(packet.protocol, TCP | UDP) {
            flow.ports
        } else {
            0
        };
        F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, ports, tail);
        let mut tried = false;
        loop {
            if let Some(denial) = self.tables.denial(F::key(&mut self.work.keys))
                && denial.seen.get().1 == tail
            {
                self.tables.add(&denial.totals.packets, packet.packets as u64);
                self.tables.add(&denial.totals.bytes, packet.bytes as u64);
                denial.seen.set(self.now, tail);
                denial
                    .flags
                    .update(0, self.control.window, D::DIRECTION, packet.tcp_flags);
                return outcome;
            }
            if tried {
                break;
            }
            tried = true;
            match self.insert_denial::<F>(tail) {
                Inserted::Done => {
                    self.tell(outcome, 0);
                    return outcome;
                }
                Inserted::Exists => {}
                Inserted::Full | Inserted::Busy => break,
            }
        }
        if let Some(usage) = self.tables.usage(slot) {
            self.tables.add(&usage.denials_lost, packet.packets as u64);
        }
        outcome
    }

    #[inline(always)]
    fn insert_denial<F: Family>(&mut self, tail: u32) -> Inserted
    where
        T: Flows<F::Key>,
    {
        let accounts = Accounts::of(self.work.eni.slot, Shared::Denials);
        // Asked before an insert is tried: one that fails costs more than the whole verdict.
        let share = self.control.share(Shared::Denials);
        let Ok(charge) = accounts.charge(self.tables, share, NO_CAP, Self::claim()) else {
            return Inserted::Full;
        };
        self.work.denial = Denial {
            totals: self.totals(),
            seen: Seen::new(self.now, tail),
            flags: self.flags(0),
            charge: charge.number().into(),
        };
        let inserted = self
            .tables
            .insert_denial(F::key(&mut self.work.keys), &self.work.denial);
        if inserted != Inserted::Done {
            accounts.take_back(self.tables, charge);
        }
        inserted
    }
}
