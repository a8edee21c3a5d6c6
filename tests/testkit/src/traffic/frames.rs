//! Whole frames, sent as they are on a link: nothing between a test and the gate looks at them.
#![expect(unsafe_code, reason = "a ring shared with the kernel")]

use std::{
    num::NonZeroUsize,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::NonNull,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    sys::{
        mman::{MapFlags, ProtFlags, mmap, munmap},
        socket::{MsgFlags, send},
    },
};

use crate::{
    netns::Netns,
    packet_socket::{OFFLOAD, PACKET_VNET_HDR, set, speak},
};

/// Sends linear frames.
#[derive(Debug)]
pub struct Sender(OwnedFd);

/// The kind of segments into which the kernel is yet to split a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segments {
    /// TCP over IPv4.
    Tcp4 = 1,
    /// TCP over IPv6.
    Tcp6 = 4,
    /// UDP, each with its own header (Linux 6.2 on).
    Udp = 5,
}

/// A checksum that the kernel is to fill in: where in the frame summing begins, and how much further on the sum is
/// written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsummed {
    /// Bytes from the start of the frame.
    pub start: u16,
    /// Bytes from `start`.
    pub offset: u16,
}

impl Sender {
    /// Sends on a link of `netns`.
    pub fn on(netns: &Netns, link: &str) -> Result<Self> {
        let socket = netns.run(|| speak(link, |socket| Ok(set(socket, PACKET_VNET_HDR, &1_i32)?)));
        Ok(Self(socket.with_context(|| format!("cannot send frames on `{link}`"))?))
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.send_as(&[0; OFFLOAD], frame)
    }

    /// Sends a frame to be split into segments, each with this many bytes of its payload.
    pub fn send_segments(&self, frame: &[u8], kind: Segments, size: u16) -> Result<()> {
        self.send_as(&segments(kind, size), frame)
    }

    /// [`Self::send_segments`] where the kernel may refuse. Returns whether it accepted the frame.
    pub fn try_segments(&self, frame: &[u8], kind: Segments, size: u16) -> Result<bool> {
        self.send_odd(&segments(kind, size), frame)
    }

    /// Sends a frame with a checksum that is to be filled in. Returns whether the kernel accepted it.
    pub fn send_unsummed(&self, frame: &[u8], unsummed: Unsummed) -> Result<bool> {
        self.send_odd(&summed(unsummed, [0; OFFLOAD]), frame)
    }

    /// [`Self::send_segments`] with a checksum in each segment that is to be filled in. Returns whether the kernel
    /// accepted the frame.
    pub fn send_unsummed_segments(&self, frame: &[u8], kind: Segments, size: u16, unsummed: Unsummed) -> Result<bool> {
        self.send_odd(&summed(unsummed, segments(kind, size)), frame)
    }

    fn send_as(&self, header: &[u8; OFFLOAD], frame: &[u8]) -> Result<()> {
        transmit(&self.0, &[header, frame].concat())?;
        Ok(())
    }

    /// Newer kernels refuse more of the headers that make no sense.
    fn send_odd(&self, header: &[u8; OFFLOAD], frame: &[u8]) -> Result<bool> {
        match send(self.0.as_raw_fd(), &[header, frame].concat(), MsgFlags::empty()) {
            Err(Errno::EINVAL | Errno::ENOMEM) => Ok(false),
            sent => Ok(sent.map(|_| true)?),
        }
    }
}

fn segments(kind: Segments, size: u16) -> [u8; OFFLOAD] {
    let mut header = [0; OFFLOAD];
    header[1] = kind as u8;
    header[4..6].copy_from_slice(&size.to_ne_bytes());
    header
}

fn summed(unsummed: Unsummed, mut header: [u8; OFFLOAD]) -> [u8; OFFLOAD] {
    const NEEDS_CHECKSUM: u8 = 1;
    header[0] = NEEDS_CHECKSUM;
    header[6..8].copy_from_slice(&unsummed.start.to_ne_bytes());
    header[8..].copy_from_slice(&unsummed.offset.to_ne_bytes());
    header
}

/// Sends non-linear frames: only the first bytes of each are in the linear part of the socket buffer, which programs can
/// read directly; the rest is in pages that the kernel takes from this ring. Programs such as trafgen send so.
#[derive(Debug)]
pub struct Ring {
    socket: OwnedFd,
    memory: NonNull<libc::c_void>,
    next: usize,
}

/// The kernel may still read a frame after reporting that it was sent, so each slot is used only once.
const SLOTS: usize = 1024;
const SLOT: usize = 2048;
const MEMORY: NonZeroUsize = NonZeroUsize::new(SLOTS * SLOT).expect("it is not 0");
/// The offset of a frame in its slot, behind a `tpacket2_hdr`.
const FRAME: usize = libc::TPACKET2_HDRLEN - size_of::<libc::sockaddr_ll>();

impl Ring {
    /// Sends on a link of `netns`.
    pub fn on(netns: &Netns, link: &str) -> Result<Self> {
        let prepare = |socket: &OwnedFd| -> Result<()> {
            set(socket, PACKET_VNET_HDR, &1_i32)?;
            set(
                socket,
                libc::PACKET_VERSION,
                &(libc::tpacket_versions::TPACKET_V2 as i32),
            )?;
            let request = libc::tpacket_req {
                tp_block_size: 2 * SLOT as u32,
                tp_block_nr: SLOTS as u32 / 2,
                tp_frame_size: SLOT as u32,
                tp_frame_nr: SLOTS as u32,
            };
            Ok(set(socket, libc::PACKET_TX_RING, &request)?)
        };
        let socket = netns.run(|| speak(link, prepare));
        let socket = socket.with_context(|| format!("cannot make a ring to send on `{link}`"))?;
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces no other mapping.
        let memory = unsafe { mmap(None, MEMORY, rights, MapFlags::MAP_SHARED, &socket, 0) };
        let memory = memory.context("cannot map a ring")?;
        Ok(Self {
            socket,
            memory,
            next: 0,
        })
    }

    /// Sends a frame of which the first `linear` bytes are readable, and at least its Ethernet header.
    pub fn send(&mut self, frame: &[u8], linear: usize) -> Result<()> {
        ensure!(self.next < SLOTS, "the ring has no unused place");
        let linear = u16::try_from(linear.min(frame.len()))?;
        let mut data = [0; SLOT - FRAME];
        ensure!(
            OFFLOAD + frame.len() <= data.len(),
            "a frame of {} bytes is too long for the ring",
            frame.len()
        );
        data[2..4].copy_from_slice(&linear.to_ne_bytes());
        data[OFFLOAD..][..frame.len()].copy_from_slice(frame);
        let header = libc::tpacket2_hdr {
            tp_status: libc::TP_STATUS_SEND_REQUEST,
            tp_len: (OFFLOAD + frame.len()) as u32,
            tp_snaplen: 0,
            tp_mac: 0,
            tp_net: 0,
            tp_sec: 0,
            tp_nsec: 0,
            tp_vlan_tci: 0,
            tp_vlan_tpid: 0,
            tp_padding: [0; 4],
        };
        // SAFETY: `next` is below `SLOTS`, so the slot lies within the mapping; it is aligned to `SLOT`, holds a header
        // and `SLOT - FRAME` bytes behind it, and the kernel leaves it alone until its status is written, which is last.
        unsafe {
            let slot = self.memory.as_ptr().byte_add(self.next * SLOT);
            slot.byte_add(FRAME).cast::<[u8; SLOT - FRAME]>().write(data);
            slot.cast::<libc::tpacket2_hdr>().write_volatile(header);
        }
        // The slot of a dropped frame stays the ring's next one.
        if transmit(&self.socket, &[])? {
            self.next += 1;
        }
        Ok(())
    }
}

/// Sends a frame. Returns false if it was dropped: a gate at the egress of the link itself reports the drop to the
/// sender.
fn transmit(socket: &OwnedFd, frame: &[u8]) -> Result<bool> {
    match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
        Ok(_) => Ok(true),
        Err(Errno::ENOBUFS) => Ok(false),
        Err(error) => Err(error).context("cannot send a frame"),
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's alone, and nothing points into it.
        if let Err(error) = unsafe { munmap(self.memory, MEMORY.get()) } {
            eprintln!("a ring stays mapped: {error}");
        }
    }
}
