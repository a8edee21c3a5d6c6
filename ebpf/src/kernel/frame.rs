//! Frames in a socket buffer (tc) and in a driver's buffer (XDP).

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_check_mtu, bpf_xdp_get_buff_len},
    programs::{TcContext, XdpContext},
};
use taskgate_ebpf::{
    abi::LinkId,
    packet::{Checksum, Cut, ETHERNET_BYTES, Ethernet, Frame, PULL_BYTES},
    verdict::branch,
    wire::ether_type,
};

use super::{opaque::Opaque, skb::Behind};

/// A frame in a socket buffer: only the linear part can be read. `SENT`: whether a task sends the frame, and so controls its
/// pending offloads. Frames to a task have passed the host or another gate.
pub(super) struct SkbFrame<const SENT: bool> {
    skb: *const __sk_buff,
    behind: Behind,
    data: usize,
    end: usize,
    length: u32,
    link: LinkId,
    came_by: u32,
    tagged: bool,
    segments: (u32, u32),
    opaque: Opaque,
}

impl<const SENT: bool> SkbFrame<SENT> {
    /// The frame with its current data pointers. `behind`: the socket buffer, for frames that a task sends. `trunk` returns
    /// the trunk's ifindex, and is called only for tagged frames.
    #[inline(always)]
    pub(super) fn new(ctx: &TcContext, opaque: Opaque, behind: Behind, trunk: impl FnOnce() -> u32) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel hands every program a whole `__sk_buff`, and the verifier rewrites these loads.
        let (length, ifindex, came_by, tag, segments) = unsafe {
            let tag = if (*skb).vlan_present == 0 {
                None
            } else {
                Some(((*skb).vlan_tci, (*skb).vlan_proto))
            };
            (
                (*skb).len,
                (*skb).ifindex,
                (*skb).ingress_ifindex,
                tag,
                ((*skb).gso_segs, (*skb).gso_size),
            )
        };
        let (link, tagged) = match tag {
            None => (LinkId::device(ifindex), false),
            Some((tci, protocol)) if protocol == ether_type::VLAN.to_be() as u32 && trunk() == ifindex => {
                // A tag with VLAN id 0 counts as none: the frame belongs to the host.
                (branch(tci as u16).unwrap_or(LinkId::device(ifindex)), false)
            }
            Some(_) => (LinkId::device(ifindex), true),
        };
        Self {
            skb,
            behind,
            data: ctx.data(),
            end: ctx.data_end(),
            length,
            link,
            came_by,
            tagged,
            segments,
            opaque,
        }
    }
}

/// The Ethernet header of a socket buffer, located at each read.
pub(super) struct SkbHeader<'a>(pub(super) &'a TcContext);

impl Ethernet for SkbHeader<'_> {
    #[inline(always)]
    fn destination(&self) -> Option<[u8; 6]> {
        bytes(self.0.data(), self.0.data_end(), 0)
    }
}

/// The Ethernet header of a driver's buffer, where a VLAN tag may follow the addresses.
pub(super) struct XdpHeader<'a>(pub(super) &'a XdpContext);

impl Ethernet for XdpHeader<'_> {
    #[inline(always)]
    fn destination(&self) -> Option<[u8; 6]> {
        bytes(self.0.data(), self.0.data_end(), 0)
    }
}

/// Pulls headers into the linear part; `false` if the kernel refuses.
#[inline(always)]
pub(super) fn pull(ctx: &TcContext) -> bool {
    let length = ctx.len();
    ctx.pull_data(if length < PULL_BYTES { length } else { PULL_BYTES })
        .is_ok()
}

impl<const SENT: bool> Frame for SkbFrame<SENT> {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        bytes(self.data, self.end, at)
    }

    #[inline(always)]
    fn link(&self) -> LinkId {
        self.link
    }

    #[inline(always)]
    fn came_by(&self) -> u32 {
        self.came_by
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        self.tagged
    }

    #[inline(always)]
    fn segments(&self) -> (u32, u32) {
        self.segments
    }

    #[inline(always)]
    fn checksum(&self) -> Option<Checksum> {
        if SENT { self.behind.checksum() } else { None }
    }

    #[inline(always)]
    fn cut(&self) -> Option<Cut> {
        if !SENT {
            return None;
        }
        // SAFETY: the kernel hands every program a whole `__sk_buff`, and the verifier rewrites this load.
        let protocol = unsafe { (*self.skb).protocol };
        Some(self.behind.cut(u16::from_be(protocol as u16)))
    }

    #[inline(always)]
    fn opaque(&self, value: u32) -> u32 {
        self.opaque.opaque(value)
    }
}

/// `N` bytes of the packet between `data` and `end`.
#[inline(always)]
fn bytes<const N: usize>(data: usize, end: usize, at: u32) -> Option<[u8; N]> {
    /// The verifier's limit for offsets of a packet pointer, with room to spare.
    const REACH: usize = 0x4000;
    let at = at as usize;
    if at > REACH {
        return None;
    }
    let start = data + at;
    if start + N > end {
        return None;
    }
    // SAFETY: `start..start + N` lies between the packet's data and its end, which was just checked.
    Some(unsafe { (start as *const [u8; N]).read_unaligned() })
}

/// A frame in a driver's buffer: only its first fragment can be read. A VLAN tag is skipped.
pub(super) struct XdpFrame {
    data: usize,
    end: usize,
    length: u32,
    ifindex: u32,
    opaque: Opaque,
}

/// Bytes of a VLAN tag, which precedes the ethertype.
const TAG_BYTES: u32 = 4;

impl XdpFrame {
    /// The frame and its VLAN tag; `None` if it is shorter than its header. `FRAGS`: whether the frame may have several
    /// buffers.
    #[inline(always)]
    pub(super) fn new<const FRAGS: bool>(ctx: &XdpContext, opaque: Opaque) -> Option<(Self, Option<u16>)> {
        let (data, end) = (ctx.data(), ctx.data_end());
        let length = if FRAGS {
            // SAFETY: the helper takes the program's own context.
            unsafe { bpf_xdp_get_buff_len(ctx.ctx) as u32 }
        } else {
            (end - data) as u32
        };
        let frame = |skip: u32| Self {
            data: data + skip as usize,
            end,
            length: length - skip,
            ifindex: ctx.ingress_ifindex() as u32,
            opaque,
        };
        let ether_type = u16::from_be_bytes(bytes(data, end, ETHERNET_BYTES - 2)?);
        if ether_type != ether_type::VLAN {
            return Some((frame(0), None));
        }
        let tag = u16::from_be_bytes(bytes(data, end, ETHERNET_BYTES)?);
        Some((frame(TAG_BYTES), Some(tag)))
    }

    /// Whether the frame exceeds the link's MTU: then the kernel has merged several packets, or not yet segmented them, and
    /// only a socket buffer has their number.
    #[inline(always)]
    pub(super) fn is_merged<const FRAGS: bool>(&self, ctx: &XdpContext) -> bool {
        // MTUs are rarely smaller, so the helper is called rarely. It exists since Linux 5.12; the program without `FRAGS`,
        // for kernels before 5.18, does not call it.
        const ORDINARY: u32 = 1500;
        let mut packet = self.length.wrapping_sub(ETHERNET_BYTES);
        if packet <= ORDINARY || !FRAGS {
            return packet > ORDINARY;
        }
        // SAFETY: the helper takes the program's own context, and a number that it reads and writes. Link 0 is the
        // packet's own.
        unsafe { bpf_check_mtu(ctx.ctx.cast(), 0, &raw mut packet, 0, 0) != 0 }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    /// Valid behind the hardware addresses, which no caller reads here: in a tagged frame, `data` points four bytes into
    /// them.
    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        bytes(self.data, self.end, at)
    }

    #[inline(always)]
    fn link(&self) -> LinkId {
        LinkId::device(self.ifindex)
    }

    #[inline(always)]
    fn came_by(&self) -> u32 {
        self.ifindex
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        false
    }

    #[inline(always)]
    fn segments(&self) -> (u32, u32) {
        (0, 0)
    }

    /// A driver's buffer has no such metadata; the gate checks it later.
    #[inline(always)]
    fn checksum(&self) -> Option<Checksum> {
        None
    }

    #[inline(always)]
    fn cut(&self) -> Option<Cut> {
        None
    }

    #[inline(always)]
    fn opaque(&self, value: u32) -> u32 {
        self.opaque.opaque(value)
    }
}
