//! Dropping: a denial is never silent. Record, reason, counter; if its table is full, counter and loss.

use super::{Hook, PacketContext, share::Accounts};
use crate::{
    abi::{
        Denial, Direction, DropReason, Outcome, PassReason,
        image::{NO_CAP, Shared},
        tables::{KeyTag, Totals},
    },
    family::IpVersion,
    flow::Flow,
    packet::{is_group, same},
    policy::PeerKey as _,
    tables::{Flows, Inserted, Tables},
    wire::{TCP, UDP},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Drops a packet, counts it and records it for its ENI. A link that no task has is counted under slot 0: there is no
    /// ENI to record it for.
    ///
    /// The reason lies in memory meanwhile: else the verifier would walk all of this once for each.
    #[inline(always)]
    pub(super) fn deny<F: IpVersion>(&mut self, reason: DropReason) -> Outcome
    where
        T: Flows<F::Key>,
    {
        self.work.reason = Some(reason);
        let number = self.tables.opaque(reason as u32) as u8;
        if self.is_hosts(number) {
            return self.count(Outcome::Pass(PassReason::Host));
        }
        let slot = self.work.eni.slot;
        self.tables
            .count(slot, D::DIRECTION, number as u32, self.packet.packets as u64);
        if slot != 0 && self.is_meant::<F>(number) {
            self.record::<F>(number);
        }
        self.dropped()
    }

    /// How a packet that was refused ends.
    #[inline(always)]
    fn dropped(&self) -> Outcome {
        Outcome::Drop(self.work.reason.unwrap_or(DropReason::NoPolicy))
    }

    /// Keeps what was dropped.
    #[inline(always)]
    fn record<F: IpVersion>(&mut self, number: u8)
    where
        T: Flows<F::Key>,
    {
        let slot = self.work.eni.slot;
        let packet = self.packet;
        let flow = Flow::plain(packet, D::DIRECTION);
        let tag = KeyTag::of_denial(slot, packet.protocol, D::DIRECTION, number);
        // Records name no ports for other protocols, so neither do their keys.
        let ports = if matches!(packet.protocol, TCP | UDP) {
            flow.ports
        } else {
            0
        };
        F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, ports, tag);
        let denial = if let Some(denial) = self.tables.denial(F::key(&mut self.work.keys)) {
            denial
        } else {
            match self.insert_denial::<F>() {
                Inserted::Created => {
                    self.emit_event(number, 0);
                    return;
                }
                Inserted::Exists(denial) => denial,
                Inserted::Full | Inserted::Busy => {
                    if let Some(usage) = self.tables.usage(slot) {
                        self.tables.add(&usage.denials_lost, packet.packets as u64);
                    }
                    return;
                }
            }
        };
        self.tables.add(&denial.totals.packets, packet.packets as u64);
        self.tables.add(&denial.totals.bytes, packet.bytes as u64);
        denial.last.set(self.now);
        denial
            .flags
            .update(0, self.control.window, D::DIRECTION, packet.tcp_flags);
    }

    /// Whether what is refused was meant for the task, so that its record is true of it. A bridge floods each frame whose
    /// end it does not know, and what goes to several hosts, past many who have nothing to do with it.
    #[inline(always)]
    fn is_meant<F: IpVersion>(&self, number: u8) -> bool {
        if matches!(D::DIRECTION, Direction::Egress) {
            return true;
        }
        let number = number as u64;
        let is_full =
            same(number, DropReason::ConnectionsFull as u64) | same(number, DropReason::TaskConnectionsFull as u64);
        let not_for_task = same(number, DropReason::NotForTask as u64);
        // Sent to the task for somebody else: a route that leads astray.
        let (mac, to) = (self.control.mac_of(self.work.eni.slot), self.work.destination);
        let astray = same(mac, to) & (1 ^ same(mac, 0));
        // A packet to several hosts is the task's once a rule has let it in.
        let several = is_group(F::Peer::V6, self.packet.destination);
        let meant = (several * is_full) | ((1 ^ several) * (1 ^ (not_for_task * (1 ^ astray))));
        self.tables.opaque(meant as u32) != 0
    }

    #[inline(always)]
    fn insert_denial<F: IpVersion>(&mut self) -> Inserted<<T as Flows<F::Key>>::Denial>
    where
        T: Flows<F::Key>,
    {
        let packet = self.packet;
        let accounts = Accounts::of(self.work.eni.slot, Shared::Denials);
        // Asked before an insert is tried: one that fails costs more than the whole verdict.
        let share = self.control.share(Shared::Denials);
        let Ok(charge) = accounts.charge(self.tables, share, NO_CAP, Self::claim()) else {
            return Inserted::Full;
        };
        let totals = Totals::new(packet.packets as u64, packet.bytes as u64);
        self.work.denial = Denial::new(totals, self.now, self.flags(0), charge.number());
        let inserted = self
            .tables
            .insert_denial(F::key(&mut self.work.keys), &self.work.denial);
        if !matches!(inserted, Inserted::Created) {
            accounts.rollback(self.tables, charge);
        }
        inserted
    }
}
