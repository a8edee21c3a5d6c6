//! Streams: filter, interval, and the lines without a flow.

use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
    },
    wire::{TCP, UDP, tcp},
};
use taskgate_model::{Eni, FlowLog, Traffic};
use taskgate_tables::UsageState;

use super::{
    BEGIN, DB, HELD_MOST, Rig, WEB,
    kernel::{Flow, Kernel, SECOND},
    shown, timeouts, web,
};
use crate::{Collector, LoggedEni, Stream, Unlogged, aligned, tests::reader};

fn query() -> Flow {
    Flow::new(WEB, TCP, ("10.0.1.15", 49152), ("10.0.1.20", 5432))
}

fn log(traffic: Traffic, interval: u32, nodata: bool) -> FlowLog {
    FlowLog {
        traffic,
        interval,
        nodata,
        ..FlowLog::default()
    }
}

fn rig(log: &FlowLog) -> Rig {
    Rig::with(log, Unlogged::default())
}

fn lose(rig: &mut Rig, slot: u16, passed: u64, denied: u64) {
    let usage: &mut UsageState = rig.kernel.state.usage.entry(slot).or_default();
    usage.flows_lost += passed;
    usage.denials_lost += denied;
}

#[test]
fn a_flow_log_has_the_action_that_it_asks_for() {
    let accept = "web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 0-60 ACCEPT";
    let reject = "web 10.0.1.20 10.0.1.15 5432 49152 6 1 70 0-60 REJECT";
    for (traffic, want) in [
        (Traffic::All, &[accept, reject][..]),
        (Traffic::Accept, &[accept]),
        (Traffic::Reject, &[reject]),
    ] {
        let mut rig = rig(&log(traffic, 60, false));
        rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
        rig.kernel.state.deny(&query(), Ingress, DropReason::NoRule, 70, 0);
        assert_eq!(rig.minute(), want, "{traffic:?}");
    }
}

#[test]
fn what_was_lost_is_said_once_after_the_enis_flows() {
    let mut rig = rig(&log(Traffic::All, 60, false));
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    lose(&mut rig, WEB, 0, 7);
    lose(&mut rig, DB, 3, 1);
    assert_eq!(
        rig.minute(),
        [
            "db 0-60 SKIPDATA",
            "web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 0-60 ACCEPT",
            "web 0-60 SKIPDATA"
        ]
    );
    assert_eq!(rig.minute(), [""; 0]);
    lose(&mut rig, WEB, 0, 1);
    assert_eq!(rig.minute(), ["web 120-180 SKIPDATA"]);
}

#[test]
fn a_filter_speaks_only_of_its_own_losses() {
    for (traffic, want) in [
        (Traffic::All, &["db 0-60 SKIPDATA", "web 0-60 SKIPDATA"][..]),
        (Traffic::Accept, &["db 0-60 SKIPDATA"]),
        (Traffic::Reject, &["web 0-60 SKIPDATA"]),
    ] {
        let mut rig = rig(&log(traffic, 60, false));
        lose(&mut rig, DB, 1, 0);
        lose(&mut rig, WEB, 0, 1);
        assert_eq!(rig.minute(), want, "{traffic:?}");
    }
}

#[test]
fn silence_is_said_only_where_asked_for_and_only_of_enis_that_have_spoken() {
    for nodata in [false, true] {
        let mut rig = rig(&log(Traffic::All, 60, nodata));
        assert_eq!(rig.minute(), [""; 0]);
        rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
        assert_eq!(
            rig.minute(),
            ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 60-120 ACCEPT"]
        );
        let silence = |line: &str| if nodata { vec![line.to_owned()] } else { Vec::new() };
        assert_eq!(rig.minute(), silence("web 120-180 NODATA"));
        lose(&mut rig, WEB, 1, 0);
        assert_eq!(rig.minute(), ["web 180-240 SKIPDATA"]);
        // An ENI that is bound again is still active; a retired one gets no NODATA.
        rig.collector.bind(WEB, LoggedEni::new(web(), "111122223333"));
        assert_eq!(rig.minute(), silence("web 240-300 NODATA"));
        rig.collector.retire(WEB);
        assert_eq!(rig.minute(), [""; 0]);
    }
}

#[test]
fn an_eni_whose_traffic_is_filtered_out_is_not_silent() {
    let mut rig = rig(&log(Traffic::Reject, 60, true));
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    assert_eq!(rig.minute(), [""; 0]);
    assert_eq!(rig.minute(), ["web 60-120 NODATA"]);
}

#[test]
fn a_long_interval_has_one_record_for_all_its_windows() {
    let mut rig = rig(&log(Traffic::All, 180, true));
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    let mut windows = vec![rig.close()];
    rig.kernel.state.pass(&query(), Egress, 40, tcp::FIN);
    rig.kernel.state.deny(&query(), Ingress, DropReason::NoRule, 70, 0);
    lose(&mut rig, WEB, 1, 0);
    windows.extend([rig.close(), rig.close(), rig.close()]);
    let lines: Vec<_> = windows.iter().map(|window| rig.lines(window)).collect();
    assert_eq!(
        lines,
        [
            &[][..],
            &[],
            &[
                "web 10.0.1.15 10.0.1.20 49152 5432 6 2 100 0-180 ACCEPT",
                "web 10.0.1.20 10.0.1.15 5432 49152 6 1 70 0-180 REJECT",
                "web 0-180 SKIPDATA",
            ],
            &[],
        ]
    );
    rig.wait(20);
    let window = rig.close_final();
    assert_eq!(rig.lines(&window), ["web 180-260 NODATA"]);
}

#[test]
fn flow_logs_of_any_intervals_read_the_same_windows() {
    let logs = [
        log(Traffic::All, 90, false),
        log(Traffic::All, 60, false),
        log(Traffic::Reject, 20, false),
    ];
    let mut kernel = Kernel::new();
    let unlogged = Unlogged::default();
    let mut collector = Collector::begin(&mut kernel, 0, BEGIN + 5, &logs, unlogged, timeouts()).expect("a collector");
    collector.bind(WEB, LoggedEni::new(web(), "111122223333"));
    let mut streams = logs
        .clone()
        .map(|log| Stream::new(&log, aligned(BEGIN + 5, log.interval), HELD_MOST));
    let mut lines = [const { Vec::new() }; 3];
    let mut ends = Vec::new();
    let mut now = BEGIN + 5;
    while now < BEGIN + 180 {
        kernel.state.pass(&query(), Egress, 10, 0);
        kernel.state.deny(&query(), Ingress, DropReason::NoRule, 1, 0);
        let left = collector.time_left(std::time::Duration::from_secs(now)).as_secs();
        now += left;
        kernel.state.clock += left as u32 * SECOND;
        let window = collector.close_window(&mut kernel, now).expect("a window");
        ends.push(window.bounds.end - BEGIN);
        for (stream, lines) in streams.iter_mut().zip(&mut lines) {
            lines.extend(shown(&stream.push(&window, true)));
        }
    }
    assert_eq!(ends, [20, 40, 60, 80, 90, 100, 120, 140, 160, 180]);
    assert_eq!(
        lines[0],
        [
            "web 10.0.1.15 10.0.1.20 49152 5432 6 5 50 0-90 ACCEPT",
            "web 10.0.1.20 10.0.1.15 5432 49152 6 5 5 0-90 REJECT",
            "web 10.0.1.15 10.0.1.20 49152 5432 6 5 50 90-180 ACCEPT",
            "web 10.0.1.20 10.0.1.15 5432 49152 6 5 5 90-180 REJECT",
        ]
    );
    assert_eq!(
        lines[1],
        [
            "web 10.0.1.15 10.0.1.20 49152 5432 6 3 30 0-60 ACCEPT",
            "web 10.0.1.20 10.0.1.15 5432 49152 6 3 3 0-60 REJECT",
            "web 10.0.1.15 10.0.1.20 49152 5432 6 4 40 60-120 ACCEPT",
            "web 10.0.1.20 10.0.1.15 5432 49152 6 4 4 60-120 REJECT",
            "web 10.0.1.15 10.0.1.20 49152 5432 6 3 30 120-180 ACCEPT",
            "web 10.0.1.20 10.0.1.15 5432 49152 6 3 3 120-180 REJECT",
        ]
    );
    let packets = [1, 1, 1, 1, 2, 1, 1, 1, 1];
    let ninth = |(at, packets): (usize, &u64)| {
        let (start, end) = (20 * at, 20 * at + 20);
        format!("web 10.0.1.20 10.0.1.15 5432 49152 6 {packets} {packets} {start}-{end} REJECT")
    };
    assert_eq!(lines[2], packets.iter().enumerate().map(ninth).collect::<Vec<_>>());
}

#[test]
fn the_line_is_that_of_version_2_to_the_letter() {
    let mut rig = rig(&log(Traffic::All, 60, true));
    let v6 = Flow::new(WEB, TCP, ("2001:db8:1::15", 443), ("2001:db8::1", 50000));
    let refused = Flow::new(DB, TCP, ("10.0.1.20", 5432), ("10.0.1.15", 49152));
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    rig.kernel.state.pass(&v6, Ingress, 80, tcp::SYN);
    rig.kernel
        .state
        .deny(&refused, Ingress, DropReason::NoRule, 60, tcp::SYN);
    lose(&mut rig, DB, 0, 1);
    let window = rig.close();
    let mut text = rig.stream.push(&window, true).to_vec();
    let window = rig.close();
    text.extend(rig.stream.push(&window, true));
    assert_eq!(
        std::str::from_utf8(&text).expect("text"),
        "\
2 999988887777 eni-000000000000000db 10.0.1.15 10.0.1.20 49152 5432 6 1 60 1767225600 1767225660 REJECT OK
2 999988887777 eni-000000000000000db - - - - - - - 1767225600 1767225660 - SKIPDATA
2 111122223333 eni-00000000000000web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 1767225600 1767225660 ACCEPT OK
2 111122223333 eni-00000000000000web 2001:db8::1 2001:db8:1::15 50000 443 6 1 80 1767225600 1767225660 ACCEPT OK
2 999988887777 eni-000000000000000db - - - - - - - 1767225660 1767225720 - NODATA
2 111122223333 eni-00000000000000web - - - - - - - 1767225660 1767225720 - NODATA
"
    );
    assert_eq!(reader::read(&text).len(), 6);
}

#[test]
fn a_flow_log_may_be_about_some_tasks_alone() {
    let log = FlowLog {
        tasks: vec![String::from("web-1")],
        nodata: true,
        ..FlowLog::default()
    };
    let mut rig = Rig::with(&log, Unlogged::default());
    let named = Eni {
        task: Some(String::from("Web-1")),
        ..web()
    };
    rig.collector.bind(WEB, LoggedEni::new(named, "111122223333"));
    rig.kernel.state.pass(&query(), Egress, 60, tcp::SYN);
    let other = Flow::new(DB, UDP, ("10.0.1.20", 53), ("10.9.0.1", 5000));
    rig.kernel.state.pass(&other, Egress, 70, 0);
    assert_eq!(rig.minute(), ["web 10.0.1.15 10.0.1.20 49152 5432 6 1 60 0-60 ACCEPT"]);
    assert_eq!(rig.minute(), ["web 60-120 NODATA"]);
}
