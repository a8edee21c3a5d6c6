//! Dropping: a denial is never silent. Record, reason, counter; if its table is full, counter and loss.

use core::sync::atomic::Ordering::Relaxed;

use super::Scene;
use crate::{
    abi::{
        Denial, Outcome, Reason,
        tables::{Totals, denial_tail},
    },
    conntrack::{TCP, UDP},
    family::Family,
    flow::Flow,
    policy::EniRow,
    tables::{Flows, Inserted, Tables},
};

impl<T: Tables> Scene<'_, T> {
    /// Drops a packet of an ENI, and records it.
    #[inline(always)]
    pub(super) fn deny<F: Family>(&self, eni: &EniRow, reason: Reason) -> Outcome
    where
        T: Flows<F::Key>,
    {
        let packet = self.packet;
        let outcome = Outcome::Drop(reason);
        self.tables
            .count(eni.slot, self.direction, outcome, packet.packets as u64);
        let flow = Flow::plain(packet, self.direction);
        let tail = denial_tail(eni.slot, packet.protocol, self.direction, reason as u8);
        // Records name no ports for other protocols, so neither do their keys.
        let ports = if matches!(packet.protocol, TCP | UDP) {
            flow.ports
        } else {
            0
        };
        let key = F::key(flow.local, flow.remote, ports, tail);
        if self.add_to_denial::<F>(&key, tail) {
            return outcome;
        }
        let Some(usage) = self.tables.usage(eni.slot) else {
            return outcome;
        };
        let used = usage
            .denials_inserted
            .load(Relaxed)
            .wrapping_sub(usage.denials_removed.load(Relaxed));
        // Asked before an insert is tried: one that fails costs more than the whole verdict.
        let inserted = if used >= eni.denial_limit as u64 {
            Inserted::Full
        } else {
            let fresh = Denial {
                totals: Totals {
                    packets: (packet.packets as u64).into(),
                    bytes: (packet.bytes as u64).into(),
                },
                last: self.now.into(),
                tail: tail.into(),
                windows: match self.control.window & 1 {
                    0 => [self.window_word(0).into(), u32::MAX.into()],
                    _ => [u32::MAX.into(), self.window_word(0).into()],
                },
            };
            self.tables.insert_denial(&key, &fresh)
        };
        let recorded = match inserted {
            Inserted::Done => {
                self.tables.add(&usage.denials_inserted, 1);
                true
            }
            Inserted::Exists => self.add_to_denial::<F>(&key, tail),
            Inserted::Full => false,
        };
        if !recorded {
            self.tables.add(&usage.denials_lost, packet.packets as u64);
        }
        self.tell(eni, outcome, 0);
        outcome
    }

    #[inline(always)]
    fn add_to_denial<F: Family>(&self, key: &F::Key, tail: u32) -> bool
    where
        T: Flows<F::Key>,
    {
        let Some(denial) = self.tables.denial(key) else {
            return false;
        };
        if denial.tail.load(Relaxed) != tail {
            return false;
        }
        let packet = self.packet;
        self.tables.add(&denial.totals.packets, packet.packets as u64);
        self.tables.add(&denial.totals.bytes, packet.bytes as u64);
        denial.last.store(self.now, Relaxed);
        let word = &denial.windows[(self.control.window & 1) as usize];
        let is = self.window_word(word.load(Relaxed));
        word.store(is, Relaxed);
        true
    }

    /// Drops what has no flow that a record could name: counted for the link's ENI.
    #[inline(always)]
    pub(super) fn drop_uncounted_flow(&self, reason: Reason) -> Outcome {
        match self.eni() {
            Some(eni) => {
                let outcome = Outcome::Drop(reason);
                self.tables
                    .count(eni.slot, self.direction, outcome, self.packet.packets as u64);
                outcome
            }
            None => self.drop_unknown(),
        }
    }

    /// Drops what comes over a link that no task has: there is no ENI to record it for.
    #[inline(always)]
    pub(super) fn drop_unknown(&self) -> Outcome {
        let outcome = Outcome::Drop(Reason::UnknownTask);
        self.tables
            .count(0, self.direction, outcome, self.packet.packets as u64);
        outcome
    }
}
