//! Removal of entries: which ones and when, without lost or duplicated packets.

use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
        tables::state,
    },
    wire::{ICMP, TCP, UDP, tcp},
};
use taskgate_model::FlowLog;
use taskgate_tables::UsageState;

use super::{
    DB, Rig, WEB, eni,
    kernel::{Flow, Step, count},
};
use crate::{LoggedEni, Unlogged};

fn lookup() -> Flow {
    Flow::new(WEB, UDP, ("10.0.1.15", 40000), ("10.0.1.20", 53))
}

/// Cases: the minute at whose end an entry is removed that had its only packet at the start of the first minute.
#[test]
fn an_entry_goes_once_it_is_idle_by_its_state_and_told() {
    let both_fins = state::FIN_EGRESS | state::FIN_INGRESS;
    for (case, protocol, state, minute) in [
        ("half-open TCP: 60 s, and not a tick less", TCP, 0, 2),
        (
            "closed TCP: 10 s, but told in the first minute only",
            TCP,
            state::CONFIRMED | both_fins,
            2,
        ),
        ("reset TCP", TCP, state::RESET_INGRESS, 2),
        ("half-closed TCP: 600 s", TCP, state::CONFIRMED | state::FIN_EGRESS, 11),
        ("UDP: 30 s", UDP, 0, 2),
        ("UDP stream: 180 s", UDP, state::CONFIRMED | state::ANSWERED, 4),
        ("ICMP: 30 s", ICMP, 0, 2),
        ("other protocols: 600 s", 47, 0, 11),
        ("established TCP: days", TCP, state::CONFIRMED, 12),
    ] {
        let mut rig = Rig::new();
        let flow = Flow { protocol, ..lookup() };
        rig.kernel.state.pass(&flow, Egress, 60, 0);
        rig.kernel.state.conn(&flow).state = state;
        let gone = (1..12).find(|_| {
            rig.close();
            rig.kernel.state.conns.is_empty()
        });
        assert_eq!(gone.unwrap_or(12), minute, "{case}");
        assert_eq!(rig.collector.known(), (usize::from(minute == 12), 0), "{case}");
    }
}

#[test]
fn the_clock_may_wrap() {
    let mut rig = Rig::new();
    rig.kernel.state.clock = u32::MAX - 500;
    rig.kernel.state.pass(&lookup(), Egress, 60, 0);
    rig.close();
    assert_eq!(rig.kernel.state.conns.len(), 1);
    rig.close();
    assert_eq!(rig.kernel.state.conns.len(), 0);
}

#[test]
fn a_packet_between_reading_and_removal_is_told_once_and_the_key_may_come_back() {
    let mut rig = Rig::new();
    let flow = lookup();
    rig.kernel.state.pass(&flow, Egress, 60, 0);
    assert_eq!(rig.minute(), ["web 10.0.1.15 10.0.1.20 40000 53 17 1 60 0-60 ACCEPT"]);
    // An entry of an older epoch is over even with traffic.
    rig.kernel.state.epochs.insert(WEB, 1);
    rig.kernel.between = Box::new(move |state, step| {
        if step == Step::MarkConns {
            state.pass(&flow, Egress, 61, 0);
            state.pass(&flow, Ingress, 300, 0);
        }
        Ok(())
    });
    assert_eq!(
        rig.minute(),
        [
            "web 10.0.1.15 10.0.1.20 40000 53 17 1 61 60-120 ACCEPT",
            "web 10.0.1.20 10.0.1.15 53 40000 17 1 300 60-120 ACCEPT",
        ]
    );
    assert_eq!((rig.kernel.state.conns.len(), rig.collector.known()), (0, (0, 0)));
    rig.kernel.between = Box::new(|_, _| Ok(()));
    rig.kernel.state.epochs.insert(WEB, 0);
    // The totals exceed the removed entry's: its baseline must not apply to the new entry.
    for _ in 0..5 {
        rig.kernel.state.pass(&flow, Egress, 100, 0);
    }
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.15 10.0.1.20 40000 53 17 5 500 120-180 ACCEPT"]
    );
}

/// The packet removes the mark, so its count stays in the entry and is reported in the next window.
#[test]
fn a_packet_just_before_its_removal_keeps_an_entry() {
    let mut rig = Rig::new();
    let flow = lookup();
    let denied = flow.denial(Egress, DropReason::NoRule);
    rig.kernel.state.deny(&flow, Egress, DropReason::NoRule, 60, 0);
    rig.minute();
    rig.kernel.state.pass(&flow, Egress, 60, 0);
    rig.minute();
    rig.kernel.between = Box::new(move |state, step| {
        if step == Step::FreezeConn(flow.conn()) {
            state.pass(&flow, Egress, 61, 0);
        }
        if step == Step::FreezeDenial(denied) {
            state.deny(&flow, Egress, DropReason::NoRule, 62, 0);
        }
        Ok(())
    });
    assert_eq!(rig.minute(), [""; 0]);
    rig.kernel.between = Box::new(|_, _| Ok(()));
    assert_eq!((rig.kernel.state.conns.len(), rig.kernel.state.denials.len()), (1, 1));
    assert_eq!(
        rig.minute(),
        [
            "web 10.0.1.15 10.0.1.20 40000 53 17 1 61 180-240 ACCEPT",
            "web 10.0.1.15 10.0.1.20 40000 53 17 1 62 180-240 REJECT",
        ]
    );
}

/// The kernel evaluated the flow again and allowed it: the entry is a live connection's again, and answers need it.
#[test]
fn a_connection_that_a_packet_revives_before_its_removal_stays() {
    let look = Step::LookAtConn(lookup().conn());
    for (case, told, sweeps, revives) in [
        ("at a window's end", true, false, look),
        ("in a sweep", true, true, look),
        ("in a sweep for room", false, true, look),
        ("before it is marked", true, true, Step::MarkConns),
    ] {
        let mut rig = Rig::new();
        let (flow, idle) = (lookup(), Flow::new(WEB, UDP, ("10.0.1.15", 40001), ("10.0.1.20", 53)));
        rig.kernel.state.pass(&flow, Egress, 60, 0);
        rig.kernel.state.pass(&idle, Egress, 60, 0);
        if told {
            rig.wait(40);
            rig.close_final();
            assert_eq!(rig.kernel.state.conns.len(), 2, "{case}");
        } else {
            rig.wait(40);
        }
        rig.kernel.between = Box::new(move |state, step| {
            if step == revives {
                state.pass(&flow, Egress, 61, 0);
            }
            Ok(())
        });
        if sweeps {
            rig.gc(!told);
        } else {
            rig.close();
        }
        let left: Vec<_> = rig.kernel.state.conns.keys().copied().collect();
        assert_eq!(left, [flow.conn()], "{case}");
        assert_eq!(rig.kernel.state.usage[&WEB].conns.total(), 1, "{case}");
        let totals = rig.kernel.state.conn(&flow).totals;
        assert_eq!(totals, [count(2, 121), count(0, 0)], "{case}");
        assert!(!rig.kernel.steps.contains(&Step::FreezeConn(flow.conn())), "{case}");
    }
}

/// A timestamp further ahead of the clock than any difference between two CPUs would make a connection look idle for days.
#[test]
fn a_reading_may_take_longer_than_the_time_outs() {
    let mut rig = Rig::new();
    let flow = Flow {
        protocol: TCP,
        ..lookup()
    };
    rig.kernel.state.pass(&flow, Egress, 60, 0);
    rig.kernel.state.conn(&flow).state = state::CONFIRMED;
    rig.minute();
    rig.kernel.between = Box::new(move |state, step| {
        if step == Step::Conn(flow.conn()) {
            state.clock += 100 * super::SECOND;
            state.pass(&flow, Egress, 61, 0);
        }
        Ok(())
    });
    rig.gc(true);
    assert_eq!(rig.kernel.state.conns.len(), 1);
}

#[test]
fn a_denied_flow_goes_after_two_windows_without_a_packet() {
    let mut rig = Rig::new();
    let flow = lookup();
    let deny = |rig: &mut Rig| rig.kernel.state.deny(&flow, Egress, DropReason::NoRule, 60, 0);
    deny(&mut rig);
    let mut there = Vec::new();
    for minute in 1..=6 {
        rig.close();
        there.push(rig.kernel.state.denials.len());
        if minute == 2 {
            deny(&mut rig);
        }
    }
    assert_eq!(there, [1, 1, 1, 1, 0, 0]);
    assert_eq!(rig.collector.known(), (0, 0));
}

#[test]
fn a_packet_between_reading_and_removal_of_a_denied_flow_is_told() {
    let mut rig = Rig::new();
    let flow = lookup();
    rig.kernel.state.deny(&flow, Egress, DropReason::NoRule, 60, 0);
    rig.minute();
    rig.minute();
    rig.kernel.between = Box::new(move |state, step| {
        if step == Step::MarkDenials {
            state.deny(&flow, Egress, DropReason::NoRule, 61, 0);
        }
        Ok(())
    });
    assert_eq!(
        rig.minute(),
        ["web 10.0.1.15 10.0.1.20 40000 53 17 1 61 120-180 REJECT"]
    );
    assert_eq!(rig.kernel.state.denials.len(), 0);
}

#[test]
fn an_older_epoch_ends_a_connection_after_it_was_told() {
    let mut rig = Rig::new();
    let flow = Flow {
        protocol: TCP,
        ..lookup()
    };
    rig.kernel.state.pass(&flow, Egress, 60, tcp::SYN);
    rig.kernel.state.conn(&flow).state = state::CONFIRMED;
    rig.kernel.state.epochs.insert(WEB, 1);
    rig.gc(false);
    assert_eq!(rig.kernel.state.conns.len(), 1, "not told yet");
    assert_eq!(rig.minute(), ["web 10.0.1.15 10.0.1.20 40000 53 6 1 60 0-60 ACCEPT"]);
    assert_eq!(rig.kernel.state.conns.len(), 1, "told just now");
    rig.gc(false);
    assert_eq!(rig.kernel.state.conns.len(), 0);
}

/// The kernel treats fragments as absent after the same time-outs, so a sweep then frees their room.
#[test]
fn a_sweep_forgets_old_fragments() {
    let mut rig = Rig::new();
    rig.gc(false);
    assert_eq!(rig.kernel.steps.last(), Some(&Step::ForgetFragments(super::timeouts())));
}

#[test]
fn a_sweep_takes_what_was_told_and_is_idle_and_loses_nothing() {
    let mut rig = Rig::new();
    let (idle, live) = (lookup(), Flow::new(WEB, TCP, ("10.0.1.15", 40001), ("10.0.1.20", 443)));
    rig.kernel.state.pass(&idle, Egress, 60, 0);
    rig.kernel.state.pass(&live, Egress, 60, tcp::SYN);
    rig.kernel.state.conn(&live).state = state::CONFIRMED;
    rig.minute();
    rig.wait(5);
    rig.kernel.between = Box::new(move |state, step| {
        if step == Step::MarkConns {
            state.conns.get_mut(&idle.conn()).expect("it is there").totals[1] = count(1, 300);
        }
        Ok(())
    });
    rig.gc(false);
    assert_eq!(
        rig.kernel.state.conns.keys().copied().collect::<Vec<_>>(),
        [live.conn()]
    );
    rig.wait(55);
    let window = rig.try_close().expect("a window");
    assert_eq!(
        rig.lines(&window),
        ["web 10.0.1.20 10.0.1.15 53 40000 17 1 300 60-120 ACCEPT"]
    );
}

#[test]
fn where_room_is_wanted_what_is_over_goes_before_it_is_told_and_is_told_then() {
    let mut rig = Rig::new();
    let (over, live) = (lookup(), Flow::new(WEB, UDP, ("10.0.1.15", 40001), ("10.0.1.20", 443)));
    rig.kernel.state.pass(&over, Egress, 60, 0);
    rig.wait(40);
    rig.kernel.state.pass(&live, Egress, 70, 0);
    rig.gc(true);
    assert_eq!(
        rig.kernel.state.conns.keys().copied().collect::<Vec<_>>(),
        [live.conn()]
    );
    // The flow may come back in the same window.
    rig.kernel.state.pass(&over, Egress, 61, 0);
    rig.wait(20);
    let window = rig.try_close().expect("a window");
    assert_eq!(
        rig.lines(&window),
        [
            "web 10.0.1.15 10.0.1.20 40000 53 17 2 121 0-60 ACCEPT",
            "web 10.0.1.15 10.0.1.20 40001 443 17 1 70 0-60 ACCEPT",
        ]
    );
}

#[test]
fn a_retired_slot_drains_and_may_be_another_enis() {
    let mut rig = Rig::new();
    let conn = Flow {
        protocol: TCP,
        ..lookup()
    };
    rig.kernel.state.pass(&conn, Egress, 60, tcp::SYN);
    rig.kernel.state.deny(&conn, Ingress, DropReason::NoRule, 70, 0);
    rig.kernel.state.conn(&conn).state = state::CONFIRMED;
    rig.collector.retire(WEB);
    let window = rig.close();
    assert_eq!(window.drained, [0; 0]);
    assert_eq!(
        rig.lines(&window),
        [
            "web 10.0.1.15 10.0.1.20 40000 53 6 1 60 0-60 ACCEPT",
            "web 10.0.1.20 10.0.1.15 53 40000 6 1 70 0-60 REJECT",
        ]
    );
    let window = rig.close();
    assert_eq!(rig.lines(&window), [""; 0]);
    assert_eq!(window.drained, [WEB]);
    assert_eq!(rig.kernel.state.usage[&WEB], UsageState::default());

    rig.collector.bind(
        WEB,
        LoggedEni::new(eni("eni-0000000000000next", &["10.0.1.77"]), "111122223333"),
    );
    let conn = Flow::new(WEB, TCP, ("10.0.1.77", 1), ("10.0.1.20", 2));
    rig.kernel.state.pass(&conn, Egress, 60, tcp::SYN);
    let window = rig.close();
    assert_eq!(window.records[0].count, count(1, 60));
    assert_eq!(
        rig.lines(&window),
        ["next 10.0.1.77 10.0.1.20 1 2 6 1 60 120-180 ACCEPT"]
    );
}

#[test]
fn a_slot_is_drained_only_when_both_tables_are_rid_of_it() {
    for (unseen_conns, unseen_denials, want) in [(0, 0, vec![WEB]), (1, 0, Vec::new()), (0, 1, Vec::new())] {
        let mut rig = Rig::with(
            &FlowLog {
                nodata: true,
                ..FlowLog::default()
            },
            Unlogged::default(),
        );
        rig.kernel.state.pass(&lookup(), Egress, 60, 0);
        rig.minute();
        let usage = rig.kernel.state.usage.entry(WEB).or_default();
        usage.conns.pool += unseen_conns;
        usage.denials.floor += unseen_denials;
        rig.collector.retire(WEB);
        let window = rig.close();
        assert_eq!((rig.kernel.state.conns.len(), &window.drained), (0, &want));
        assert_eq!(rig.lines(&window), [""; 0], "a retired ENI is not silent, it is gone");
    }
}

#[test]
fn an_eni_that_moves_to_another_slot_has_one_record_for_a_flow() {
    let mut rig = Rig::new();
    let here = lookup();
    let there = Flow { slot: 3, ..here };
    rig.kernel.state.pass(&here, Egress, 60, 0);
    rig.collector.retire(WEB);
    rig.collector.bind(3, LoggedEni::new(super::web(), "111122223333"));
    rig.kernel.state.pass(&there, Egress, 60, 0);
    assert_eq!(rig.minute(), ["web 10.0.1.15 10.0.1.20 40000 53 17 2 120 0-60 ACCEPT"]);
}

#[test]
fn what_belongs_to_no_task_is_counted_and_goes() {
    let mut rig = Rig::new();
    let flow = Flow { slot: 9, ..lookup() };
    rig.kernel.state.pass(&flow, Egress, 60, 0);
    rig.kernel.state.pass(&flow, Ingress, 60, 0);
    rig.kernel.state.deny(&flow, Egress, DropReason::NoRule, 60, 0);
    rig.kernel.state.pass(&Flow { slot: DB, ..flow }, Egress, 60, 0);
    let window = rig.close();
    assert_eq!((window.unattributed.flows, window.unattributed.packets), (3, 3));
    assert_eq!(
        rig.lines(&window),
        ["db 10.0.1.20 10.0.1.20 40000 53 17 1 60 0-60 ACCEPT"]
    );
    rig.close();
    rig.close();
    assert_eq!((rig.kernel.state.conns.len(), rig.kernel.state.denials.len()), (0, 0));
}
