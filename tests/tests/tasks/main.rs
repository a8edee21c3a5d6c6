//! Tasks that are added, removed and isolated while taskgate runs.

mod adding;
mod cost;
mod isolating;
mod killed;
mod leaks;
mod reloading;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use testkit::{
    Config, ControlSocket, Daemon, Netns, Topology, at,
    traffic::{Answer, Client, TcpEcho, probe},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const SERVER: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

/// A configuration with a single task, `web-1`.
fn server(topology: &Topology) -> Config {
    let config = topology.config().group("server", SERVER);
    config.task("web-1", &[WEB], &["server"])
}

fn control(topology: &Topology) -> ControlSocket {
    ControlSocket::of(&topology.instance("main"))
}

/// `db-1` in a namespace that taskgate makes.
fn db(topology: &Topology) -> Value {
    json!({
        "name": "db-1", "groups": ["server"], "addresses": [DB], "namespace": topology.config().namespace("db-1"),
    })
}

fn add(topology: &Topology, task: &Value) -> Result<Value> {
    control(topology).post("/v1/tasks", task)?.ok()
}

fn remove(topology: &Topology, task: &str) -> Result<Value> {
    control(topology).call("DELETE", &format!("/v1/tasks/{task}"), "")?.ok()
}

fn generation(topology: &Topology) -> Result<u64> {
    let status = control(topology).get("/v1/status")?.ok()?;
    Ok(status["generation"].as_u64().unwrap_or_default())
}

/// Checks that a task's gate follows [`SERVER`].
fn check_gate(outside: &Netns, task: &Netns, address: &str) -> Result<()> {
    let _echo = TcpEcho::start(task, 80)?;
    Client::connect(outside, at(address, 80))?.finish()?;
    ensure!(probe(outside, at(address, 81))? == Answer::Silence);
    ensure!(probe(task, at("10.99.0.2", 80))? == Answer::Silence);
    Ok(())
}

/// Nothing made for added tasks is left: the host has `links`, and no namespace but `web-1`'s.
fn check_clean(topology: &Topology, links: &[String]) -> Result<()> {
    ensure!(topology.host.links()? == links, "{:?}", topology.host.links()?);
    let namespaces = topology.namespaces()?;
    ensure!(namespaces == [topology.config().namespace("web-1")], "{namespaces:?}");
    Ok(())
}

fn end(topology: &Topology, daemon: Daemon) -> Result<()> {
    daemon.stop()?;
    ensure!(topology.namespaces()?.is_empty());
    Ok(())
}
