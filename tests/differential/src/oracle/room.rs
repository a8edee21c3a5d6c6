//! Admission of one more entry to a table: each slot has a guaranteed floor, and all slots share the pool.

use taskgate_ebpf::abi::{Direction, image::Share};

/// The entries of a table: by their owner, and by the account.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// By the slot's floor.
    floor: usize,
    /// By the pool for the slot.
    own: usize,
    pool: usize,
}

impl Taken {
    /// The entries that count for one more entry of a slot.
    pub(super) fn by(slot: u16, entries: impl Iterator<Item = (u16, bool)>) -> Self {
        let mut taken = Self::default();
        for (owner, pooled) in entries {
            taken.floor += usize::from(owner == slot && !pooled);
            taken.own += usize::from(owner == slot && pooled);
            taken.pool += usize::from(pooled);
        }
        taken
    }
}

/// The reason for a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Cap,
    Full,
}

/// Whether the pool is charged for one more entry. `keeps_free`: the claim leaves one part of this many free; 0: none.
pub(super) fn pays(taken: Taken, share: Share, cap: u32, keeps_free: usize) -> Result<bool, Refused> {
    let most = |of: u32| of as usize - (of as usize).checked_div(keeps_free).unwrap_or(0);
    if taken.floor + taken.own >= most(cap) {
        Err(Refused::Cap)
    } else if taken.floor < most(share.floor) {
        Ok(false)
    } else if taken.pool < most(share.pool) {
        Ok(true)
    } else {
        Err(Refused::Full)
    }
}

/// Connections from outside leave a quarter free for those that the task opens.
pub(super) fn keeps_free(begun: Direction) -> usize {
    match begun {
        Direction::Egress => 0,
        Direction::Ingress => 4,
    }
}
