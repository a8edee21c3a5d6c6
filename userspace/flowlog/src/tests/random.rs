//! With any events in any order, every counted packet is in exactly one record.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    rc::Rc,
};

use proptest::{collection::vec, prelude::*};
use taskgate_ebpf::{
    abi::{
        Direction::{self, Egress, Ingress},
        DropReason,
    },
    wire::{ICMP, TCP, UDP, tcp},
};

use super::{
    DB, Rig, WEB,
    kernel::{Flow, State, Step},
    reader,
};
use crate::Window;

/// A packet at a gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet {
    pub(super) slot: u16,
    pub(super) own: u8,
    pub(super) peer: u8,
    pub(super) protocol: u8,
    pub(super) direction: Direction,
    pub(super) denied: Option<DropReason>,
    pub(super) bytes: u64,
    pub(super) tcp_flags: u8,
}

/// A random event.
#[derive(Clone, Debug)]
enum Event {
    Packet(Packet),
    Wait(u32),
    Close,
    /// A close with packets during it, each before the step with its number.
    BusyClose(Vec<(u8, Packet)>),
    Sweep(bool, Vec<(u8, Packet)>),
    Epoch(u16),
    /// Sets every connection to a closed state.
    AllDone,
}

impl Packet {
    fn flow(&self) -> Flow {
        let own = match self.slot {
            WEB => ["10.0.1.15", "10.0.1.16", "192.0.2.9", "2001:db8:1::15"][self.own as usize],
            _ => ["10.0.1.20", "10.0.1.20", "192.0.2.9", "2001:db8:1::20"][self.own as usize],
        };
        let peer = if own.contains(':') {
            format!("2001:db8::{}", self.peer)
        } else {
            format!("10.9.0.{}", self.peer)
        };
        Flow::new(
            self.slot,
            self.protocol,
            (own, 443),
            (&peer, 5000 + u16::from(self.peer)),
        )
    }

    pub(super) fn play(&self, state: &mut State) {
        match self.denied {
            Some(reason) => state.deny(&self.flow(), self.direction, reason, self.bytes, self.tcp_flags),
            None => state.pass(&self.flow(), self.direction, self.bytes, self.tcp_flags),
        }
    }
}

pub(super) fn packet() -> impl Strategy<Value = Packet> {
    (
        prop_oneof![Just(WEB), Just(DB)],
        0..4_u8,
        0..3_u8,
        prop_oneof![Just(TCP), Just(UDP), Just(ICMP), Just(47)],
        prop_oneof![Just(Egress), Just(Ingress)],
        prop_oneof![3 => Just(None), 1 => Just(Some(DropReason::NoRule)), 1 => Just(Some(DropReason::SpoofedSource))],
        20..1500_u64,
        0..32_u8,
    )
        .prop_map(
            |(slot, own, peer, protocol, direction, denied, bytes, tcp_flags)| Packet {
                slot,
                own,
                peer,
                protocol,
                direction,
                denied,
                bytes,
                tcp_flags,
            },
        )
}

fn event() -> impl Strategy<Value = Event> {
    let busy = || vec((0..12_u8, packet()), 0..8);
    prop_oneof![
        60 => packet().prop_map(Event::Packet),
        10 => (1..40_u32).prop_map(Event::Wait),
        8 => Just(Event::Close),
        8 => busy().prop_map(Event::BusyClose),
        6 => (any::<bool>(), busy()).prop_map(|(unreported, packets)| Event::Sweep(unreported, packets)),
        2 => prop_oneof![Just(WEB), Just(DB)].prop_map(Event::Epoch),
        4 => Just(Event::AllDone),
    ]
}

/// ENI, source, destination, ports, protocol, action.
pub(super) type Name = (String, IpAddr, IpAddr, u16, u16, u8, String);

/// Packets, bytes and `tcp-flags` of each flow.
type Sums = BTreeMap<Name, (u64, u64, u8)>;

fn add(sums: &mut Sums, name: Name, packets: u64, bytes: u64, tcp_flags: u8) {
    let sum = sums.entry(name).or_default();
    *sum = (sum.0 + packets, sum.1 + bytes, sum.2 | tcp_flags);
}

impl Packet {
    /// The flow's name in AWS's format at an ENI with this id and primary address, computed independently of the code under test.
    pub(super) fn name(&self, (id, primary): (&str, &str)) -> Name {
        let flow = self.flow();
        let own = if flow.local.0.is_ipv4() {
            primary.parse().expect("an address")
        } else {
            flow.local.0
        };
        let ports = if matches!(self.protocol, TCP | UDP) {
            (flow.local.1, flow.remote.1)
        } else {
            (0, 0)
        };
        let (source, destination, from, to) = match self.direction {
            Egress => (own, flow.remote.0, ports.0, ports.1),
            Ingress => (flow.remote.0, own, ports.1, ports.0),
        };
        let action = if self.denied.is_some() { "REJECT" } else { "ACCEPT" };
        (
            id.to_owned(),
            source,
            destination,
            from,
            to,
            self.protocol,
            action.to_owned(),
        )
    }
}

/// The expected sums of counted packets.
fn counted(packets: &[Packet]) -> Sums {
    let mut sums = Sums::new();
    for packet in packets {
        let name = packet.name(match packet.slot {
            WEB => ("eni-00000000000000web", "10.0.1.15"),
            _ => ("eni-000000000000000db", "10.0.1.20"),
        });
        let syn_ack = tcp::SYN | tcp::ACK;
        let mut flags = packet.tcp_flags & (tcp::FIN | tcp::SYN | tcp::RST);
        if packet.tcp_flags & syn_ack == syn_ack {
            flags |= syn_ack;
        }
        add(&mut sums, name, 1, packet.bytes, flags);
    }
    sums
}

/// Adds the counts in a window's lines, and the TCP flags of its records, which the lines lack.
fn tell(sums: &mut Sums, rig: &mut Rig, window: &Window) {
    let lines = reader::read(&rig.stream.push(window, true));
    assert_eq!(lines.len(), window.records.len());
    let mut seen = HashSet::new();
    for (line, record) in lines.into_iter().zip(&window.records) {
        let flow = line.flow.expect("nothing was lost and nobody asked for silence");
        let ports = (flow.source_port, flow.destination_port);
        let name = (
            line.eni,
            flow.source,
            flow.destination,
            ports.0,
            ports.1,
            flow.protocol,
            flow.action,
        );
        assert!(seen.insert(name.clone()), "two lines of one window for {name:?}");
        add(sums, name, flow.packets, flow.bytes, record.tcp_flags);
    }
}

/// Plays each of `packets` before the step with its number, counted over reads and removals, and adds it to `played`.
fn busy(rig: &mut Rig, packets: Vec<(u8, Packet)>, played: &Rc<RefCell<Vec<Packet>>>) {
    let played = Rc::clone(played);
    let mut at = 0;
    rig.kernel.between = Box::new(move |state, step| {
        if !matches!(step, Step::Usage(_)) {
            for (_, packet) in packets.iter().filter(|(step, _)| *step == at) {
                packet.play(state);
                played.borrow_mut().push(*packet);
            }
            at += 1;
        }
        Ok(())
    });
}

fn run(events: Vec<Event>) {
    let mut rig = Rig::new();
    let played = Rc::new(RefCell::new(Vec::new()));
    let mut told = Sums::new();
    for event in events {
        match event {
            Event::Packet(packet) => {
                packet.play(&mut rig.kernel.state);
                played.borrow_mut().push(packet);
            }
            Event::Wait(seconds) => rig.wait(seconds),
            Event::Close => {
                let window = rig.try_close().expect("a window");
                tell(&mut told, &mut rig, &window);
            }
            Event::BusyClose(packets) => {
                busy(&mut rig, packets, &played);
                let window = rig.try_close().expect("a window");
                tell(&mut told, &mut rig, &window);
            }
            Event::Sweep(unreported, packets) => {
                busy(&mut rig, packets, &played);
                rig.gc(unreported);
            }
            Event::Epoch(slot) => *rig.kernel.state.epochs.entry(slot).or_default() += 1,
            Event::AllDone => {
                for conn in rig.kernel.state.conns.values_mut() {
                    conn.state = 0xf0;
                }
            }
        }
        rig.kernel.between = Box::new(|_, _| Ok(()));
        // The next reading sees some entries twice.
        let keys = rig.kernel.state.conns.keys().chain(rig.kernel.state.denials.keys());
        rig.kernel.twice = keys.copied().step_by(3).collect();
    }
    let window = rig.close_final();
    tell(&mut told, &mut rig, &window);
    assert_eq!(told, counted(&played.borrow()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_stands_in_exactly_one_record(events in vec(event(), 1000)) {
        run(events);
    }
}
