//! Links and namespaces that the host lacks: reported before the start, at the start, and later.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::{Config, Topology, daemon::binary, kernel::await_gates};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

/// `taskgate check --host` on the host: exit status, standard output and standard error.
fn check(topology: &Topology, config: &Config, more: &[&str]) -> Result<(Option<i32>, String, String)> {
    let folder = topology.folder().join("checked");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("taskgate.yaml"), config.to_string())?;
    let binary = binary()?;
    let output = topology
        .host
        .command(binary.to_str().context("the path is no text")?)?
        .args(["check", "--host", "--config"])
        .arg(&folder)
        .args(more)
        .output()?;
    let [out, err] = [output.stdout, output.stderr].map(String::from_utf8);
    Ok((output.status.code(), out?, err?))
}

#[test]
fn check_looks_at_the_host_if_it_is_asked_to() -> Result<()> {
    let topology = Topology::new()?;
    let web = |device| {
        topology
            .config()
            .group("http", HTTP)
            .device_task("web-1", device, &[WEB], &["http"])
            .task("db-1", &[DB], &["http"])
    };
    let _task = topology.device("tg-web-1", &[WEB], true)?;

    // The topology forwards, so that a host's defaults heed nothing.
    let (exit, out, err) = check(&topology, &web("tg-web-1"), &[])?;
    assert_eq!((exit, &*err), (Some(0), ""));
    assert!(out.contains("  links here    1 of 1\n"), "{out}");

    let (exit, out, err) = check(&topology, &web("tg-wbe-1"), &[])?;
    let expected = "warning: task `web-1`: this host has no link `tg-wbe-1`; did you mean `tg-web-1`?\n";
    assert_eq!((exit, &*err), (Some(5), expected));
    assert!(out.contains("  links here    0 of 1\n"), "{out}");
    let (exit, out, err) = check(&topology, &web("elsewhere"), &["-o", "json"])?;
    assert_eq!((exit, &*err), (Some(5), ""));
    let document: Value = serde_json::from_str(&out)?;
    let expected = json!({ "links": 1, "findings": [{
        "task": "web-1",
        "device": "elsewhere",
        "problem": "absent",
        "message": "task `web-1`: this host has no link `elsewhere`",
        "hint": "it is gated as soon as it is there; if it never will be, mend its name",
    }] });
    assert_eq!((&document["valid"], &document["host"]), (&json!(true), &expected));

    // A link that can never be gated is a worse problem than a missing one.
    topology.host.ip("link add bridge type bridge")?;
    let config = web("bridge").with("uplink: { device: eth9, mode: routed }");
    let (exit, out, err) = check(&topology, &config, &[])?;
    let lines: Vec<_> = err.lines().collect();
    assert_eq!((exit, lines.len()), (Some(1), 2), "{err}");
    assert!(
        lines[0].starts_with("warning: task `web-1`: link `bridge` is of kind `bridge`: "),
        "{err}"
    );
    assert!(
        lines[1].starts_with("warning: the uplink: this host has no link `eth9`; "),
        "{err}"
    );
    assert!(out.contains("  links here    1 of 2\n"), "{out}");

    // Without the option, `check` does not look at the host.
    let mut plain = std::process::Command::new(binary()?);
    plain.args(["check", "--config"]).arg(topology.folder().join("checked"));
    assert_eq!(plain.output()?.status.code(), Some(0));
    Ok(())
}

#[test]
fn a_host_that_heeds_its_tasks_is_told_of() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("http", HTTP)
        .device_task("web-1", "tg-web-1", &[WEB], &["http"]);
    let _task = topology.device("tg-web-1", &[WEB], true)?;
    topology.host.set("net.ipv6.conf.tg-web-1.accept_ra", "2")?;
    let expected = "on link `tg-web-1` this host heeds router advertisements; the gate lets none in from the task, and this \
                    turns them off as well: `sysctl -w net.ipv6.conf.tg-web-1.accept_ra=0`";
    let (exit, _, err) = check(&topology, &config, &[])?;
    assert_eq!((exit, err), (Some(0), format!("warning: task `web-1`: {expected}\n")));
    let mut daemon = topology.start(&config)?;
    daemon.await_message(expected)?;
    daemon.apply(&config)?;
    let said = daemon.messages();
    assert_eq!(said.iter().filter(|line| line.contains("heeds")).count(), 1, "{said:?}");
    daemon.stop()?;
    Ok(())
}

#[test]
fn links_that_are_not_there_are_told_of_until_they_are() -> Result<()> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("http", HTTP)
        .device_task("web-1", "tg-wbe-1", &[WEB], &["http"])
        .device_task("db-1", "tg-database", &[DB], &["http"]);
    let web = topology.device("tg-web-1", &[WEB], true)?;
    let mut daemon = topology.start(&config)?;
    let warned = "WARN  taskgate_agent::host] this host has no link `tg-database` (task `db-1`), `tg-wbe-1` (task `web-1`, there is \
                  `tg-web-1`): nothing is gated there until it has";
    daemon.await_message(warned)?;
    let count = |said: &[String], what: &str| said.iter().filter(|line| line.contains(what)).count();
    daemon.apply(&config)?;
    daemon.await_message(warned)?;
    // The warning comes after the line about the completed reload.
    daemon.apply(&config)?;
    assert!(count(&daemon.messages(), warned) >= 2, "{:?}", daemon.messages());

    let db = topology.device("tg-database", &[DB], true)?;
    await_gates(&topology.host, "tg-database")?;
    let right = topology
        .config()
        .group("http", HTTP)
        .device_task("web-1", "tg-web-1", &[WEB], &["http"])
        .device_task("db-1", "tg-database", &[DB], &["http"]);
    daemon.apply(&right)?;
    let before = daemon.messages().len();
    daemon.apply(&right)?;
    let after = daemon.messages().split_off(before);
    assert_eq!(count(&after, "has no link"), 0, "{after:?}");
    daemon.stop()?;
    drop((web, db));
    Ok(())
}
