//! Fragments: a later one has no transport header, so it borrows what the first one's said and is judged by that.
//!
//! Only what was let through is remembered, and nothing is buffered: a later fragment whose first was denied, or has not
//! come yet, has nothing to borrow. A datagram that is whole is forgotten at once, so that a task's share is as many as are
//! on their way at a time. Where the host reassembles before it forwards, fragments toward a task come in order.

use super::{Hook, PacketContext, share::Accounts};
use crate::{
    abi::{
        Charge, DropReason, Fragment, LinkId,
        image::{NO_CAP, Shared, Timeout},
        tables::{FragmentL4, KeyTag, Seen},
    },
    conntrack::idle,
    family::{IpVersion, Keys},
    packet::{IcmpKind, Packet},
    policy::{Control, PeerKey as _},
    tables::{Flows, Inserted, Tables},
};

/// Makes the key of a packet's datagram the one in hand, and gives its tag: source, destination and identification, with
/// the protocol for IPv4 (RFC 791, 3.2) and without it for IPv6 (RFC 8200, 4.5).
#[inline(always)]
fn key<'k, F: IpVersion>(packet: &Packet, keys: &'k mut Keys) -> (&'k mut F::Key, KeyTag) {
    let protocol = if F::Peer::V6 { 0 } else { packet.protocol };
    let tag = KeyTag::of_conn(LinkId::from_number(packet.link), protocol);
    let key = F::key(keys);
    F::set_key(key, packet.source, packet.destination, packet.fragment_id, tag);
    (key, tag)
}

#[inline(always)]
const fn timeout<F: IpVersion>() -> Timeout {
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
pub(super) fn attach_to_first<T: Tables + Flows<F::Key>, F: IpVersion>(
    tables: &T,
    control: &Control<T::Bank>,
    packet: &mut Packet,
    keys: &mut Keys,
) -> Result<(), DropReason> {
    let (key, tag) = key::<F>(packet, keys);
    let Some(first) = tables.fragment(key) else {
        return Err(DropReason::FragmentWithoutFirst);
    };
    let (last, owner) = first.seen.get();
    if owner != tag || idle(tables.now(), last, control.timeout(timeout::<F>())) {
        return Err(DropReason::FragmentWithoutFirst);
    }
    apply_l4(first.l4(), packet);
    Ok(())
}

/// The values of a first fragment that later ones need.
#[inline(always)]
const fn l4(first: &Packet, slot: u16, charge: Charge) -> FragmentL4 {
    FragmentL4 {
        source_port: first.source_port,
        destination_port: first.destination_port,
        slot,
        charge,
        exchange: first.exchange as u8,
        protocol: first.protocol,
    }
}

/// Gives it to a later one.
#[inline(always)]
fn apply_l4(l4: FragmentL4, later: &mut Packet) {
    later.source_port = l4.source_port;
    later.destination_port = l4.destination_port;
    // An error quotes nothing that could be read here, so rules alone decide.
    later.exchange = IcmpKind::from_number(l4.exchange);
    later.protocol = l4.protocol;
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Remembers a first fragment that was let through. Where there is no room, the later ones are dropped, and counted.
    #[inline(always)]
    pub(super) fn remember<F: IpVersion>(&mut self)
    where
        T: Flows<F::Key>,
    {
        if self.find_eni().is_err() {
            return;
        }
        let slot = self.work.eni.slot;
        let (key, tag) = key::<F>(self.packet, &mut self.work.keys);
        if let Some(first) = self.tables.fragment(key)
            && first.seen.get().1 == tag
        {
            // The identification comes round again. The entry stays its first owner's share.
            let FragmentL4 { slot, charge, .. } = first.l4();
            first.begin(l4(self.packet, slot, charge), self.packet.reassembly_delta);
            first.seen.set(self.now, tag);
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
        let l4 = l4(self.packet, slot, charge);
        self.work.fragment = Fragment::new(Seen::new(self.now, tag), l4, self.packet.reassembly_delta);
        let inserted = self
            .tables
            .insert_fragment(F::key(&mut self.work.keys), &self.work.fragment);
        if !matches!(inserted, Inserted::Created) {
            accounts.rollback(self.tables, charge);
        }
    }

    /// Counts a later fragment that was let through, and forgets its datagram if it was the one that was missing.
    #[inline(always)]
    pub(super) fn forget_whole<F: IpVersion>(&mut self)
    where
        T: Flows<F::Key>,
    {
        let (key, tag) = key::<F>(self.packet, &mut self.work.keys);
        let Some(first) = self.tables.fragment(key) else {
            return;
        };
        if first.seen.get().1 != tag {
            return;
        }
        self.tables
            .add(&first.missing, Fragment::delta(self.packet.reassembly_delta));
        let FragmentL4 { slot, charge, .. } = first.l4();
        // Two CPUs may see it whole, and user space may find it old: the one that removes it counts the removal.
        if first.missing.get() == 0 && self.tables.remove_fragment(key) {
            Accounts::of(slot, Shared::Fragments).rollback(self.tables, charge);
        }
    }
}
