//! The kernel's `struct sk_buff` behind a tc program's context: pending offloads, which `__sk_buff` does not show.

use core::mem::transmute;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_probe_read_kernel, programs::TcContext};
use taskgate_ebpf::{
    abi::sk_buff::{self, CHECKSUM_PARTIAL, SPAN, WORDS},
    packet::{Checksum, Cut},
};

/// Field offsets in the running kernel's `sk_buff`; set by user space at load. The name is [`sk_buff::GLOBAL`].
// SAFETY: nothing else has this name.
#[unsafe(no_mangle)]
static SK_BUFF: [u32; WORDS] = [0; WORDS];

/// A word of [`SK_BUFF`]: constant for the verifier, but not for the compiler.
#[inline(always)]
fn place<const WORD: usize>() -> u32 {
    const { assert!(WORD < WORDS) };
    // SAFETY: the word lies within the array, and is never written while the program is loaded. Volatile, so that the
    // compiler does not use the object's value in place of user space's.
    unsafe { (&raw const SK_BUFF).cast::<u32>().add(WORD).read_volatile() }
}

/// Whether user space has set the field offsets.
#[inline(always)]
fn is_known() -> bool {
    place::<{ sk_buff::HOW }>() != 0
}

/// Room for a copy of the fields.
#[repr(C, align(8))]
pub(super) struct Span([u8; SPAN]);

/// The socket buffer, or a copy of the fields that matter; unused while the offsets are unknown.
#[derive(Clone, Copy)]
pub(super) struct Behind(*const u8);

impl Behind {
    /// No socket buffer: for frames whose offloads are not checked.
    pub(super) const NOTHING: Self = Self(core::ptr::null());

    /// The socket buffer behind the context.
    #[inline(always)]
    pub(super) fn of(ctx: &TcContext, span: &mut Span) -> Self {
        if place::<{ sk_buff::HOW }>() == sk_buff::CAST {
            // SAFETY: user space has patched this call to the kernel's function, which takes the program's own context;
            // otherwise the verifier does not reach it.
            return Self(unsafe {
                let cast: unsafe extern "C" fn(*mut __sk_buff) -> *const u8 = transmute(sk_buff::CAST_MARK as usize);
                cast(ctx.skb.skb)
            });
        }
        if is_known() {
            let from = ctx
                .skb
                .skb
                .cast::<u8>()
                .wrapping_add(place::<{ sk_buff::START }>() as usize);
            // SAFETY: the helper writes the whole span, and reads kernel memory without a fault. A tc program's context is
            // its socket buffer's address.
            let refused = unsafe { bpf_probe_read_kernel(span.0.as_mut_ptr().cast(), SPAN as u32, from.cast()) } != 0;
            if refused {
                // If the copy fails, assume the worst: a pending checksum before the start of the frame.
                span.0 = [0xff; SPAN];
            }
        }
        Self(span.0.as_ptr())
    }

    /// A field of 16 bits.
    #[inline(always)]
    #[expect(
        clippy::cast_ptr_alignment,
        reason = "structure and copy are aligned, and so is the field in them"
    )]
    fn field<const WORD: usize>(self) -> u16 {
        // SAFETY: the place is a constant that the verifier compares with the structure, or with the copy's size. Both are
        // aligned, and so is the field in them.
        unsafe { self.0.byte_add(place::<WORD>() as usize).cast::<u16>().read_volatile() }
    }

    /// The byte that holds a bit field, shifted so that the field is lowest.
    #[inline(always)]
    fn bits<const WORD: usize>(self) -> u32 {
        let bit = place::<WORD>();
        // SAFETY: as above.
        (unsafe { self.0.byte_add((bit >> 3) as usize).read_volatile() } as u32) >> (bit & 7)
    }

    /// Offset of a header from the start of the frame.
    #[inline(always)]
    fn header<const WORD: usize>(self) -> i32 {
        self.field::<WORD>() as i32 - self.field::<{ sk_buff::MAC_HEADER }>() as i32
    }

    /// The pending checksum.
    #[inline(always)]
    pub(super) fn checksum(self) -> Option<Checksum> {
        if !is_known() || self.bits::<{ sk_buff::IP_SUMMED }>() & 3 != CHECKSUM_PARTIAL {
            return None;
        }
        Some(Checksum {
            start: self.header::<{ sk_buff::CSUM_START }>(),
            offset: self.field::<{ sk_buff::CSUM_OFFSET }>(),
        })
    }

    /// How the frame is segmented, by this ethertype. An honest layout is assumed while the offsets are unknown.
    #[inline(always)]
    pub(super) fn cut(self, ether_type: u16) -> Cut {
        if !is_known() {
            return Cut {
                ether_type,
                header: Cut::HEADER,
                inner: Cut::NO_INNER,
            };
        }
        let inner = if self.bits::<{ sk_buff::ENCAPSULATION }>() & 1 == 0 {
            Cut::NO_INNER
        } else {
            let ethernet = self.header::<{ sk_buff::INNER_MAC_HEADER }>();
            let ip = self.header::<{ sk_buff::INNER_NETWORK_HEADER }>();
            if ip < ethernet { ip } else { ethernet }
        };
        Cut {
            ether_type,
            header: self.header::<{ sk_buff::NETWORK_HEADER }>(),
            inner,
        }
    }
}
