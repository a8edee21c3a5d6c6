//! A link's offload settings, as `ethtool` reads and sets them: by name, in the network namespace of the calling thread.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_STXCSUM: u32 = 0x17;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;

/// The VLAN offloads of a link, which keep tags in the metadata instead of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum VlanSwitch {
    /// The hardware inserts the tags of sent frames: `txvlan`.
    Transmit = 1 << 7,
    /// The hardware removes the tags of received frames: `rxvlan`.
    Receive = 1 << 8,
}

/// The kernel's `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Whether an offload is on.
pub fn vlan_switch(link: &str, switch: VlanSwitch) -> io::Result<bool> {
    Ok(flags(&open()?, link)? & switch as u32 != 0)
}

/// Turns an offload on or off. Also an error if the link ignores the request, and the offload stays as it was.
pub fn turn_vlan_switch(link: &str, switch: VlanSwitch, on: bool) -> io::Result<()> {
    let socket = open()?;
    let now = flags(&socket, link)?;
    let wanted = if on {
        now | switch as u32
    } else {
        now & !(switch as u32)
    };
    let mut value = Value {
        command: ETHTOOL_SFLAGS,
        data: wanted,
    };
    ask(&socket, link, &mut value)?;
    // A driver may accept the request and do nothing.
    if (flags(&socket, link)? ^ wanted) & switch as u32 == 0 {
        Ok(())
    } else {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Turns checksum offload of sent packets off (`tx-checksumming`), and with it segmentation offload: the kernel fills in checksums
/// and segments packets before they leave the link.
pub fn fill_checksums(link: &str) -> io::Result<()> {
    let mut value = Value {
        command: ETHTOOL_STXCSUM,
        data: 0,
    };
    ask(&open()?, link, &mut value)
}

fn open() -> io::Result<OwnedFd> {
    Ok(socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?)
}

fn flags(socket: &OwnedFd, link: &str) -> io::Result<u32> {
    let mut value = Value {
        command: ETHTOOL_GFLAGS,
        data: 0,
    };
    ask(socket, link, &mut value)?;
    Ok(value.data)
}

fn ask(socket: &OwnedFd, link: &str, value: &mut Value) -> io::Result<()> {
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: std::ptr::from_mut(value).cast(),
        },
    };
    if link.len() >= libc::IFNAMSIZ {
        return Err(io::ErrorKind::NotFound.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: the request is a whole `ifreq` with a name that ends in 0 and the address of the two numbers that these
    // commands read and write, and both live until the call is over.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
