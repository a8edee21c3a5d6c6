//! Fragments: a later one has no transport header, so it borrows what the first one's said and is judged by that.
//!
//! Only what was let through is remembered, and nothing is buffered: a later fragment whose first was denied, or has not
//! come yet, has nothing to borrow. A datagram that is whole is forgotten at once, so that a task's share is as many as are
//! on their way at a time. Where the host reassembles before it forwards, fragments toward a task come in order.

use super::{Hook, PacketContext, share::Accounts};
use crate::{
    abi::{
        Charge, DropReason, Fragment,
        image::{NO_CAP, Shared, Timeout},
        tables::Seen,
    },
    conntrack::idle,
    family::{Family, Keys},
    packet::{IcmpKind, Packet},
    policy::{Control, PeerKey as _},
    tables::{Flows, Inserted, Tables},
};

/// Makes the key of a packet's datagram the one in hand, and gives its tail: source, destination and identification, with
/// the protocol for IPv4 (RFC 791, 3.2) and without it for IPv6 (RFC 8200, 4.5).
#[inline(always)]
fn key<'k, F: Family>(packet: &Packet, keys: &'k mut Keys) -> (&'k mut F::Key, u32) {
    let protocol = if F::Peer::V6 { 0 } else { packet.protocol };
    let tail = packet.link << 8 | protocol as u32;
    let key = F::key(keys);
    F::set_key(key, packet.source, packet.destination, packet.fragment_id, tail);
    (key, tail)
}

#[inline(always)]
const fn timeout<F: Family>() -> Timeout {
    if F::Peer::V6 {
        Timeout::FragmentV6
    } else {
        Timeout::FragmentV4
    }
}

/// Gives a later fragment the ports of its first one.
///
/// # Errors
/// [`DropReason::FragmentWithoutFirst`] if none was let through, or too long ago.
#[inline(always)]
pub(super) fn attach_to_first<T: Tables + Flows<F::Key>, F: Family>(
    tables: &T,
    control: &Control<T::Bank>,
    packet: &mut Packet,
    keys: &mut Keys,
) -> Result<(), DropReason> {
    let (key, tail) = key::<F>(packet, keys);
    let Some(first) = tables.fragment(key) else {
        return Err(DropReason::FragmentWithoutFirst);
    };
    let (last, owner) = first.seen.get();
    if owner != tail || idle(tables.now(), last, control.timeout(timeout::<F>())) {
        return Err(DropReason::FragmentWithoutFirst);
    }
    apply_l4(&first, packet);
    Ok(())
}

/// Keeps what a first fragment says.
#[inline(always)]
fn save_l4(fragment: &Fragment, first: &Packet, slot: u16, charge: Charge) {
    let ports = (first.source_port as u64) << 48 | (first.destination_port as u64) << 32;
    let l4 = ports | Fragment::charged(charge);
    fragment
        .l4
        .set(l4 | (slot as u64) << 16 | (first.exchange as u64) << 8 | first.protocol as u64);
}

/// Gives it to a later one.
#[inline(always)]
fn apply_l4(fragment: &Fragment, later: &mut Packet) {
    let l4 = fragment.l4.get();
    later.source_port = (l4 >> 48) as u16;
    later.destination_port = (l4 >> 32) as u16;
    later.exchange = match l4 >> 8 & 0x7f {
        1 => IcmpKind::Request,
        2 => IcmpKind::Reply,
        // It quotes nothing that could be read here, so rules alone decide.
        3 => IcmpKind::Error,
        _ => IcmpKind::None,
    };
    later.protocol = l4 as u8;
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Remembers a first fragment that was let through. Where there is no room, the later ones are dropped, and counted.
    #[inline(always)]
    pub(super) fn remember<F: Family>(&mut self)
    where
        T: Flows<F::Key>,
    {
        if self.find_eni().is_err() {
            return;
        }
        let slot = self.work.eni.slot;
        let (key, tail) = key::<F>(self.packet, &mut self.work.keys);
        if let Some(first) = self.tables.fragment(key)
            && first.seen.get().1 == tail
        {
            // The identification comes round again. The entry stays its first owner's share.
            save_l4(&first, self.packet, first.slot(), first.charge());
            first
                .missing
                .set(i64::from(self.packet.reassembly_delta).cast_unsigned());
            first.seen.set(self.now, tail);
            return;
        }
        let accounts = Accounts::of(slot, Shared::Fragments);
        let share = self.control.share(Shared::Fragments);
        let Ok(charge) = accounts.charge(self.tables, share, NO_CAP, Self::claim()) else {
            if let Some(usage) = self.tables.usage(slot) {
                self.tables.add(&usage.fragments_lost, 1);
            }
            return;
        };
        self.work.fragment = Fragment::default();
        self.work.fragment.seen = Seen::new(self.now, tail);
        save_l4(&self.work.fragment, self.packet, slot, charge);
        self.work
            .fragment
            .missing
            .set(i64::from(self.packet.reassembly_delta).cast_unsigned());
        let inserted = self
            .tables
            .insert_fragment(F::key(&mut self.work.keys), &self.work.fragment);
        if !matches!(inserted, Inserted::Done) {
            accounts.rollback(self.tables, charge);
        }
    }

    /// Counts a later fragment that was let through, and forgets its datagram if it was the one that was missing.
    #[inline(always)]
    pub(super) fn forget_whole<F: Family>(&mut self)
    where
        T: Flows<F::Key>,
    {
        let (key, tail) = key::<F>(self.packet, &mut self.work.keys);
        let Some(first) = self.tables.fragment(key) else {
            return;
        };
        if first.seen.get().1 != tail {
            return;
        }
        self.tables
            .add(&first.missing, i64::from(self.packet.reassembly_delta).cast_unsigned());
        let (slot, charge) = (first.slot(), first.charge());
        // Two CPUs may see it whole, and user space may find it old: whoever removes it counts that.
        if first.missing.get() == 0 && self.tables.remove_fragment(key) {
            Accounts::of(slot, Shared::Fragments).rollback(self.tables, charge);
        }
    }
}
