//! A task is up once the answer comes, and gone once it is removed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::{
    Action, Topology, at,
    record::Record,
    traffic::{Answer, probe},
};

use crate::{DB, WEB, add, check_clean, check_gate, control, db, end, generation, remove, server};

/// The packets that records have of an ENI, with this end.
fn packets(records: &[Record], eni: &str, action: Action) -> u64 {
    let of_eni = records.iter().filter(|record| record.eni == eni);
    let flows = of_eni.filter_map(|record| record.flow.as_ref());
    flows
        .filter(|flow| flow.action == action)
        .map(|flow| flow.count.packets)
        .sum()
}

#[test]
fn a_task_is_added_judged_recorded_and_removed() -> Result<()> {
    let topology = Topology::new()?;
    let daemon = topology.start_with(&server(&topology), Some(1))?;
    let links = topology.host.links()?;
    let before = generation(&topology)?;
    let task = db(&topology);
    let answer = add(&topology, &task)?;
    let inside = topology.task("db-1")?;
    ensure!(answer["link"] == json!(topology.host_link("db-1")?), "{answer}");
    ensure!(answer["added"] == true && answer["isolated"] == false, "{answer}");
    ensure!(answer["addresses"] == json!([DB]), "{answer}");
    let eni = answer["eni"].as_str().context("no ENI")?.to_owned();
    check_gate(&topology.outside, &inside, DB)?;
    check_gate(&topology.outside, &topology.task("web-1")?, WEB)?;
    // Its groups are those of another task, so that nothing was compiled.
    ensure!(generation(&topology)? == before);

    // The same task again, and another one of its name.
    ensure!(add(&topology, &task)? == answer);
    let mut other = task.clone();
    other["addresses"] = json!(["10.88.0.21"]);
    control(&topology).post("/v1/tasks", &other)?.problem(409)?;
    other["name"] = json!("WEB-1");
    let problem = control(&topology).post("/v1/tasks", &other)?.problem(409)?;
    ensure!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains(".yaml:")),
        "{problem}"
    );
    let problem = control(&topology).call("DELETE", "/v1/tasks/web-1", "")?.problem(409)?;
    ensure!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("stands in the configuration")),
        "{problem}"
    );
    control(&topology)
        .call("DELETE", "/v1/tasks/nobody", "")?
        .problem(404)?;

    // Traffic right before the removal is in the records, too.
    ensure!(probe(&topology.outside, at(DB, 82))? == Answer::Silence);
    remove(&topology, "db-1")?;
    check_clean(&topology, &links)?;
    control(&topology).call("DELETE", "/v1/tasks/db-1", "")?.problem(404)?;
    let written = daemon.await_lines(Duration::from_secs(10), |lines| {
        lines.iter().any(|line| line.contains(&eni) && line.contains(" 82 "))
    });
    ensure!(
        written.iter().any(|line| line.contains(&eni) && line.contains(" 82 ")),
        "{written:?}"
    );
    let records = daemon.records()?;
    ensure!(packets(&records, &eni, Action::Accept) > 4 && packets(&records, &eni, Action::Reject) > 2);
    end(&topology, daemon)
}

#[test]
fn a_task_that_cannot_be_is_refused_and_leaves_nothing() -> Result<()> {
    let topology = Topology::new()?;
    let daemon = topology.start(&server(&topology))?;
    let links = topology.host.links()?;
    let before = generation(&topology)?;
    for (key, value, says) in [
        ("groups", json!(["mail"]), "there is no security group named `mail`"),
        ("groups", json!([]), "`groups` is empty"),
        (
            "addresses",
            json!([WEB]),
            "is also that of task `db-1` at added task `db-1`",
        ),
        ("addresses", json!(["10.88.0.400"]), "10.88.0.400"),
        ("namespace", json!("../../etc"), "namespace"),
        ("name", json!(""), "name"),
    ] {
        let mut task = db(&topology);
        task[key] = value;
        let problem = control(&topology).post("/v1/tasks", &task)?.problem(422)?;
        ensure!(problem.to_string().contains(says), "{task}: {problem}");
    }
    // These requests fit the configuration, but not the host.
    for (key, value) in [
        ("device", json!("missing")),
        ("device", json!("lo")),
        ("pid", json!(u32::MAX)),
        ("netns", json!("/etc/passwd")),
        ("netns", json!(topology.host.path())),
        ("netns", json!("/proc/self/ns/mnt")),
    ] {
        let mut task = db(&topology);
        let fields = task.as_object_mut().context("no object")?;
        fields.remove("namespace");
        fields.insert(key.to_owned(), value);
        let problem = control(&topology).post("/v1/tasks", &task)?.problem(422)?;
        ensure!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains("db-1")),
            "{task}: {problem}"
        );
    }
    let mut two = db(&topology);
    two["device"] = json!("d");
    control(&topology).post("/v1/tasks", &two)?.problem(400)?;
    check_clean(&topology, &links)?;
    ensure!(generation(&topology)? == before);
    add(&topology, &db(&topology))?;
    check_gate(&topology.outside, &topology.task("db-1")?, DB)?;
    remove(&topology, "db-1")?;
    check_clean(&topology, &links)?;
    end(&topology, daemon)
}

#[test]
fn a_task_is_bound_to_a_link_that_is_there() -> Result<()> {
    let topology = Topology::new()?;
    let daemon = topology.start(&server(&topology))?;
    let inside = topology.device("tgdb", &[DB], true)?;
    let task = json!({ "name": "db-1", "groups": ["server"], "addresses": [DB], "device": "tgdb" });
    let answer = add(&topology, &task)?;
    ensure!(answer["link"] == "tgdb", "{answer}");
    check_gate(&topology.outside, &inside, DB)?;
    remove(&topology, "db-1")?;
    // taskgate did not make the link: it stays, closed.
    ensure!(topology.host.links()?.contains(&String::from("tgdb")));
    ensure!(probe(&topology.outside, at(DB, 80))? == Answer::Silence);
    add(&topology, &task)?;
    check_gate(&topology.outside, &inside, DB)?;
    end(&topology, daemon)
}

#[test]
fn a_task_is_added_to_the_namespace_of_a_process_and_outlives_the_daemon() -> Result<()> {
    let topology = Topology::new()?;
    let config = server(&topology);
    let mut daemon = topology.start(&config)?;
    let links = topology.host.links()?;
    let container = testkit::Netns::new("container")?;
    let task = json!({ "name": "db-1", "groups": ["server"], "addresses": [DB], "netns": container.path() });
    let answer = add(&topology, &task)?;
    check_gate(&topology.outside, &container, DB)?;
    ensure!(add(&topology, &task)? == answer);
    for _ in 0..2 {
        daemon.kill_now()?;
        ensure!(probe(&topology.outside, at(DB, 81))? == Answer::Silence);
        daemon = topology.start(&config)?;
        check_gate(&topology.outside, &container, DB)?;
        ensure!(add(&topology, &task)? == answer);
    }
    let named = answer["namespace"].as_str().context("no namespace")?.to_owned();
    ensure!(testkit::names::namespace_file(&named).exists());
    remove(&topology, "db-1")?;
    ensure!(!testkit::names::namespace_file(&named).exists());
    ensure!(!container.links()?.contains(&String::from("eth0")));
    check_clean(&topology, &links)?;
    end(&topology, daemon)
}
