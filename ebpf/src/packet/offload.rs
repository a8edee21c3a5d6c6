//! Pending offloads: work on a frame after the verdict, a checksum to be filled in or segments to be cut. The frame's sender
//! chooses the places by a virtio-net header (packet sockets, tap devices), so the offload must not change any field that
//! was judged.

use super::{ETHERNET_BYTES, Frame, Kind, Packet, Unparsed};
use crate::{abi::DropReason, wire::ether_type};

/// A checksum of 16 bits that the kernel or a network card has yet to fill in (`CHECKSUM_PARTIAL`). The sender controls its
/// value through the bytes that it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checksum {
    /// Where summing begins, in bytes from the frame's start; negative if before the frame.
    pub start: i32,
    /// Bytes from `start` to the place where the checksum is written.
    pub offset: u16,
}

/// How a GSO frame is segmented: the kernel's view of the headers that each segment gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The ethertype used for segmentation, which may differ from the frame's.
    pub ether_type: u16,
    /// Where the kernel takes the IP header to begin, in bytes from the frame's start: [`Self::HEADER`] for an honest
    /// sender.
    pub header: i32,
    /// Where the inner packet begins, in the same unit, if an encapsulated packet is segmented; else [`Self::NO_INNER`].
    pub inner: i32,
}

impl Cut {
    /// The offset right after the Ethernet header.
    pub const HEADER: i32 = ETHERNET_BYTES.cast_signed();
    /// An offset beyond every frame: there is no inner packet.
    pub const NO_INNER: i32 = i32::MAX;
}

/// The part of a transport header that a verdict is based on.
#[derive(Clone, Copy)]
pub(super) struct Judged {
    /// The offset of the checksum field; 0 if the protocol has none or it is unknown.
    field: u16,
    /// The bytes that an offload must not change; those behind them may be a tunnel's, which is not judged.
    bytes: i32,
}

impl Judged {
    /// All bytes from the header on: Linux has no tunnel within TCP or ICMP.
    const fn whole(field: u16) -> Self {
        Self { field, bytes: i32::MAX }
    }

    pub(super) const TCP: Self = Self::whole(16);
    pub(super) const ICMP: Self = Self::whole(2);
    pub(super) const UDP: Self = Self { field: 6, bytes: 8 };
    pub(super) const OTHER: Self = Self { field: 0, bytes: 0 };
    /// No transport header.
    const NONE: Self = Self::whole(u16::MAX);
}

const REFUSED: Result<(), Unparsed> = Err(Unparsed::Bad(DropReason::Malformed));

/// Refuses a pending checksum that would overwrite judged fields: it must be the checksum of the transport
/// header at `at`, or begin behind that header. The kernel's own checksums meet this; those of fragments are filled in
/// before fragmentation.
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

/// Refuses a pending checksum where no header has one: on ARP, and on fragments other than the first.
#[inline(always)]
pub(super) fn no_checksum<F: Frame>(frame: &F) -> Result<(), Unparsed> {
    checksum_is_own(frame, 0, Judged::NONE)
}

/// Refuses a frame whose segments would differ from what was judged. Segmentation rewrites lengths, identifications and
/// checksums of IP headers, and sequence numbers and flags of TCP; it may do so in the headers that the parser found, or in
/// a packet behind them.
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
