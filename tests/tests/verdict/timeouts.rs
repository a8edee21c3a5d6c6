//! How long a connection of each kind lives without a packet, and that rules decide again after that.

use anyhow::Result;
use taskgate_model::{IcmpMatch, Timeouts};
use testkit::fixture::{DataPathTest, frames::*, model::udp_to, on_host_and_in_kernel};

use super::*;

/// Frames toward the task's port 443 or 53, or of protocol 47, from the peer and back.
fn udp_in() -> Vec<u8> {
    ip(at(PEER4), at(TASK4), 17, &udp(5353, 53, b""))
}

fn udp_out() -> Vec<u8> {
    ip(at(TASK4), at(PEER4), 17, &udp(53, 5353, b""))
}

/// For each kind of entry: the packets that create it, the first one inbound; the task's answer; and the time-out that
/// applies then.
type Kind = (&'static str, Vec<Vec<u8>>, Vec<u8>, fn(Timeouts) -> u32);

fn kinds() -> Vec<Kind> {
    let gre_in = ip(at(PEER4), at(TASK4), 47, b"gre");
    let gre_out = ip(at(TASK4), at(PEER4), 47, b"gre");
    let ping = |from, to, kind| ip(at(from), at(to), 1, &icmp(kind, 0, 77, b""));
    let syn = || in4(flags::SYN);
    let fin = flags::FIN | flags::ACK;
    vec![
        ("half-open TCP", vec![syn()], out4(flags::SYN_ACK), |_| 60),
        (
            "answered TCP",
            vec![syn(), out4(flags::SYN_ACK)],
            out4(flags::SYN_ACK),
            |_| 60,
        ),
        (
            "established TCP",
            vec![syn(), out4(flags::SYN_ACK), in4(flags::ACK)],
            out4(flags::ACK),
            |timeouts| timeouts.tcp_established,
        ),
        (
            "TCP that one side has closed",
            vec![syn(), out4(flags::SYN_ACK), in4(fin)],
            out4(flags::ACK),
            |timeouts| timeouts.tcp_established.min(600),
        ),
        (
            "closed TCP",
            vec![syn(), out4(flags::SYN_ACK), in4(fin), out4(fin)],
            out4(flags::ACK),
            |_| 10,
        ),
        (
            "reset TCP",
            vec![syn(), out4(flags::SYN_ACK), in4(flags::RST)],
            out4(flags::ACK),
            |_| 10,
        ),
        ("UDP one way", vec![udp_in()], udp_out(), |timeouts| timeouts.udp),
        ("one exchange", vec![udp_in(), udp_out()], udp_out(), |timeouts| {
            timeouts.udp
        }),
        (
            "a second request",
            vec![udp_in(), udp_out(), udp_in()],
            udp_out(),
            |timeouts| timeouts.udp,
        ),
        (
            "a second exchange",
            vec![udp_in(), udp_out(), udp_in(), udp_out()],
            udp_out(),
            |timeouts| timeouts.udp_stream,
        ),
        ("a ping", vec![ping(PEER4, TASK4, 8)], ping(TASK4, PEER4, 0), |_| 30),
        ("another protocol", vec![gre_in], gre_out, |_| 600),
    ]
}

fn everything_tracked() -> Vec<(Protocol, &'static str)> {
    vec![
        (tcp_to(443, 443), "10.0.1.0/24"),
        (udp_to(53, 53), "10.0.1.0/24"),
        (Protocol::Icmp(IcmpMatch::Type(8)), "10.0.1.0/24"),
        (Protocol::Number(47), "10.0.1.0/24"),
    ]
}

/// Makes an entry of this kind.
fn begin(test: &mut DataPathTest<'_>, name: &str, sent: &[Vec<u8>]) -> Result<()> {
    for (number, frame) in sent.iter().enumerate() {
        let passes = if number % 2 == 0 {
            test.ingress(frame)?
        } else {
            test.egress(frame)?
        };
        assert!(passes, "{name}, packet {number}, {}", test.name);
    }
    Ok(())
}

/// The defaults and both ends of each range.
///
/// AWS: SG-TRACK-7
#[test]
fn a_connection_lives_for_its_time_out_and_is_judged_anew_after_it() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let all = [
            Timeouts::default(),
            Timeouts {
                tcp_established: 60,
                udp: 60,
                udp_stream: 60,
            },
            Timeouts {
                tcp_established: 3600,
                udp: 45,
                udp_stream: 90,
            },
        ];
        for timeouts in all {
            for (name, sent, answer, timeout) in kinds() {
                let seconds = timeout(timeouts);
                let name = &format!("{name}, {timeouts:?}, {}", test.name);
                let configured = |rules: &[(Protocol, &str)]| {
                    let mut model = with_rules(rules, &[]);
                    model.settings.timeouts = timeouts;
                    model
                };
                for ruled in [true, false] {
                    test.set(configured(&everything_tracked()))?;
                    begin(test, name, &sent)?;
                    if !ruled {
                        test.change(configured(&[]))?;
                    }
                    // Leaves a margin for the real time that passes. Each packet restarts the whole time-out.
                    for _ in 0..2 {
                        test.wait(seconds - 2)?;
                        assert!(test.egress(&answer)?, "{name}");
                    }
                    // That answer may have changed the kind of the connection.
                    test.set(configured(&everything_tracked()))?;
                    begin(test, name, &sent)?;
                    if !ruled {
                        test.change(configured(&[]))?;
                    }
                    test.wait(seconds + 1)?;
                    assert!(!test.egress(&answer)?, "{name}");
                    assert_eq!(test.ingress(&sent[0])?, ruled, "{name}: what opened it");
                    assert_eq!(test.egress(&answer)?, ruled, "{name}: and its answer");
                }
            }
        }
        Ok(())
    })
}

/// When a time-out is raised or lowered, it applies to existing entries.
#[test]
fn a_changed_time_out_holds_for_what_is_there() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let stream = [udp_in(), udp_out(), udp_in(), udp_out()];
        for (before, after, idle, passes) in [(180, 60, 61, false), (60, 180, 120, true), (180, 90, 88, true)] {
            let configured = |udp_stream| {
                let mut model = with_rules(&everything_tracked(), &[]);
                model.settings.timeouts = Timeouts {
                    udp_stream,
                    ..Timeouts::default()
                };
                model
            };
            test.set(configured(before))?;
            begin(test, "a stream", &stream)?;
            test.change(configured(after))?;
            test.wait(idle)?;
            assert_eq!(
                test.egress(&udp_out())?,
                passes,
                "{before} to {after} after {idle}, {}",
                test.name
            );
        }
        Ok(())
    })
}
