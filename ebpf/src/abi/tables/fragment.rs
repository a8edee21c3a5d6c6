//! Datagrams that come in fragments.

use super::{Charge, Seen, Word};

/// What later fragments borrow from the first one of their datagram: 24 bytes.
#[derive(Clone, Debug, Default)]
#[repr(C)]
pub struct Fragment {
    /// When it was let through, and the tail of its own key.
    pub seen: Seen,
    /// From above: source port, destination port, slot of its ENI (16 bits each), [`Charge`] (1 bit), the kind of ICMP
    /// exchange (7 bits), the protocol (8 bits).
    pub l4: Word,
    /// The sum of [`Packet::fragment_step`](crate::packet::Packet::fragment_step) of all parts that passed, as a signed
    /// number: 0 once the datagram is whole.
    pub missing: Word,
}

impl From<[u64; 3]> for Fragment {
    /// From the words of a table's value.
    fn from([seen, l4, missing]: [u64; 3]) -> Self {
        Self {
            seen: Seen(seen.into()),
            l4: l4.into(),
            missing: missing.into(),
        }
    }
}

impl Fragment {
    /// The slot whose share it is of.
    #[inline(always)]
    pub fn slot(&self) -> u16 {
        (self.l4.get() >> 16) as u16
    }

    /// Which account of that slot it is charged to.
    #[inline(always)]
    pub fn charge(&self) -> Charge {
        Charge::new((self.l4.get() >> Self::POOL_BIT) as u32)
    }

    /// What [`Fragment::lent`] says of that.
    #[inline(always)]
    pub const fn charged(charge: Charge) -> u64 {
        (charge.number() as u64) << Self::POOL_BIT
    }

    const POOL_BIT: u32 = 15;
}
