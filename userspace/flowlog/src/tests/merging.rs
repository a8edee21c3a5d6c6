//! Merging of flows into records, and AWS's representation of addresses and ports.

use std::net::IpAddr;

use taskgate_ebpf::{
    abi::{
        Direction::{self, Egress, Ingress},
        DropReason,
        tables::{RULE_EXEMPT, state},
    },
    wire::{ICMP, ICMPV6, TCP, UDP, tcp},
};
use taskgate_model::{AddressList, FlowLog, Model, Settings};

use super::{DB, Rig, WEB, eni, kernel::Flow};
use crate::{LoggedEni, Unlogged};

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn reasons_of_one_flow_make_one_record() {
    let mut rig = Rig::new();
    let flow = Flow::new(WEB, TCP, ("10.0.1.15", 443), ("10.9.9.9", 50000));
    rig.kernel.state.deny(&flow, Ingress, DropReason::NoRule, 60, tcp::SYN);
    rig.kernel
        .state
        .deny(&flow, Ingress, DropReason::ConnectionsFull, 60, tcp::SYN);
    rig.kernel
        .state
        .deny(&flow, Ingress, DropReason::ConnectionsFull, 60, tcp::RST);
    rig.kernel.state.pass(&flow, Ingress, 60, tcp::SYN);
    let window = rig.close();
    let denied = &window.records[1];
    assert_eq!(
        denied.reasons.iter().collect::<Vec<_>>(),
        [DropReason::NoRule, DropReason::ConnectionsFull]
    );
    assert_eq!((denied.tcp_flags, window.records[0].reasons.iter().count()), (6, 0));
    assert_eq!(
        rig.lines(&window),
        [
            "web 10.9.9.9 10.0.1.15 50000 443 6 1 60 0-60 ACCEPT",
            "web 10.9.9.9 10.0.1.15 50000 443 6 3 180 0-60 REJECT",
        ]
    );
}

#[test]
fn protocols_without_ports_have_zeros_and_one_record_for_each_pair() {
    let mut rig = Rig::new();
    for identifier in [1, 2, 3] {
        let ping = Flow::new(WEB, ICMP, ("10.0.1.15", identifier), ("10.0.1.20", 0xff10));
        rig.kernel.state.pass(&ping, Egress, 84, 0);
        rig.kernel.state.pass(&ping, Ingress, 84, 0);
        let ping = Flow::new(WEB, ICMPV6, ("2001:db8:1::15", identifier), ("2001:db8::1", 0xff01));
        rig.kernel.state.pass(&ping, Egress, 104, 0);
    }
    rig.kernel
        .state
        .pass(&Flow::new(WEB, 47, ("10.0.1.15", 0), ("10.0.1.20", 0)), Egress, 100, 0);
    assert_eq!(
        rig.minute(),
        [
            "web 10.0.1.15 10.0.1.20 0 0 1 3 252 0-60 ACCEPT",
            "web 10.0.1.15 10.0.1.20 0 0 47 1 100 0-60 ACCEPT",
            "web 10.0.1.20 10.0.1.15 0 0 1 3 252 0-60 ACCEPT",
            "web 2001:db8:1::15 2001:db8::1 0 0 58 3 312 0-60 ACCEPT",
        ]
    );
}

/// Cases: the ENI side's and the peer's address in the packet, and the ENI side's address in the line.
#[test]
fn the_enis_own_side_is_written_as_its_primary_ipv4_address() {
    type Case = (&'static str, Direction, &'static str, &'static str, &'static str);
    let cases: [Case; 6] = [
        (
            "a secondary address, out",
            Egress,
            "10.0.1.16",
            "10.0.1.20",
            "10.0.1.15",
        ),
        (
            "a secondary address, in",
            Ingress,
            "10.0.1.16",
            "10.0.1.20",
            "10.0.1.15",
        ),
        ("a foreign source", Egress, "192.0.2.7", "10.0.1.20", "10.0.1.15"),
        ("a foreign destination", Ingress, "192.0.2.7", "10.0.1.20", "10.0.1.15"),
        (
            "its own address as the peer's",
            Ingress,
            "10.0.1.15",
            "10.0.1.16",
            "10.0.1.15",
        ),
        (
            "a foreign IPv6 source",
            Egress,
            "2001:db8:bad::1",
            "2001:db8::1",
            "2001:db8:bad::1",
        ),
    ];
    for (case, direction, local, remote, written) in cases {
        let mut rig = Rig::new();
        let flow = Flow::new(WEB, UDP, (local, 7), (remote, 9));
        rig.kernel
            .state
            .deny(&flow, direction, DropReason::SpoofedSource, 100, 0);
        let window = rig.close();
        let record = &window.records[0];
        let ends = [record.tuple.source, record.tuple.destination];
        let real = [record.pkt_source(), record.pkt_destination()];
        let (local, remote, written) = (address(local), address(remote), address(written));
        let (ends_are, real_are) = match direction {
            Egress => ([written, remote], [local, remote]),
            Ingress => ([remote, written], [remote, local]),
        };
        assert_eq!((ends, real), (ends_are, real_are.map(Some)), "{case}");
    }
}

#[test]
fn flows_of_two_own_addresses_fall_together_and_have_no_one_real_address() {
    let mut rig = Rig::new();
    for own in ["10.0.1.15", "10.0.1.16"] {
        rig.kernel
            .state
            .pass(&Flow::new(WEB, UDP, (own, 7), ("10.0.1.20", 9)), Egress, 100, 0);
    }
    let window = rig.close();
    assert_eq!(window.records[0].pkt_source(), None);
    assert_eq!(window.records[0].pkt_destination(), Some(address("10.0.1.20")));
    assert_eq!(rig.lines(&window), ["web 10.0.1.15 10.0.1.20 7 9 17 2 200 0-60 ACCEPT"]);
}

#[test]
fn one_tuple_in_both_directions_is_one_record() {
    let mut rig = Rig::new();
    // The tables return the answer's entry first.
    let out = Flow::new(WEB, UDP, ("10.0.1.15", 9), ("10.0.1.15", 7));
    let back = Flow::new(WEB, UDP, ("10.0.1.15", 7), ("10.0.1.15", 9));
    rig.kernel.state.deny(&out, Egress, DropReason::NoRule, 100, 0);
    rig.kernel.state.deny(&back, Ingress, DropReason::SpoofedSource, 100, 0);
    let window = rig.close();
    assert_eq!(
        (window.records[0].direction, window.records[0].pkt_source()),
        (Egress, None)
    );
    assert_eq!(rig.lines(&window), ["web 10.0.1.15 10.0.1.15 9 7 17 2 200 0-60 REJECT"]);
}

#[test]
fn an_eni_without_ipv4_keeps_what_the_packet_says() {
    let mut rig = Rig::new();
    rig.collector.bind(
        3,
        LoggedEni::new(eni("eni-00000000000000six", &["2001:db8::6"]), "111122223333"),
    );
    rig.kernel.state.deny(
        &Flow::new(3, UDP, ("192.0.2.7", 7), ("10.0.1.20", 9)),
        Egress,
        DropReason::NoRule,
        100,
        0,
    );
    assert_eq!(rig.minute(), ["six 192.0.2.7 10.0.1.20 7 9 17 1 100 0-60 REJECT"]);
}

#[test]
fn ipv6_is_written_as_rfc_5952_has_it() {
    let mut rig = Rig::new();
    let texts = [
        "::1",
        "2001:db8::1",
        "2001:db8:0:1:1:1:1:1",
        "2001:0:0:1::1",
        "fe80::a:0:0:1",
        "2001:db8::aaaa:0:0:1",
    ];
    for text in texts {
        rig.kernel
            .state
            .pass(&Flow::new(WEB, 50, ("2001:DB8:1:0::15", 0), (text, 0)), Egress, 100, 0);
    }
    let mut want = [
        "::1",
        "2001:0:0:1::1",
        "2001:db8::1",
        "2001:db8::aaaa:0:0:1",
        "2001:db8:0:1:1:1:1:1",
        "fe80::a:0:0:1",
    ]
    .map(|text| format!("web 2001:db8:1::15 {text} 0 0 50 1 100 0-60 ACCEPT"));
    want.sort_by_key(|line| line.split(' ').nth(2).map(address));
    assert_eq!(rig.minute(), want);
}

/// Whether connections that a task may open without a rule get a record under each setting: AWS's list, none, a list. Connections
/// that a rule allowed, connections from outside, and denials always get one.
#[test]
fn unlogged_is_what_the_setting_names_and_no_more() {
    let list = AddressList::List(vec![address("10.0.1.20")]);
    for (case, protocol, local, remote, want) in [
        (
            "an ordinary peer",
            TCP,
            ("10.0.1.15", 1),
            ("10.0.1.20", 443),
            [true, true, false],
        ),
        (
            "the resolver",
            UDP,
            ("10.0.1.15", 1),
            ("169.254.169.253", 53),
            [false, true, true],
        ),
        (
            "the metadata service",
            TCP,
            ("10.0.1.15", 1),
            ("169.254.169.254", 80),
            [false, true, true],
        ),
        (
            "the same over IPv6",
            TCP,
            ("2001:db8:1::15", 1),
            ("fd00:ec2::254", 80),
            [false, true, true],
        ),
        (
            "the clock",
            UDP,
            ("10.0.1.15", 1),
            ("169.254.169.123", 123),
            [false, true, true],
        ),
        (
            "the task metadata of ECS",
            TCP,
            ("10.0.1.15", 1),
            ("169.254.170.2", 80),
            [true, true, true],
        ),
        (
            "the subnet's router",
            ICMP,
            ("10.0.1.15", 1),
            ("10.0.0.1", 0),
            [false, true, true],
        ),
        (
            "the VPC's resolver",
            UDP,
            ("10.0.1.15", 1),
            ("10.0.0.2", 53),
            [false, true, true],
        ),
        (
            "DHCP by broadcast",
            UDP,
            ("0.0.0.0", 68),
            ("255.255.255.255", 67),
            [false, true, true],
        ),
        (
            "a DHCP server in the task",
            UDP,
            ("10.0.1.15", 67),
            ("10.0.1.20", 68),
            [true, true, false],
        ),
        (
            "two peers with the ports of DHCP",
            UDP,
            ("10.0.1.15", 68),
            ("10.0.1.21", 67),
            [true, true, true],
        ),
        (
            "two peers with the ports of DHCPv6",
            UDP,
            ("2001:db8:1::15", 547),
            ("2001:db8:1::16", 546),
            [true, true, true],
        ),
        (
            "the broadcast address with other ports",
            UDP,
            ("10.0.1.15", 67),
            ("255.255.255.255", 68),
            [true, true, true],
        ),
        ("DHCPv6", UDP, ("fe80::", 546), ("ff02::1:2", 547), [false, true, true]),
        (
            "IPv4 with the ports of DHCPv6",
            UDP,
            ("10.0.1.15", 546),
            ("10.0.1.20", 547),
            [true, true, false],
        ),
        (
            "TCP with the ports of DHCP",
            TCP,
            ("10.0.1.15", 68),
            ("10.0.1.20", 67),
            [true, true, false],
        ),
        (
            "one port of DHCP",
            UDP,
            ("10.0.1.15", 68),
            ("10.0.1.21", 68),
            [true, true, true],
        ),
        (
            "a source that the task forged",
            UDP,
            ("169.254.169.254", 1),
            ("10.0.1.21", 9),
            [true, true, true],
        ),
    ] {
        for (setting, want) in [&AddressList::Aws, &AddressList::None, &list].into_iter().zip(want) {
            let model = Model {
                settings: Settings {
                    unlogged: setting.clone(),
                    ..Settings::default()
                },
                reserved: vec![address("10.0.0.1"), address("10.0.0.2")],
                ..Model::default()
            };
            for (rule, state, want) in [
                (RULE_EXEMPT, 0, want),
                (RULE_EXEMPT, state::INGRESS, true),
                (1, 0, true),
                (1, state::INGRESS, true),
            ] {
                let case = format!("{case}, {setting:?}, rule {rule}, state {state}");
                let mut rig = Rig::with(&FlowLog::default(), Unlogged::new(model.unlogged()));
                let flow = Flow::new(WEB, protocol, local, remote);
                rig.kernel.state.pass(&flow, Egress, 100, 0);
                let conn = rig.kernel.state.conn(&flow);
                (conn.rule, conn.state) = (rule, state);
                rig.kernel.state.deny(&flow, Ingress, DropReason::NoRule, 100, 0);
                assert_eq!(rig.close().records.len(), if want { 2 } else { 1 }, "{case}");
                // An unlogged flow must not appear in a later window either.
                assert_eq!(rig.close().records.len(), 0, "{case}");
            }
        }
    }
}

#[test]
fn lines_come_in_one_order_whatever_the_order_of_entries() {
    let mut rig = Rig::new();
    for (slot, local, remote, port) in [
        (WEB, "10.0.1.15", "10.0.1.20", 443),
        (DB, "10.0.1.20", "10.0.1.15", 9),
        (WEB, "10.0.1.15", "10.0.1.3", 443),
        (WEB, "10.0.1.15", "10.0.1.20", 80),
        (DB, "10.0.1.20", "9.9.9.9", 9),
    ] {
        rig.kernel.state.deny(
            &Flow::new(slot, UDP, (local, 5), (remote, port)),
            Egress,
            DropReason::NoRule,
            1,
            0,
        );
        rig.kernel
            .state
            .pass(&Flow::new(slot, UDP, (local, 5), (remote, port)), Egress, 1, 0);
    }
    assert_eq!(
        rig.minute(),
        [
            "db 10.0.1.20 9.9.9.9 5 9 17 1 1 0-60 ACCEPT",
            "db 10.0.1.20 9.9.9.9 5 9 17 1 1 0-60 REJECT",
            "db 10.0.1.20 10.0.1.15 5 9 17 1 1 0-60 ACCEPT",
            "db 10.0.1.20 10.0.1.15 5 9 17 1 1 0-60 REJECT",
            "web 10.0.1.15 10.0.1.3 5 443 17 1 1 0-60 ACCEPT",
            "web 10.0.1.15 10.0.1.3 5 443 17 1 1 0-60 REJECT",
            "web 10.0.1.15 10.0.1.20 5 80 17 1 1 0-60 ACCEPT",
            "web 10.0.1.15 10.0.1.20 5 80 17 1 1 0-60 REJECT",
            "web 10.0.1.15 10.0.1.20 5 443 17 1 1 0-60 ACCEPT",
            "web 10.0.1.15 10.0.1.20 5 443 17 1 1 0-60 REJECT",
        ]
    );
}
