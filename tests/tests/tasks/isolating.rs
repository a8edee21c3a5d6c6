//! An isolated task passes nothing, and its connections end at once.

use anyhow::{Result, ensure};
use serde_json::json;
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Counters, Topology, at,
    traffic::{Answer, Client, TcpEcho, probe},
};

use crate::{DB, WEB, add, check_gate, control, db, end, remove, server};

fn isolate(topology: &Topology, task: &str, undo: bool) -> Result<serde_json::Value> {
    let path = format!("/v1/tasks/{task}/isolate");
    control(topology).post(&path, &json!({ "undo": undo }))?.ok()
}

#[test]
fn a_live_connection_is_cut_and_new_ones_pass_once_it_is_undone() -> Result<()> {
    let topology = Topology::new()?;
    let config = server(&topology);
    let mut daemon = topology.start(&config)?;
    add(&topology, &db(&topology))?;
    for (task, address) in [("web-1", WEB), ("db-1", DB)] {
        let inside = topology.task(task)?;
        let echo = TcpEcho::start(&inside, 80)?;
        let mut client = Client::connect(&topology.outside, at(address, 80))?;
        client.echo(1000)?;
        let counters = Counters::of(&daemon)?;
        let before = counters.dropped(Direction::Ingress, DropReason::Isolated)?;
        let answer = isolate(&topology, task, false)?;
        ensure!(answer["isolated"] == true, "{answer}");
        ensure!(!client.echoes()?);
        ensure!(probe(&topology.outside, at(address, 80))? == Answer::Silence);
        ensure!(probe(&inside, at("10.99.0.2", 80))? == Answer::Silence);
        ensure!(counters.dropped(Direction::Ingress, DropReason::Isolated)? > before);

        let listed = control(&topology).get("/v1/tasks")?.ok()?;
        let listed = listed.as_array().into_iter().flatten();
        ensure!(
            listed
                .filter(|listed| listed["isolated"] == true)
                .map(|listed| listed["task"].clone())
                .eq([json!(task)])
        );

        // The isolation survives a reload and another process.
        daemon.apply(&config)?;
        ensure!(probe(&topology.outside, at(address, 80))? == Answer::Silence);
        daemon.kill_now()?;
        ensure!(probe(&topology.outside, at(address, 80))? == Answer::Silence);
        daemon = topology.start(&config)?;
        ensure!(probe(&topology.outside, at(address, 80))? == Answer::Silence);
        drop((client, echo));

        let answer = isolate(&topology, task, true)?;
        ensure!(answer["isolated"] == false, "{answer}");
        check_gate(&topology.outside, &inside, address)?;
    }
    control(&topology)
        .post("/v1/tasks/nobody/isolate", &json!({}))?
        .problem(404)?;
    remove(&topology, "db-1")?;
    end(&topology, daemon)
}
