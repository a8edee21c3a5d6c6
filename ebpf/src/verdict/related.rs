//! ICMP errors about a tracked connection: let through without a rule as far as `settings.icmp-errors` says, matched by
//! the packet inside them. AWS lets them in by rules alone (SG-TRACK-9 in docs/aws-semantics.md);
//! without the path MTU messages a connection over a narrower path hangs, so those are let through unless the setting says
//! otherwise.

use super::{Hook, PacketContext, status::CtStatus};
use crate::{
    abi::image::control,
    family::IpVersion,
    flow::Flow,
    packet::{Kind, Packet},
    policy::PeerKey as _,
    tables::{Flows, Tables},
    wire::{icmp, icmpv6},
};

impl<T: Tables, D: Hook> PacketContext<'_, T, D> {
    /// The rule of the tracked connection that the packet is an error about; 0 if it is none, or about none.
    #[inline(always)]
    pub(super) fn related<F: IpVersion>(&mut self, tail: u32) -> u32
    where
        T: Flows<F::Key>,
    {
        let (packet, quoted) = (self.packet, self.quoted);
        if packet.quoted_at == 0 || matches!(quoted.kind, Kind::None) || !self.wanted::<F>() {
            return 0;
        }
        // The quoted packet went the other way, and the error goes to whoever sent it. Who says so, an end or a router on the
        // way, before the task or in it, is for the source-address check to judge.
        if !packet.destination.is(quoted.source) {
            return 0;
        }
        let flow = Flow::tracked(quoted, D::DIRECTION.opposite());
        let tail = tail & !0xff | quoted.protocol as u32;
        let key = F::key(&mut self.work.keys);
        F::set_key(key, flow.local, flow.remote, flow.ports, tail);
        match self.tables.conn(key) {
            Some(conn) if self.standing(&conn, &as_quoted(quoted)) == CtStatus::Live => conn.rule(),
            _ => 0,
        }
    }

    /// Whether the settings let errors of this type through.
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

/// The part of a quoted packet that counts for its connection's state: only its protocol. It opens and closes nothing.
#[inline(always)]
fn as_quoted(quoted: &Packet) -> Packet {
    Packet {
        protocol: quoted.protocol,
        ..Packet::default()
    }
}
