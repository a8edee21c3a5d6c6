//! Limits and full tables: one task's share is its own, and nothing that was admitted is lost.

use std::{os::fd::AsFd as _, panic::resume_unwind, thread};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use taskgate::{
    compile::{Gate, host_image},
    dataplane::flow::Used,
};
use taskgate_ebpf::{
    abi::{Direction, image::Shared},
    host::Left,
};
use taskgate_tests::{
    sandbox::sandbox,
    scene::{
        DataPath as _, Host, Kernel, Scene, Sent, Stage, all_gated,
        frames::*,
        model::{gated, udp_to},
        on_host_and_in_kernel,
    },
};

use super::*;

const OTHER4: &str = "10.9.0.6";
const OTHER6: &str = "2001:db8:9::6";

/// Two tasks that let the world in to 443, with so many connections and denied flows for each.
fn two(stage: &mut Stage<'_>, connections: u32, denials: u32, tracked: bool) -> Result<()> {
    let peer = if tracked { "10.0.0.0/8" } else { "0.0.0.0/0" };
    let mut model = with_rules(&[(tcp_to(443, 443), peer)], &[(Protocol::All, "0.0.0.0/0")]);
    model.enis.push(gated("other", &[OTHER4], &[0]));
    stage.set_with(model, &|_| {
        Some(Gate {
            connections,
            isolated: false,
        })
    })?;
    stage.scene.share(Shared::Connections, connections, 0);
    stage.scene.share(Shared::Denials, denials, 0);
    Ok(())
}

fn syn_from(port: u16, to: &str, to_port: u16) -> Vec<u8> {
    ip(at(PEER4), at(to), 6, &tcp(port, to_port, flags::SYN, b""))
}

/// The counters, what was lost, and how many entries there are.
fn sums(stage: &mut Stage<'_>) -> Result<(Vec<String>, usize, usize)> {
    let state = stage.path.state(stage.scene.highest)?;
    let lines = state.lines(&stage.scene);
    let sums = lines
        .into_iter()
        .filter(|line| line.starts_with("count") || line.starts_with("lost"));
    Ok((sums.collect(), state.conns.len(), state.denials.len()))
}

/// AWS: SG-TRACK-8
#[test]
fn a_task_over_its_limit_is_denied_and_others_are_not() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        two(stage, 3, 100, true)?;
        for port in 1000..1010 {
            assert_eq!(
                stage.ingress(&syn_from(port, TASK4, 443))?,
                port < 1003,
                "{}",
                stage.name
            );
        }
        for port in 1000..1003 {
            let answer = ip(at(TASK4), at(PEER4), 6, &tcp(443, port, flags::SYN_ACK, b""));
            assert!(stage.egress(&answer)?, "old ones live on");
            assert!(
                stage.send(Direction::Ingress, 1, &syn_from(port, OTHER4, 443))?,
                "another task's share"
            );
        }
        // An idle one makes room for itself alone.
        stage.wait(61)?;
        assert!(!stage.ingress(&syn_from(1009, TASK4, 443))?);
        assert!(stage.ingress(&syn_from(1000, TASK4, 443))?);
        let expected = [
            "count other ingress rule 3",
            "count task ingress rule 4",
            "count task ingress task-connections-full 8",
        ];
        assert_eq!(
            sums(stage)?,
            (expected.map(String::from).to_vec(), 6, 7),
            "{}",
            stage.name
        );
        Ok(())
    })
}

/// A task has its floor for certain and what is left of the pool; what comes from outside leaves a quarter of both to what
/// the task itself opens.
///
/// AWS: SG-TRACK-8
#[test]
fn a_task_has_its_floor_and_what_is_left_of_the_pool() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        let mut model = with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[(Protocol::All, "10.0.0.0/8")]);
        model.enis.push(gated("other", &[OTHER4], &[0]));
        stage.set(model)?;
        stage.scene.share(Shared::Connections, 4, 8);
        let syn_out = |port: u16, from: &str| ip(at(from), at(PEER4), 6, &tcp(port, 80, flags::SYN, b""));
        // From outside: three of the floor's four, and six of the pool's eight.
        for port in 1000..1012 {
            assert_eq!(
                stage.ingress(&syn_from(port, TASK4, 443))?,
                port < 1009,
                "{port}, {}",
                stage.name
            );
        }
        // Its own: the floor's last one, and two of the pool.
        for port in 2000..2005 {
            assert_eq!(
                stage.egress(&syn_out(port, TASK4))?,
                port < 2003,
                "{port}, {}",
                stage.name
            );
        }
        // What is never filtered needs an entry too, for its answer.
        let resolver = ip(at(TASK4), at("169.254.169.253"), 17, &udp(40000, 53, b""));
        assert!(!stage.egress(&resolver)?, "all is taken");
        // The pool is empty; another task has its floor.
        for port in 2000..2006 {
            assert_eq!(
                stage.send(Direction::Egress, 1, &syn_out(port, OTHER4))?,
                port < 2004,
                "{port}, {}",
                stage.name
            );
        }
        let expected = [
            "count other egress connections-full 2",
            "count other egress rule 4",
            "count task egress connections-full 3",
            "count task egress rule 3",
            "count task ingress connections-full 3",
            "count task ingress rule 9",
        ];
        assert_eq!(
            sums(stage)?,
            (expected.map(String::from).to_vec(), 16, 8),
            "{}",
            stage.name
        );
        let usage = stage.path.state(stage.scene.highest)?.usage;
        let used = |floor, pool| Used { floor, pool };
        assert_eq!(
            [0, 1, 2].map(|slot| usage[&slot].conns),
            [used(0, 8), used(4, 8), used(4, 0)],
            "{}",
            stage.name
        );
        assert_eq!([1, 2].map(|slot| usage[&slot].conns_refused), [6, 2], "{}", stage.name);
        // An entry counts as absent when it is idle, and its charge is its own until it is removed.
        stage.wait(61)?;
        assert!(stage.ingress(&syn_from(1000, TASK4, 443))?);
        assert!(!stage.ingress(&syn_from(1011, TASK4, 443))?);
        Ok(())
    })
}

/// The same for denied flows and first fragments, which the task's own have a quarter of, too.
#[test]
fn denied_flows_and_fragments_have_floors_and_a_pool() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        let mut model = with_rules(&[], &[(udp_to(53, 53), "10.0.0.0/8")]);
        model.enis.push(gated("other", &[OTHER4], &[0]));
        stage.set(model)?;
        stage.scene.share(Shared::Denials, 4, 4);
        let stray = |port: u16, from: &str| ip(at(from), at(PEER4), 6, &tcp(port, 80, flags::SYN, b""));
        for port in 1000..1010 {
            assert!(!stage.ingress(&syn_from(port, TASK4, 22))?);
        }
        for port in 1000..1005 {
            assert!(!stage.egress(&stray(port, TASK4))?);
            assert!(!stage.send(Direction::Egress, 1, &stray(port, OTHER4))?);
        }
        let expected = [
            "count other egress no-rule 5",
            "count task egress no-rule 5",
            "count task ingress no-rule 10",
            // Six from outside and two of its own have a record.
            "lost other flows 0 denials 1",
            "lost task flows 0 denials 7",
        ];
        assert_eq!(
            sums(stage)?,
            (expected.map(String::from).to_vec(), 0, 12),
            "{}",
            stage.name
        );

        stage.scene.share(Shared::Fragments, 4, 4);
        let piece = |number: u8, from: &str, offset: u16| {
            let more = if offset == 0 { MORE_FRAGMENTS } else { 0 };
            let mut frame = ipv4(at(from), at(PEER4), 17, &[], offset | more, &udp(40000, 53, &[0; 16]));
            frame[19] = number;
            frame
        };
        for number in 0..10 {
            assert!(stage.egress(&piece(number, TASK4, 0))?);
            assert!(stage.send(Direction::Egress, 1, &piece(number, OTHER4, 0))?);
        }
        for number in 0..10 {
            assert_eq!(
                stage.egress(&piece(number, TASK4, 3))?,
                number < 6,
                "{number}, {}",
                stage.name
            );
            assert_eq!(
                stage.send(Direction::Egress, 1, &piece(number, OTHER4, 3))?,
                number < 6,
                "{number}, {}",
                stage.name
            );
        }
        let usage = stage.path.state(stage.scene.highest)?.usage;
        assert_eq!([1, 2].map(|slot| usage[&slot].fragments_lost), [4, 4], "{}", stage.name);
        Ok(())
    })
}

/// Its charge goes with a connection that becomes another ENI's, to the account of the same kind.
#[test]
fn a_connection_of_another_eni_is_charged_to_that_one() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        let mut model = with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[]);
        // Whoever has the link has the address in hand: neither is asked for its own.
        model.enis[0].source_dest_check = false;
        model.enis.push(gated("other", &[OTHER4], &[0]));
        model.enis[1].source_dest_check = false;
        stage.set(model)?;
        stage.scene.share(Shared::Connections, 2, 4);
        for port in 1000..1003 {
            assert!(stage.ingress(&syn_from(port, TASK4, 443))?);
        }
        let used = |stage: &mut Stage<'_>| -> Result<Vec<(u64, u64)>> {
            let usage = stage.path.state(stage.scene.highest)?.usage;
            Ok([0, 1, 2]
                .map(|slot| {
                    usage
                        .get(&slot)
                        .map_or((0, 0), |usage| (usage.conns.floor, usage.conns.pool))
                })
                .to_vec())
        };
        assert_eq!(used(stage)?, [(0, 1), (2, 1), (0, 0)], "{}", stage.name);
        stage.scene.bind(*Kernel::LINKS.start(), "other")?;
        stage.scene.writer.settle(&mut || {});
        // Twice: what is moved is moved once.
        for _ in 0..2 {
            for port in 1000..1003 {
                assert!(stage.ingress(&syn_from(port, TASK4, 443))?, "{port}, {}", stage.name);
            }
        }
        assert_eq!(used(stage)?, [(0, 1), (0, 0), (2, 1)], "{}", stage.name);
        Ok(())
    })
}

/// Two CPUs that fill one task's floor and the pool at once: not one entry more than there is room for, and what is charged
/// is what is there.
#[test]
fn accounts_are_exact_where_two_cpus_insert_at_once() -> Result<()> {
    const ROUNDS: u16 = 20;
    sandbox(|| async {
        let mut turn = Kernel::turn()?;
        let kernel = turn.as_mut().context("no kernel program")?;
        for round in 0..ROUNDS {
            kernel.clear()?;
            let image = kernel.image()?;
            let mut scene = Scene::new(&image)?;
            scene.apply(with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[]), &all_gated)?;
            scene.bind(*Kernel::LINKS.start(), "task")?;
            scene.share(Shared::Connections, 80, 40);
            // Of what comes from outside: 60 and 30.
            let judge = kernel.program(Direction::Ingress)?;
            thread::scope(|scope| {
                let threads: Vec<_> = [0_u16, 1]
                    .map(|part| {
                        let judge = judge.as_fd();
                        scope.spawn(move || {
                            // Each on a CPU of its own, where there are two.
                            let mut cpu = CpuSet::new();
                            cpu.set(part.into())?;
                            sched_setaffinity(Pid::from_raw(0), &cpu).ok();
                            (0..100).try_for_each(|port| {
                                let frame = syn_from(1000 + 2 * port + part, TASK4, 443);
                                Kernel::run(judge, &frame, *Kernel::LINKS.start())
                            })
                        })
                    })
                    .into();
                threads
                    .into_iter()
                    .try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            })?;
            let state = kernel.state(scene.highest)?;
            let used = state.usage[&1].conns;
            assert_eq!(state.conns.len() as u64, used.total(), "round {round}");
            assert!(used.floor <= 60 && used.pool <= 30, "{used:?}, round {round}");
            // At the limit two may turn each other away; then there is room for one later.
            assert!(used.total() >= 88, "{used:?}, round {round}");
            assert_eq!(state.usage[&0].conns.pool, used.pool, "round {round}");
        }
        Ok(())
    })
}

#[test]
fn an_untracked_flow_without_room_passes_and_is_counted_as_lost() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        two(stage, 2, 100, false)?;
        for port in 1000..1005 {
            assert!(stage.ingress(&syn_from(port, TASK4, 443))?);
            assert!(stage.ingress(&syn_from(port, TASK4, 443))?);
        }
        let expected = ["count task ingress rule 8", "lost task flows 6 denials 0"];
        assert_eq!(
            sums(stage)?,
            (expected.map(String::from).to_vec(), 2, 0),
            "{}",
            stage.name
        );
        Ok(())
    })
}

#[test]
fn denied_flows_beyond_the_limit_are_counted_as_lost() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        two(stage, 100, 2, true)?;
        for port in 1000..1005 {
            assert!(!stage.ingress(&syn_from(port, TASK4, 22))?);
        }
        assert!(!stage.ingress(&syn_from(1000, TASK4, 22))?, "one that has its record");
        assert!(
            !stage.send(Direction::Ingress, 1, &syn_from(1000, OTHER4, 22))?,
            "another task's share"
        );
        let expected = [
            "count other ingress no-rule 1",
            "count task ingress no-rule 6",
            "lost task flows 0 denials 3",
        ];
        assert_eq!(
            sums(stage)?,
            (expected.map(String::from).to_vec(), 0, 3),
            "{}",
            stage.name
        );
        Ok(())
    })
}

/// AWS: SG-TRACK-8
#[test]
fn the_hosts_table_is_full() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        two(stage, 10_000, 10_000, true)?;
        let room = Kernel::ROOM as u16;
        for port in 0..room + 5 {
            assert_eq!(
                stage.ingress(&syn_from(1000 + port, TASK4, 443))?,
                port < room,
                "{}",
                stage.name
            );
        }
        assert!(
            !stage.send(Direction::Ingress, 1, &syn_from(1000, OTHER4, 443))?,
            "nor is there room for another"
        );
        assert!(stage.egress(&ip(at(TASK4), at(PEER4), 6, &tcp(443, 1000, flags::SYN_ACK, b"")))?);
        for port in 0..room + 5 {
            assert!(!stage.ingress(&syn_from(1000 + port, TASK4, 22))?);
        }
        let expected = [
            "count other ingress connections-full 1",
            "count task ingress connections-full 5",
            "count task ingress no-rule 405",
            "count task ingress rule 400",
            "lost task flows 0 denials 11",
        ];
        let entries = Kernel::ROOM as usize;
        let (found, conns, denials) = sums(stage)?;
        assert_eq!((conns, denials), (entries, entries), "{}", stage.name);
        assert_eq!(found, expected, "{}", stage.name);
        Ok(())
    })
}

/// A datagram that is whole is remembered no more, in whatever order its parts came after the first: its task has room
/// for the next one.
#[test]
fn a_datagram_that_is_whole_takes_no_room() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        for (peer, own) in [("10.0.1.7", TASK4), ("2001:db8:1::7", TASK6)] {
            let rules = [(udp_to(53, 53), "10.0.0.0/8"), (udp_to(53, 53), "2001:db8::/32")];
            stage.set(with_rules(&rules, &[]))?;
            stage.scene.share(Shared::Fragments, 1, 0);
            let datagram = udp(40000, 53, &[0; 16]);
            let parts: [(u16, bool, &[u8]); 4] = [
                (0, true, &datagram),
                (3, true, &[1; 16]),
                (5, true, &[2; 8]),
                (6, false, b"rest"),
            ];
            for (number, order) in [[0, 1, 2, 3], [0, 3, 2, 1], [0, 2, 3, 1], [0, 1, 3, 2]]
                .into_iter()
                .enumerate()
            {
                let name = format!("{order:?}, {own}, {}", stage.name);
                let frame = |part: usize| {
                    let (offset, more, payload) = parts[part];
                    let mut frame = if at(own).is_ipv6() {
                        ipv6(at(peer), at(own), 44, 64, &fragment(17, offset, more, payload))
                    } else {
                        let more = if more { MORE_FRAGMENTS } else { 0 };
                        ipv4(at(peer), at(own), 17, &[], offset | more, payload)
                    };
                    let identification = if at(own).is_ipv6() { 61 } else { 19 };
                    frame[identification] = number as u8;
                    frame
                };
                for part in order {
                    assert!(stage.ingress(&frame(part))?, "part {part} of {name}");
                }
                assert!(!stage.ingress(&frame(2))?, "one more of {name}");
            }
        }
        Ok(())
    })
}

/// A first fragment passes all the same: only what follows it has nothing to follow.
#[test]
fn a_task_remembers_so_many_first_fragments_and_no_more() -> Result<()> {
    on_host_and_in_kernel(|stage| {
        let peers4 = ["10.0.1.7", "10.0.1.8", "10.0.1.9"];
        let peers6 = ["2001:db8:1::7", "2001:db8:1::8", "2001:db8:1::9"];
        for (peers, own, others) in [(peers4, TASK4, OTHER4), (peers6, TASK6, OTHER6)] {
            let rules = [(udp_to(53, 53), "10.0.0.0/8"), (udp_to(53, 53), "2001:db8::/32")];
            let mut model = with_rules(&rules, &[]);
            model.enis.push(gated("other", &[OTHER4, OTHER6], &[0]));
            stage.set(model)?;
            stage.scene.share(Shared::Fragments, 2, 0);
            let datagram = udp(40000, 53, &[0; 16]);
            let piece = |from: &str, to: &str, offset: u16, more: bool, payload: &[u8]| {
                let (from, to) = (at(from), at(to));
                if to.is_ipv6() {
                    return ipv6(from, to, 44, 64, &fragment(17, offset, more, payload));
                }
                let more = if more { MORE_FRAGMENTS } else { 0 };
                ipv4(from, to, 17, &[], offset | more, payload)
            };
            for (number, peer) in peers.into_iter().enumerate() {
                let name = format!("{peer}, {}", stage.name);
                assert!(stage.ingress(&piece(peer, own, 0, true, &datagram))?, "{name}");
                assert_eq!(
                    stage.ingress(&piece(peer, own, 3, true, b"not all."))?,
                    number < 2,
                    "{name}"
                );
                assert!(
                    stage.send(Direction::Ingress, 1, &piece(peer, others, 0, true, &datagram))?,
                    "{name}"
                );
                assert_eq!(
                    stage.send(Direction::Ingress, 1, &piece(peer, others, 3, true, b"not all."))?,
                    number < 2,
                    "the other task's share, {name}"
                );
            }
            let expected = [
                "count other ingress fragment-without-first 1",
                "count other ingress rule 3",
                "count task ingress fragment-without-first 1",
                "count task ingress rule 3",
            ];
            assert_eq!(
                sums(stage)?,
                (expected.map(String::from).to_vec(), 6, 2),
                "{}",
                stage.name
            );
        }
        Ok(())
    })
}

/// Which the kernel says on Linux 5.11 to 6.14 where a packet interrupts whoever holds the table's lock.
#[test]
fn a_busy_table_drops_nothing_that_is_allowed() -> Result<()> {
    let image = host_image(5);
    let model = with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[]);
    let mut scene = Scene::new(&image)?;
    scene.apply(model, &all_gated)?;
    scene.bind(101, "task")?;
    let mut host = Host::new(&image, 100);
    let send = |host: &mut Host<'_>, frame: &[u8]| {
        host.judge(&Sent {
            frame,
            link: 101,
            direction: Direction::Ingress,
            came_by: 0,
            segments: (0, 0),
            left: Left::NOTHING,
        })
    };
    for (number, busy) in [1, 1, 0].into_iter().enumerate() {
        host.tables.be_busy(busy);
        assert!(send(&mut host, &syn_from(1000, TASK4, 443))?, "packet {number}");
        host.tables.be_busy(busy);
        assert!(!send(&mut host, &syn_from(1000, TASK4, 22))?, "packet {number}");
    }
    assert_eq!(
        host.state(scene.highest)?.lines(&scene),
        [
            "conn task tcp 10.9.0.5:443 10.0.1.7:1000 by web/ingress/1, egress 0 packets 0 bytes, ingress 1 packets 40 bytes flags 2: ingress",
            "count task ingress no-rule 3",
            "count task ingress rule 3",
            "denied task ingress tcp 10.9.0.5:22 10.0.1.7:1000 no-rule, 1 packets 40 bytes flags 2",
            "lost task flows 2 denials 2",
        ]
    );
    Ok(())
}
