//! Fragments: a later fragment has no transport header, so it is judged by the remembered header fields of its first
//! fragment.
//!
//! Only admitted first fragments are remembered, and nothing is buffered: a later fragment whose first was denied, or has
//! not come yet, is dropped. The entry of a complete datagram is removed at once, so a task's share limits the datagrams
//! that are in flight at a time. Where the host reassembles before it forwards, fragments to a task arrive in order.

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

/// Writes the key of a packet's datagram to scratch memory and returns its tag. The key is source, destination and
/// identification, with the protocol for IPv4 (RFC 791, 3.2) and without it for IPv6 (RFC 8200, 4.5).
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

/// Copies the remembered transport fields of the first fragment into a later one.
///
/// # Errors
/// [`DropReason::FragmentWithoutFirst`] if no first fragment was admitted within the timeout.
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

/// The transport fields of a first fragment that later ones need.
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

/// Writes the remembered transport fields into a later fragment.
#[inline(always)]
fn apply_l4(l4: FragmentL4, later: &mut Packet) {
    later.source_port = l4.source_port;
    later.destination_port = l4.destination_port;
    // The packet that an ICMP error quotes cannot be read here, so only rules can admit the error.
    later.exchange = IcmpKind::from_number(l4.exchange);
    later.protocol = l4.protocol;
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// Remembers an admitted first fragment. If there is no room, the loss is counted and later fragments are dropped.
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
            // The identification is reused. The entry stays charged to its first owner.
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

    /// Accounts for an admitted later fragment, and removes its datagram's entry if the datagram is now complete.
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
        // Two CPUs may see the datagram complete, and user space may find it expired: the one that removes the entry counts
        // the removal.
        if first.missing.get() == 0 && self.tables.remove_fragment(key) {
            Accounts::of(slot, Shared::Fragments).rollback(self.tables, charge);
        }
    }
}
