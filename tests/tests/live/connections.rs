//! `GET /v1/connections` and `taskgate connections`.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use testkit::{
    Config, E2eTest, OUTSIDE_V4, at,
    control::{ControlSocket, read_answer, request},
    ip,
    traffic::{Client, Flood, Pinger, TcpEcho, UdpPeer},
};

const WEB: [&str; 2] = ["10.88.0.10", "fd88::10"];
const DB: &str = "10.88.0.20";

fn shop(config: Config) -> Config {
    config
        .group(
            "web",
            "ingress: [{ protocol: tcp, ports: 80, from: [10.99.0.0/24, 'fd99::/64'] }]",
        )
        .group(
            "db",
            "ingress: [{ protocol: tcp, ports: 5432, from: [group:web] }, { protocol: udp, ports: 53, from: any }, \
             { protocol: icmp, type: 8, from: any }], egress: []",
        )
        .task("web-1", &WEB, &["web"])
        .task("db-1", &[DB], &["db"])
}

/// The lines that a question is answered with.
fn lines(control: &ControlSocket, query: &str) -> Result<Vec<Value>> {
    let answer = control.get(&format!("/v1/connections{query}"))?;
    ensure!(answer.status == 200, "{query}: {}", answer.text());
    ensure!(
        answer.header("content-type") == Some("application/x-ndjson"),
        "{}",
        answer.head
    );
    let text = answer.text();
    let parsed = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()));
    parsed.collect()
}

#[test]
fn each_tracked_connection_has_a_line() -> Result<()> {
    let test = E2eTest::start(shop)?;
    let control = test.control();
    ensure!(lines(&control, "")?.is_empty());
    let _web = TcpEcho::start(test.task("web-1")?, 80)?;
    let _db = TcpEcho::start(test.task("db-1")?, 5432)?;
    let mut outside = Client::connect(&test.topology.outside, at(WEB[1], 80))?;
    let mut inside = Client::connect(test.task("web-1")?, at(DB, 5432))?;
    outside.echo(1000)?;
    inside.echo(1000)?;
    let server = UdpPeer::bind(test.task("db-1")?, "10.88.0.20:53")?;
    let client = UdpPeer::bind(&test.topology.outside, "10.99.0.2:0")?;
    let stream = client.converse(&server, 3)?;
    let mut ping = Pinger::new(&test.topology.outside, OUTSIDE_V4, ip(DB))?;
    ping.echo()?;

    let all = lines(&control, "")?;
    // Between two tasks, each gate has a connection.
    ensure!(all.len() == 5, "{all:#?}");
    let one = |query: &str| -> Result<Value> {
        let mut found = lines(&control, query)?;
        ensure!(found.len() == 1, "{query}: {found:#?}");
        Ok(found.remove(0))
    };
    let tcp = one("?task=web-1&direction=ingress")?;
    let flow = outside.flow();
    let (sent, received) = (
        test.wire("web-1")?.sent(flow.back())?,
        test.wire("web-1")?.received(flow)?,
    );
    for (key, expected) in [
        ("task", json!("web-1")),
        ("eni", json!(Config::eni("web-1"))),
        ("direction", json!("ingress")),
        ("protocol", json!("tcp")),
        ("local", json!(WEB[1])),
        ("local-port", json!(80)),
        ("peer", json!("fd99::2")),
        ("peer-port", json!(flow.source.port())),
        ("icmp-type", Value::Null),
        ("state", json!("established")),
        ("flags", json!(["ingress", "replied", "confirmed"])),
        ("egress", json!({ "packets": sent.packets, "bytes": sent.bytes })),
        (
            "ingress",
            json!({ "packets": received.packets, "bytes": received.bytes }),
        ),
        ("generation", json!(1)),
        (
            "rule",
            json!({ "group": tcp["rule"]["group"], "group-name": "web", "rule": "web/ingress/1" }),
        ),
    ] {
        let there: Vec<&Value> = match &tcp[key] {
            Value::Array(flags) => flags
                .iter()
                .filter(|flag| !["known", "pool"].contains(&flag.as_str().unwrap_or_default()))
                .collect(),
            value => vec![value],
        };
        let expected: Vec<Value> = match expected {
            Value::Array(flags) => flags,
            value => vec![value],
        };
        ensure!(there.into_iter().eq(&expected), "{key}: {tcp:#}");
    }
    let seconds = |value: &Value, key: &str| value[key].as_u64().context("no number");
    ensure!(seconds(&tcp, "idle")? < 30 && seconds(&tcp, "age")? < 60, "{tcp:#}");

    let udp = one("?protocol=udp")?;
    ensure!(
        udp["state"] == "stream" && udp["peer-port"] == stream.source.port() && udp["rule"]["rule"] == "db/ingress/2",
        "{udp:#}"
    );
    let icmp = one("?protocol=1")?;
    ensure!(
        icmp["icmp-type"] == 8 && icmp["icmp-code"] == 0 && icmp["local-port"].is_null() && icmp["state"] == "replied",
        "{icmp:#}"
    );
    for (query, count) in [
        ("?port=5432", 2),
        ("?port=5432&task=db-1", 1),
        ("?peer=10.99.0.0%2F24", 2),
        ("?peer=fd99::2", 1),
        ("?peer=203.0.113.9", 0),
        ("?rule=db/ingress/1", 1),
        ("?rule=db", 3),
        ("?direction=egress", 1),
        ("?direction=egress&task=db-1", 0),
        ("?rule=exempt", 0),
        (&format!("?task={}", Config::eni("db-1")), 3),
    ] {
        ensure!(lines(&control, query)?.len() == count, "{query}");
    }
    for (query, status) in [
        ("?task=nobody", 404),
        ("?rule=none", 404),
        ("?peer=10.0.0.0/99", 400),
        ("?port=99999", 400),
        ("?protocol=nonsense", 400),
        ("?direction=up", 400),
        ("?surprise=1", 400),
    ] {
        control
            .get(&format!("/v1/connections{query}"))?
            .problem(status)
            .context(query)?;
    }
    drop(test);
    Ok(())
}

#[test]
fn the_command_shows_them_to_people_and_to_programs() -> Result<()> {
    let test = E2eTest::start(shop)?;
    let (control, host) = (test.control(), &test.topology.host);
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut client = Client::connect(&test.topology.outside, at(WEB[0], 80))?;
    client.echo(1000)?;
    let said = control.taskgate(host, &["connections", "--port", "80"])?;
    let text = String::from_utf8(said.stdout)?;
    let shown: Vec<&str> = text.lines().collect();
    ensure!(said.status.code() == Some(0) && shown.len() == 2, "{text}");
    ensure!(shown[0].starts_with("TASK ") && shown[0].ends_with(" RULE"), "{text}");
    for word in [
        "web-1 ",
        " ingress ",
        " tcp ",
        "10.88.0.10:80 ",
        "10.99.0.2:",
        " established ",
        " web/ingress/1",
    ] {
        ensure!(
            shown[1].contains(word) || shown[1].ends_with(word.trim_end()),
            "`{word}`: {text}"
        );
    }
    let said = control.taskgate(host, &["connections", "-o", "json"])?;
    let line: Value = serde_json::from_slice(&said.stdout)?;
    ensure!(line["task"] == "web-1" && line["local-port"] == 80, "{line}");
    for (words, code) in [
        (&["connections", "--task", "nobody"][..], 5),
        (&["connections", "--peer", "nonsense"], 2),
        (&["connections", "--port", "80", "--instance", "of-nobody"], 2),
    ] {
        let said = control.taskgate(host, words)?;
        ensure!(said.status.code() == Some(code), "{words:?}: {said:?}");
    }
    drop(test);
    Ok(())
}

/// A client that reads nothing delays neither the daemon, nor other clients, nor packets.
#[test]
fn a_slow_reader_of_many_holds_nothing_up() -> Result<()> {
    const PORTS: u16 = 50_000;
    const TARGETS: u16 = 4;
    let all = "egress: [{ protocol: udp, to: any }, { protocol: tcp, to: [10.99.0.0/24] }]";
    let mut test = E2eTest::start_with(Some(600), |config| {
        config
            .group("all", all)
            .task("web-1", &[WEB[0]], &["all"])
            .with("settings: { connections: { total: 400000 }, timeouts: { udp: 60 } }")
    })?;
    let _echo = TcpEcho::start(&test.topology.outside, 80)?;
    let mut live = Client::connect(test.task("web-1")?, at("10.99.0.2", 80))?;
    for target in 0..TARGETS {
        Flood::udp(test.task("web-1")?, ip(WEB[0]), at("10.99.0.2", 4000 + target))?.send(10_000, PORTS)?;
    }
    let control = test.control();
    let mut slow = control.connect()?;
    slow.write_all(request("GET", "/v1/connections", "").as_bytes())?;
    std::thread::sleep(Duration::from_millis(300));
    let began = Instant::now();
    for _ in 0..5 {
        control.get("/v1/status")?.ok()?;
        live.echo(1000)?;
    }
    test.reload(|config| config.group("other", ""))?;
    ensure!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let read = Instant::now();
    let answer = read_answer(&mut slow)?;
    let text = BufReader::new(&*answer.body);
    let mut count = 0;
    for line in text.lines() {
        let line: Value = serde_json::from_str(&line?)?;
        count += usize::from(line["protocol"] == "udp");
    }
    let expected = usize::from(PORTS) * usize::from(TARGETS);
    println!("{count} of {expected} connections in {:?}", read.elapsed());
    // Some find no room in their buckets, or are over by now.
    ensure!(count > expected * 9 / 10 && count <= expected, "{count} of {expected}");
    live.finish()?;
    drop(test);
    Ok(())
}
