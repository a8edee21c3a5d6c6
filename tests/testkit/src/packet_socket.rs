//! Packet sockets: whole frames from and to a link (packet(7)).
#![expect(unsafe_code, reason = "an address and options that nix does not have")]

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, SockaddrLike as _, bind, recvfrom, setsockopt,
        socket, sockopt::RcvBufForce,
    },
};

/// Puts a `virtio_net_hdr` of [`OFFLOAD`] bytes before each frame, read or written.
pub(crate) const PACKET_VNET_HDR: libc::c_int = 15;
/// The size of a `virtio_net_hdr`, which describes segments that the kernel has not split yet.
pub(crate) const OFFLOAD: usize = 10;
/// The receive buffer: room for the packets that arrive while no thread reads.
const BUFFER: usize = 64 << 20;

/// Opens a packet socket that receives every frame on a link of the thread's namespace. Reads never block.
pub(crate) fn listen(link: &str, prepare: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<OwnedFd> {
    let socket = open(SockFlag::SOCK_NONBLOCK)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    prepare(&socket)?;
    attach(&socket, link, libc::ETH_P_ALL as u16)?;
    Ok(socket)
}

/// Opens a packet socket that only sends, on a link of the thread's namespace.
pub(crate) fn speak(link: &str, prepare: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<OwnedFd> {
    let socket = open(SockFlag::empty())?;
    prepare(&socket)?;
    attach(&socket, link, 0)?;
    Ok(socket)
}

/// Opens a packet socket. It receives nothing until it is bound to a link.
fn open(flags: SockFlag) -> Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(socket(
        AddressFamily::Packet,
        SockType::Raw,
        flags,
        None::<SockProtocol>,
    )?)
}

fn attach(socket: &OwnedFd, link: &str, protocol: u16) -> Result<()> {
    let index = nix::net::if_::if_nametoindex(link).with_context(|| format!("there is no link `{link}`"))?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: it is a whole `sockaddr_ll` of the family that `LinkAddr` is for, and the length is its size.
    let address = unsafe {
        LinkAddr::from_raw(
            (&raw const address).cast(),
            Some(size_of::<libc::sockaddr_ll>() as libc::socklen_t),
        )
    };
    bind(socket.as_raw_fd(), &address.context("no address for the link")?)?;
    Ok(())
}

/// Sets a packet socket option to a value of the option's type.
pub(crate) fn set<T: Copy>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the pointer is to a whole value, and the length is its size: the kernel reads no more.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads the available frames; `outgoing`: sent by this end of the link. Fails if frames were lost for lack of room.
pub(crate) fn drain<const LONGEST: usize>(socket: &OwnedFd, mut each: impl FnMut(&[u8], bool)) -> Result<()> {
    let mut frame = [0; LONGEST];
    loop {
        let (length, from) = match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            Err(Errno::EAGAIN) => break,
            // The link may go down or away: earlier frames count.
            Err(Errno::EINTR | Errno::ENETDOWN) => continue,
            received => received.context("cannot read frames")?,
        };
        let outgoing = from.map(|from| from.pkttype()) == Some(libc::PACKET_OUTGOING);
        each(&frame[..length.min(LONGEST)], outgoing);
    }
    let missed = missed(socket)?;
    ensure!(missed == 0, "{missed} frames were missed");
    Ok(())
}

/// The number of frames lost for lack of room since the last call.
fn missed(socket: &OwnedFd) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut length = size_of::<libc::tpacket_stats>() as libc::socklen_t;
    // SAFETY: the option writes a `tpacket_stats`, for which there is room at the pointer.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    if got == 0 {
        Ok(stats.tp_drops)
    } else {
        Err(io::Error::last_os_error())
    }
}
