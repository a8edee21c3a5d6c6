//! The packet, as a socket buffer holds it.

use aya_ebpf::programs::TcContext;
use taskgate_ebpf::{
    abi::LinkId,
    packet::{Frame, PULL_BYTES},
};

use super::tables::Blur;

/// A socket buffer's frame: only its linear part can be read.
pub(super) struct SkbFrame {
    data: usize,
    end: usize,
    length: u32,
    ifindex: u32,
    tagged: bool,
    segments: (u32, u32),
    blur: Blur,
}

impl SkbFrame {
    /// The frame as it lies now.
    #[inline(always)]
    pub(super) fn new(ctx: &TcContext, blur: Blur) -> Self {
        let skb = ctx.skb.skb;
        // SAFETY: the kernel hands every program a whole `__sk_buff`, and the verifier rewrites these loads.
        let (length, ifindex, tagged, segments) = unsafe {
            (
                (*skb).len,
                (*skb).ifindex,
                (*skb).vlan_present != 0,
                ((*skb).gso_segs, (*skb).gso_size),
            )
        };
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
            length,
            ifindex,
            tagged,
            segments,
            blur,
        }
    }
}

/// Pulls headers into the linear part; `false` if there is nothing more or the kernel will not.
#[inline(always)]
pub(super) fn pull(ctx: &TcContext) -> bool {
    let length = ctx.len();
    ctx.pull_data(if length < PULL_BYTES { length } else { PULL_BYTES })
        .is_ok()
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.length
    }

    #[inline(always)]
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        /// What the verifier lets a packet pointer move by, with room to spare.
        const REACH: usize = 0x4000;
        let at = at as usize;
        if at > REACH {
            return None;
        }
        let start = self.data + at;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` lies between the packet's data and its end, which was just checked.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn link(&self) -> LinkId {
        LinkId::device(self.ifindex)
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
    fn blur(&self, value: u32) -> u32 {
        self.blur.blur(value)
    }
}
