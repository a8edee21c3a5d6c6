//! The results that steps pass on: from lookup to evaluation, and from there to commit.

use crate::{
    abi::{Direction, DropReason, PassReason},
    conntrack::opened_by,
};

/// How a packet that no entry lets through is to be judged. Bits in one word, and no enum, because the word is hidden from the
/// verifier ([`Opaque`](crate::tables::Tables::opaque)): it then walks what follows once, and not once for each way that led
/// here.
#[derive(Clone, Copy)]
pub(super) struct Evaluation(pub(super) u32);

impl Evaluation {
    pub(super) const INGRESS: u32 = 1;
    pub(super) const KEEP_STATE: u32 = 2;
    pub(super) const REPLACE_ENTRY: u32 = 4;
    pub(super) const ANSWERS_DHCP: u32 = 8;
    /// From here on, the number of a reason.
    const REFUSED: u32 = 8;

    /// As a flow that begins, by the rules of this direction.
    #[inline(always)]
    pub(super) const fn anew(direction: Direction) -> Self {
        Self(match direction {
            Direction::Egress => 0,
            Direction::Ingress => Self::INGRESS,
        })
    }

    /// Its entry, which is there, is filled anew.
    #[inline(always)]
    pub(super) const fn refilling(self) -> Self {
        Self(self.0 | Self::REPLACE_ENTRY)
    }

    /// Not at all: it is refused, once it is known for whom.
    #[inline(always)]
    pub(super) const fn refused(reason: DropReason) -> Self {
        Self((reason as u32) << Self::REFUSED)
    }

    /// The reason to refuse it.
    #[inline(always)]
    pub(super) const fn refusal(self) -> Option<DropReason> {
        const LATE: u32 = DropReason::ConnectionClosed as u32;
        const FRAGMENT: u32 = DropReason::FragmentWithoutFirst as u32;
        const ROUTED: u32 = DropReason::SourceRouted as u32;
        const SPOOFED: u32 = DropReason::SpoofedSource as u32;
        match self.0 >> Self::REFUSED {
            0 => None,
            LATE => Some(DropReason::ConnectionClosed),
            FRAGMENT => Some(DropReason::FragmentWithoutFirst),
            ROUTED => Some(DropReason::SourceRouted),
            SPOOFED => Some(DropReason::SpoofedSource),
            _ => Some(DropReason::Malformed),
        }
    }

    /// As part of a connection that `initiator` opened under another generation: its entry stays.
    #[inline(always)]
    pub(super) const fn again(initiator: Direction) -> Self {
        Self(Self::anew(initiator).0 | Self::REPLACE_ENTRY | Self::KEEP_STATE)
    }

    /// As an answer to the DHCP that the task itself began, if it goes to the task.
    #[inline(always)]
    pub(super) const fn answering_dhcp(self) -> Self {
        Self(self.0 | Self::ANSWERS_DHCP)
    }

    /// The state of the connection that it admits. One bit becomes the other, so that there is no branch.
    #[inline(always)]
    pub(super) const fn opened(self) -> u16 {
        pub(super) const INGRESS: u16 = opened_by(Direction::Ingress);
        const { assert!(Self::INGRESS == 1 && INGRESS.is_power_of_two() && opened_by(Direction::Egress) == 0) };
        ((self.0 & Self::INGRESS) as u16) << INGRESS.trailing_zeros()
    }

    /// Whose rules decide.
    #[inline(always)]
    pub(super) const fn judged(self) -> Direction {
        if self.0 & Self::INGRESS == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }
}

/// Why a packet is let in, and what its entry says of that.
#[derive(Clone, Copy)]
pub(super) struct Admission {
    pub(super) pass: PassReason,
    pub(super) rule: u32,
    /// Bits for the state of its entry.
    pub(super) state: u16,
    pub(super) dhcp: bool,
}

impl Admission {
    /// Whether it is an error about a connection, let through for that connection's sake.
    #[inline(always)]
    pub(super) const fn is_error(self) -> bool {
        matches!(self.pass, PassReason::IcmpError)
    }
}
