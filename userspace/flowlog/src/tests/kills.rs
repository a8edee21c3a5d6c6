//! A recorder that is killed at any step loses no packet and reports none twice.

use std::collections::BTreeSet;

use proptest::{collection::vec, prelude::*};
use taskgate_ebpf::{
    abi::{
        Direction::{Egress, Ingress},
        DropReason,
    },
    wire::{TCP, UDP},
};

use super::{
    DB, WEB,
    killed::{GUEST, World},
    random::{Packet, packet},
};
use crate::fault::Fault;

fn packet_of(slot: u16, peer: u8, protocol: u8, denied: bool) -> Packet {
    Packet {
        slot,
        own: 0,
        peer,
        protocol,
        direction: if denied { Ingress } else { Egress },
        denied: denied.then_some(DropReason::NoRule),
        bytes: 60 + u64::from(peer),
        tcp_flags: 2,
    }
}

/// A short run of every operation of a recorder.
fn day(world: &mut World) {
    let traffic = |world: &mut World| {
        for (slot, peer) in [(WEB, 0), (WEB, 1), (DB, 2), (GUEST, 0)] {
            world.packet(packet_of(slot, peer, TCP, false));
            world.packet(packet_of(slot, peer, UDP, false));
            world.packet(packet_of(slot, peer, UDP, true));
        }
    };
    traffic(world);
    world.wait(20);
    // In the middle of a window.
    world.free_denials();
    traffic(world);
    world.wait(40);
    world.busy(vec![
        (3, packet_of(DB, 1, UDP, false)),
        (9, packet_of(DB, 1, UDP, true)),
    ]);
    world.close();
    world.read(1);
    world.gc(false);
    world.invite();
    world.packet(packet_of(WEB, 0, UDP, false));
    world.packet(packet_of(GUEST, 0, TCP, false));
    world.kill(true);
    world.wait(35);
    // The UDP connections are idle past their time-out.
    world.busy(vec![(8, packet_of(WEB, 2, UDP, false))]);
    world.gc(true);
    world.wait(25);
    world.close();
    world.reconfigure(180);
    traffic(world);
    world.wait(60);
    world.close();
    world.read(2);
    world.rebind();
    world.invite();
    traffic(world);
    world.wait(60);
    world.close();
    world.reconfigure(60);
    traffic(world);
    world.read(9);
    world.wait(300);
    world.close();
}

/// A [`day`] with a kill after `steps` steps, and another one after `again` more. Returns the number of kills, and their points.
fn killed_day(files: bool, steps: u32, again: Option<u32>) -> (u32, BTreeSet<Fault>) {
    let mut world = World::new(files);
    World::arm(Some(steps));
    world.again = again;
    day(&mut world);
    let (kills, visited) = (world.kills, std::mem::take(&mut world.visited));
    let (counted, written) = world.end();
    for (destination, written) in written.into_iter().enumerate() {
        assert_eq!(
            written, counted,
            "killed after {steps} steps, then {again:?}, destination {destination}"
        );
    }
    (kills, visited)
}

/// Kills during a write to files, and again before and while the truncated line is completed.
fn killed_in_a_line() -> BTreeSet<Fault> {
    let mut visited = BTreeSet::new();
    for steps in 0..10 {
        for again in 0..50 {
            let mut world = World::new(true);
            for peer in 0..3 {
                world.packet(packet_of(WEB, peer, TCP, false));
            }
            world.wait(60);
            world.close();
            World::arm(Some(steps));
            world.again = Some(again);
            world.read(1);
            world.read(1);
            visited.append(&mut world.visited);
            let (counted, written) = world.end();
            assert!(
                written.iter().all(|written| *written == counted),
                "killed after {steps} steps, then {again}"
            );
        }
    }
    visited
}

#[test]
fn killed_at_any_step_records_are_exact() {
    let mut visited = BTreeSet::new();
    let mut kills = 0;
    for (files, again) in [
        (false, None),
        (false, Some(0)),
        (false, Some(22)),
        (true, None),
        (true, Some(9)),
    ] {
        for steps in 0.. {
            let (killed, mut at) = killed_day(files, steps, again);
            visited.append(&mut at);
            kills += killed;
            if killed == 0 {
                break;
            }
        }
    }
    visited.append(&mut killed_in_a_line());
    assert_eq!(visited, BTreeSet::from(Fault::ALL));
    assert!(kills > 1000, "{kills}");
}

#[derive(Clone, Debug)]
enum Event {
    Packet(Packet, bool),
    Invite,
    Wait(u32),
    Close(Vec<(u8, Packet)>),
    Gc(bool, Vec<(u8, Packet)>),
    FreeDenials(Vec<(u8, Packet)>),
    Read(u32),
    Interval(u32),
    Rebind,
    Epoch(u16),
    SetBack,
    Kill(Option<u32>, Option<u32>, bool),
}

fn event() -> impl Strategy<Value = Event> {
    let busy = || vec((0..12_u8, packet()), 0..4);
    let slot = prop_oneof![Just(WEB), Just(DB)];
    let steps = || prop::option::weighted(0.5, 0..60_u32);
    prop_oneof![
        50 => (packet(), prop::bool::weighted(0.2)).prop_map(|(packet, guest)| Event::Packet(packet, guest)),
        1 => Just(Event::Invite),
        10 => (1..70_u32).prop_map(Event::Wait),
        10 => busy().prop_map(Event::Close),
        6 => (any::<bool>(), busy()).prop_map(|(unreported, packets)| Event::Gc(unreported, packets)),
        4 => busy().prop_map(Event::FreeDenials),
        8 => (0..6_u32).prop_map(Event::Read),
        1 => prop_oneof![Just(60), Just(7), Just(180)].prop_map(Event::Interval),
        1 => Just(Event::Rebind),
        2 => slot.prop_map(Event::Epoch),
        1 => Just(Event::SetBack),
        6 => (steps(), steps(), prop::bool::weighted(0.3)).prop_map(|(first, then, invite)| Event::Kill(first, then, invite)),
    ]
}

fn run(files: bool, events: Vec<Event>) {
    let mut world = World::new(files);
    for event in events {
        match event {
            Event::Packet(mut packet, guest) => {
                if guest {
                    packet.slot = GUEST;
                }
                world.packet(packet);
            }
            Event::Invite => world.invite(),
            Event::Wait(seconds) => world.wait(seconds),
            Event::Close(packets) => {
                world.busy(packets);
                world.close();
            }
            Event::Gc(unreported, packets) => {
                world.busy(packets);
                world.gc(unreported);
            }
            Event::FreeDenials(packets) => {
                world.busy(packets);
                world.free_denials();
            }
            Event::Read(pieces) => world.read(pieces),
            Event::Interval(interval) => world.reconfigure(interval),
            Event::Rebind => world.rebind(),
            Event::Epoch(slot) => *world.kernel.state.epochs.entry(slot).or_default() += 1,
            Event::SetBack => world.now -= 90,
            Event::Kill(Some(steps), again, _) => {
                World::arm(Some(steps));
                world.again = again;
            }
            Event::Kill(None, again, invite) => {
                World::arm(again);
                world.kill(invite);
            }
        }
    }
    let (counted, written) = world.end();
    for (destination, written) in written.into_iter().enumerate() {
        assert_eq!(written, counted, "destination {destination}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn killed_at_any_time_of_any_day_records_are_exact(files in any::<bool>(), events in vec(event(), 400)) {
        run(files, events);
    }
}
