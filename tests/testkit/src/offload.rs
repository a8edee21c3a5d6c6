//! Offloads of links: the `ethtool` switches that tests use.
#![expect(unsafe_code, reason = "an ioctl that nix does not have")]

use std::{io, os::fd::AsRawFd as _};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::netns::Netns;

/// A switch, by the number of `ethtool`'s command that turns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offload {
    /// Leaves the checksums of sent packets to the hardware.
    TransmitChecksum = 0x17,
    /// Passes TCP segments together, for the hardware to split (TSO).
    TcpSegmentation = 0x1f,
    /// Merges received segments of a flow (GRO).
    GenericReceive = 0x2c,
}

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Turns a switch of a link.
pub fn turn(netns: &Netns, link: &str, offload: Offload, on: bool) -> Result<()> {
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut value = Value {
        command: offload as u32,
        data: u32::from(on),
    };
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: (&raw mut value).cast(),
        },
    };
    ensure!(link.len() < libc::IFNAMSIZ, "`{link}` is too long for a link's name");
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from.cast_signed();
    }
    let socket = netns.run(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        Ok(socket(AddressFamily::Inet, SockType::Datagram, flags, None)?)
    })?;
    // SAFETY: the request is a whole `ifreq` with a name that ends in 0 and a pointer to the two numbers that these
    // commands take, and both live until the call is over.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error()).with_context(|| format!("cannot turn {offload:?} of `{link}` to {on}"))
    }
}
