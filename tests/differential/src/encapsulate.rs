//! Encapsulation of packets: options, extension headers, fragments, padding, and damage.

use std::net::IpAddr;

use taskgate_ebpf::{
    host::Left,
    packet::{Checksum, Cut},
};

use super::rng::Rng;
use testkit::fixture::frames;

/// An IP packet around a payload, and whether its length is 0, as only a GSO packet's may be.
pub(super) fn wrapped(
    v6: bool,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: Vec<u8>,
    rng: &mut Rng,
) -> (Vec<u8>, bool) {
    let mut frame = if v6 {
        let headers = match rng.below(14) {
            0 => rng.below(10),
            1 | 2 => rng.below(3),
            _ => 0,
        };
        let (next, payload) =
            (0..headers).fold((protocol, payload), |(next, payload), _| extended(next, &payload, rng));
        frames::ipv6(source, destination, next, 64, &payload)
    } else {
        let options = if rng.one_in(6) { 4 * rng.below(11) } else { 0 };
        let options = if rng.one_in(4) {
            routed(options, rng)
        } else {
            rng.bytes(options)
        };
        let fragment = if rng.one_in(20) { rng.any() as u16 & 0x3fff } else { 0 };
        let fragment = if rng.one_in(3) { fragment & 0x2000 } else { fragment };
        frames::ipv4(source, destination, protocol, &options, fragment, &payload)
    };
    let jumbo = rng.one_in(40);
    if jumbo {
        let at = if v6 { 18 } else { 16 };
        frame[at..at + 2].fill(0);
    }
    if rng.one_in(6) {
        let padding = rng.below(30);
        let padding = rng.bytes(padding);
        frame.extend(padding);
    }
    (frame, jumbo)
}

/// Options, one of which may be a source route, or look like one.
fn routed(length: usize, rng: &mut Rng) -> Vec<u8> {
    let mut options = match rng.below(3) {
        // A timestamp option, in whose data the following bytes lie, which look like a source route.
        0 => vec![68, 6, 5, 0],
        _ => vec![1; rng.below(length + 1)],
    };
    options.extend([rng.of(&[131, 137, 0, 130]), 3, 4]);
    options.resize(length, 0);
    options
}

fn extended(next: u8, payload: &[u8], rng: &mut Rng) -> (u8, Vec<u8>) {
    let most = if rng.one_in(6) { 30 } else { 3 };
    let units = 1 + rng.below(most) as u8;
    match rng.below(6) {
        0 => (0, frames::extension(next, units, payload)),
        1 => {
            let mut routing = frames::extension(next, units, payload);
            routing[3] = if rng.one_in(4) { rng.any() as u8 } else { 0 };
            (43, routing)
        }
        2 => (51, frames::authentication(next, units, payload)),
        3 => {
            let (offset, more) = match rng.below(4) {
                0 => (rng.below(8192) as u16, rng.one_in(2)),
                1 => (0, true),
                _ => (0, false),
            };
            (44, frames::fragment(next, offset, more, payload))
        }
        _ => (60, frames::extension(next, units, payload)),
    }
}

/// Changes bytes where headers are, and cuts off the end.
pub(super) fn damage(frame: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.below(4) {
        let reach = frame.len().min(100);
        if reach > 12 {
            let at = 12 + rng.below(reach - 12);
            let by = rng.of(&[1, 0xff, 0x80, rng.clone().any() as u8]);
            frame[at] ^= by;
        }
    }
    if rng.one_in(3) {
        let keep = rng.below(frame.len() + 1);
        // No link carries less, and the kernel takes no less for a test.
        frame.truncate(keep.max(14));
    }
}

/// A frame's pending offloads: as the kernel would set them, or elsewhere in the frame.
pub(super) fn left_over(frame: &[u8], segments: (u32, u32), rng: &mut Rng) -> Left {
    let (ether_type, header) = match frame.get(12..15) {
        Some([0x08, 0x00, first]) => (0x0800, 4 * i32::from(first & 15)),
        Some([0x86, 0xdd, _]) => (0x86dd, 40),
        _ => (0x0806, 0),
    };
    let transport = 14 + header;
    let anywhere = |rng: &mut Rng| i32::from(rng.any() as u8) - 80;
    let checksum = rng.one_in(8).then(|| Checksum {
        start: match rng.below(5) {
            0 => anywhere(rng),
            1 => transport + i32::from(rng.any() as u8 % 12),
            _ => transport,
        },
        offset: match rng.below(6) {
            0 => rng.below(60) as u16,
            1 => rng.any() as u16,
            _ => rng.of(&[16, 16, 6, 6, 2, 0]),
        },
    });
    let cut = (segments.1 > 0 && rng.one_in(2)).then(|| Cut {
        ether_type: if rng.one_in(8) {
            rng.of(&[0x0800, 0x86dd])
        } else {
            ether_type
        },
        header: rng.of(&[14, 14, 14, 14, 18]),
        inner: rng.of(&[Cut::NO_INNER, Cut::NO_INNER, transport, transport + 7, transport + 8]),
    });
    Left { checksum, cut }
}
