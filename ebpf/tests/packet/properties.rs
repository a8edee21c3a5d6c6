//! Properties of the parser for any input, and agreement with `etherparse`.

use etherparse::EtherType;
use proptest::{collection::vec, prelude::*};
use taskgate_ebpf::{
    abi::LinkId,
    host::HostFrame,
    packet::{Checksum, Cut, Frame, PULL_BYTES, Packet, Unparsed, parse, parse_quoted},
};

use crate::{frames::*, second::disagrees};

/// A frame with only its first bytes readable.
struct Linear<'a> {
    whole: HostFrame<'a>,
    readable: usize,
}

impl Frame for Linear<'_> {
    fn length(&self) -> u32 {
        self.whole.length()
    }
    fn read<const N: usize>(&self, at: u32) -> Option<[u8; N]> {
        if at as usize + N > self.readable {
            return None;
        }
        self.whole.read(at)
    }
    fn link(&self) -> LinkId {
        self.whole.link()
    }
    fn came_by(&self) -> u32 {
        0
    }
    fn tagged(&self) -> bool {
        false
    }
    fn segments(&self) -> (u32, u32) {
        self.whole.segments()
    }

    fn checksum(&self) -> Option<Checksum> {
        self.whole.checksum()
    }

    fn cut(&self) -> Option<Cut> {
        self.whole.cut()
    }
    fn opaque(&self, value: u32) -> u32 {
        value
    }
}

fn payload() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let body = || vec(any::<u8>(), 0..40);
    prop_oneof![
        4 => (any::<u16>(), any::<u16>(), 0..11_usize, body()).prop_map(|(s, d, o, b)| (6, tcp(s, d, o, &b))),
        3 => (any::<u16>(), any::<u16>(), body()).prop_map(|(s, d, b)| (17, udp(s, d, &b))),
        2 => (any::<u8>(), any::<u8>(), any::<u16>(), body()).prop_map(|(k, c, i, b)| (1, icmp(k, c, i, &b))),
        1 => (vec(any::<u8>(), 0..20), 0..48_usize).prop_map(|(b, cut)| {
            let quoted = ipv4(6, &tcp(443, 40000, 0, &b), |_| ());
            (1, icmp(3, 4, 0, &quoted[14..][..cut.min(quoted.len() - 14)]))
        }),
        2 => (any::<u8>(), any::<u8>(), any::<u16>(), body()).prop_map(|(k, c, i, b)| (58, icmp(k, c, i, &b))),
        1 => (any::<u8>(), body()),
    ]
}

/// Up to nine extension headers in front of a payload.
fn extended() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let header = (0..5_u8, 1..4_usize, any::<bool>());
    (payload(), vec(header, 0..10)).prop_map(|((next, payload), headers)| {
        headers
            .into_iter()
            .fold((next, payload), |(next, payload), (kind, units, odd)| match kind {
                0 => (0, extension(next, units, &payload)),
                1 => (43, extension(next, units, &payload)),
                2 => (44, fragment(next, u16::from(odd) * 3, odd, &payload)),
                3 => (51, authentication(next, units, &payload)),
                _ => (60, extension(next, units, &payload)),
            })
    })
}

/// A frame as a host may send it: mostly valid.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let v4 = (
        payload(),
        0..11_usize,
        prop_oneof![9 => Just((0, false)), 1 => (0..8192_u16, any::<bool>())],
    )
        .prop_map(|((protocol, payload), words, (offset, more))| {
            ipv4(protocol, &payload, |ip| {
                ip.options = options(&vec![1; 4 * words]);
                ip.fragment_offset = offset.try_into().expect("13 bits");
                ip.more_fragments = more;
            })
        });
    let v6 = extended().prop_map(|(next, payload)| ipv6(next, &payload));
    let other = (any::<u16>(), vec(any::<u8>(), 0..60)).prop_map(|(kind, bytes)| ethernet(EtherType(kind), &bytes));
    let arp = vec(any::<u8>(), 0..40).prop_map(|bytes| {
        let head = [0, 1, 8, 0, 6, 4, 0, 1];
        ethernet(EtherType::ARP, &[&head[..], &bytes].concat())
    });
    let padded = (prop_oneof![8 => v4, 8 => v6, 1 => other, 1 => arp], 0..20_usize);
    padded.prop_map(|(frame, padding)| [frame, vec![0; padding]].concat())
}

/// The same with some bytes changed and its end truncated.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    let cut = prop_oneof![2 => Just(0), 1 => 0..60_usize];
    (frame(), changes, cut).prop_map(|(mut frame, changes, cut)| {
        for (at, value) in changes {
            // Mostly within the headers.
            let at = at.index(frame.len().min(90));
            frame[at] = value;
        }
        frame.truncate(frame.len().saturating_sub(cut));
        frame
    })
}

/// `etherparse` reads the same fields that a verdict would be based on.
fn agrees(bytes: &[u8], packet: &Packet) -> Result<(), TestCaseError> {
    match disagrees(bytes, packet) {
        Some(what) => Err(TestCaseError::fail(what)),
        None => Ok(()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("TASKGATE_TEST_LONG").is_some() { 2_000_000 } else { 5_000 }))]

    #[test]
    fn any_bytes_are_read_without_panic(bytes in vec(any::<u8>(), 0..400), segments in any::<(u32, u32)>()) {
        let (result, packet) = parsed_as(&HostFrame { segments, ..HostFrame::new(&bytes, LINK) });
        prop_assert_ne!(result, Err(Unparsed::Short), "all bytes are in reach");
        prop_assert_ne!(packet.packets, 0);
    }

    #[test]
    fn what_is_read_is_what_is_there(frame in frame()) {
        let (result, packet) = parsed(&frame);
        if result.is_ok() {
            agrees(&frame, &packet)?;
        }
    }

    #[test]
    fn what_is_read_of_damaged_frames_is_what_is_there(frame in damaged(), segments in prop_oneof![3 => Just((0, 0)), 1 => any::<(u32, u32)>()]) {
        let (result, packet) = parsed_as(&HostFrame { segments, ..HostFrame::new(&frame, LINK) });
        prop_assert_ne!(result, Err(Unparsed::Short), "all bytes are in reach");
        prop_assert_ne!(packet.packets, 0);
        // The length in a GSO packet's header may be 0.
        if result.is_ok() && segments.1 == 0 {
            agrees(&frame, &packet)?;
        }
    }

    /// The length of the linear part may delay a verdict, but never changes it.
    #[test]
    fn a_frame_that_can_be_read_in_part_waits_or_is_read_the_same(frame in damaged(), readable in 0..300_usize) {
        let whole = HostFrame::new(&frame, LINK);
        let short = readable < frame.len().min(PULL_BYTES as usize);
        let expected = parsed_as(&whole);
        let mut packet = Packet::default();
        let linear = Linear { whole, readable };
        match parse(&linear, &mut packet) {
            Err(Unparsed::Short) => prop_assert!(short),
            result => prop_assert_eq!((result, packet), expected),
        }

        let (mut all, mut part) = (Packet::default(), Packet::default());
        prop_assert_eq!(parse_quoted(&whole, &expected.1, &mut all), Ok(()));
        if parse_quoted(&linear, &expected.1, &mut part).is_err() {
            prop_assert!(short);
        } else {
            prop_assert_eq!(part.kind, all.kind);
        }
    }
}
