//! A trunk's VLAN tags: in its frames, or in the socket buffer's metadata.

use std::io;

use super::link::{Link, LinkKind, UplinkPeer, name_of};
use crate::sys;
use crate::sys::VlanSwitch;

/// Where a trunk's tags are when the prefilter sees its frames: it finds them only in the frames.
#[derive(Debug)]
pub enum VlanOffload {
    /// In them.
    InFrames,
    /// In them, as long as this lives: VLAN offload is off.
    TurnedOff(VlanOffloadGuard),
    /// Nobody here can tell: the other end of the veth pair is in another network namespace.
    Unknown,
    /// In the metadata, and the link does not let that be changed.
    Beside(io::Error),
}

/// A switch that was turned off, and is turned on again when this is dropped.
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
    /// Has a trunk's tags in its frames, where that can be had.
    pub fn in_frames(link: &Link) -> Self {
        let (ifindex, switch) = match link.kind {
            LinkKind::Uplink(UplinkPeer::Elsewhere) => return Self::Unknown,
            // An end of a veth pair receives frames as the other end sends them.
            LinkKind::Uplink(UplinkPeer::Here(ifindex)) => (ifindex, VlanSwitch::Transmit),
            _ => (link.ifindex, VlanSwitch::Receive),
        };
        Self::turn(ifindex, switch).unwrap_or_else(Self::Beside)
    }

    fn turn(ifindex: u32, switch: VlanSwitch) -> io::Result<Self> {
        let name = name_of(ifindex)?;
        let beside = match sys::vlan_switch(&name, switch) {
            // A driver without switches leaves frames as they are.
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
