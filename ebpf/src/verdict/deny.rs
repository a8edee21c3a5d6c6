//! Drops a packet: counts it under its reason and records the denied flow. If the table is full, the loss is counted.

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
    /// Drops a packet, counts it and records it for its ENI. Packets on a link without an ENI are only counted,
    /// under slot 0.
    ///
    /// The reason is kept in scratch memory in between: otherwise the verifier would walk this function once per reason.
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

    /// The drop with the reason kept in scratch memory.
    #[inline(always)]
    fn dropped(&self) -> Outcome {
        Outcome::Drop(self.work.reason.unwrap_or(DropReason::NoPolicy))
    }

    /// Adds the packet to the record of its denied flow, which the first packet creates.
    #[inline(always)]
    fn record<F: IpVersion>(&mut self, number: u8)
    where
        T: Flows<F::Key>,
    {
        let slot = self.work.eni.slot;
        let packet = self.packet;
        let flow = Flow::plain(packet, D::DIRECTION);
        let tag = KeyTag::of_denial(slot, packet.protocol, D::DIRECTION, number);
        // Flow records have ports only for TCP and UDP, so other protocols share one key.
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

    /// Whether a refused packet was addressed to this task, so that the task's flow log may show it. A bridge floods unknown
    /// unicast and multicast frames to all of its ports, including tasks that are not addressed.
    #[inline(always)]
    fn is_meant<F: IpVersion>(&self, number: u8) -> bool {
        if matches!(D::DIRECTION, Direction::Egress) {
            return true;
        }
        let number = number as u64;
        let is_full =
            same(number, DropReason::ConnectionsFull as u64) | same(number, DropReason::TaskConnectionsFull as u64);
        let not_for_task = same(number, DropReason::NotForTask as u64);
        // The frame has the task's hardware address, the packet another host's IP address: a wrong route.
        let (mac, to) = (self.control.mac_of(self.work.eni.slot), self.work.destination);
        let astray = same(mac, to) & (1 ^ same(mac, 0));
        // A multicast or broadcast packet counts as the task's only after a rule has admitted it.
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
        // The share is charged before the insert: a failing insert costs more than the whole verdict.
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
