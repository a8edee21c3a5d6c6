//! The scenarios: the small ones in every run, all of them with `cargo xtask test --long`.

use std::env;

use crate::{
    explore::{Counterexample, Walked, explore},
    model::Scenario,
    replay::Fault,
};

/// Two ways in each of two buckets.
const WAYS: usize = 2;

/// Scenarios of at most some 30,000 states.
fn small() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "two programs insert one key",
            programs: vec![vec![1], vec![1]],
            ..Scenario::default()
        },
        Scenario {
            name: "two programs, two packets of one key each",
            programs: vec![vec![1, 1], vec![1, 1]],
            ..Scenario::default()
        },
        Scenario {
            name: "two programs insert one key, one way is left",
            programs: vec![vec![1], vec![1]],
            there: vec![2, 3, 4],
            ..Scenario::default()
        },
        Scenario {
            name: "the daemon removes an entry, two packets of it",
            programs: vec![vec![1], vec![1]],
            there: vec![1],
            rounds: 1,
            ..Scenario::default()
        },
        Scenario {
            name: "the daemon is killed once, one entry, two packets",
            programs: vec![vec![1, 1]],
            there: vec![1],
            rounds: 2,
            kills: 1,
            ..Scenario::default()
        },
        Scenario {
            name: "the daemon is killed twice, two entries, one packet",
            programs: vec![vec![1]],
            there: vec![1, 2],
            rounds: 2,
            kills: 2,
            ..Scenario::default()
        },
        Scenario {
            name: "the daemon is killed twice and freezes nothing",
            programs: vec![vec![1]],
            there: vec![1, 2],
            rounds: 2,
            kills: 2,
            never_freezes: true,
            ..Scenario::default()
        },
    ]
}

/// Scenarios of up to 20 million states.
fn large() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "two programs insert one key, one another",
            programs: vec![vec![1], vec![1], vec![2]],
            blind: true,
            ..Scenario::default()
        },
        Scenario {
            name: "three programs insert one key",
            programs: vec![vec![1], vec![1], vec![1]],
            blind: true,
            ..Scenario::default()
        },
        Scenario {
            name: "two keys with one tag, and one of them again",
            programs: vec![vec![5], vec![7], vec![5]],
            blind: true,
            ..Scenario::default()
        },
        Scenario {
            name: "the daemon is killed once, the table is full, another key comes",
            programs: vec![vec![1], vec![2]],
            there: vec![1, 3, 4, 6],
            rounds: 1,
            kills: 1,
            ..Scenario::default()
        },
        Scenario {
            name: "the daemon removes an entry, packets of two keys with one tag",
            programs: vec![vec![5], vec![7]],
            there: vec![5],
            rounds: 2,
            ..Scenario::default()
        },
        freed_meanwhile(),
        Scenario {
            name: "the daemon removes an entry, three programs",
            programs: vec![vec![1], vec![1], vec![2]],
            there: vec![1],
            rounds: 1,
            ..Scenario::default()
        },
    ]
}

/// The scenario with all kinds of competing claims.
fn freed_meanwhile() -> Scenario {
    Scenario {
        name: "a way is freed while two programs insert one key",
        programs: vec![vec![1], vec![1]],
        there: vec![3],
        rounds: 1,
        blind: true,
        ..Scenario::default()
    }
}

/// The same in a table with one way in each bucket, which is freed twice: half a million states, in which every fault shows
/// that does not need a killed daemon.
fn freed_twice() -> Scenario {
    Scenario {
        name: "ways are freed twice while two programs insert one key",
        rounds: 2,
        ..freed_meanwhile()
    }
}

fn walk<const WAYS: usize>(scenario: &Scenario) -> Walked {
    match explore::<WAYS>(scenario) {
        Ok(walked) => walked,
        Err(found) => panic!(
            "{} ({:?}): {}\n  {}",
            scenario.name,
            scenario.fault,
            found.broken,
            found.steps.join("\n  ")
        ),
    }
}

#[test]
fn small_scenarios_hold() {
    for scenario in small() {
        for store_buffers in [false, true] {
            let scenario = Scenario {
                store_buffers,
                ..scenario.clone()
            };
            let Walked { states, ends } = walk::<WAYS>(&scenario);
            println!("{}: {states} states, {ends} ends", scenario.name);
            assert!(
                states > 500 && ends > 1,
                "{}: {states} states, {ends} ends",
                scenario.name
            );
        }
    }
}

/// One way in each of two buckets, so few entries fill the table.
#[test]
fn a_full_table_under_a_killed_daemon_holds() {
    let scenario = Scenario {
        name: "the daemon is killed once, the table is full, another key comes",
        programs: vec![vec![1], vec![2]],
        there: vec![1, 3],
        rounds: 2,
        kills: 1,
        ..Scenario::default()
    };
    let walked = walk::<1>(&scenario);
    println!("{}: {walked:?}", scenario.name);
    assert!(walked.states > 10_000, "{walked:?}");
}

#[test]
fn large_scenarios_hold() {
    // Minutes: `cargo xtask test --long`.
    if env::var_os("TASKGATE_TEST_LONG").is_none() {
        let walked = walk::<1>(&freed_twice());
        println!("{walked:?}");
        assert!(walked.states > 400_000, "{walked:?}");
        return;
    }
    for scenario in large() {
        let walked = walk::<WAYS>(&scenario);
        println!("{}: {walked:?}", scenario.name);
    }
    for scenario in [large().swap_remove(0), freed_meanwhile()] {
        let walked = walk::<WAYS>(&Scenario {
            store_buffers: true,
            ..scenario
        });
        println!("with store buffers: {walked:?}");
    }
}

/// A checker must detect faulty protocols, otherwise its result proves nothing.
#[test]
fn every_fault_is_found() {
    let [insert, .., remove, killed, _, _] = &small()[..] else {
        panic!("the scenarios were changed")
    };
    let found = |fault, scenario: &Scenario, walk: fn(&Scenario) -> Result<Walked, Counterexample>, what: &str| {
        let scenario = Scenario {
            fault,
            store_buffers: fault == Fault::ClaimIsNoBarrier,
            ..scenario.clone()
        };
        match walk(&scenario) {
            Ok(walked) => panic!("{fault:?} was not found in {} ({walked:?})", scenario.name),
            Err(found) => assert!(found.broken.contains(what), "{fault:?}: {}", found.broken),
        }
    };
    for (fault, scenario, what) in [
        (Fault::NoKill, &freed_meanwhile(), "two entries of key 1"),
        (Fault::NoLookForRivals, insert, "two entries of key 1"),
        (Fault::PlainPublish, &freed_meanwhile(), "two entries of key 1"),
        (Fault::NoGrace, remove, "a packet counts into way"),
        (Fault::NoRevive, killed, "a packet counts into way"),
        (Fault::FreeBeforeReport, killed, "counted"),
        (Fault::BaselineByKey, killed, "counted"),
        (Fault::ClaimIsNoBarrier, insert, "counted"),
        (Fault::AllGiveWay, &freed_meanwhile(), "a packet counts into way"),
    ] {
        found(fault, scenario, explore::<WAYS>, what);
        if fault != Fault::FreeBeforeReport {
            found(fault, &freed_twice(), explore::<1>, what);
        }
    }
}
