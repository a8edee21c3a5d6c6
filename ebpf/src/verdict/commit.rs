//! Commit: creates or refills the conntrack entry of an allowed packet, within the task's share of the table.

use super::{
    Hook, PacketContext,
    evaluation::{Admission, Evaluation},
    share::{Accounts, NoRoom},
};
use crate::{
    abi::{
        Conn, Direction, DropReason, PassReason,
        image::{Claim, Shared},
        tables::{Admitted, Next, RULES, state},
    },
    conntrack::{Life, begin, initiator},
    family::IpVersion,
    flow::{Flow, is_dhcp},
    packet::IcmpKind,
    tables::{Flows, Inserted, Tables},
};

/// Per-direction counters of a new entry, after its first packet.
#[inline(always)]
fn by_direction<D: Hook, C: Default>(count: C) -> [C; 2] {
    match D::DIRECTION {
        Direction::Egress => [count, C::default()],
        Direction::Ingress => [C::default(), count],
    }
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Records an allowed packet in its entry: refills the existing entry, or creates one.
    #[inline(always)]
    pub(super) fn ct_commit<F: IpVersion>(
        &mut self,
        evaluation: Evaluation,
        admission: Admission,
    ) -> Result<PassReason, DropReason>
    where
        T: Flows<F::Key>,
    {
        const RULE: u32 = 8;
        const ERROR: u8 = PassReason::IcmpError as u8;
        const EXEMPT: u8 = PassReason::Exempt as u8;
        const { assert!(RULES <= 1 << (u32::BITS - RULE)) };
        let mut refills = evaluation.0 & Evaluation::REPLACE_ENTRY != 0;
        let goes_on = evaluation.0 & Evaluation::KEEP_STATE != 0;
        if admission.dhcp {
            let (flow, tag) = (Flow::dhcp(self.packet), self.tag());
            F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, flow.ports, tag);
            refills = true;
        } else if matches!(D::DIRECTION, Direction::Ingress) && is_dhcp(self.packet, Direction::Ingress) {
            // Not a reply to a DHCP request of this task: a flow under its own key.
            let (flow, tag) = (Flow::plain(self.packet, D::DIRECTION), self.tag());
            F::set_key(F::key(&mut self.work.keys), flow.local, flow.remote, flow.ports, tag);
        }
        let opened = self.tables.opaque((evaluation.opened() | admission.state) as u32) as u16;
        // Hidden from the verifier, and again at each use: otherwise the rest would be verified once for each path that led
        // here.
        let facts = self.tables.opaque(
            refills as u32
                | (goes_on as u32) << 1
                | (admission.dhcp as u32) << 2
                | (admission.is_error() as u32) << 3
                | ((admission.state & state::UNTRACKED != 0) as u32) << 4,
        );
        let by = self.tables.opaque(admission.rule << RULE | admission.pass as u32);
        let (rule, number) = (by >> RULE, by as u8);
        let tables = self.tables;
        let is = |bit: u32| tables.opaque(facts) >> bit & 1 != 0;
        let packet = self.packet;
        let segment = packet.segment_in_any_case(|value| self.tables.opaque(value));
        let life = begin(opened, packet.protocol, D::DIRECTION, segment);
        let life = life.opaque(|number| self.tables.opaque(number));
        let mut refused = None;
        let mut kept = false;
        let mut exists = 0;
        let mut found = if is(0) {
            self.tables.conn(F::key(&mut self.work.keys))
        } else {
            None
        };
        if found.is_none() {
            match self.insert::<F>(opened, life, rule, is(3)) {
                Ok(Inserted::Created) => kept = true,
                Ok(Inserted::Exists(conn)) => {
                    exists = 1;
                    found = Some(conn);
                }
                // Contention must not drop a packet that the rules allow.
                Ok(Inserted::Busy | Inserted::Full) => {}
                Err(reason) => refused = Some(reason),
            }
        }
        if let Some(conn) = found {
            if matches!(D::DIRECTION, Direction::Ingress) && is(2) {
                // Only the task's own packets renew a DHCP entry.
                self.add_totals(&conn);
            } else {
                let goes_on = self.tables.opaque(exists | facts >> 1 & 1) != 0;
                self.refresh_entry(&conn, opened, rule, (!goes_on).then_some(life));
            }
            kept = true;
        }
        if !kept && let Some(usage) = self.tables.usage(self.work.eni.slot) {
            let packets = self.packet.packets as u64;
            if let Some(reason) = refused
                && !is(4)
                && !is(3)
            {
                self.tables.add(&usage.conns_refused, packets);
                return Err(reason);
            }
            // The packet passes without an entry; only its flow record is lost.
            self.tables.add(&usage.flows_lost, packets);
        }
        self.tables.count(
            self.work.eni.slot,
            D::DIRECTION,
            number as u32,
            self.packet.packets as u64,
        );
        self.emit_event(number, rule);
        Ok(match number {
            ERROR => PassReason::IcmpError,
            EXEMPT => PassReason::Exempt,
            _ => PassReason::Rule,
        })
    }

    /// Inserts an entry under the key in scratch memory, if the ENI's share has room.
    #[inline(always)]
    fn insert<F: IpVersion>(
        &mut self,
        opened: u16,
        life: Life,
        rule: u32,
        is_error: bool,
    ) -> Result<Inserted<<T as Flows<F::Key>>::Conn>, DropReason>
    where
        T: Flows<F::Key>,
    {
        let slot = self.work.eni.slot;
        let accounts = Accounts::of(slot, Shared::Connections);
        let share = self.control.share(Shared::Connections);
        let claim = if is_error {
            Claim::Error
        } else if self.tables.opaque(opened as u32) as u16 & state::INGRESS != 0 {
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
        let (packets, bytes) = (self.packet.packets, self.packet.bytes as u64);
        self.work.conn = Conn {
            bytes: by_direction::<D, _>(bytes.into()),
            packets: by_direction::<D, _>(packets.into()),
            admitted: self.admitted(slot).into(),
            by: Conn::pack_by(rule, opened).into(),
            last: self.now.into(),
            next: Next::new(life.next),
            flags: self.flags(life.state),
        };
        let inserted = self.tables.insert_conn(F::key(&mut self.work.keys), &self.work.conn);
        if !matches!(inserted, Inserted::Created) {
            accounts.rollback(self.tables, charge);
        }
        match inserted {
            Inserted::Full => Err(DropReason::ConnectionsFull),
            inserted => Ok(inserted),
        }
    }

    /// The `admitted` word of an entry: epoch, generation and slot at admission. Rules name ICMP codes, so the code of an
    /// ICMP request is part of it; for other packets it is 0.
    #[inline(always)]
    fn admitted(&self, slot: u16) -> u64 {
        let code = match self.packet.exchange {
            IcmpKind::Request => self.packet.destination_port as u8,
            _ => 0,
        };
        let admitted = Admitted {
            epoch: self.control.epoch(slot),
            code,
            generation: self.control.generation as u16,
            slot,
        };
        admitted.pack()
    }

    /// Refills an entry in place: its totals stay, since they only grow. `anew`: the new state, or `None` to advance the
    /// existing one. While another CPU is moving some entry to another slot, `admitted` and `by` stay unchanged, and the
    /// next packet sets them.
    #[inline(always)]
    fn refresh_entry(&self, conn: &Conn, opened: u16, rule: u32, anew: Option<Life>) {
        let slot = self.work.eni.slot;
        let was = conn.state();
        // A SYN from the responder does not take the entry over from its initiator.
        if anew.is_some() || initiator(was) as u8 == initiator(opened) as u8 {
            let admitted = self.admitted(slot);
            if conn.admitted().slot == slot || self.move_charge(conn, admitted) {
                conn.admitted.set(admitted);
                conn.by.set(Conn::pack_by(rule, opened | was & state::POOL));
            }
        }
        self.account(conn, anew);
    }
}
