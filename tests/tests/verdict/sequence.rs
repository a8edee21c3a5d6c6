//! Sequence numbers: which segments can close a connection, and which can establish one.

use anyhow::Result;
use taskgate_ebpf::abi::Direction;
use testkit::fixture::{DataPathTest, Kernel, Sent, frames::*, on_host_and_in_kernel};

use super::*;

/// The initial sequence numbers: near the end of the 16 bits that are kept.
const PEER_AT: u32 = 0x1234_fff8;
const TASK_AT: u32 = 0xffff_fff0;

/// A segment from the peer, with numbers from where the sides began.
fn peer(flags: u8, begins: u32, acknowledges: u32, payload: &[u8]) -> Vec<u8> {
    let numbers = (PEER_AT.wrapping_add(begins), TASK_AT.wrapping_add(acknowledges));
    ip(at(PEER4), at(TASK4), 6, &tcp_at(40000, 443, flags, numbers, payload))
}

/// A segment from the task.
fn own(flags: u8, begins: u32, acknowledges: u32, payload: &[u8]) -> Vec<u8> {
    let numbers = (TASK_AT.wrapping_add(begins), PEER_AT.wrapping_add(acknowledges));
    ip(at(TASK4), at(PEER4), 6, &tcp_at(443, 40000, flags, numbers, payload))
}

/// A peer and the task's server shake hands. No egress rule allows anything.
fn established(test: &mut DataPathTest<'_>) -> Result<()> {
    test.set(web())?;
    assert!(test.ingress(&peer(flags::SYN, 0, 0, b""))?);
    assert!(test.egress(&own(flags::SYN_ACK, 0, 1, b""))?);
    assert!(test.ingress(&peer(flags::ACK, 1, 1, b""))?);
    Ok(())
}

const FIN_ACK: u8 = flags::FIN | flags::ACK;
const RST_ACK: u8 = flags::RST | flags::ACK;

/// Numbers other than the next one, 201: earlier ones, ones within the window, and distant ones.
const FORGED: [u32; 8] = [0, 1, 200, 202, 5000, 33_000, 60_000, 0x1_0000 - 1];

#[test]
fn a_forged_rst_or_fin_changes_nothing_and_one_that_fits_closes() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for closes in [flags::RST, RST_ACK, FIN_ACK] {
            established(test)?;
            assert!(test.ingress(&peer(flags::ACK, 1, 1, &[0; 200]))?);
            assert!(test.egress(&own(flags::ACK, 1, 201, b""))?);
            for number in FORGED {
                assert!(test.ingress(&peer(closes, number, 1, b""))?);
            }
            test.wait(14)?;
            assert!(test.egress(&own(flags::ACK, 1, 201, b"push"))?, "{}", test.name);
            test.wait(100_000)?;
            assert!(test.egress(&own(flags::ACK, 5, 201, b"push"))?, "{}", test.name);
            assert!(test.ingress(&peer(closes, 201, 9, b""))?);
            test.wait(if closes == FIN_ACK { 601 } else { 11 })?;
            assert!(!test.egress(&own(flags::ACK, 9, 201, b"late"))?, "{}", test.name);
        }
        Ok(())
    })
}

/// An attacker who guesses may first send another segment, and then close with a number that follows from it.
#[test]
fn no_forged_segment_makes_a_rst_fit() -> Result<()> {
    on_host_and_in_kernel(|test| {
        established(test)?;
        for number in FORGED.into_iter().filter(|number| *number != 1) {
            for first in [flags::ACK, flags::SYN, flags::SYN_ACK, 0, FIN_ACK] {
                assert!(test.ingress(&peer(first, number, 1, &[0; 100]))?);
                for next in [number, number + 1, number + 100, number + 101] {
                    if next != 1 {
                        assert!(test.ingress(&peer(flags::RST, next, 0, b""))?);
                    }
                }
            }
        }
        test.wait(14)?;
        assert!(test.egress(&own(flags::ACK, 1, 1, b"push"))?, "{}", test.name);
        Ok(())
    })
}

#[test]
fn a_forged_fin_does_not_close_what_is_half_closed() -> Result<()> {
    on_host_and_in_kernel(|test| {
        established(test)?;
        assert!(test.egress(&own(FIN_ACK, 1, 1, b""))?);
        for number in FORGED.into_iter().filter(|number| *number != 1) {
            assert!(test.ingress(&peer(FIN_ACK, number, 2, b""))?);
        }
        test.wait(14)?;
        assert!(test.ingress(&peer(flags::ACK, 1, 2, b"goes on"))?, "{}", test.name);
        let lines = test.lines()?;
        assert!(
            lines[0].ends_with(": ingress replied confirmed fin-egress"),
            "{lines:?}"
        );
        test.wait(14)?;
        assert!(test.ingress(&peer(FIN_ACK, 8, 2, b""))?);
        test.wait(11)?;
        assert!(!test.ingress(&peer(flags::ACK, 9, 2, b""))?, "late, {}", test.name);
        Ok(())
    })
}

/// One guess in 65,536 fits. If the task then acknowledges more of its peer's data, the FIN was forged.
#[test]
fn a_forged_fin_is_taken_back_when_the_peer_goes_on() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (acknowledged, open) in [(101, true), (2, false)] {
            established(test)?;
            assert!(test.ingress(&peer(FIN_ACK, 1, 1, b""))?);
            assert!(test.ingress(&peer(flags::ACK, 1, 1, &[0; 100]))?);
            assert!(test.egress(&own(flags::ACK, 1, acknowledged, b""))?);
            test.wait(100_000)?;
            let passes = test.egress(&own(flags::ACK, 1, acknowledged, b"push"))?;
            assert_eq!(passes, open, "{acknowledged}, {}", test.name);
        }
        Ok(())
    })
}

#[test]
fn a_half_closed_connection_is_waited_for_ten_minutes() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (wait, passes) in [(598, true), (601, false)] {
            established(test)?;
            assert!(test.ingress(&peer(FIN_ACK, 1, 1, b""))?);
            test.wait(wait)?;
            assert_eq!(test.egress(&own(flags::ACK, 1, 2, b"answer"))?, passes, "{}", test.name);
        }
        Ok(())
    })
}

/// Large packets, lost segments and retransmissions: a RST fits after all of them.
#[test]
fn sides_are_followed_through_large_packets_and_losses() -> Result<()> {
    on_host_and_in_kernel(|test| {
        established(test)?;
        let large = peer(flags::ACK, 1, 1, &[0; 3_000]);
        test.path.judge(&Sent {
            frame: &large,
            link: *Kernel::LINKS.start(),
            direction: Direction::Ingress,
            came_by: 0,
            segments: (0, 1400),
            left: taskgate_ebpf::host::Left::NOTHING,
        })?;
        // 3,001 to 4,401 is lost on the way, and comes again.
        assert!(test.ingress(&peer(flags::ACK, 4_401, 1, &[0; 1400]))?);
        assert!(test.egress(&own(flags::ACK, 1, 3_001, b""))?);
        assert!(test.ingress(&peer(flags::ACK, 3_001, 1, &[0; 1400]))?);
        assert!(test.egress(&own(flags::ACK, 1, 5_801, &[0; 1000]))?);
        assert!(test.egress(&own(flags::ACK, 1, 5_801, &[0; 500]))?, "again");
        let before = test.lines()?;
        assert!(before[0].ends_with(": ingress replied confirmed"), "{before:?}");
        assert!(test.egress(&own(flags::RST, 501, 5_801, b""))?);
        assert!(test.lines()?[0].ends_with(": ingress replied confirmed"));
        assert!(test.egress(&own(flags::RST, 1001, 5_801, b""))?);
        assert!(test.lines()?[0].ends_with(": ingress replied confirmed reset-egress"));
        established(test)?;
        assert!(test.ingress(&peer(flags::ACK, 1, 1, &[0; 1400]))?);
        assert!(test.ingress(&peer(flags::RST, 1401, 1, b""))?, "not acknowledged yet");
        assert!(test.lines()?[0].ends_with(": ingress replied confirmed reset-ingress"));
        Ok(())
    })
}

/// Packets of scanners and floods, and the answers of the task's stack.
#[test]
fn syns_and_guesses_make_no_established_connection() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert!(test.ingress(&peer(flags::SYN, 0, 0, b""))?);
        assert!(test.egress(&own(flags::SYN_ACK, 0, 1, b""))?);
        for _ in 0..3 {
            assert!(test.ingress(&peer(flags::SYN, 0, 0, b""))?);
            assert!(test.egress(&own(flags::SYN_ACK, 0, 1, b""))?);
            // Another SYN is answered with a bare ACK.
            assert!(test.ingress(&peer(flags::SYN, 77, 0, b""))?);
            assert!(test.egress(&own(flags::ACK, 1, 1, b""))?);
            for guess in [0, 2, 500, 40_000] {
                assert!(test.ingress(&peer(flags::ACK, 1, guess, b"GET /"))?);
                assert!(test.egress(&own(flags::RST, guess, 0, b""))?);
            }
        }
        let lines = test.lines()?;
        assert!(lines[0].ends_with(": ingress replied"), "{lines:?}");
        test.wait(61)?;
        assert!(!test.egress(&own(flags::SYN_ACK, 0, 1, b""))?, "{}", test.name);
        Ok(())
    })
}

#[test]
fn an_opened_connection_that_is_silent_is_there_when_its_server_speaks() -> Result<()> {
    on_host_and_in_kernel(|test| {
        established(test)?;
        test.wait(431_990)?;
        assert!(test.egress(&own(flags::ACK, 1, 1, b"news"))?, "{}", test.name);
        // The same with the task as the client.
        test.set(with_rules(&[], &[(tcp_to(22, 22), "10.0.1.0/24")]))?;
        let client = |flags, begins: u32, acknowledges: u32| {
            let numbers = (TASK_AT.wrapping_add(begins), PEER_AT.wrapping_add(acknowledges));
            ip(at(TASK4), at(PEER4), 6, &tcp_at(50000, 22, flags, numbers, b""))
        };
        let server = |flags, begins: u32, acknowledges: u32, payload: &[u8]| {
            let numbers = (PEER_AT.wrapping_add(begins), TASK_AT.wrapping_add(acknowledges));
            ip(at(PEER4), at(TASK4), 6, &tcp_at(22, 50000, flags, numbers, payload))
        };
        assert!(test.egress(&client(flags::SYN, 0, 0))?);
        // A SYN-ACK that does not answer the SYN.
        assert!(test.ingress(&server(flags::SYN_ACK, 900, 7, b""))?);
        assert!(test.ingress(&server(flags::SYN_ACK, 0, 1, b""))?);
        assert!(test.egress(&client(flags::ACK, 1, 1))?);
        test.wait(431_990)?;
        assert!(test.ingress(&server(flags::ACK, 1, 1, b"SSH-2.0"))?, "{}", test.name);
        Ok(())
    })
}

/// A removed rule admits no connection, from whatever port; the connection that it admitted lives on.
#[test]
fn a_syn_on_a_live_connection_is_judged_by_the_rules_of_today() -> Result<()> {
    on_host_and_in_kernel(|test| {
        established(test)?;
        assert!(test.ingress(&peer(flags::SYN, 900, 0, b""))?, "the rule is there");
        test.change(with_rules(&[], &[]))?;
        for number in [0, 900, 50_000] {
            assert!(!test.ingress(&peer(flags::SYN, number, 0, b""))?, "{}", test.name);
            assert!(test.ingress(&peer(flags::ACK, 1, 1, b""))?, "{}", test.name);
            assert!(test.egress(&own(flags::ACK, 1, 1, b""))?, "{}", test.name);
        }
        test.wait(100_000)?;
        assert!(test.egress(&own(flags::ACK, 1, 1, b"push"))?, "{}", test.name);
        // Another rule allows it: the connection now belongs to that rule, and stays established.
        let all = with_rules(&[(Protocol::All, "10.0.0.0/8")], &[]);
        test.change(all)?;
        assert!(test.ingress(&peer(flags::SYN, 900, 0, b""))?);
        test.wait(100_000)?;
        assert!(test.egress(&own(flags::ACK, 5, 1, b"push"))?, "{}", test.name);
        Ok(())
    })
}

/// The side that was connected to has opened nothing: its SYN is judged like any other.
#[test]
fn the_other_side_needs_a_rule_of_its_own_to_open() -> Result<()> {
    on_host_and_in_kernel(|test| {
        established(test)?;
        assert!(!test.egress(&own(flags::SYN, 700, 0, b""))?, "{}", test.name);
        assert!(test.egress(&own(flags::ACK, 1, 1, b""))?, "{}", test.name);
        test.set(with_rules(&[], &[(Protocol::All, "10.0.0.0/8")]))?;
        assert!(test.egress(&own(flags::SYN, 0, 0, b""))?);
        // Both may open at once.
        assert!(test.ingress(&peer(flags::SYN, 0, 0, b""))?);
        assert!(test.egress(&own(flags::SYN_ACK, 0, 1, b""))?);
        assert!(test.ingress(&peer(flags::SYN_ACK, 0, 1, b""))?);
        assert!(test.egress(&own(flags::ACK, 1, 1, b""))?);
        assert!(!test.ingress(&peer(flags::SYN, 700, 0, b""))?, "{}", test.name);
        assert!(test.ingress(&peer(flags::ACK, 1, 1, b""))?, "{}", test.name);
        Ok(())
    })
}
