//! A trunk's VLAN tags: in its frames, or in the socket buffer's metadata.

use std::io;

use super::link::{Link, LinkKind, UplinkPeer, name_of};
use crate::sys;
use crate::sys::VlanSwitch;

/// Where a trunk's VLAN tags are when the prefilter sees its frames. It finds tags only in the frames.
#[derive(Debug)]
pub enum VlanOffload {
    /// In the frames.
    InFrames,
    /// In the frames, as long as the guard lives: VLAN offload was turned off.
    TurnedOff(VlanOffloadGuard),
    /// Unknown, as the other end of the veth pair is in another network namespace.
    Unknown,
    /// In the metadata: VLAN offload cannot be turned off, with this error.
    Beside(io::Error),
}

/// VLAN offload that was turned off, and is turned on again when this is dropped.
#[derive(Debug)]
pub struct VlanOffloadGuard {
    ifindex: u32,
    switch: VlanSwitch,
}

impl Drop for VlanOffloadGuard {
    fn drop(&mut self) {
        let turned = name_of(self.ifindex).and_then(|name| sys::turn_vlan_switch(&name, self.switch, true));
        if let Err(error) = turned {
            tracing::debug!("a VLAN switch stays off, its link may be gone: {error}");
        }
    }
}

impl VlanOffload {
    /// Turns VLAN offload off if possible, so that a trunk's tags are in its frames.
    pub fn in_frames(link: &Link) -> Self {
        let (ifindex, switch) = match link.kind {
            LinkKind::Uplink(UplinkPeer::Elsewhere) => return Self::Unknown,
            // On a veth pair the sender's offload decides: the other end's.
            LinkKind::Uplink(UplinkPeer::Here(ifindex)) => (ifindex, VlanSwitch::Transmit),
            _ => (link.ifindex, VlanSwitch::Receive),
        };
        Self::turn(ifindex, switch).unwrap_or_else(Self::Beside)
    }

    fn turn(ifindex: u32, switch: VlanSwitch) -> io::Result<Self> {
        let name = name_of(ifindex)?;
        let beside = match sys::vlan_switch(&name, switch) {
            // A driver without the offload leaves tags in the frames.
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => false,
            beside => beside?,
        };
        if !beside {
            return Ok(Self::InFrames);
        }
        sys::turn_vlan_switch(&name, switch, false)?;
        Ok(Self::TurnedOff(VlanOffloadGuard { ifindex, switch }))
    }
}
