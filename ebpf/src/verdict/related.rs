//! ICMP errors about a tracked connection: admitted without a rule as far as `settings.icmp-errors` says, matched by the
//! packet that they quote. On AWS only rules admit them (SG-TRACK-9 in docs/aws-semantics.md); without path MTU messages a
//! connection over a narrower path hangs, so those are admitted unless the setting says otherwise.

use super::{Hook, PacketContext, status::CtStatus};
use crate::{
    abi::{image::control, tables::KeyTag},
    family::IpVersion,
    flow::Flow,
    packet::{Kind, Packet},
    policy::PeerKey as _,
    tables::{Flows, Tables},
    wire::{icmp, icmpv6},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// The rule of the tracked connection that an ICMP error quotes; 0 if the packet is no such error.
    #[inline(always)]
    pub(super) fn related<F: IpVersion>(&mut self, tag: KeyTag) -> u32
    where
        T: Flows<F::Key>,
    {
        let (packet, quoted) = (self.packet, self.quoted);
        if packet.quoted_at == 0 || matches!(quoted.kind, Kind::None) || !self.wanted::<F>() {
            return 0;
        }
        // The quoted packet went the other way, and the error goes to its sender. The source-address check covers the
        // error's own source: an end or a router on the path, in front of the task or in it.
        if !packet.destination.is(quoted.source) {
            return 0;
        }
        let flow = Flow::tracked(quoted, D::DIRECTION.opposite());
        let tag = tag.with_protocol(quoted.protocol);
        let key = F::key(&mut self.work.keys);
        F::set_key(key, flow.local, flow.remote, flow.ports, tag);
        match self.tables.conn(key) {
            Some(conn) if self.ct_status(&conn, &as_quoted(quoted)) == CtStatus::Established => conn.rule(),
            _ => 0,
        }
    }

    /// Whether the settings admit ICMP errors of this type.
    #[inline(always)]
    fn wanted<F: IpVersion>(&self) -> bool {
        const FRAGMENTATION_NEEDED: u16 = u16::from_be_bytes([icmp::UNREACHABLE, icmp::FRAGMENTATION_NEEDED]);
        let message = self.packet.destination_port;
        let pmtu = if F::Peer::V6 {
            message >> 8 == icmpv6::PACKET_TOO_BIG as u16
        } else {
            message == FRAGMENTATION_NEEDED
        };
        let wants = if pmtu { control::ICMP_PMTU } else { control::ICMP_ALL };
        self.control.flags & wants != 0
    }
}

/// A quoted packet as input for [`PacketContext::ct_status`]: only its protocol. A quoted packet opens and closes nothing.
#[inline(always)]
fn as_quoted(quoted: &Packet) -> Packet {
    Packet {
        protocol: quoted.protocol,
        ..Packet::default()
    }
}
