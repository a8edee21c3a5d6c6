//! The kernel's counters in machine-readable form.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{
    Topology, at,
    traffic::{Answer, probe},
};

const WEB: &str = "10.88.0.10";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

/// `--counters=json`: a single line at the end, for programs.
#[test]
fn counters_are_one_line_of_json_at_the_end() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("http", HTTP)
        .device_task("web-1", "tg-web-1", &[WEB], &["http"]);
    let folder = topology.folder().join("main");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("taskgate.yaml"), config.to_string())?;
    let web = topology.device("tg-web-1", &[WEB], true)?;
    let mut process = topology
        .run_command("main")?
        .args(["--counters=json"])
        .stderr(Stdio::piped())
        .spawn()?;
    let mut counters = Vec::new();
    for line in BufReader::new(process.stderr.take().context("it has no standard error")?).lines() {
        let line = line?;
        if line.contains("gates are up") {
            assert_eq!(probe(&topology.outside, at(WEB, 81))?, Answer::Silence);
            kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGTERM)?;
        } else if line.starts_with('{') {
            counters.push(serde_json::from_str::<Value>(&line)?);
        }
    }
    assert!(process.wait()?.success());
    let [counters] = &mut counters[..] else {
        bail!("not one line: {counters:?}");
    };
    let denied = counters["tasks"][0]["packets"]["ingress"]["no-rule"].take();
    assert!(denied.as_u64().is_some_and(|packets| packets >= 1), "{denied}");
    // Neighbour discovery of both ends.
    for task in ["/tasks/0/packets", "/no-task"] {
        for direction in ["egress", "ingress"] {
            let packets = counters
                .pointer_mut(&format!("{task}/{direction}"))
                .context("a direction")?;
            ensure!(packets.is_object(), "{packets}");
            *packets = Value::Null;
        }
    }
    let denials = counters["tasks"][0]["denials"]["floor"].take();
    assert!(denials.as_u64().is_some_and(|entries| entries >= 1), "{denials}");
    let unused = json!({ "floor": 0, "pool": 0 });
    assert_eq!(
        *counters,
        json!({
            "generation": 1,
            "tasks": [{
                "task": "web-1",
                "packets": { "egress": null, "ingress": null },
                "connections": unused,
                "denials": { "floor": null, "pool": 0 },
                "fragments": unused,
                "unrecorded": { "passed": 0, "denied": 0 },
            }],
            "no-task": { "egress": null, "ingress": null },
        })
    );
    drop(web);
    Ok(())
}
