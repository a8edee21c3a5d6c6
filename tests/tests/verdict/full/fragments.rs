//! Room for first fragments.

use anyhow::Result;
use taskgate_ebpf::abi::{Direction, image::Shared};
use testkit::fixture::{
    frames::*,
    model::{gated, udp_to},
    on_host_and_in_kernel,
};

use super::{super::*, OTHER4, OTHER6, sums};

/// A complete datagram is forgotten, in whatever order its fragments came after the first: its task has room for the next
/// one.
#[test]
fn a_datagram_that_is_whole_takes_no_room() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (peer, own) in [("10.0.1.7", TASK4), ("2001:db8:1::7", TASK6)] {
            let rules = [(udp_to(53, 53), "10.0.0.0/8"), (udp_to(53, 53), "2001:db8::/32")];
            test.set(with_rules(&rules, &[]))?;
            test.fixture.share(Shared::Fragments, 1, 0);
            let datagram = udp(40000, 53, &[0; 16]);
            let parts: [(u16, bool, &[u8]); 4] = [
                (0, true, &datagram),
                (3, true, &[1; 16]),
                (5, true, &[2; 8]),
                (6, false, b"rest"),
            ];
            for (number, order) in [[0, 1, 2, 3], [0, 3, 2, 1], [0, 2, 3, 1], [0, 1, 3, 2]]
                .into_iter()
                .enumerate()
            {
                let name = format!("{order:?}, {own}, {}", test.name);
                let frame = |part: usize| {
                    let (offset, more, payload) = parts[part];
                    let mut frame = if at(own).is_ipv6() {
                        ipv6(at(peer), at(own), 44, 64, &fragment(17, offset, more, payload))
                    } else {
                        let more = if more { MORE_FRAGMENTS } else { 0 };
                        ipv4(at(peer), at(own), 17, &[], offset | more, payload)
                    };
                    let identification = if at(own).is_ipv6() { 61 } else { 19 };
                    frame[identification] = number as u8;
                    frame
                };
                for part in order {
                    assert!(test.ingress(&frame(part))?, "part {part} of {name}");
                }
                assert!(!test.ingress(&frame(2))?, "one more of {name}");
            }
        }
        Ok(())
    })
}

/// A first fragment beyond the limit still passes; only its later fragments are dropped.
#[test]
fn a_task_remembers_so_many_first_fragments_and_no_more() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let peers4 = ["10.0.1.7", "10.0.1.8", "10.0.1.9"];
        let peers6 = ["2001:db8:1::7", "2001:db8:1::8", "2001:db8:1::9"];
        for (peers, own, others) in [(peers4, TASK4, OTHER4), (peers6, TASK6, OTHER6)] {
            let rules = [(udp_to(53, 53), "10.0.0.0/8"), (udp_to(53, 53), "2001:db8::/32")];
            let mut model = with_rules(&rules, &[]);
            model.enis.push(gated("other", &[OTHER4, OTHER6], &[0]));
            test.set(model)?;
            test.fixture.share(Shared::Fragments, 2, 0);
            let datagram = udp(40000, 53, &[0; 16]);
            let piece = |from: &str, to: &str, offset: u16, more: bool, payload: &[u8]| {
                let (from, to) = (at(from), at(to));
                if to.is_ipv6() {
                    return ipv6(from, to, 44, 64, &fragment(17, offset, more, payload));
                }
                let more = if more { MORE_FRAGMENTS } else { 0 };
                ipv4(from, to, 17, &[], offset | more, payload)
            };
            for (number, peer) in peers.into_iter().enumerate() {
                let name = format!("{peer}, {}", test.name);
                assert!(test.ingress(&piece(peer, own, 0, true, &datagram))?, "{name}");
                assert_eq!(
                    test.ingress(&piece(peer, own, 3, true, b"not all."))?,
                    number < 2,
                    "{name}"
                );
                assert!(
                    test.send(Direction::Ingress, 1, &piece(peer, others, 0, true, &datagram))?,
                    "{name}"
                );
                assert_eq!(
                    test.send(Direction::Ingress, 1, &piece(peer, others, 3, true, b"not all."))?,
                    number < 2,
                    "the other task's share, {name}"
                );
            }
            let expected = [
                "count other ingress fragment-without-first 1",
                "count other ingress rule 3",
                "count task ingress fragment-without-first 1",
                "count task ingress rule 3",
            ];
            assert_eq!(
                sums(test)?,
                (expected.map(String::from).to_vec(), 6, 2),
                "{}",
                test.name
            );
        }
        Ok(())
    })
}
