//! The results that steps pass on: from lookup to evaluation, and from there to commit.

use crate::{
    abi::{Direction, DropReason, PassReason},
    conntrack::opened_by,
};

/// How to evaluate a packet without a valid conntrack entry. Bits in one word instead of an enum, because the word is hidden
/// from the verifier ([`Opaque`](crate::tables::Tables::opaque)), which then walks the following code once instead of once
/// per path that led here.
#[derive(Clone, Copy)]
pub(super) struct Evaluation(pub(super) u32);

impl Evaluation {
    pub(super) const INGRESS: u32 = 1;
    pub(super) const KEEP_STATE: u32 = 2;
    pub(super) const REPLACE_ENTRY: u32 = 4;
    pub(super) const ANSWERS_DHCP: u32 = 8;
    /// The lowest bit of the drop reason's number.
    const REFUSED: u32 = 8;

    /// A new flow, judged by the rules of this direction.
    #[inline(always)]
    pub(super) const fn anew(direction: Direction) -> Self {
        Self(match direction {
            Direction::Egress => 0,
            Direction::Ingress => Self::INGRESS,
        })
    }

    /// The same, with the existing entry to be refilled.
    #[inline(always)]
    pub(super) const fn refilling(self) -> Self {
        Self(self.0 | Self::REPLACE_ENTRY)
    }

    /// A refusal, applied after the ENI lookup, so that the drop is recorded for the ENI.
    #[inline(always)]
    pub(super) const fn refused(reason: DropReason) -> Self {
        Self((reason as u32) << Self::REFUSED)
    }

    /// The drop reason, if the packet is refused.
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

    /// A packet of a connection that `initiator` opened: that direction's rules decide again, and the entry keeps its state.
    #[inline(always)]
    pub(super) const fn again(initiator: Direction) -> Self {
        Self(Self::anew(initiator).0 | Self::REPLACE_ENTRY | Self::KEEP_STATE)
    }

    /// The same, for a possible reply to a DHCP request of the task; still to be checked: whether it is addressed to the
    /// task.
    #[inline(always)]
    pub(super) const fn answering_dhcp(self) -> Self {
        Self(self.0 | Self::ANSWERS_DHCP)
    }

    /// The initial state of the admitted connection. The bit is shifted into place, without a branch.
    #[inline(always)]
    pub(super) const fn opened(self) -> u16 {
        pub(super) const INGRESS: u16 = opened_by(Direction::Ingress);
        const { assert!(Self::INGRESS == 1 && INGRESS.is_power_of_two() && opened_by(Direction::Egress) == 0) };
        ((self.0 & Self::INGRESS) as u16) << INGRESS.trailing_zeros()
    }

    /// The direction whose rules decide.
    #[inline(always)]
    pub(super) const fn judged(self) -> Direction {
        if self.0 & Self::INGRESS == 0 {
            Direction::Egress
        } else {
            Direction::Ingress
        }
    }
}

/// Why a packet is admitted, and the fields that its entry gets for that.
#[derive(Clone, Copy)]
pub(super) struct Admission {
    pub(super) pass: PassReason,
    pub(super) rule: u32,
    /// Bits that are added to the state of the entry.
    pub(super) state: u16,
    pub(super) dhcp: bool,
}

impl Admission {
    /// Whether the packet is an ICMP error, admitted because of the connection that it quotes.
    #[inline(always)]
    pub(super) const fn is_error(self) -> bool {
        matches!(self.pass, PassReason::IcmpError)
    }
}
