//! Two configurations that differ in two places each, switched thousands of times: packets with the same verdict in both
//! never get the verdict that a mixture would give.

use std::{
    sync::atomic::AtomicBool,
    thread::{self, ScopedJoinHandle},
};

use anyhow::ensure;
use taskgate_compiler::ImageSize;
use taskgate_model::Protocol;
use testkit::{
    fixture::model::{gated, group, member, model, tcp_to},
    sandbox::sandbox,
};

use super::*;

const SIZE: ImageSize = ImageSize {
    member_banks: 4,
    policy_banks: 2,
};
const SWITCHES: u32 = 2_000;
/// The addresses of the peer whose groups change, of the exempt host, and the second addresses of the task, which it has
/// in one configuration only.
const PEER: [&str; 2] = ["10.9.0.77", "2001:db8:9::77"];
const EXEMPT: [&str; 2] = ["192.0.2.9", "2001:db8:ffff::9"];
const SECOND_OWN: [&str; 2] = ["10.9.0.6", "2001:db8:9::6"];
const ANYBODY: [&str; 2] = ["198.51.100.1", "2001:db8:eeee::1"];

/// Whose packets are denied in both configurations, by a different place of each; and whose pass.
const NEVER: u16 = 1001;
const ALWAYS: u16 = 1002;
const NEVER_SECOND: u16 = 1003;

/// The parts in which the two configurations differ: each as in the second configuration, or as in the first.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "each is one of two configurations' part")]
struct Parts {
    /// Rules: which group reaches which port, and whether any peer reaches the third one.
    rules: bool,
    /// Members: the peer's group, and the task's addresses.
    members: bool,
    /// The exempt list.
    exempt: bool,
    /// The task's own row: whether it is isolated, so that it can open nothing.
    slot: bool,
}

impl Parts {
    const fn all(second: bool) -> Self {
        Self {
            rules: second,
            members: second,
            exempt: second,
            slot: second,
        }
    }
}

fn configuration(parts: Parts) -> (Model, Vec<IpAddr>) {
    // First: 1001 from group 1, of which the peer is not a member; second: from group 2, of which it is then not a
    // member.
    let (with, without) = if parts.rules {
        ("group:2", "group:1")
    } else {
        ("group:1", "group:2")
    };
    let mut rules = vec![(tcp_to(NEVER, NEVER), with), (tcp_to(ALWAYS, ALWAYS), without)];
    if parts.rules {
        rules.extend(["0.0.0.0/0", "::/0"].map(|net| (tcp_to(NEVER_SECOND, NEVER_SECOND), net)));
    }
    // No rule allows the exempt host; the second place that would have to allow it is the rules.
    let egress: &[(Protocol, &str)] = &[];
    let groups = vec![
        group("web", &rules, egress),
        group("one", &[], &[]),
        group("two", &[], &[]),
    ];
    let peer_group = if parts.members { 1 } else { 2 };
    let mut own = vec![TASK4, TASK6];
    if !parts.members {
        own.extend(SECOND_OWN);
    }
    let enis = vec![gated("task", &own, &[0]), member("peer", &PEER, &[peer_group])];
    let exempt = if parts.exempt {
        Vec::new()
    } else {
        EXEMPT.map(at).to_vec()
    };
    (model(groups, enis), exempt)
}

fn compiled(writer: &mut Writer<'_>, parts: Parts) -> Result<Compiled> {
    let (model, exempt) = configuration(parts);
    // The first configuration isolates the task and would let it reach the exempt host, the second does neither.
    let scope = Scope {
        exempt: &exempt,
        isolated: !parts.slot,
    };
    writer.compile(&model, scope)
}

/// The packets of both families whose verdict shows a mixture: name, gate, whether both configurations let it pass, and
/// the frame with this source port.
fn probes(own: &str, family: usize, port: u16) -> [(&'static str, Direction, bool, Vec<u8>); 4] {
    let frame = |from, to, to_port| syn(at(from), port, at(to), to_port);
    [
        (
            "the peer to the first port",
            Direction::Ingress,
            false,
            frame(PEER[family], own, NEVER),
        ),
        (
            "the peer to the second port",
            Direction::Ingress,
            true,
            frame(PEER[family], own, ALWAYS),
        ),
        (
            "anybody to the second address",
            Direction::Ingress,
            false,
            frame(ANYBODY[family], SECOND_OWN[family], NEVER_SECOND),
        ),
        (
            "the task to the exempt host",
            Direction::Egress,
            false,
            frame(own, EXEMPT[family], 80),
        ),
    ]
}

/// Each family's packets, by a number that makes them new.
fn ask(gates: &[OwnedFd; 2], number: u64) -> Result<Vec<(&'static str, bool, bool)>> {
    let mut asked = Vec::new();
    for (family, own) in [TASK4, TASK6].into_iter().enumerate() {
        let port = 1024 + (number % 20_000) as u16;
        for (name, direction, expected, frame) in probes(own, family, port) {
            asked.push((name, expected, passes(&gates[direction.index()], &frame)?));
        }
    }
    Ok(asked)
}

/// Whether a probe can show a mixture. With isolation, the first configuration denies the packet that otherwise always
/// passes: see `parts`.
fn is_told(name: &str, isolates: bool) -> bool {
    !isolates || name != "the peer to the second port"
}

fn hammer(isolates: bool, parts: impl Fn(bool) -> Parts) -> Result<()> {
    let loaded = Loaded::new(SIZE)?;
    let mut writer = Writer::new(&loaded.image, SIZE)?;
    let gates = [loaded.program(Direction::Egress)?, loaded.program(Direction::Ingress)?];
    ensure!(Direction::Egress.index() == 0);
    let both = [
        compiled(&mut writer, parts(false))?,
        compiled(&mut writer, parts(true))?,
    ];
    writer.switch(&both[0])?;
    writer.bind()?;

    // Both configurations answer as expected, and each probe would show a mixture.
    for which in &both {
        writer.switch(which)?;
        for (name, expected, passed) in ask(&gates, 1)? {
            ensure!(!is_told(name, isolates) || passed == expected, "{name}");
        }
        loaded.forget_flows()?;
    }
    let mut told = std::collections::BTreeSet::new();
    for bits in 1..15_u8 {
        let mixed = Parts {
            rules: parts(bits & 1 != 0).rules,
            members: parts(bits & 2 != 0).members,
            exempt: parts(bits & 4 != 0).exempt,
            slot: parts(bits & 8 != 0).slot,
        };
        let mixture = compiled(&mut writer, mixed)?;
        writer.switch(&mixture)?;
        let asked = ask(&gates, u64::from(bits))?;
        told.extend(
            asked
                .into_iter()
                .filter(|(_, expected, passed)| passed != expected)
                .map(|(name, ..)| name),
        );
        loaded.forget_flows()?;
    }
    let names: Vec<&str> = probes(TASK4, 0, 1).into_iter().map(|(name, ..)| name).collect();
    let blind = usize::from(!isolates);
    ensure!(told.len() >= names.len() - blind, "only {told:?} tell a mixture");

    writer.switch(&both[1])?;
    loaded.forget_flows()?;
    let ended = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let threads = [0_u64, 1].map(|first| {
            let (gates, ended) = (&gates, &ended);
            scope.spawn(move || -> Result<u64> {
                let mut asked = 0;
                while !ended.load(Relaxed) {
                    for (name, expected, passed) in ask(gates, 2 * asked + first)? {
                        let right = !is_told(name, isolates) || passed == expected;
                        ensure!(right, "a mixture: {name}, passed: {passed}, round {asked}");
                    }
                    asked += 1;
                }
                Ok(asked)
            })
        });
        let switched = (0..SWITCHES).try_for_each(|round| {
            writer.switch(&both[round as usize % 2])?;
            ensure!(!threads.iter().any(ScopedJoinHandle::is_finished), "a thread stopped");
            Ok(())
        });
        ended.store(true, Relaxed);
        let mut asked = 0;
        for thread in threads {
            asked += thread.join().expect("no panic")?;
        }
        switched.map(|()| asked)
    })?;
    ensure!(asked > 1000, "{asked}");
    Ok(())
}

/// Rules, members, addresses, the exempt list and isolation differ. The packet that otherwise always passes is not
/// watched, since the first configuration isolates the task.
#[test]
fn no_packet_is_judged_by_a_mixture_of_rules_members_exempt_hosts_and_isolation() -> Result<()> {
    sandbox(|| async { hammer(true, Parts::all) })
}

/// Without isolation, so that packets that pass in both are watched too.
#[test]
fn no_packet_is_judged_by_a_mixture_of_rules_and_members() -> Result<()> {
    let parts = |second| Parts {
        exempt: true,
        slot: true,
        ..Parts::all(second)
    };
    sandbox(|| async { hammer(false, parts) })
}
