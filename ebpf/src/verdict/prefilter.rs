//! The prefilter: packets from the wire that a gate would drop are dropped before a socket buffer is allocated, for the same
//! reason and with the same record. Everything else goes on to the gate unchanged and uncounted, including packets that
//! cannot be judged here: later fragments, and headers beyond the first buffer.

use super::{Hook, Scratch, decide, read};
use crate::{
    abi::{Direction, DropReason, LinkId, Outcome},
    packet::{Ethernet, Frame, Kind, Neighbour, Packet, Unparsed, hardware_number},
    policy::{Control, Image, Rows},
    tables::Tables,
};

/// Packets from the wire to a task.
struct FromWire<E> {
    header: E,
    /// Non-zero if the header's destination is the task's; 0 on a routed uplink, where it is the host's.
    of_task: u32,
}

impl<E: Ethernet> Hook for FromWire<E> {
    const DIRECTION: Direction = Direction::Ingress;
    const IS_PREFILTER: bool = true;

    #[inline(always)]
    fn destination(&self) -> u64 {
        if self.of_task != 0 {
            self.header.destination().map_or(0, hardware_number)
        } else {
            0
        }
    }
}

/// Decides on a frame that the uplink received: the reason to drop it, or `None` to pass it on. `tag`: the VLAN tag that was
/// removed; on the trunk it names the branch, elsewhere the frame belongs to no task. `header`: the bytes before the tag.
#[inline(always)]
pub fn prefilter<T: Tables, F: Frame, E: Ethernet>(
    tables: &T,
    frame: &F,
    header: E,
    tag: Option<u16>,
    scratch: &mut Scratch,
) -> Option<DropReason> {
    let control = Control::read(tables)?;
    let parsed = read(frame, scratch);
    if matches!(parsed, Err(Unparsed::Short)) {
        return None;
    }
    let packet = &mut scratch.packet;
    let link = match tag {
        Some(tag) if packet.link == control.trunk() => branch(tag)?,
        // The addresses of a malformed packet do not identify a task.
        None if control.trunk() == 0 && parsed.is_ok() => routed(tables, control, packet)?,
        _ => return None,
    };
    packet.link = link.get();
    let hook = FromWire {
        header,
        of_task: tables.opaque(tag.is_some() as u32),
    };
    match decide(tables, hook, scratch, parsed) {
        Outcome::Pass(_) => None,
        Outcome::Drop(reason) => Some(reason),
    }
}

/// The branch that a VLAN tag names. VLAN id 0 is a priority tag (IEEE 802.1Q, 9.6): the frame belongs to the host.
#[inline(always)]
pub const fn branch(tag: u16) -> Option<LinkId> {
    match tag & 0xfff {
        0 => None,
        vlan => Some(LinkId::branch(vlan)),
    }
}

/// The link of the task that a packet is addressed to. Neighbour messages on the uplink's own link are not for tasks.
#[inline(always)]
fn routed<T: Tables>(tables: &T, control: Control<<T as Image>::Bank>, packet: &Packet) -> Option<LinkId> {
    let is_neighbours = match packet.kind {
        Kind::V4 => false,
        Kind::V6 => !matches!(packet.neighbour, Neighbour::None | Neighbour::RouterRole),
        Kind::Arp | Kind::None => true,
    };
    if is_neighbours {
        return None;
    }
    control.link_of(Rows::read(tables, control)?.address(tables, packet.destination).slot)
}
