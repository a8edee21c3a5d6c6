//! Added tasks outlive a reload; a configuration without room for an added task is refused.

use anyhow::{Result, ensure};
use testkit::{Reload, Topology};

use crate::{DB, add, check_gate, control, db, end, remove, server};

#[test]
fn an_added_task_stays_through_reloads_and_conflicts_are_refused() -> Result<()> {
    let topology = Topology::new()?;
    let config = server(&topology);
    let mut daemon = topology.start(&config)?;
    add(&topology, &db(&topology))?;
    let inside = topology.task("db-1")?;
    // Another generation, with a group more.
    daemon.apply(&config.clone().group("other", ""))?;
    check_gate(&topology.outside, &inside, DB)?;

    let address = config.clone().task("mail-1", &[DB], &["server"]);
    let name = config.clone().task("db-1", &["10.88.0.99"], &["server"]);
    let group = topology
        .config()
        .group("another", crate::SERVER)
        .task("web-1", &[crate::WEB], &["another"]);
    for conflicting in [&address, &name, &group] {
        let Reload::Refused(why) = daemon.reload(conflicting)? else {
            anyhow::bail!("a configuration was taken that has no room for an added task");
        };
        ensure!(why.contains("added task `db-1`"), "{why}");
        check_gate(&topology.outside, &inside, DB)?;
    }

    // A daemon that starts with such a configuration leaves the task out: it passes nothing, and stays in the list.
    daemon.kill_now()?;
    let mut daemon = topology.start(&address)?;
    ensure!(
        daemon
            .messages()
            .iter()
            .any(|line| line.contains("added task `db-1` does not fit"))
    );
    check_gate(&topology.outside, &topology.task("mail-1")?, DB)?;
    daemon.apply(&config)?;
    check_gate(&topology.outside, &topology.task("db-1")?, DB)?;
    ensure!(
        control(&topology)
            .get("/v1/tasks")?
            .ok()?
            .to_string()
            .contains("\"db-1\"")
    );
    remove(&topology, "db-1")?;
    end(&topology, daemon)
}
