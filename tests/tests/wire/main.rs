//! What only live links make: tags beside frames, frames in pieces, fragments and segments of a kernel's own, routers'
//! errors. The real taskgate judges them, and its records and counters say how.

mod fragments;
mod linear;
mod mtu;
mod segments;
mod tags;
mod trace;

use taskgate_tests::scene::frames;

/// A frame with what a router, or a bridge with netfilter, wants to be right: IPv4's header checksum.
fn with_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[12..14] == [8, 0] {
        let header = 14 + usize::from(frame[14] & 15) * 4;
        frame[24..26].fill(0);
        let words = frame[14..header].chunks_exact(2);
        let sum: u32 = words
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
            .sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    }
    frame
}
