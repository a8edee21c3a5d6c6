//! An entry's word for a window: the low 8 bits of the window's number above, below it four bits of TCP flags for each
//! direction. The window's first packet resets it.

use crate::abi::outcome::Direction;

/// A FIN was seen.
pub const FIN: u8 = 1;
/// A SYN without ACK was seen.
pub const SYN: u8 = 2;
/// A RST was seen.
pub const RST: u8 = 4;
/// A SYN with ACK was seen.
pub const SYN_ACK: u8 = 8;

/// The half byte for the TCP flags of one packet (RFC 9293 order: FIN 1, SYN 2, RST 4, ACK 16).
#[inline(always)]
pub const fn of_tcp(flags: u8) -> u8 {
    let syn = flags & 2;
    let syn_ack = (syn << 2) & (flags >> 1);
    (flags & (FIN | RST)) | syn_ack | (syn & !(syn_ack >> 2))
}

/// The bits that a packet with these TCP flags sets in its window.
#[inline(always)]
pub const fn seen(direction: Direction, tcp_flags: u8) -> u32 {
    (of_tcp(tcp_flags) as u32 & 0xf) << (4 * direction as u32)
}

/// Both directions' flags of `window`, 0 if the word is another window's.
pub const fn of(word: u32, window: u32) -> u8 {
    if word >> 8 == window & 0xff { word as u8 } else { 0 }
}

/// AWS's `tcp-flags` value for `window` and `direction`: FIN 1, SYN 2, RST 4, SYN-ACK 18, ORed (VPC User
/// Guide, Flow log records).
pub const fn tcp_flags(word: u32, window: u32, direction: Direction) -> u8 {
    let half = of(word, window) >> (4 * direction as u32) & 0xf;
    (half & (FIN | SYN | RST)) | if half & SYN_ACK == 0 { 0 } else { 18 }
}
