//! Work on a frame after the verdict: a checksum to be filled in, segments to be cut. The sender of the frame says where,
//! by a virtio-net header (packet sockets, tap devices), so none of it may touch the fields that were judged.

use super::{ETHERNET_BYTES, Frame, Kind, Packet, Unparsed};
use crate::{abi::DropReason, wire::ether_type};

/// A checksum of 16 bits that the kernel or a card has yet to fill in (`CHECKSUM_PARTIAL`). The sender chooses its value
/// by the bytes in its place before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where summing begins, in bytes from the frame's first one. It may lie before that.
    pub start: i32,
    /// Bytes from there to where the sum is written.
    pub offset: u16,
}

/// How a GSO frame is cut: the kernel's idea of the headers that each packet gets again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The ethertype that it is cut by, which may differ from the frame's.
    pub ether_type: u16,
    /// Where its IP header is taken to begin, in bytes from the frame's first one: [`Self::HEADER`], if nobody lies.
    pub header: i32,
    /// Where the inner packet begins, in the same unit, if that is cut; else [`Self::NO_INNER`].
    pub inner: i32,
}

impl Cut {
    /// Behind the Ethernet header.
    pub const HEADER: i32 = ETHERNET_BYTES.cast_signed();
    /// Behind everything.
    pub const NO_INNER: i32 = i32::MAX;
}

/// The judged part of a transport header.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    /// The offset of its checksum; 0 if it has none that is known.
    field: u16,
    /// Bytes of it that must stay: those behind them are a tunnel's, and not judged.
    bytes: i32,
}

impl Judged {
    /// All of it, and nothing behind it is anybody's: no tunnel that Linux has lies in TCP or ICMP.
    const fn whole(field: u16) -> Self {
        Self { field, bytes: i32::MAX }
    }

    pub(super) const TCP: Self = Self::whole(16);
    pub(super) const ICMP: Self = Self::whole(2);
    pub(super) const UDP: Self = Self { field: 6, bytes: 8 };
    pub(super) const OTHER: Self = Self { field: 0, bytes: 0 };
    /// There is no header at all.
    const NONE: Self = Self::whole(u16::MAX);
}

const REFUSED: Result<(), Unparsed> = Err(Unparsed::Bad(DropReason::Malformed));

/// Refuses a checksum that would be written over what was judged: it goes into the checksum field of the transport header
/// at `at`, or behind the header. The kernel's own go nowhere else; those of fragments it fills in before.
#[inline(always)]
pub(super) fn checksum_is_own<F: Frame>(frame: &F, at: u32, judged: Judged) -> Result<(), Unparsed> {
    let Some(checksum) = frame.checksum() else {
        return Ok(());
    };
    let from = checksum.start - at.cast_signed();
    if from >= judged.bytes || from == 0 && checksum.offset == judged.field {
        Ok(())
    } else {
        REFUSED
    }
}

/// Refuses a checksum where no header has one: ARP, and fragments but the first.
#[inline(always)]
pub(super) fn no_checksum<F: Frame>(frame: &F) -> Result<(), Unparsed> {
    checksum_is_own(frame, 0, Judged::NONE)
}

/// Refuses a frame that would be cut into something else than what was judged. Cutting rewrites lengths, identifications
/// and checksums of IP headers, sequence numbers and flags of TCP: in the headers that the parser found, or in those of a
/// packet behind them.
#[inline(always)]
pub(super) fn cut_is_honest<F: Frame>(frame: &F, packet: &Packet, at: u32, judged: Judged) -> Result<(), Unparsed> {
    let Some(Cut {
        ether_type,
        header,
        inner,
    }) = frame.cut()
    else {
        return Ok(());
    };
    let found = if packet.kind as u8 == Kind::V6 as u8 {
        ether_type::IPV6
    } else {
        ether_type::IPV4
    };
    let within = inner != Cut::NO_INNER && inner - at.cast_signed() < judged.bytes;
    if ether_type != found || header != Cut::HEADER || within {
        REFUSED
    } else {
        Ok(())
    }
}
