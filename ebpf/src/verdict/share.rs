//! Shares: the part of each shared table that an ENI may use.
//!
//! Each entry is charged to one of two accounts: the floor of its ENI's slot, reserved for that slot, while it has room;
//! else the pool that all slots share. The charge precedes the insert, and adds first and reads then: of several CPUs that
//! add at once, the last one to read sees all additions, so no account ever exceeds its limit. A charge that does not fit is
//! taken back. At the limit two concurrent charges may both be refused. A cap is only read beforehand: each CPU may exceed
//! it by one.

use super::{Hook, PacketContext};
use crate::{
    abi::{
        Charge, Charges, Conn, Direction, EniUsage,
        image::{Claim, Share, Shared},
        tables::Word,
    },
    tables::Tables,
};

/// Why there is no room for an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The task has reached its cap.
    Cap,
    /// Both the slot's floor and the common pool are full.
    Full,
}

/// The results of a charge. [`Charge::new`] takes the first two.
const FLOOR: u32 = 0;
const POOL: u32 = 1;
const CAP: u32 = 2;
const FULL: u32 = 3;

/// A slot's accounts in one table.
#[derive(Clone, Copy)]
pub(super) struct Accounts {
    slot: u16,
    table: Shared,
}

/// Entries in use: insertions minus removals. `removed` is read first, so an entry that comes and goes between the two reads
/// makes the result too high, never too low.
#[inline(always)]
fn in_use(inserted: &Word, removed: &Word) -> i64 {
    let removed = removed.get();
    inserted.get().wrapping_sub(removed).cast_signed()
}

#[inline(always)]
const fn pick(usage: &EniUsage, table: Shared) -> (&Charges, &Charges) {
    match table {
        Shared::Connections => (&usage.conns_inserted, &usage.conns_removed),
        Shared::Denials => (&usage.denials_inserted, &usage.denials_removed),
        Shared::Fragments => (&usage.fragments_inserted, &usage.fragments_removed),
    }
}

impl Accounts {
    /// The accounts of a slot.
    #[inline(always)]
    pub(super) const fn of(slot: u16, table: Shared) -> Self {
        Self { slot, table }
    }

    /// Charges one entry to the floor, or to the pool if the floor is full.
    #[inline(always)]
    pub(super) fn charge<T: Tables>(self, tables: &T, share: Share, cap: u32, claim: Claim) -> Result<Charge, NoRoom> {
        // By number: the following code is verified once, instead of once for each path that leads to a charge.
        match tables.opaque(self.try_charge(tables, share, cap, claim)) {
            CAP => Err(NoRoom::Cap),
            FULL => Err(NoRoom::Full),
            charge => Ok(Charge::new(charge)),
        }
    }

    /// Returns the result as a number: [`FLOOR`], [`POOL`], [`CAP`] or [`FULL`].
    #[inline(always)]
    fn try_charge<T: Tables>(self, tables: &T, share: Share, cap: u32, claim: Claim) -> u32 {
        let claim = tables.opaque(claim as u32);
        let [floor, pool, cap] = [share.floor, share.pool, cap].map(|of| i64::from(Claim::part(claim, of)));
        let (Some(own), Some(all)) = (tables.usage(self.slot), tables.usage(0)) else {
            return FULL;
        };
        let (inserted, removed) = pick(own, self.table);
        let (all_inserted, all_removed) = pick(all, self.table);
        let [in_floor, in_pool] = [Charge::FLOOR, Charge::POOL].map(|of| in_use(inserted.of(of), removed.of(of)));
        // A flood that exceeds the cap costs reads only, no writes.
        if in_floor + in_pool >= cap {
            return CAP;
        }
        if in_floor < floor {
            tables.add(inserted.of(Charge::FLOOR), 1);
            if in_use(inserted.of(Charge::FLOOR), removed.of(Charge::FLOOR)) <= floor {
                return FLOOR;
            }
            tables.add(inserted.of(Charge::FLOOR), u64::MAX);
        }
        if in_use(all_inserted.of(Charge::POOL), all_removed.of(Charge::POOL)) >= pool {
            return FULL;
        }
        tables.add(inserted.of(Charge::POOL), 1);
        tables.add(all_inserted.of(Charge::POOL), 1);
        if in_use(all_inserted.of(Charge::POOL), all_removed.of(Charge::POOL)) <= pool {
            return POOL;
        }
        tables.add(inserted.of(Charge::POOL), u64::MAX);
        tables.add(all_inserted.of(Charge::POOL), u64::MAX);
        FULL
    }

    /// Takes a charge back: its entry was not inserted.
    #[inline(always)]
    pub(super) fn rollback<T: Tables>(self, tables: &T, charge: Charge) {
        if let (Some(own), Some(all)) = (tables.usage(self.slot), tables.usage(0)) {
            tables.add(pick(own, self.table).0.of(charge), u64::MAX);
            // Adds 0 if the pool was not charged: this avoids a branch, and rollbacks are rare.
            let pooled = u64::from(charge == Charge::POOL);
            tables.add(pick(all, self.table).0.of(Charge::POOL), pooled.wrapping_neg());
        }
    }
}

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// The claim of this direction's packets, unless a more specific claim applies.
    #[inline(always)]
    pub(super) const fn claim() -> Claim {
        match D::DIRECTION {
            Direction::Egress => Claim::Outward,
            Direction::Ingress => Claim::Inward,
        }
    }

    /// Moves a connection and its charge to the packet's slot, unless another CPU has already done so. `admitted`: the
    /// entry's new `admitted` word. Returns `false` if another CPU may be moving a connection at the same time; nothing is
    /// moved then. The charge stays with the same kind of account, so a floor may be overdrawn until entries are removed.
    #[inline(always)]
    pub(super) fn move_charge(&self, conn: &Conn, admitted: u64) -> bool {
        let tables = self.tables;
        let (from, to) = (conn.admitted().slot, self.work.eni.slot);
        let (Some(first), Some(old), Some(new)) = (tables.usage(0), tables.usage(from), tables.usage(to)) else {
            return false;
        };
        let moving = first.moving();
        // As with a charge: of several CPUs that add at once, at most one reads that it is alone.
        tables.add(moving, 1);
        let alone = moving.get() == 1;
        if alone && conn.admitted().slot == from {
            let charge = Charge::of_state(conn.state());
            tables.add(old.conns_inserted.of(charge), u64::MAX);
            tables.add(new.conns_inserted.of(charge), 1);
            conn.admitted.set(admitted);
        }
        tables.add(moving, u64::MAX);
        alone
    }
}
