//! Packet counters of connections, which wrap at 2^32.

use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
    },
    wire::TCP,
};

use super::{Rig, WEB, kernel::Flow};

fn query() -> Flow {
    Flow::new(WEB, TCP, ("10.0.1.15", 49152), ("10.0.1.20", 5432))
}

/// A single frame of a task can count as 64,000 packets.
#[test]
fn packets_that_come_round_are_never_silent() {
    const ROUND: u64 = 1 << 32;
    let mut rig = Rig::new();
    let (passed, denied) = (query(), query().denial(Ingress, DropReason::NoRule));
    rig.kernel.state.pass(&passed, Egress, 41, 0);
    rig.kernel.state.deny(&query(), Ingress, DropReason::NoRule, 41, 0);
    rig.minute();
    for further in [0, 5] {
        // The kernel counts a connection's packets in 32 bits, and those of a denied flow in 64.
        let conn = rig.kernel.state.conn(&passed);
        conn.totals[0].packets = (conn.totals[0].packets + further) % ROUND;
        conn.totals[0].bytes += 41 * (ROUND + further);
        let denial = rig.kernel.state.denials.get_mut(&denied).expect("a denied flow");
        denial.totals.packets += ROUND + further;
        denial.totals.bytes += 41 * (ROUND + further);
        let window = rig.close();
        let [accept, reject] = &window.records[..] else {
            panic!("{:?}", window.records)
        };
        assert_eq!(accept.count.bytes, 41 * (ROUND + further));
        assert!((1..=ROUND).contains(&accept.count.packets), "{accept:?}");
        assert_eq!(
            (reject.count.packets, reject.count.bytes),
            (ROUND + further, 41 * (ROUND + further))
        );
        assert!(
            window.losses.len() == 1 && window.losses[0].passed >= ROUND,
            "{:?}",
            window.losses
        );
        rig.now += 60;
    }
}

/// A connection with much traffic is also read between two windows, so that its packet count is exact.
#[test]
fn what_carries_much_is_read_before_its_window_ends() {
    let mut rig = Rig::new();
    rig.kernel.state.pass(&query(), Egress, 60, 0);
    rig.minute();
    for _ in 0..6 {
        let conn = rig.kernel.state.conn(&query());
        conn.totals[0].packets = (conn.totals[0].packets + (1 << 30)) % (1 << 32);
        conn.totals[0].bytes += 60 << 30;
        rig.collector.read_large(&mut rig.kernel).expect("a reading");
    }
    let window = rig.close();
    assert_eq!((window.records.len(), window.losses.len()), (1, 0));
    assert_eq!(window.records[0].count.packets, 6 << 30);
}
