//! Many tasks at once: each is gated, each has traffic, and the records are complete. `TASKGATE_TEST_LONG=1` takes as many
//! as taskgate is built for.

use anyhow::Result;
use taskgate_bpf::sys::lift_open_files_limit;
use testkit::record::join_runs;
use testkit::scale::{Branches, MOST_BRANCHES, MOST_TASKS, Tasks};

/// As many as take seconds, or `most`.
fn size(short: u16, most: u16) -> u16 {
    if std::env::var_os("TASKGATE_TEST_LONG").is_some() {
        most
    } else {
        short
    }
}

#[test]
fn many_tasks_have_traffic_and_a_reload_cuts_nothing() -> Result<()> {
    lift_open_files_limit();
    let mut tasks = Tasks::new(size(60, MOST_TASKS))?;
    let mut daemon = tasks.start(&tasks.config(true))?;
    tasks.ask()?;
    tasks.intrude(&daemon)?;
    daemon.apply(&tasks.config(false))?;
    tasks.ask()?;
    assert_eq!(daemon.stop()?.ledger()?, tasks.expected());
    tasks.await_gone()
}

/// Each has a connection that lives by its entry alone when the next taskgate takes over.
#[test]
fn many_tasks_are_taken_over_with_their_connections() -> Result<()> {
    lift_open_files_limit();
    let mut tasks = Tasks::new(size(60, MOST_TASKS))?;
    let daemon = tasks.start(&tasks.config(true))?;
    tasks.ask()?;
    let killed = daemon.kill_now()?;
    tasks.ask()?;
    let daemon = tasks.start(&tasks.config(false))?;
    tasks.ask()?;
    tasks.intrude(&daemon)?;
    let mut stopped = daemon.stop()?;
    stopped.records = join_runs([killed.records, stopped.records]);
    assert_eq!(stopped.ledger()?, tasks.expected());
    tasks.await_gone()
}

#[test]
fn many_branches_have_traffic_on_one_trunk() -> Result<()> {
    let branches = Branches::new(size(600, MOST_BRANCHES))?;
    let daemon = branches.start(&branches.config())?;
    let expected = branches.send(&daemon)?;
    assert_eq!(daemon.stop()?.ledger()?, expected);
    Ok(())
}
