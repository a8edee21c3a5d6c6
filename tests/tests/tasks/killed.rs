//! SIGKILL while a task is added or removed: the task exists completely or not at all, and is never open.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use testkit::{
    Topology, at,
    traffic::{Answer, probe},
};

use crate::{DB, add, check_clean, check_gate, control, db, end, remove, server};

#[test]
fn a_kill_at_any_time_leaves_nothing_half_made() -> Result<()> {
    let topology = Topology::new()?;
    let config = server(&topology);
    let mut daemon = topology.start(&config)?;
    let links = topology.host.links()?;
    let (mut whole, mut none) = (0, 0);
    for round in 0..12_u64 {
        let adds = round % 2 == 0;
        if !adds {
            add(&topology, &db(&topology))?;
        }
        let called = thread::scope(|scope| -> Result<bool> {
            let call = scope.spawn(|| {
                if adds {
                    add(&topology, &db(&topology))
                } else {
                    remove(&topology, "db-1")
                }
            });
            thread::sleep(Duration::from_millis(round * round));
            daemon.kill_now()?;
            Ok(call.join().is_ok_and(|answer| answer.is_ok()))
        })?;
        // Without the task, or before it is up, there is no route to its address.
        let answer = probe(&topology.outside, at(DB, 81));
        ensure!(
            answer.as_ref().map_or(true, |answer| *answer == Answer::Silence),
            "{answer:?}"
        );
        daemon = topology.start(&config)?;
        let listed = control(&topology)
            .get("/v1/tasks")?
            .ok()?
            .to_string()
            .contains("\"db-1\"");
        // A change that was acknowledged is kept.
        ensure!(
            !called || listed == adds,
            "round {round}: answered, and listed: {listed}"
        );
        if listed {
            whole += 1;
            check_gate(&topology.outside, &topology.task("db-1")?, DB)?;
            remove(&topology, "db-1")?;
        } else {
            none += 1;
        }
        check_clean(&topology, &links)?;
    }
    ensure!(
        whole > 0 && none > 0,
        "{whole} times there was a task, {none} times none"
    );
    end(&topology, daemon)
}
