//! The life of a connection: which packets pass as part of it, for how long, and how they are counted.

use anyhow::Result;
use taskgate_ebpf::{abi::Direction, host::Left};
use taskgate_model::IcmpMatch;
use testkit::fixture::{Sent, frames::*, on_host_and_in_kernel};

use super::*;

#[test]
fn replies_pass_without_a_rule_and_all_is_counted_in_one_entry() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        assert!(!test.egress(&out4(flags::SYN_ACK))?, "nobody asked yet");
        for (frame, outgoing) in [
            (in4(flags::SYN), false),
            (out4(flags::SYN_ACK), true),
            (in4(flags::ACK), false),
            (out4(flags::ACK | flags::FIN), true),
        ] {
            let passes = if outgoing {
                test.egress(&frame)?
            } else {
                test.ingress(&frame)?
            };
            assert!(passes, "{}", test.name);
        }
        test.assert_lines(
            "a connection",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 2 packets 80 bytes flags 19, ingress 2 packets 80 bytes flags 2: ingress replied confirmed fin-egress",
                "count task egress no-rule 1",
                "count task ingress rule 1",
                "denied task egress tcp 10.9.0.5:443 10.0.1.7:40000 no-rule, 1 packets 40 bytes flags 18",
            ],
        );
        Ok(())
    })
}

#[test]
fn a_syn_on_a_closed_pair_is_judged_anew_and_other_late_packets_are_not() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        for flags in [flags::SYN, flags::ACK, flags::RST] {
            assert!(test.ingress(&in4(flags))?);
        }
        // The rule that admitted it is removed: packets of the connection still pass, a new connection does not.
        test.change(with_rules(&[], &[]))?;
        assert!(test.ingress(&in4(flags::ACK))?);
        assert!(test.ingress(&in4(flags::RST))?);
        assert!(!test.ingress(&in4(flags::SYN))?);
        assert!(test.egress(&out4(flags::ACK))?);
        test.change(web())?;
        assert!(test.ingress(&in4(flags::SYN))?);
        test.assert_lines(
            "the same entry for both",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 1 packets 40 bytes, ingress 6 packets 240 bytes flags 6: ingress",
                "count task ingress no-rule 1",
                "count task ingress rule 2",
                "denied task ingress tcp 10.9.0.5:443 10.0.1.7:40000 no-rule, 1 packets 40 bytes flags 2",
            ],
        );
        Ok(())
    })
}

/// Packets after a connection is closed: REJECT in flow logs.
///
/// AWS: FL-ACTION-5
#[test]
fn late_packets_of_a_connection_that_both_sides_closed_are_denied() -> Result<()> {
    on_host_and_in_kernel(|test| {
        // Any rule that would let them in again.
        test.set(with_rules(
            &[(Protocol::All, "10.0.0.0/8")],
            &[(Protocol::All, "10.0.0.0/8")],
        ))?;
        let fin = flags::FIN | flags::ACK;
        assert!(test.ingress(&in4(flags::SYN))?);
        assert!(test.egress(&out4(flags::SYN_ACK))?);
        assert!(test.egress(&out4(fin))?);
        test.wait(30)?;
        assert!(test.egress(&out4(flags::ACK))?, "one side goes on as long as it likes");
        assert!(test.ingress(&in4(fin))?);
        test.wait(5)?;
        assert!(test.ingress(&in4(fin))?, "the last ACK was lost");
        test.wait(5)?;
        assert!(test.egress(&out4(flags::ACK))?);
        test.wait(12)?;
        for late in [flags::ACK, fin, flags::RST, flags::SYN_ACK] {
            assert!(!test.ingress(&in4(late))?, "{late}, {}", test.name);
            assert!(!test.egress(&out4(late))?, "{late}, {}", test.name);
        }
        test.assert_lines(
            "a record for each direction",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 4 packets 160 bytes flags 19, ingress 3 packets 120 bytes flags 3: ingress replied confirmed fin-egress fin-ingress",
                "count task egress connection-closed 4",
                "count task ingress connection-closed 4",
                "count task ingress rule 1",
                "denied task egress tcp 10.9.0.5:443 10.0.1.7:40000 connection-closed, 4 packets 160 bytes flags 23",
                "denied task ingress tcp 10.9.0.5:443 10.0.1.7:40000 connection-closed, 4 packets 160 bytes flags 23",
            ],
        );
        assert!(test.ingress(&in4(flags::SYN))?, "a new one begins");
        assert!(test.egress(&out4(flags::SYN_ACK))?);
        Ok(())
    })
}

/// Any host can forge a RST, so a connection closed by one is merely forgotten; and an untracked connection, which lives
/// by its rule, has nothing to close.
#[test]
fn after_a_rst_and_for_untracked_connections_rules_decide() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let both = |peer| with_rules(&[(Protocol::All, peer)], &[(Protocol::All, peer)]);
        for (model, closing) in [
            (both("10.0.0.0/8"), [flags::ACK, flags::RST]),
            (both("0.0.0.0/0"), [flags::FIN, flags::FIN]),
        ] {
            test.set(model)?;
            assert!(test.ingress(&in4(flags::SYN))?);
            assert!(test.egress(&out4(flags::SYN_ACK | closing[0]))?);
            assert!(test.ingress(&in4(closing[1]))?);
            test.wait(12)?;
            assert!(test.egress(&out4(flags::ACK))?, "{}", test.name);
            assert!(test.ingress(&in4(flags::ACK))?, "{}", test.name);
        }
        Ok(())
    })
}

#[test]
fn a_ping_is_answered_and_nothing_else_is() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let echo = |from: &str, to: &str, kind, identifier| ip(at(from), at(to), 1, &icmp(kind, 0, identifier, b""));
        let ping6 = |from: &str, to: &str, kind, identifier| ip(at(from), at(to), 58, &icmp(kind, 0, identifier, b""));
        test.set(with_rules(
            &[],
            &[
                (Protocol::Icmp(IcmpMatch::Type(8)), "0.0.0.0/0"),
                (Protocol::Icmpv6(IcmpMatch::Type(128)), "::/0"),
            ],
        ))?;
        assert!(
            !test.ingress(&echo(PEER4, TASK4, 0, 77))?,
            "an answer before the question"
        );
        assert!(test.egress(&echo(TASK4, PEER4, 8, 77))?);
        assert!(test.ingress(&echo(PEER4, TASK4, 0, 77))?);
        assert!(!test.ingress(&echo(PEER4, TASK4, 0, 78))?, "another identifier");
        assert!(!test.ingress(&echo(STRANGER4, TASK4, 0, 77))?, "another peer");
        assert!(!test.ingress(&echo(PEER4, TASK4, 8, 77))?, "a question back");
        assert!(test.egress(&ping6(TASK6, PEER6, 128, 5))?);
        assert!(test.ingress(&ping6(PEER6, TASK6, 129, 5))?);
        assert!(!test.ingress(&ping6(PEER6, TASK6, 128, 5))?);
        test.assert_lines(
            "pings",
            &[
                "conn task icmp 10.9.0.5 10.0.1.7 4d:ff10 by web/egress/1, egress 1 packets 28 bytes, ingress 1 packets 28 bytes: replied",
                "conn task icmpv6 2001:db8:9::5 2001:db8:1::7 5:ff00 by web/egress/2, egress 1 packets 48 bytes, ingress 1 packets 48 bytes: replied",
                "count task egress rule 2",
                "count task ingress no-rule 5",
                "denied task ingress icmp 10.9.0.5 10.0.1.7 no-rule, 3 packets 84 bytes",
                "denied task ingress icmp 10.9.0.5 203.0.113.9 no-rule, 1 packets 28 bytes",
                "denied task ingress icmpv6 2001:db8:9::5 2001:db8:1::7 no-rule, 1 packets 48 bytes",
            ],
        );
        Ok(())
    })
}

#[test]
fn a_request_with_another_code_needs_a_rule_under_a_tracked_identifier_too() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let echo = |from: &str, to: &str, kind, code| ip(at(from), at(to), 1, &icmp(kind, code, 77, b""));
        test.set(with_rules(
            &[(Protocol::Icmp(IcmpMatch::TypeCode(8, 0)), "10.0.0.0/8")],
            &[],
        ))?;
        assert!(test.ingress(&echo(PEER4, TASK4, 8, 0))?);
        assert!(!test.ingress(&echo(PEER4, TASK4, 8, 5))?, "no rule has code 5");
        assert!(test.ingress(&echo(PEER4, TASK4, 8, 0))?, "the first goes on");
        assert!(test.egress(&echo(TASK4, PEER4, 0, 0))?, "and is answered");
        assert!(test.egress(&echo(TASK4, PEER4, 0, 5))?, "whatever code the answer has");
        Ok(())
    })
}

#[test]
fn a_gso_packet_counts_as_what_is_on_the_wire() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        let large = ip(at(PEER4), at(TASK4), 6, &tcp(40000, 443, flags::ACK, &[0; 2500]));
        let denied = ip(at(PEER4), at(TASK4), 6, &tcp(40000, 22, flags::ACK, &[0; 2500]));
        for (frame, segments) in [(&large, (3, 1000)), (&large, (0, 1000)), (&denied, (3, 1000))] {
            test.path.judge(&Sent {
                frame,
                link: 101,
                direction: Direction::Ingress,
                came_by: 0,
                segments,
                left: Left::NOTHING,
            })?;
        }
        test.assert_lines(
            "segments",
            &[
                "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 6 packets 5240 bytes: ingress",
                "count task ingress no-rule 3",
                "count task ingress rule 3",
                "denied task ingress tcp 10.9.0.5:22 10.0.1.7:40000 no-rule, 3 packets 2620 bytes",
            ],
        );
        Ok(())
    })
}

/// For any window number, also for one that exceeds the entry's field.
#[test]
fn flags_belong_to_their_window() -> Result<()> {
    on_host_and_in_kernel(|test| {
        test.set(web())?;
        for first in [0, 65_534, 29_000_000, u32::MAX - 3] {
            test.path.clear()?;
            test.fixture.set_window(first);
            assert!(test.ingress(&in4(flags::SYN))?);
            assert!(
                !test.ingress(
                    &in4(flags::SYN)
                        .iter()
                        .map(|byte| if *byte == 0xbb { 0xbc } else { *byte })
                        .collect::<Vec<_>>()
                )?
            );
            for (next, expected) in [(0, " flags 2"), (1, ""), (2, "")] {
                test.fixture.set_window(first + next);
                let denied = format!(
                    "denied task ingress tcp 10.9.0.5:444 10.0.1.7:40000 no-rule, 1 packets 40 bytes{expected}"
                );
                let conn = format!(
                    "conn task tcp 10.9.0.5:443 10.0.1.7:40000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes{expected}: ingress"
                );
                test.assert_lines(
                    "a window",
                    &[
                        &conn,
                        "count task ingress no-rule 1",
                        "count task ingress rule 1",
                        &denied,
                    ],
                );
            }
            // The next of the same parity.
            test.fixture.set_window(first + 2);
            assert!(test.ingress(&in4(flags::RST))?);
            let lines = test.lines()?;
            assert!(
                lines[0].contains("ingress 2 packets 80 bytes flags 4: ingress reset-ingress"),
                "{lines:?}"
            );
        }
        Ok(())
    })
}

/// Not even type 0 of ICMPv6, whose type and code are all zero bits.
#[test]
fn a_message_that_asks_nothing_is_not_answered() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let everything = [
            (Protocol::Icmp(IcmpMatch::All), "0.0.0.0/0"),
            (Protocol::Icmpv6(IcmpMatch::All), "::/0"),
        ];
        for (task, peer, protocol, kinds) in [
            (TASK4, PEER4, 1, [1, 2, 3, 10, 40, 41]),
            (TASK6, PEER6, 58, [0, 1, 2, 100, 139, 200]),
        ] {
            for kind in kinds {
                test.set(with_rules(&[], &everything))?;
                let message = icmp(kind, 0, 0, b"");
                assert!(test.egress(&ip(at(task), at(peer), protocol, &message))?);
                assert!(
                    !test.ingress(&ip(at(peer), at(task), protocol, &message))?,
                    "type {kind}, {}",
                    test.name
                );
            }
        }
        Ok(())
    })
}
