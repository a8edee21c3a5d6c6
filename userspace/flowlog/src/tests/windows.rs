//! Windows: every packet belongs to exactly one.

use std::{io, time::Duration};

use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
    },
    wire::{TCP, UDP, tcp},
};
use taskgate_model::FlowLog;

use super::{
    BEGIN, DB, HELD_MOST, Rig, WEB,
    kernel::{Flow, SECOND, Step},
    shown,
};
use crate::{Bounds, CollectError, Stream, aligned};

fn query() -> Flow {
    Flow::new(WEB, TCP, ("10.0.1.15", 49152), ("10.0.1.20", 5432))
}

#[test]
fn each_window_has_what_the_totals_grew_by() {
    let mut rig = Rig::new();
    let flow = query();
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    rig.kernel.state.pass(&flow, Ingress, 60, tcp::SYN | tcp::ACK);
    rig.kernel.state.pass(&flow, Egress, 52, tcp::ACK);
    assert_eq!(
        rig.minute(),
        [
            "web 10.0.1.15 10.0.1.20 49152 5432 6 2 112 0-60 ACCEPT",
            "web 10.0.1.20 10.0.1.15 5432 49152 6 1 60 0-60 ACCEPT",
        ]
    );
    rig.kernel.state.pass(&flow, Ingress, 1500, tcp::ACK);
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.20 10.0.1.15 5432 49152 6 1 1500 60-120 ACCEPT"]
    );
    assert_eq!(rig.minute(), [""; 0]);
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 40 180-240 ACCEPT"]
    );
}

#[test]
fn a_window_that_nobody_takes_goes_on() {
    let mut rig = Rig::new();
    let flow = query();
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    rig.minute_without_room();
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    rig.minute_without_room();
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 3 140 0-180 ACCEPT"]
    );
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    rig.minute_without_room();
    let last = rig.close_final();
    assert_eq!(
        shown(&rig.stream.push(&last, false)),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 40 180-240 ACCEPT"]
    );
}

/// A line of a record of [`WEB`] or [`DB`] that [`one_of_many`] made.
fn many(name: &str, port: u16, window: &str) -> String {
    let own = if name == "web" { "10.0.1.15" } else { "10.0.1.20" };
    format!("{name} {own} 10.9.9.9 {port} 443 6 1 60 {window} ACCEPT")
}

/// A separate flow for each port.
fn one_of_many(slot: u16, port: u16) -> Flow {
    let own = if slot == WEB { "10.0.1.15" } else { "10.0.1.20" };
    Flow::new(slot, TCP, (own, port), ("10.9.9.9", 443))
}

/// The ENI with most records loses some and gets SKIPDATA; others keep theirs.
#[test]
fn records_that_wait_are_given_up_before_memory_is() {
    for room in [false, true] {
        let mut rig = Rig::new();
        // The flow log's window has two capture windows.
        let log = FlowLog {
            interval: 120,
            ..FlowLog::default()
        };
        rig.stream = Stream::new(&log, aligned(BEGIN, log.interval), HELD_MOST);
        for port in 1..=20 {
            rig.kernel.state.pass(&one_of_many(WEB, port), Egress, 60, tcp::SYN);
        }
        for port in 1..=3 {
            rig.kernel.state.pass(&one_of_many(DB, port), Egress, 60, tcp::SYN);
        }
        let window = rig.close();
        assert_eq!(shown(&rig.stream.push(&window, room)), [""; 0]);
        let mut expected: Vec<_> = (1..=3).map(|port| many("db", port, "0-120")).collect();
        expected.extend((1..=HELD_MOST as u16 - 3).map(|port| many("web", port, "0-120")));
        expected.push(String::from("web 0-120 SKIPDATA"));
        assert_eq!(rig.minute(), expected, "room: {room}");
        // The next window is complete.
        rig.kernel.state.pass(&one_of_many(WEB, 1), Egress, 60, tcp::ACK);
        assert_eq!(rig.minute(), [""; 0]);
        assert_eq!(rig.minute(), [many("web", 1, "120-240")]);
    }
}

/// The limit also holds within one window with any number of short flows: their packets are in records or in SKIPDATA.
#[test]
fn a_window_holds_so_many_records_and_no_more() {
    const MOST: usize = 100;
    let mut rig = Rig::new();
    rig.collector.hold_at_most(MOST);
    for port in 1..=5 {
        rig.kernel.state.pass(&one_of_many(DB, port), Egress, 60, tcp::SYN);
    }
    let churned = 40 * 50;
    for port in 1..=churned {
        rig.kernel.state.pass(&one_of_many(WEB, port), Egress, 60, tcp::SYN);
        if port % 50 == 0 {
            rig.wait(1);
            for port in port - 49..=port {
                let conn = rig.kernel.state.conn(&one_of_many(WEB, port));
                conn.last = conn.last.wrapping_sub(600 * SECOND);
            }
            rig.gc(true);
        }
    }
    let held = rig.collector.given_up(WEB).0;
    assert!(
        held > 0 && rig.collector.eni_of(WEB) == Some("eni-00000000000000web"),
        "{held}"
    );
    let window = rig.close();
    let of = |slot: &str| {
        window
            .records
            .iter()
            .filter(|record| record.eni.id().ends_with(slot))
            .count()
    };
    assert_eq!(of("db"), 5, "whole");
    assert!((MOST / 2 - 5..=MOST).contains(&of("web")), "{}", of("web"));
    assert!(window.records.len() <= MOST);
    let [loss] = &window.losses[..] else {
        panic!("{:?}", window.losses);
    };
    assert!(loss.eni.id().ends_with("web"));
    assert_eq!(
        loss.passed,
        u64::from(churned) - of("web") as u64,
        "each is recorded or told to be lost"
    );
    assert_eq!(loss.denied, 0);
    assert_eq!(
        rig.collector.given_up(WEB),
        (loss.passed, 0),
        "counted on after the window"
    );
    assert_eq!(rig.collector.given_up(DB), (0, 0));
    let after = rig.close();
    assert_eq!((after.records.len(), after.losses.len()), (0, 0));
}

#[test]
fn both_gates_of_one_host_leave_their_own_records() {
    let mut rig = Rig::new();
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    let refused = Flow::new(DB, TCP, ("10.0.1.20", 5432), ("10.0.1.15", 49152));
    rig.kernel
        .state
        .deny(&refused, Ingress, DropReason::NoRule, 60, tcp::SYN);
    assert_eq!(
        rig.minute(),
        [
            "db 10.0.1.15 10.0.1.20 49152 5432 6 1 60 0-60 REJECT",
            "web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 0-60 ACCEPT",
        ]
    );
}

#[test]
fn a_window_begins_in_the_kernel_before_the_tables_are_read() {
    let mut rig = Rig::new();
    let flow = query();
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    rig.kernel.steps.clear();
    let window = rig.close();
    assert_eq!(
        rig.kernel.steps,
        [
            Step::SetWindow(8),
            Step::Now,
            Step::Conn(flow.conn()),
            Step::Usage(WEB),
            Step::Usage(DB)
        ]
    );
    assert_eq!(
        (window.number, window.bounds, window.last),
        (
            7,
            Bounds {
                start: BEGIN,
                end: BEGIN + 60
            },
            false
        )
    );
    assert_eq!(rig.close().number, 8);
}

/// Cases: the packets of one direction of a connection in each window, and the expected `tcp-flags`.
#[test]
fn flags_are_those_of_the_window() {
    for (case, windows, want) in [
        (
            "client in one window",
            &[&[tcp::SYN, tcp::ACK, tcp::FIN | tcp::ACK][..]][..],
            &[3][..],
        ),
        (
            "server in one window",
            &[&[tcp::SYN | tcp::ACK, tcp::ACK, tcp::FIN | tcp::ACK]],
            &[19],
        ),
        (
            "client over three",
            &[&[tcp::SYN], &[tcp::ACK, 8 | tcp::ACK], &[tcp::FIN]],
            &[2, 0, 1],
        ),
        ("SYN with ECE", &[&[tcp::SYN | 64]], &[2]),
        ("SYN then RST", &[&[tcp::SYN, tcp::RST]], &[6]),
        (
            "the same flag again",
            &[&[tcp::SYN], &[tcp::SYN], &[tcp::SYN]],
            &[2, 2, 2],
        ),
        (
            "two windows later",
            &[&[tcp::RST | tcp::ACK], &[], &[tcp::ACK]],
            &[4, 0],
        ),
    ] {
        let mut rig = Rig::new();
        let mut flags = Vec::new();
        for window in windows {
            for packet in *window {
                rig.kernel.state.pass(&query(), Egress, 40, *packet);
            }
            flags.extend(rig.close().records.iter().map(|record| record.tcp_flags));
        }
        assert_eq!(flags, want, "{case}");
    }
}

#[test]
fn a_packet_between_number_and_reading_is_counted_once_with_its_flags() {
    let mut rig = Rig::new();
    let flow = query();
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    rig.kernel.between = Box::new(move |state, step| {
        if step == Step::Conn(flow.conn()) && state.window == 8 {
            state.pass(&flow, Ingress, 60, tcp::SYN | tcp::ACK);
        }
        Ok(())
    });
    let told = |rig: &mut Rig| -> Vec<_> {
        rig.close()
            .records
            .iter()
            .map(|record| (record.direction, record.count.packets, record.tcp_flags))
            .collect()
    };
    assert_eq!(told(&mut rig), [(Egress, 1, 2), (Ingress, 1, 18)]);
    rig.kernel.state.pass(&flow, Ingress, 40, tcp::ACK);
    assert_eq!(told(&mut rig), [(Ingress, 1, 0)]);
    rig.kernel.state.pass(&flow, Ingress, 40, tcp::FIN | tcp::ACK);
    assert_eq!(told(&mut rig), [(Ingress, 1, 1)]);
}

#[test]
fn bytes_that_were_read_before_their_packet_was_counted_wait() {
    let mut rig = Rig::new();
    let flow = query();
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    rig.kernel.state.conn(&flow).totals[0].packets = 0;
    assert_eq!(rig.minute(), [""; 0]);
    rig.kernel.state.conn(&flow).totals[0].packets = 1;
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 60-120 ACCEPT"]
    );
}

#[test]
fn bytes_without_a_packet_are_told_when_the_entry_goes() {
    let mut rig = Rig::new();
    let flow = Flow {
        protocol: UDP,
        ..query()
    };
    rig.kernel.state.pass(&flow, Egress, 60, 0);
    rig.minute();
    rig.kernel.state.conn(&flow).totals[0].bytes += 40;
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.15 10.0.1.20 49152 5432 17 0 40 60-120 ACCEPT"]
    );
    assert_eq!(rig.kernel.state.conns.len(), 0);
}

/// Cases: the packets and flags in the windows if the first reading misses an entry, or readings see each entry twice.
#[test]
fn what_a_reading_misses_or_sees_twice_is_told_once() {
    for (missed, twice, want) in [
        (false, false, &[(1, 2), (1, 4), (1, 0)][..]),
        (true, false, &[(2, 4), (1, 0)]),
        (false, true, &[(1, 2), (1, 4), (1, 0)]),
    ] {
        let mut rig = Rig::new();
        let flow = query();
        let denied = flow.denial(Ingress, DropReason::NoRule);
        let mut told = [Vec::new(), Vec::new()];
        for (minute, flags) in [tcp::SYN, tcp::RST, tcp::ACK].into_iter().enumerate() {
            rig.kernel.state.pass(&flow, Egress, 40, flags);
            rig.kernel.state.deny(&flow, Ingress, DropReason::NoRule, 40, flags);
            rig.kernel
                .missed
                .extend([flow.conn(), denied].into_iter().filter(|_| missed && minute == 0));
            rig.kernel
                .twice
                .extend([flow.conn(), denied].into_iter().filter(|_| twice));
            for (record, told) in rig.close().records.iter().zip(&mut told) {
                told.push((record.count.packets, record.tcp_flags));
            }
            rig.kernel.missed.clear();
        }
        assert_eq!(told, [want, want], "missed: {missed}, twice: {twice}");
    }
}

#[test]
fn a_reading_that_misses_an_entry_leaves_no_flags_behind() {
    let mut rig = Rig::new();
    let flow = query();
    let told = |rig: &mut Rig| -> Vec<_> { rig.close().records.iter().map(|record| record.tcp_flags).collect() };
    rig.kernel.state.pass(&flow, Egress, 40, tcp::SYN);
    assert_eq!(told(&mut rig), [2]);
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    rig.kernel.missed.insert(flow.conn());
    assert_eq!(told(&mut rig), [0; 0]);
    rig.kernel.missed.clear();
    rig.kernel.state.pass(&flow, Egress, 40, tcp::SYN);
    assert_eq!(told(&mut rig), [2]);
}

#[test]
fn the_last_window_ends_when_taskgate_does() {
    let mut rig = Rig::new();
    let flow = query();
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    assert_eq!(rig.minute().len(), 1);
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    rig.wait(17);
    let window = rig.close_final();
    assert_eq!(
        rig.lines(&window),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 40 60-77 ACCEPT"]
    );
    assert!(window.last);
    // If only the flow logs change, collection continues from there.
    rig.kernel.state.pass(&flow, Egress, 40, tcp::ACK);
    rig.wait(43);
    let window = rig.try_close().expect("a window");
    assert_eq!(
        rig.lines(&window),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 40 77-120 ACCEPT"]
    );
}

#[test]
fn a_number_that_wraps_within_an_entry_changes_nothing() {
    let mut rig = Rig::numbered(0xfffc);
    let mut told = Vec::new();
    for minute in 0..6 {
        let flow = Flow {
            remote: (query().remote.0, minute),
            ..query()
        };
        rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
        rig.kernel.state.pass(&query(), Egress, 60, tcp::ACK);
        told.push(
            rig.close()
                .records
                .iter()
                .map(|record| record.tcp_flags)
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(told, vec![[2, 0]; 6]);
}

#[test]
fn a_window_closed_late_says_how_long_it_was() {
    let mut rig = Rig::new();
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    rig.wait(130);
    assert_eq!(rig.minute(), ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 0-180 ACCEPT"]);
}

#[test]
fn a_clock_that_is_set_back_stops_nothing() {
    let mut rig = Rig::new();
    rig.minute();
    rig.now -= 600;
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    let window = rig.close();
    assert_eq!(
        rig.lines(&window),
        ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 60-120 ACCEPT"]
    );
    rig.now += 3600;
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    let window = rig.close();
    assert_eq!(
        window.bounds,
        Bounds {
            start: BEGIN - 480,
            end: BEGIN + 3180
        }
    );
}

#[test]
fn a_failure_loses_nothing() {
    let v4 = query();
    let denied = Flow::new(DB, UDP, ("10.0.1.20", 53), ("10.9.9.9", 4000));
    let refused = denied.denial(Ingress, DropReason::NoRule);
    let idle = Flow::new(DB, UDP, ("10.0.1.20", 4001), ("10.9.9.9", 53));
    for (fails_at, message) in [
        (Step::SetWindow(9), "cannot begin capture window 9"),
        (Step::Now, "cannot read the kernel's clock"),
        (Step::Conn(v4.conn()), "cannot read the tracked connections"),
        (Step::Denial(refused), "cannot read the denied flows"),
        (Step::Usage(DB), "cannot read the table use of slot 2"),
        (Step::MarkConns, "from the tracked connections"),
        (Step::FreezeConn(idle.conn()), "from the tracked connections"),
    ] {
        let mut rig = Rig::new();
        rig.kernel.state.pass(&idle, Egress, 70, 0);
        assert_eq!(rig.minute().len(), 1);
        rig.kernel.state.pass(&v4, Egress, 60, tcp::SYN);
        rig.kernel.state.deny(&denied, Ingress, DropReason::NoRule, 80, 0);
        rig.kernel.between = Box::new(move |_, step| {
            if step == fails_at {
                Err(io::Error::other("the map is gone"))
            } else {
                Ok(())
            }
        });
        rig.wait(60);
        let error: CollectError = rig.try_close().expect_err("it fails");
        assert!(error.to_string().contains(message), "{error}");
        rig.kernel.between = Box::new(|_, _| Ok(()));
        let left = rig.collector.time_left(Duration::from_secs(rig.now));
        assert_eq!(left, Duration::from_mins(1), "a failure is not tried again at once");
        rig.wait(1);
        let window = rig.try_close().expect("a window");
        assert_eq!(window.number, 8, "{fails_at:?}");
        assert_eq!(
            rig.lines(&window),
            [
                "db 10.9.9.9 10.0.1.20 4000 53 17 1 80 60-120 REJECT",
                "web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 60-120 ACCEPT",
            ],
            "{fails_at:?}"
        );
    }
}
