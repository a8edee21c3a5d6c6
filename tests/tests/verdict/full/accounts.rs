//! Floors and the common pool: charges to the right account.

use std::{os::fd::AsFd as _, panic::resume_unwind, thread};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use taskgate_ebpf::abi::{Direction, image::Shared};
use taskgate_tables::Used;
use testkit::{
    fixture::{
        DataPath as _, DataPathTest, Fixture, Kernel, all_gated,
        frames::*,
        model::{gated, udp_to},
        on_host_and_in_kernel,
    },
    sandbox::sandbox,
};

use super::{super::*, OTHER4, sums, syn_from};

/// A task has its guaranteed floor and the rest of the pool; connections from outside leave a quarter of both to
/// connections that the task itself opens.
///
/// AWS: SG-TRACK-8
#[test]
fn a_task_has_its_floor_and_what_is_left_of_the_pool() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let mut model = with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[(Protocol::All, "10.0.0.0/8")]);
        model.enis.push(gated("other", &[OTHER4], &[0]));
        test.set(model)?;
        test.fixture.share(Shared::Connections, 4, 8);
        let syn_out = |port: u16, from: &str| ip(at(from), at(PEER4), 6, &tcp(port, 80, flags::SYN, b""));
        // From outside: three of the floor's four, and six of the pool's eight.
        for port in 1000..1012 {
            assert_eq!(
                test.ingress(&syn_from(port, TASK4, 443))?,
                port < 1009,
                "{port}, {}",
                test.name
            );
        }
        // The task's own connections: the last of the floor, and two of the pool.
        for port in 2000..2005 {
            assert_eq!(
                test.egress(&syn_out(port, TASK4))?,
                port < 2003,
                "{port}, {}",
                test.name
            );
        }
        // Exempt traffic needs an entry too, for its answer.
        let resolver = ip(at(TASK4), at("169.254.169.253"), 17, &udp(40000, 53, b""));
        assert!(!test.egress(&resolver)?, "all is taken");
        // The pool is empty; another task has its floor.
        for port in 2000..2006 {
            assert_eq!(
                test.send(Direction::Egress, 1, &syn_out(port, OTHER4))?,
                port < 2004,
                "{port}, {}",
                test.name
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
            sums(test)?,
            (expected.map(String::from).to_vec(), 16, 8),
            "{}",
            test.name
        );
        let usage = test.path.state(test.fixture.highest)?.usage;
        let used = |floor, pool| Used { floor, pool };
        assert_eq!(
            [0, 1, 2].map(|slot| usage[&slot].conns),
            [used(0, 8), used(4, 8), used(4, 0)],
            "{}",
            test.name
        );
        assert_eq!([1, 2].map(|slot| usage[&slot].conns_refused), [6, 2], "{}", test.name);
        // An idle entry counts as absent, but keeps its charge until it is removed.
        test.wait(61)?;
        assert!(test.ingress(&syn_from(1000, TASK4, 443))?);
        assert!(!test.ingress(&syn_from(1011, TASK4, 443))?);
        Ok(())
    })
}

/// The same for denied flows and first fragments, which the task's own have a quarter of, too.
#[test]
fn denied_flows_and_fragments_have_floors_and_a_pool() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let mut model = with_rules(&[], &[(udp_to(53, 53), "10.0.0.0/8")]);
        model.enis.push(gated("other", &[OTHER4], &[0]));
        test.set(model)?;
        test.fixture.share(Shared::Denials, 4, 4);
        let stray = |port: u16, from: &str| ip(at(from), at(PEER4), 6, &tcp(port, 80, flags::SYN, b""));
        for port in 1000..1010 {
            assert!(!test.ingress(&syn_from(port, TASK4, 22))?);
        }
        for port in 1000..1005 {
            assert!(!test.egress(&stray(port, TASK4))?);
            assert!(!test.send(Direction::Egress, 1, &stray(port, OTHER4))?);
        }
        let expected = [
            "count other egress no-rule 5",
            "count task egress no-rule 5",
            "count task ingress no-rule 10",
            // Six from outside and two from the task have a record.
            "lost other flows 0 denials 1",
            "lost task flows 0 denials 7",
        ];
        assert_eq!(
            sums(test)?,
            (expected.map(String::from).to_vec(), 0, 12),
            "{}",
            test.name
        );

        test.fixture.share(Shared::Fragments, 4, 4);
        let piece = |number: u8, from: &str, offset: u16| {
            let more = if offset == 0 { MORE_FRAGMENTS } else { 0 };
            let mut frame = ipv4(at(from), at(PEER4), 17, &[], offset | more, &udp(40000, 53, &[0; 16]));
            frame[19] = number;
            frame
        };
        for number in 0..10 {
            assert!(test.egress(&piece(number, TASK4, 0))?);
            assert!(test.send(Direction::Egress, 1, &piece(number, OTHER4, 0))?);
        }
        for number in 0..10 {
            assert_eq!(
                test.egress(&piece(number, TASK4, 3))?,
                number < 6,
                "{number}, {}",
                test.name
            );
            assert_eq!(
                test.send(Direction::Egress, 1, &piece(number, OTHER4, 3))?,
                number < 6,
                "{number}, {}",
                test.name
            );
        }
        let usage = test.path.state(test.fixture.highest)?.usage;
        assert_eq!([1, 2].map(|slot| usage[&slot].fragments_lost), [4, 4], "{}", test.name);
        Ok(())
    })
}

/// The charge of a connection moves with it to another ENI, to the account of the same kind.
#[test]
fn a_connection_of_another_eni_is_charged_to_that_one() -> Result<()> {
    on_host_and_in_kernel(|test| {
        let mut model = with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[]);
        // Without the source/destination check both ENIs accept the same packets.
        model.enis[0].source_dest_check = false;
        model.enis.push(gated("other", &[OTHER4], &[0]));
        model.enis[1].source_dest_check = false;
        test.set(model)?;
        test.fixture.share(Shared::Connections, 2, 4);
        for port in 1000..1003 {
            assert!(test.ingress(&syn_from(port, TASK4, 443))?);
        }
        let used = |test: &mut DataPathTest<'_>| -> Result<Vec<(u64, u64)>> {
            let usage = test.path.state(test.fixture.highest)?.usage;
            Ok([0, 1, 2]
                .map(|slot| {
                    usage
                        .get(&slot)
                        .map_or((0, 0), |usage| (usage.conns.floor, usage.conns.pool))
                })
                .to_vec())
        };
        assert_eq!(used(test)?, [(0, 1), (2, 1), (0, 0)], "{}", test.name);
        test.fixture.bind(*Kernel::LINKS.start(), "other")?;
        test.fixture.writer.synchronize(&mut || {});
        // Twice: an account is moved once.
        for _ in 0..2 {
            for port in 1000..1003 {
                assert!(test.ingress(&syn_from(port, TASK4, 443))?, "{port}, {}", test.name);
            }
        }
        assert_eq!(used(test)?, [(0, 1), (0, 0), (2, 1)], "{}", test.name);
        Ok(())
    })
}

/// Two CPUs that fill one task's floor and the pool at once: not one entry more than there is room for, and the charges
/// equal the entries.
#[test]
fn accounts_are_exact_where_two_cpus_insert_at_once() -> Result<()> {
    const ROUNDS: u16 = 20;
    sandbox(|| async {
        let mut turn = Kernel::turn()?;
        let kernel = turn.as_mut().context("no kernel program")?;
        for round in 0..ROUNDS {
            kernel.clear()?;
            let image = kernel.image()?;
            let mut fixture = Fixture::new(&image)?;
            fixture.apply(with_rules(&[(tcp_to(443, 443), "10.0.0.0/8")], &[]), &all_gated)?;
            fixture.bind(*Kernel::LINKS.start(), "task")?;
            fixture.share(Shared::Connections, 80, 40);
            // The part for connections from outside: 60 and 30.
            let judge = kernel.program(Direction::Ingress)?;
            thread::scope(|scope| {
                let threads: Vec<_> = [0_u16, 1]
                    .map(|part| {
                        let judge = judge.as_fd();
                        scope.spawn(move || {
                            // Each on a separate CPU, if there are two.
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
            let state = kernel.state(fixture.highest)?;
            let used = state.usage[&1].conns;
            assert_eq!(state.conns.len() as u64, used.total(), "round {round}");
            assert!(used.floor <= 60 && used.pool <= 30, "{used:?}, round {round}");
            // At the limit two CPUs may refuse each other; then a later connection finds room.
            assert!(used.total() >= 88, "{used:?}, round {round}");
            assert_eq!(state.usage[&0].conns.pool, used.pool, "round {round}");
        }
        Ok(())
    })
}
