//! `POST /v1/diff`, `taskgate diff` and `apply --dry-run`: the predicted changes are those that a configuration makes,
//! and the prediction changes nothing.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::{
    Config, E2eTest, at,
    traffic::{Client, TcpEcho},
};

const WEB: &str = "10.88.0.10";
const DB: &str = "10.88.0.20";
const FROM_WEB: &str = "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }], egress: []";

fn shop(config: Config) -> Config {
    config
        .group("web", "")
        .group("db", FROM_WEB)
        .task("web-1", &[WEB], &["web"])
        .task("db-1", &[DB], &["db"])
}

/// Another folder with a configuration.
fn folder(test: &E2eTest, name: &str, text: &str) -> Result<PathBuf> {
    let folder = test.topology.folder().join(name);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("t.yaml"), text)?;
    Ok(folder)
}

#[test]
fn what_a_configuration_would_change_is_told_and_nothing_is_touched() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let control = test.control();
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut live = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    live.echo(1000)?;

    // The folder that is followed has the configuration in force.
    let same = control.post("/v1/diff", &json!({}))?.ok()?;
    ensure!(
        same["model"]["changes"] == json!([])
            && same["connections"]["without-rule"] == json!([])
            && same["connections"]["counts"]["live"] == 2
            && same["generation"] == 1,
        "{same:#}"
    );
    for (setting, outcome) in [("keep", "kept"), ("cut", "cut")] {
        let next = test
            .config
            .clone()
            .group("db", "egress: []")
            .with(&format!("settings: {{ on-rule-removal: {setting} }}"));
        let folder = folder(&test, setting, &next.to_string())?;
        let told = control.post("/v1/diff", &json!({ "config": folder }))?.ok()?;
        let changes = told["model"]["changes"].as_array().context("no changes")?;
        let removed = changes
            .iter()
            .find(|change| change["kind"] == "rule")
            .context("no rule")?;
        ensure!(
            removed["change"] == "removed" && removed["id"] == "db/ingress/1" && removed["direction"] == "ingress",
            "{told:#}"
        );
        ensure!(told["model"]["counts"]["removed"] == 1, "{told:#}");
        let lost = told["connections"]["without-rule"].as_array().context("no list")?;
        ensure!(lost.len() == 1, "{told:#}");
        for (key, expected) in [
            ("outcome", json!(outcome)),
            ("reason", json!("no-rule")),
            ("task", json!("db-1")),
            ("eni", json!(Config::eni("db-1"))),
            ("direction", json!("ingress")),
            ("protocol", json!("tcp")),
            ("port", json!(5432)),
            ("connections", json!(1)),
            ("peers", json!([WEB])),
            ("more-peers", json!(false)),
            ("untracked", json!(false)),
            ("already", json!(false)),
        ] {
            ensure!(lost[0][key] == expected, "{key}: {told:#}");
        }
        ensure!(lost[0]["admitted-by"]["rule"] == "db/ingress/1", "{told:#}");
    }
    let status = control.get("/v1/status")?.ok()?;
    ensure!(status["generation"] == 1, "{status}");
    live.echo(1000)?;
    Client::connect(test.task("web-1")?, at(DB, 5432))?.finish()?;

    // The reload does what was predicted.
    test.reload(|config| {
        config
            .group("db", "egress: []")
            .with("settings: { on-rule-removal: keep }")
    })?;
    live.echo(1000)?;
    let again = control.post("/v1/diff", &json!({}))?.ok()?;
    let lost = &again["connections"]["without-rule"];
    ensure!(lost[0]["outcome"] == "kept" && lost[0]["already"] == true, "{again:#}");
    test.reload(|config| config.without_extra().with("settings: { on-rule-removal: cut }"))?;
    ensure!(!live.echoes()?);
    live.abort()?;
    drop(test);
    Ok(())
}

#[test]
fn a_refused_configuration_is_refused_with_all_that_is_wrong() -> Result<()> {
    let test = E2eTest::start(shop)?;
    let (control, host) = (test.control(), &test.topology.host);
    let bad = folder(
        &test,
        "bad",
        "taskgate: v1\ngroups:\n- { name: g, nonsense: 1 }\n- { title: h }\n",
    )?;
    let problem = control.post("/v1/diff", &json!({ "config": bad }))?.problem(422)?;
    let errors = problem["errors"].as_array().context("no errors")?;
    ensure!(errors.len() >= 2 && errors[0]["line"] == 3, "{problem:#}");
    control
        .post("/v1/diff", &json!({ "config": "relative" }))?
        .problem(400)?;
    control.post("/v1/diff", &json!({ "surprise": 1 }))?.problem(400)?;
    let none = test.topology.folder().join("none");
    control.post("/v1/diff", &json!({ "config": none }))?.problem(422)?;
    let said = control.taskgate(host, &["diff", "--config", bad.to_str().context("no text")?])?;
    ensure!(said.status.code() == Some(3), "{said:?}");
    drop(test);
    Ok(())
}

#[test]
fn the_commands_answer_people_and_scripts() -> Result<()> {
    let mut test = E2eTest::start(shop)?;
    let next = test
        .config
        .clone()
        .group(
            "db",
            "ingress: [{ protocol: tcp, ports: 5433, from: [group:web] }], egress: []",
        )
        .task("web-2", &["10.88.0.11"], &["web"]);
    let other = folder(&test, "other", &next.to_string())?;
    let other = other.to_str().context("no text")?.to_owned();
    let _echo = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut live = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    live.echo(100)?;
    let control = test.control();
    let run = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let said = control.taskgate(&test.topology.host, words)?;
        Ok((said.status.code(), String::from_utf8(said.stdout)?))
    };
    let (code, text) = run(&["diff", "--config", &other])?;
    let lines: Vec<&str> = text.lines().collect();
    ensure!(code == Some(0) && lines.len() == 5, "{text}");
    ensure!(
        lines[0] == "~ rule db/ingress/1: tcp port 5432 from group web -> tcp port 5433 from group web",
        "{text}"
    );
    ensure!(
        lines[1].starts_with("+ task web-2 (eni-")
            && lines[1].contains("addresses 10.88.0.11; groups web; on namespace "),
        "{text}"
    );
    ensure!(
        lines[2] == "! kept 1: ingress tcp port 5432 of db-1 from 10.88.0.10: no-rule; let in by db/ingress/1 of db",
        "{text}"
    );
    ensure!(lines[3].ends_with(": 1 to add, 1 to change, 0 to remove"), "{text}");
    ensure!(
        lines[4] == "of 2 live connections 0 are cut, 1 go on without a rule",
        "{text}"
    );
    ensure!(run(&["apply", "--dry-run", "--config", &other])? == (Some(0), text.clone()));
    ensure!(run(&["diff", "--fail-on-change", "--config", &other])? == (Some(7), text));
    ensure!(run(&["diff", "--fail-on-change"])?.0 == Some(0), "nothing would change");
    let (_, json) = run(&["diff", "-o", "json", "--config", &other])?;
    let json: Value = serde_json::from_str(&json)?;
    ensure!(
        json["model"]["counts"] == json!({ "added": 1, "changed": 1, "removed": 0 }),
        "{json}"
    );

    // The dry run changed nothing.
    live.echo(100)?;
    live.finish()?;
    test.reload(|config| config)?;
    drop(test);
    Ok(())
}
