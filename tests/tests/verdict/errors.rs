//! ICMP errors about connections: the quoted packet decides, within the settings.

use anyhow::Result;
use taskgate_compiler::EniLimits;
use taskgate_model::IcmpErrors;
use testkit::fixture::{DataPathTest, frames::*, on_host_and_in_kernel};

use super::*;

const ROUTER4: &str = "198.51.100.1";
const ROUTER6: &str = "2001:db8:ffff::1";

/// A connection of each family from the peer to the task, under this setting.
fn connected(test: &mut DataPathTest<'_>, errors: IcmpErrors) -> Result<()> {
    let mut model = web();
    model.settings.icmp_errors = errors;
    test.set(model)?;
    assert!(test.ingress(&in4(flags::SYN))?);
    assert!(test.ingress(&ip(at(PEER6), at(TASK6), 6, &tcp(40000, 443, flags::SYN, b"")))?);
    Ok(())
}

/// An error about a packet, which quotes this much of it.
fn about(source: &str, destination: &str, (kind, code): (u8, u8), packet: &[u8], length: usize) -> Vec<u8> {
    let protocol = if at(source).is_ipv6() { 58 } else { 1 };
    ip(
        at(source),
        at(destination),
        protocol,
        &icmp(kind, code, 0, &quoted(packet, length)),
    )
}

fn out6() -> Vec<u8> {
    ip(at(TASK6), at(PEER6), 6, &tcp(443, 40000, flags::ACK, b""))
}

#[test]
fn the_settings_say_which_errors_need_no_rule() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for (errors, pmtu, others) in [
            (IcmpErrors::Pmtu, true, false),
            (IcmpErrors::All, true, true),
            (IcmpErrors::None, false, false),
        ] {
            for (message, is_pmtu) in [((3, 4), true), ((3, 3), false), ((11, 0), false), ((12, 0), false)] {
                connected(test, errors)?;
                let passes = if is_pmtu { pmtu } else { others };
                let error = about(ROUTER4, TASK4, message, &out4(flags::ACK), 28);
                assert_eq!(test.ingress(&error)?, passes, "{errors:?} {message:?}, {}", test.name);
            }
            for (message, is_pmtu) in [((2, 0), true), ((1, 4), false), ((3, 0), false), ((4, 1), false)] {
                connected(test, errors)?;
                let passes = if is_pmtu { pmtu } else { others };
                let error = about(ROUTER6, TASK6, message, &out6(), 48);
                assert_eq!(
                    test.ingress(&error)?,
                    passes,
                    "{errors:?} {message:?} IPv6, {}",
                    test.name
                );
            }
            // A redirect is not an error.
            assert!(!test.ingress(&about(ROUTER4, TASK4, (5, 1), &out4(flags::ACK), 28))?);
        }
        Ok(())
    })
}

/// `icmp-errors: none` is AWS's documented behaviour.
///
/// AWS: SG-TRACK-9
#[test]
fn without_the_settings_a_rule_decides() -> Result<()> {
    use taskgate_model::IcmpMatch;
    on_host_and_in_kernel(|test| {
        let web = [(tcp_to(443, 443), "10.0.1.0/24"), (tcp_to(443, 443), "2001:db8:1::/48")];
        let ruled = [
            (Protocol::Icmp(IcmpMatch::TypeCode(3, 4)), "198.51.100.0/24"),
            (Protocol::Icmpv6(IcmpMatch::Type(2)), "2001:db8:ffff::/48"),
        ];
        for (rules, passes) in [(web.to_vec(), false), ([web, ruled].concat(), true)] {
            let mut model = with_rules(&rules, &[]);
            model.settings.icmp_errors = IcmpErrors::None;
            test.set(model)?;
            assert!(test.ingress(&in4(flags::SYN))?);
            assert!(test.ingress(&ip(at(PEER6), at(TASK6), 6, &tcp(40000, 443, flags::SYN, b"")))?);
            for (name, error, ruled) in [
                ("needed", about(ROUTER4, TASK4, (3, 4), &out4(flags::ACK), 28), true),
                ("too big", about(ROUTER6, TASK6, (2, 0), &out6(), 48), true),
                (
                    "another code",
                    about(ROUTER4, TASK4, (3, 3), &out4(flags::ACK), 28),
                    false,
                ),
                (
                    "another router",
                    about(PEER4, TASK4, (3, 4), &out4(flags::ACK), 28),
                    false,
                ),
                ("another type", about(ROUTER6, TASK6, (1, 4), &out6(), 48), false),
            ] {
                assert_eq!(test.ingress(&error)?, passes && ruled, "{name}, {}", test.name);
            }
        }
        Ok(())
    })
}

#[test]
fn an_error_is_about_a_live_connection_or_about_nothing() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let wrong_port = ip(at(TASK4), at(PEER4), 6, &tcp(443, 40001, flags::ACK, b""));
        let wrong_way = in4(flags::ACK);
        let rows = [
            ("about it", about(ROUTER4, TASK4, (3, 4), &out4(flags::ACK), 28), true),
            ("by the peer", about(PEER4, TASK4, (3, 4), &out4(flags::ACK), 28), true),
            ("another port", about(ROUTER4, TASK4, (3, 4), &wrong_port, 28), false),
            (
                "what the task received",
                about(ROUTER4, TASK4, (3, 4), &wrong_way, 28),
                false,
            ),
            (
                "to somebody else",
                about(ROUTER4, "10.9.0.99", (3, 4), &out4(flags::ACK), 28),
                false,
            ),
            (
                "seven bytes of its header",
                about(ROUTER4, TASK4, (3, 4), &out4(flags::ACK), 27),
                false,
            ),
            (
                "quoted behind the packet's end",
                [
                    about(ROUTER4, TASK4, (3, 4), &out4(flags::ACK), 0),
                    quoted(&out4(flags::ACK), 28),
                ]
                .concat(),
                false,
            ),
            (
                "as the task itself, from outside",
                about(TASK4, TASK4, (3, 4), &out4(flags::ACK), 28),
                false,
            ),
        ];
        for (name, error, passes) in rows {
            connected(test, IcmpErrors::Pmtu)?;
            assert_eq!(test.ingress(&error)?, passes, "{name}, {}", test.name);
        }
        connected(test, IcmpErrors::Pmtu)?;
        test.wait(61)?;
        assert!(
            !test.ingress(&about(ROUTER4, TASK4, (3, 4), &out4(flags::ACK), 28))?,
            "it is idle"
        );
        Ok(())
    })
}

/// The task's errors about packets that it received: only to their sender, and only from its own address.
#[test]
fn the_task_speaks_of_its_own_connections_to_the_peer() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let rows = [
            ("to the peer", about(TASK4, PEER4, (3, 4), &in4(flags::ACK), 28), true),
            (
                "to somebody else",
                about(TASK4, STRANGER4, (3, 4), &in4(flags::ACK), 28),
                false,
            ),
            (
                "as somebody else",
                about("10.9.0.99", PEER4, (3, 4), &in4(flags::ACK), 28),
                false,
            ),
            (
                "of what it sent",
                about(TASK4, PEER4, (3, 4), &out4(flags::ACK), 28),
                false,
            ),
        ];
        for (name, error, passes) in rows {
            connected(test, IcmpErrors::Pmtu)?;
            assert_eq!(test.egress(&error)?, passes, "{name}, {}", test.name);
        }
        Ok(())
    })
}

/// Any host may claim to be a router on the path: errors about one connection leave room for other connections, and are
/// let through all the same.
#[test]
fn errors_from_everywhere_leave_room_for_connections() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let mut model = web();
        model.settings.icmp_errors = IcmpErrors::Pmtu;
        test.set_with(model, &|_| {
            Some(EniLimits {
                connections: 16,
                isolated: false,
            })
        })?;
        assert!(test.ingress(&in4(flags::SYN))?);
        for router in 0..20 {
            let error = about(&format!("198.51.100.{router}"), TASK4, (3, 4), &out4(flags::ACK), 28);
            assert!(test.ingress(&error)?, "{router}, {}", test.name);
        }
        for port in 1000..1006 {
            let syn = ip(at(PEER4), at(TASK4), 6, &tcp(port, 443, flags::SYN, b""));
            assert_eq!(test.ingress(&syn)?, port < 1004, "{port}, {}", test.name);
        }
        let state = test.path.state(test.fixture.highest)?;
        let mut lines = state.lines(&test.fixture);
        lines.retain(|line| line.starts_with("count") || line.starts_with("lost"));
        let expected = [
            "count task ingress icmp-error 20",
            "count task ingress rule 5",
            "count task ingress task-connections-full 2",
            "lost task flows 13 denials 0",
        ];
        assert_eq!(lines, expected, "{}", test.name);
        Ok(())
    })
}

/// All DHCP of a task shares an entry: errors that quote it must not let the task send to any host under any address.
#[test]
fn dhcp_vouches_for_no_error() -> Result<()> {
    on_host_and_in_kernel(|test| {
        for errors in [IcmpErrors::Pmtu, IcmpErrors::All] {
            connected(test, errors)?;
            let ask = ip(at("0.0.0.0"), at("255.255.255.255"), 17, &udp(68, 67, b"discover"));
            assert!(test.egress(&ask)?);
            for source in [TASK4, "10.9.0.99"] {
                let invented = ip(at(STRANGER4), at(source), 17, &udp(67, 68, b"offer"));
                let error = about(source, STRANGER4, (3, 4), &invented, 28);
                assert!(!test.egress(&error)?, "{errors:?} as {source}, {}", test.name);
            }
        }
        Ok(())
    })
}

/// Tunnels find out about narrow paths by the same errors: their packets have no ports, and their connection is known by
/// its ends.
#[test]
fn an_error_about_a_protocol_without_ports_is_about_its_ends() -> Result<()> {
    use taskgate_model::Protocol;
    on_host_and_in_kernel(|test| {
        let rules = [
            (Protocol::Number(50), "10.0.1.0/24"),
            (Protocol::Number(50), "2001:db8:1::/48"),
        ];
        for (router, task, peer, kind) in [(ROUTER4, TASK4, PEER4, (3, 4)), (ROUTER6, TASK6, PEER6, (2, 0))] {
            test.set(with_rules(&rules, &[]))?;
            let out = ip(at(task), at(peer), 50, &[1; 32]);
            let error = about(router, task, kind, &out, 56);
            assert!(!test.ingress(&error)?, "nothing is tracked, {}", test.name);
            assert!(test.ingress(&ip(at(peer), at(task), 50, &[1; 32]))?);
            assert!(test.ingress(&error)?, "{}", test.name);
            let other = ip(at(task), at(peer), 47, &[1; 32]);
            assert!(!test.ingress(&about(router, task, kind, &other, 56))?, "{}", test.name);
        }
        Ok(())
    })
}

/// A fragmented datagram can still be too large: its first fragment names its connection.
#[test]
fn an_error_about_a_first_fragment_is_about_its_connection() -> Result<()> {
    on_host_and_in_kernel(|test| {
        connected(test, IcmpErrors::Pmtu)?;
        let part = |offset, more| {
            let segment = tcp(443, 40000, flags::ACK, &[0; 12]);
            ip(at(TASK6), at(PEER6), 44, &fragment(6, offset, more, &segment))
        };
        assert!(test.ingress(&about(ROUTER6, TASK6, (2, 0), &part(0, true), 200))?);
        assert!(test.ingress(&about(ROUTER6, TASK6, (2, 0), &part(0, false), 56))?);
        assert!(!test.ingress(&about(ROUTER6, TASK6, (2, 0), &part(0, true), 55))?);
        assert!(!test.ingress(&about(ROUTER6, TASK6, (2, 0), &part(4, true), 200))?);
        Ok(())
    })
}
