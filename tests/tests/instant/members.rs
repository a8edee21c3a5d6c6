//! Many members: each is found, refused if there is no room, and never taken for another while members come and go.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    sync::atomic::AtomicBool,
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::ensure;
use taskgate_ebpf::{
    abi::image::{LEAST_MEMBER_BANKS, member_room},
    host::HostTables,
    policy::{Control, Rows},
};
use testkit::{
    fixture::model::{gated, group, member, model, tcp_to},
    sandbox::sandbox,
};

use super::*;

/// The port that members of `CLIENTS` may reach, and the one for the other members.
const PORTS: [u16; 2] = [443, 444];
const CLIENTS: usize = 1;

/// The addresses of a member, by its number: one of each family.
fn addresses(number: u32) -> [IpAddr; 2] {
    let v4 = Ipv4Addr::from(0x0b00_0000 + number);
    // Both halves differ.
    let v6 = 0x2001_0db8_0000_0000_u128 << 64 | u128::from(number) << 64 | u128::from(number ^ 0x5555);
    [v4.into(), Ipv6Addr::from(v6).into()]
}

/// Members with these numbers, the even ones in `CLIENTS` and the others in the next group; each has both of its
/// addresses.
fn with_members(numbers: impl Iterator<Item = u32>) -> Model {
    let anywhere = [tcp_to(PORTS[0], PORTS[0]), tcp_to(PORTS[1], PORTS[1])];
    let groups = vec![
        group("web", &[(anywhere[0], "group:1"), (anywhere[1], "group:2")], &[]),
        group("clients", &[], &[]),
        group("others", &[], &[]),
    ];
    let mut enis = vec![gated("task", &[TASK4, TASK6], &[0])];
    enis.extend(numbers.map(|number| Eni {
        addresses: addresses(number).to_vec(),
        ..member(&format!("eni-{number}"), &[], &[CLIENTS + number as usize % 2])
    }));
    model(groups, enis)
}

/// Whether a member's packets pass to each of the two ports, from each of its addresses.
fn verdicts(program: &OwnedFd, number: u32, from_port: u16) -> Result<[[bool; 2]; 2]> {
    let mut found = [[false; 2]; 2];
    for ((from, to), found) in addresses(number).into_iter().zip([TASK4, TASK6]).zip(&mut found) {
        for (port, found) in PORTS.into_iter().zip(found) {
            *found = passes(program, &syn(from, from_port, at(to), port))?;
        }
    }
    Ok(found)
}

/// The expected verdicts of a member that is present.
fn expected(number: u32) -> [[bool; 2]; 2] {
    [[number.is_multiple_of(2), !number.is_multiple_of(2)]; 2]
}

#[test]
fn a_million_members_are_found() -> Result<()> {
    const MEMBERS: u32 = 500_000;
    sandbox(|| async {
        let model = with_members(0..MEMBERS);
        let began = Instant::now();
        let (mut rule_ids, mut sets) = (RuleIds::default(), GroupSetIds::default());
        let gate = |eni: &Eni| eni.binding.is_some().then_some(NO_LIMITS);
        let options = CompileOptions {
            gate: &gate,
            exempt: &[],
            dhcp: false,
        };
        let compiled = Compiled::new(&model, options, &mut rule_ids, &mut sets)?;
        let took = began.elapsed();
        ensure!(compiled.addresses() == 2 * MEMBERS as usize + 2);
        let size = ImageSize::of(&compiled)?;
        ensure!(size.members() > 1_250_000, "{size:?}");
        let loaded = Loaded::new(size)?;
        let mut writer = Writer::new(&loaded.image, size)?;
        let began = Instant::now();
        writer.switch(&compiled)?;
        ensure!(took + began.elapsed() < Duration::from_mins(1), "seconds, not minutes");
        writer.bind()?;

        // All of them, as the program reads them.
        let tables = HostTables::new(&loaded.image, 0);
        let rows = Rows::read(&tables, Control::read(&tables).context("no image")?).context("no rows")?;
        let set = |number: u32| addresses(number).map(|address| rows.address(&tables, address.into()).group_set);
        let sets = [0, 1].map(set);
        ensure!(sets[0][0] != 0 && sets[1][0] != 0 && sets[0] != sets[1]);
        for number in 0..MEMBERS {
            ensure!(set(number) == sets[number as usize % 2], "member {number}");
        }
        // Some of the members through the program, and some addresses that are not members.
        let program = loaded.program(Direction::Ingress)?;
        for number in (0..MEMBERS).step_by(97) {
            ensure!(verdicts(&program, number, 1024)? == expected(number), "member {number}");
        }
        for number in MEMBERS..MEMBERS + 500 {
            ensure!(
                verdicts(&program, number, 1024)? == [[false; 2]; 2],
                "stranger {number}"
            );
        }
        // None is found in a generation without members; then all are found again, in their previous places.
        let none = writer.compile(&with_members(0..0), Scope::default())?;
        writer.switch(&none)?;
        for number in (0..MEMBERS).step_by(997) {
            ensure!(verdicts(&program, number, 1025)? == [[false; 2]; 2], "member {number}");
        }
        writer.switch(&none)?;
        writer.switch(&compiled)?;
        for number in (0..MEMBERS).step_by(997) {
            ensure!(verdicts(&program, number, 1026)? == expected(number), "member {number}");
        }
        Ok(())
    })
}

#[test]
fn one_member_too_many_is_refused_and_nothing_changes() -> Result<()> {
    sandbox(|| async {
        let size = ImageSize {
            member_banks: LEAST_MEMBER_BANKS,
            policy_banks: 2,
        };
        let loaded = Loaded::new(size)?;
        let mut writer = Writer::new(&loaded.image, size)?;
        let all = member_room(LEAST_MEMBER_BANKS) / 2 - 1;
        let fits = writer.compile(&with_members(0..all), Scope::default())?;
        writer.switch(&fits)?;
        writer.bind()?;
        let program = loaded.program(Direction::Ingress)?;
        let one_more = writer.compile(&with_members(1..all + 2), Scope::default())?;
        let refused = writer
            .switch(&one_more)
            .expect_err("more than there is room for")
            .to_string();
        ensure!(
            refused
                == "cannot bring 65538 addresses of group members and exempt hosts into an image with room for 65536: \
                    restart taskgate, which takes its gates and connections over with a larger one",
            "{refused}"
        );
        // A partly applied configuration would have removed member 0.
        for number in (0..all).step_by(499).chain([all - 1]) {
            ensure!(verdicts(&program, number, 1024)? == expected(number), "member {number}");
        }
        ensure!(verdicts(&program, all, 1024)? == [[false; 2]; 2]);
        Ok(())
    })
}

/// 10,000 members come and go, and their rows and words are used again for other members, while packets of all of them
/// are judged.
#[test]
fn no_packet_meets_groups_of_another_while_members_come_and_go() -> Result<()> {
    const STAY: u32 = 2_000;
    const SWITCHES: u64 = 200;
    sandbox(|| async {
        let size = ImageSize {
            member_banks: 4,
            policy_banks: 2,
        };
        let loaded = Loaded::new(size)?;
        let mut writer = Writer::new(&loaded.image, size)?;
        // Even members come with even generations, odd ones with odd generations, different ones each time.
        let coming = |generation: u64| {
            let round = (generation % 6) as u32;
            (0..5_000).map(move |at| STAY + 2 * (5_000 * (round / 2) + at) + round % 2)
        };
        let generations: Vec<Compiled> = (0..6)
            .map(|generation| writer.compile(&with_members((0..STAY).chain(coming(generation))), Scope::default()))
            .collect::<Result<_>>()?;
        writer.switch(&generations[0])?;
        writer.bind()?;
        let program = loaded.program(Direction::Ingress)?;
        let ended = AtomicBool::new(false);
        let hammered = thread::scope(|scope| {
            let hammer = |first: u32| {
                let (program, ended) = (&program, &ended);
                scope.spawn(move || -> Result<u64> {
                    let (mut number, mut packets) = (first, 0);
                    while !ended.load(Relaxed) {
                        number = (number + 7) % (STAY + 30_000);
                        let found = verdicts(program, number, 1024)?;
                        packets += 4;
                        for found in found {
                            let other = found[1 - number as usize % 2];
                            ensure!(!other, "member {number} was taken for one of the other group");
                            ensure!(
                                number >= STAY || found[number as usize % 2],
                                "member {number} was not found"
                            );
                        }
                    }
                    Ok(packets)
                })
            };
            let threads = [hammer(0), hammer(3)];
            let switched = (1..=SWITCHES).try_for_each(|round| {
                writer.switch(&generations[(round % 6) as usize])?;
                if threads.iter().any(ScopedJoinHandle::is_finished) {
                    bail!("a thread stopped");
                }
                Ok(())
            });
            ended.store(true, Relaxed);
            let mut packets = 0;
            for thread in threads {
                packets += thread.join().expect("no panic")?;
            }
            switched.map(|()| packets)
        })?;
        ensure!(hammered > 10_000, "{hammered}");
        Ok(())
    })
}
