//! The metrics as Prometheus and its tools read them.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::{
    E2eTest, Netns, at,
    names::TempDir,
    netns::until,
    traffic::{Answer, Client, TcpEcho, probe},
};

use crate::{WEB, server};

const LISTEN: &str = "127.0.0.1:9477";
const PROMETHEUS: &str = "127.0.0.1:9090";

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/prometheus")
}

/// The path of one of Prometheus's programs: the machine's own, or the one that `cargo xtask setup` unpacked.
fn tool(program: &str) -> Result<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/prometheus/usr/bin");
    let folders = env::var_os("PATH").unwrap_or_default();
    let mut places = env::split_paths(&folders)
        .chain([unpacked])
        .map(|folder| folder.join(program));
    let found = places.find(|place| place.is_file());
    found.with_context(|| format!("there is no `{program}`: run `cargo xtask setup`"))
}

/// A running Prometheus, which ends with this.
struct Prometheus<'a> {
    child: Child,
    host: &'a Netns,
}

impl<'a> Prometheus<'a> {
    fn start(host: &'a Netns, folder: &Path) -> Result<Self> {
        let rules = examples().join("rules.yaml");
        let config = format!(
            "global: {{ scrape_interval: 1s, evaluation_interval: 1s }}\n\
             rule_files: [\"{}\"]\n\
             scrape_configs: [{{ job_name: taskgate, static_configs: [{{ targets: [\"{LISTEN}\"] }}] }}]\n",
            rules.display()
        );
        let file = folder.join("prometheus.yml");
        fs::write(&file, config)?;
        let log = File::create(folder.join("log"))?;
        let child = host
            .command(tool("prometheus")?.to_str().context("its path is no text")?)?
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        Ok(Self { child, host })
    }

    /// The answer of Prometheus's API.
    fn get(&self, path: &str) -> Result<Value> {
        let mut stream = self.host.run(|| Ok(TcpStream::connect(PROMETHEUS)?))?;
        write!(stream, "GET {path} HTTP/1.0\r\nhost: {PROMETHEUS}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(serde_json::from_str(body)?)
    }

    /// The values of a query without spaces.
    fn query(&self, query: &str) -> Result<Vec<String>> {
        let answer = self.get(&format!("/api/v1/query?query={query}"))?;
        ensure!(answer["status"] == "success", "{answer}");
        let found = answer["data"]["result"].as_array().context("no result")?;
        let value = |sample: &Value| sample["value"][1].as_str().map(str::to_owned);
        found.iter().map(|sample| value(sample).context("no value")).collect()
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn prometheus_scrapes_them_and_evaluates_the_rules() -> Result<()> {
    let folder = TempDir::new(&format!("taskgate-prometheus-{}", std::process::id()))?;
    let listen = format!("metrics: {{ listen: \"{LISTEN}\" }}");
    let test = E2eTest::start(|config| server(config).with(&listen))?;
    test.topology.host.ip("link set lo up")?;
    let prometheus = Prometheus::start(&test.topology.host, folder.path())?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    ensure!(probe(&test.topology.outside, at(WEB, 81))? == Answer::Silence);
    until("it has scraped the denial", || {
        // Prometheus may not be listening yet.
        let denied = prometheus.query("sum(taskgate_packets_total{verdict=\"REJECT\"})");
        Ok(denied.is_ok_and(|values| values.first().is_some_and(|value| value != "0")))
    })?;
    ensure!(prometheus.query("up")? == ["1"]);
    ensure!(prometheus.query("taskgate_healthy")? == ["1"]);
    ensure!(prometheus.query("sum(taskgate_tasks{state=\"gated\"})")? == ["1"]);
    until("the rules were evaluated", || {
        let groups = prometheus.get("/api/v1/rules")?;
        let rules = groups["data"]["groups"][0]["rules"].as_array().context("no rules")?;
        ensure!(rules.len() >= 8, "{groups}");
        let bad = rules.iter().find(|rule| rule["health"] == "err");
        ensure!(bad.is_none(), "{bad:?}");
        Ok(rules
            .iter()
            .all(|rule| rule["health"] == "ok" && rule["state"] == "inactive"))
    })?;
    drop(prometheus);
    test.daemon.stop()?;
    Ok(())
}

#[test]
fn promtool_finds_nothing_wrong() -> Result<()> {
    let test = E2eTest::start(server)?;
    let text = test.control().get("/metrics")?.text();
    let mut checked = Command::new(tool("promtool")?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    checked.stdin.take().context("no input")?.write_all(text.as_bytes())?;
    let output = checked.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.is_empty(), "{said}\n{text}");

    let rules = examples().join("rules.yaml");
    let output = Command::new(tool("promtool")?)
        .args(["check", "rules", "--lint-fatal"])
        .arg(&rules)
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    // Every metric in rules and docs exists, and every metric that exists is in the docs.
    let family = |line: &str| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned());
    let exported: BTreeSet<String> = text.lines().filter_map(family).collect();
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    ensure!(named(&fs::read_to_string(docs)?) == exported, "{exported:?}");
    let unknown: Vec<_> = named(&fs::read_to_string(rules)?)
        .difference(&exported)
        .cloned()
        .collect();
    ensure!(unknown.is_empty(), "{unknown:?}");
    test.daemon.stop()?;
    Ok(())
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("taskgate_"))
        .map(str::to_owned)
        .collect()
}
