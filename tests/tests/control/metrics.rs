//! The metrics: their values, and where they are served.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
};

use anyhow::{Context as _, Result, bail, ensure};
use testkit::{
    Config, E2eTest, Netns, at,
    ledger::Action,
    netns::until,
    traffic::{Answer, Client, TcpEcho, probe},
};

use crate::{WEB, server};

const LISTEN: &str = "127.0.0.1:9477";

/// The samples of a text in Prometheus's format: values by name and labels.
fn samples(text: &str) -> Result<BTreeMap<String, String>> {
    let (mut helped, mut kinds) = (BTreeSet::new(), BTreeMap::new());
    let mut samples = BTreeMap::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, words) = help.split_once(' ').context("no help")?;
            ensure!(!words.is_empty() && helped.insert(name), "{line}");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').context("no type")?;
            ensure!(helped.contains(name) && kinds.insert(name, kind).is_none(), "{line}");
            ensure!((kind == "counter") == name.ends_with("_total"), "{line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').context("no value")?;
            let name = sample.split('{').next().unwrap_or_default();
            ensure!(kinds.contains_key(name), "{line}");
            ensure!(value.parse::<f64>().is_ok(), "{line}");
            ensure!(samples.insert(sample.to_owned(), value.to_owned()).is_none(), "{line}");
        }
    }
    ensure!(kinds.keys().all(|name| name.starts_with("taskgate_")), "{kinds:?}");
    Ok(samples)
}

/// The sum of a metric's samples that have all of these labels; each must be a whole number.
fn sum(samples: &BTreeMap<String, String>, name: &str, labels: &[&str]) -> Result<u64> {
    let is_it = |sample: &str| {
        let rest = sample.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with('{') || rest.is_empty())
            && labels.iter().all(|label| sample.contains(label))
    };
    let found = samples.iter().filter(|(sample, _)| is_it(sample));
    found.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}

fn scraped(test: &E2eTest) -> Result<BTreeMap<String, String>> {
    let answer = test.control().get("/metrics")?;
    ensure!(answer.status == 200, "{}", answer.text());
    ensure!(
        answer.header("content-type") == Some("text/plain; version=0.0.4; charset=utf-8"),
        "{:?}",
        answer.header("content-type")
    );
    samples(&answer.text())
}

#[test]
fn metrics_say_what_records_and_counters_say() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(50_000)?;
    ensure!(probe(&test.topology.outside, at(WEB, 81))? == Answer::Silence);
    live.finish()?;
    test.reload(|config| config.with("account: '123456789012'"))?;
    let refused = test.topology.config().group("server", "ingress: [{ protocol: none }]");
    ensure!(test.daemon.apply(&refused).is_err());

    let expected = test.denied_in(&[("outside", "web-1")])?;
    let [accepted, rejected] = [Action::Accept, Action::Reject].map(|action| expected.total("web-1", action));
    ensure!(accepted.packets != 0 && rejected.packets != 0);
    let task = "task=\"web-1\"";
    until("a window has all of it", || {
        let samples = scraped(&test)?;
        let both = sum(&samples, "taskgate_packets_total", &[task])?;
        Ok(both == accepted.packets + rejected.packets)
    })?;
    let samples = scraped(&test)?;
    let is = |name: &str, labels: &[&str], value: u64| -> Result<()> {
        let found = sum(&samples, name, labels)?;
        ensure!(
            found == value,
            "{name} {labels:?} is {found} and not {value}: {samples:#?}"
        );
        Ok(())
    };
    let (yes, no) = ("verdict=\"ACCEPT\"", "verdict=\"REJECT\"");
    is("taskgate_packets_total", &[task, yes], accepted.packets)?;
    is("taskgate_bytes_total", &[task, yes], accepted.bytes)?;
    is("taskgate_packets_total", &[task, no], rejected.packets)?;
    is("taskgate_bytes_total", &[task, no], rejected.bytes)?;
    let (ingress, egress) = ("direction=\"ingress\"", "direction=\"egress\"");
    is("taskgate_packets_total", &[no, egress], 0)?;
    ensure!(sum(&samples, "taskgate_packets_total", &[yes, egress])? > 0);
    is(
        "taskgate_dropped_packets_total",
        &[task, ingress, "reason=\"no-rule\""],
        rejected.packets,
    )?;
    is("taskgate_rule_packets_total", &["group=\"sg-"], accepted.packets)?;
    is("taskgate_rule_bytes_total", &[], accepted.bytes)?;
    is("taskgate_unrecorded_packets_total", &[], 0)?;
    is("taskgate_tasks", &["state=\"gated\""], 1)?;
    is("taskgate_tasks", &[], 1)?;
    is("taskgate_drift", &[], 0)?;
    // The last apply was refused.
    is("taskgate_healthy", &[], 0)?;
    is("taskgate_last_apply_success", &[], 0)?;
    is("taskgate_generation", &[], 2)?;
    is("taskgate_applies_total", &["result=\"applied\""], 2)?;
    is("taskgate_applies_total", &["result=\"refused\""], 1)?;
    is("taskgate_build_info", &["version=\"", "kernel=\""], 1)?;
    is("taskgate_flow_log_failing", &["destination=\""], 0)?;
    ensure!(
        sum(&samples, "taskgate_flow_records_total", &["destination=\""])? >= 3,
        "{samples:#?}"
    );
    test.finish(&expected)?;
    Ok(())
}

/// The answer to a request over TCP, from a host.
fn asked(host: &Netns, path: &str) -> Result<String> {
    let mut stream = host.run(|| Ok(TcpStream::connect(LISTEN)?))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {LISTEN}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn is_served(host: &Netns) -> Result<bool> {
    match asked(host, "/metrics") {
        Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => Ok(answer.contains("\ntaskgate_build_info{")),
        Ok(answer) => bail!("{answer}"),
        Err(_) => Ok(false),
    }
}

#[test]
fn metrics_are_served_on_loopback_where_that_is_asked_for() -> Result<()> {
    let listen = format!("metrics: {{ listen: \"{LISTEN}\" }}");
    let mut test = E2eTest::start(server)?;
    test.topology.host.ip("link set lo up")?;
    ensure!(!is_served(&test.topology.host)?);
    test.reload(|config| config.with(&listen))?;
    until("they are served", || is_served(&test.topology.host))?;
    // And nothing else is.
    for path in ["/v1/status", "/v1/tasks", "/"] {
        let answer = asked(&test.topology.host, path)?;
        ensure!(answer.starts_with("HTTP/1.1 404 "), "{path}: {answer}");
    }
    // Connections without a request do not block others.
    let silent: Vec<TcpStream> = (0..4)
        .map(|_| test.topology.host.run(|| Ok(TcpStream::connect(LISTEN)?)))
        .collect::<Result<_>>()?;
    ensure!(is_served(&test.topology.host)?);
    drop(silent);
    test.reload(Config::without_extra)?;
    until("they are served no more", || Ok(!is_served(&test.topology.host)?))?;
    // Another process has the address: taskgate logs that, and tries again.
    let other = test.topology.host.run(|| Ok(TcpListener::bind(LISTEN)?))?;
    test.reload(|config| config.with(&listen))?;
    test.daemon
        .await_message("metrics cannot be served on 127.0.0.1:9477")?;
    drop(other);
    until("they are served again", || is_served(&test.topology.host))?;
    test.daemon.stop()?;
    Ok(())
}
