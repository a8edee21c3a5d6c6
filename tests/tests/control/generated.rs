//! Requests generated from the server's own description, valid and invalid ones: each answer is one that the description
//! names, no invalid request has an effect, and the daemon continues as before.

use std::io::Write as _;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};
use testkit::{
    ControlSocket, E2eTest, at,
    control::{HttpAnswer, is_closed, read_answer},
    random::Random,
    traffic::{Answer, probe},
};

use crate::{WEB, server};

const REQUESTS: u32 = 3000;
const SEED: u64 = 0x6f70_656e_6170_6931;

/// A call of the description.
struct Described<'a> {
    path: &'a str,
    method: String,
    call: &'a Value,
}

/// A request, and whether it must be refused.
struct Request {
    method: String,
    target: String,
    headers: String,
    body: Vec<u8>,
    wrong: bool,
}

/// Makes requests of a description.
struct Generator<'a> {
    document: &'a Value,
    random: Random,
    /// The prefix of the names of tasks and namespaces that a request may make.
    unique: String,
    /// The folder that is followed.
    folder: String,
}

impl Generator<'_> {
    /// A schema, with its reference resolved.
    fn resolved<'s>(&'s self, schema: &'s Value) -> &'s Value {
        let name = schema["$ref"]
            .as_str()
            .and_then(|reference| reference.strip_prefix("#/"));
        name.map_or(schema, |name| {
            name.split('/').fold(self.document, |value, key| &value[key])
        })
    }

    /// A text for a property. It never names objects of the host.
    fn text(&mut self, name: &str) -> String {
        // Several of these fit into a head, but one as a folder is not a valid path.
        let long = "x".repeat(if name == "config" { 5000 } else { 1500 });
        let mine = format!("{}-{}", self.unique, self.random.below(4));
        let folder = self.folder.clone();
        let values: &[&str] = match name {
            "name" | "task" => &[&mine, "web-1", "web-2", "", "a/b", "..", "ä ö", &long],
            "namespace" => &[&mine, "", "a/b", &long],
            "config" => &[
                &folder,
                "/nowhere",
                "/",
                "relative",
                "",
                "/proc/self/mem",
                "/../..",
                &long,
            ],
            "device" => &["absent", "", "a device with a long name", "a/b", &long],
            "netns" => &["/nowhere", "relative", "", "/dev/zero", "/proc/self/mem", &long],
            "groups" => &["server", "SERVER", "nobody", "", &long],
            "addresses" => &[
                "10.88.0.77",
                "10.88.0.10",
                "fd88::77",
                "::1",
                "10.88.0.300",
                "",
                "10.88.0.77/24",
            ],
            "peer" => &["10.0.0.0/8", "10.99.0.2", "::/0", "10.0.0.0/33", "x", ""],
            "protocol" => &["tcp", "6", "256", "x", "", "-1"],
            "rule" => &["server", "exempt", "nobody", "", "server/1"],
            "direction" => &["ingress", "egress", "up", "", "INGRESS"],
            _ => &["x", "", &long],
        };
        (*self.random.pick(values)).to_owned()
    }

    /// A value that a schema allows.
    fn value(&mut self, name: &str, schema: &Value) -> Value {
        let schema = self.resolved(schema).clone();
        let kinds: Vec<&str> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        match kinds.get(self.random.index(kinds.len())).copied() {
            Some("object") => {
                let properties = schema["properties"].as_object().cloned().unwrap_or_default();
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                let mut object = Map::new();
                for (name, schema) in &properties {
                    if required.contains(&json!(name)) || self.random.once_in(3) {
                        object.insert(name.clone(), self.value(name, schema));
                    }
                }
                Value::Object(object)
            }
            Some("array") => {
                let length = self.random.below(4);
                (0..length).map(|_| self.value(name, &schema["items"])).collect()
            }
            Some("string") => json!(self.text(name)),
            // No process has any of these ids.
            Some("integer") if name == "pid" => json!(self.random.pick(&[0_u32, 4_194_305, u32::MAX])),
            Some("integer") => json!(self.random.pick(&[0_u16, 1, 80, u16::MAX])),
            Some("boolean") => json!(self.random.once_in(2)),
            _ => Value::Null,
        }
    }

    /// A body that the schema allows, or one that it does not.
    fn body(&mut self, schema: &Value) -> (Vec<u8>, bool) {
        let value = self.value("", schema);
        let text = value.to_string();
        let key = value.as_object().and_then(|object| object.keys().next().cloned());
        let changed = match self.random.below(24) {
            0 => b"[]".to_vec(),
            1 => format!("[{text}]").into_bytes(),
            2 => b"null".to_vec(),
            3 => text.as_bytes()[..text.len() - 1].to_vec(),
            4 => format!("{text} x").into_bytes(),
            5 => format!("{text}{text}").into_bytes(),
            6 => with(&value, "no-such-key", json!(1)),
            7 => with(&value, "Config", json!("/x")),
            8 => match key {
                // Twice, and the same both times.
                Some(key) => text
                    .replacen('{', &format!("{{{}:{},", json!(key), value[&key]), 1)
                    .into_bytes(),
                None => b"{\"\":1,\"\":1}".to_vec(),
            },
            9 => match key {
                Some(key) => with(&value, &key, json!({ "x": [1.5] })),
                None => with(&value, "x", json!({})),
            },
            10 => match key {
                Some(key) => with(&value, &key, json!(-1.5)),
                None => b"1".to_vec(),
            },
            11 => [&text.as_bytes()[..text.len() - 1], b",\"x\":\"\xff\xfe\"}"].concat(),
            12 => format!("{}{text}{}", "[".repeat(2000), "]".repeat(2000)).into_bytes(),
            13 => b" ".repeat(70_000),
            14 => [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            15 => with(&value, "x", json!("a\u{7}b")),
            16 => text.replacen('{', "", 1).into_bytes(),
            17 => b"\x00".to_vec(),
            _ => return (text.into_bytes(), false),
        };
        (changed, true)
    }

    fn request(&mut self, of: &Described<'_>) -> Request {
        let mut wrong = false;
        let mut target = of.path.to_owned();
        let mut query = Vec::new();
        for parameter in of.call["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap_or_default();
            if parameter["in"] == "path" {
                let value = self.text(name);
                target = target.replace(&format!("{{{name}}}"), &escaped(&value));
            } else if self.random.once_in(2) {
                let value = match self.value(name, &parameter["schema"]) {
                    Value::String(text) => text,
                    other => other.to_string(),
                };
                query.push(format!("{name}={}", escaped(&value)));
            }
        }
        match self.random.below(20) {
            0 => {
                wrong = true;
                query.push(String::from("no-such-key=1"));
            }
            1 if !query.is_empty() => {
                wrong = true;
                query.push(query[0].clone());
            }
            2 if of.path.contains("connections") => {
                wrong = true;
                query.retain(|part| !part.starts_with("port="));
                query.push((*self.random.pick(&["port=x", "port=65536", "port=-1", "port="])).to_owned());
            }
            _ => {}
        }
        if !query.is_empty() {
            target = format!("{target}?{}", query.join("&"));
        }
        let mut body = Vec::new();
        let mut headers = String::new();
        match of.call.get("requestBody") {
            Some(described) => {
                if described["required"] == true || !self.random.once_in(8) {
                    let (made, is_wrong) = self.body(&described["content"]["application/json"]["schema"]);
                    wrong |= is_wrong;
                    body = made;
                }
                match self.random.below(12) {
                    0 | 1 => headers.push_str("content-type: application/json\r\n"),
                    2 => headers.push_str("content-type: Application/JSON; charset=utf-8\r\n"),
                    3 => {
                        wrong = true;
                        headers.push_str("content-type: application/xml\r\n");
                    }
                    4 => {
                        wrong = true;
                        headers.push_str("content-type: application/json\r\ncontent-type: text/plain\r\n");
                    }
                    _ => {}
                }
            }
            None if self.random.once_in(10) => {
                wrong = true;
                body = b"{}".to_vec();
            }
            None => {}
        }
        Request {
            method: of.method.to_uppercase(),
            target,
            headers,
            body,
            wrong,
        }
    }
}

/// An object with an additional key, or another value for the key.
fn with(value: &Value, key: &str, other: Value) -> Vec<u8> {
    let mut object = value.as_object().cloned().unwrap_or_default();
    object.insert(key.to_owned(), other);
    Value::Object(object).to_string().into_bytes()
}

fn escaped(text: &str) -> String {
    let escaped: Vec<String> = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
    escaped.concat()
}

fn send(control: &ControlSocket, request: &Request) -> Result<HttpAnswer> {
    let Request {
        method,
        target,
        headers,
        body,
        ..
    } = request;
    let mut connection = control.connect()?;
    let length = if body.is_empty() {
        String::new()
    } else {
        format!("content-length: {}\r\n", body.len())
    };
    let head = format!("{method} {target} HTTP/1.1\r\nhost: t\r\n{headers}{length}\r\n");
    match connection.write_all(&[head.as_bytes(), body].concat()) {
        // The request was refused before all of it was read.
        Err(error) if !is_closed(&error) => bail!("{error}"),
        _ => read_answer(&mut connection),
    }
}

/// The answer must be one that the description names.
fn check_described(of: &Described<'_>, answer: &HttpAnswer) -> Result<()> {
    let described = of.call["responses"]
        .get(answer.status.to_string())
        .context("no such status is described")?;
    ensure!(
        answer.status < 500 || answer.status == 503,
        "nothing should go wrong here"
    );
    let kind = answer.header("content-type").context("no content type")?;
    if let Some(content) = described["content"].as_object() {
        ensure!(content.contains_key(kind), "`{kind}` is not described");
    }
    if answer.status == 503 {
        ensure!(answer.header("retry-after").is_some(), "when to come again");
    }
    if kind == "application/problem+json" {
        answer.problem(answer.status)?;
    } else if kind == "application/json" {
        answer.json()?;
    }
    Ok(())
}

/// Undoes the effect of a valid request.
fn undo(control: &ControlSocket, request: &Request, answer: &HttpAnswer) -> Result<()> {
    match (&*request.method, answer.json()) {
        ("POST", Ok(task)) if request.target.ends_with("/isolate") => {
            ensure!(task["task"].is_string(), "{task}");
            control.post(&request.target, &json!({ "undo": true }))?.ok()?;
        }
        ("POST", Ok(task)) if request.target == "/v1/tasks" => {
            let name = task["task"].as_str().context("no name")?;
            control
                .call("DELETE", &format!("/v1/tasks/{}", escaped(name)), "")?
                .ok()?;
        }
        _ => {}
    }
    Ok(())
}

#[test]
fn requests_of_every_kind_are_answered_as_described() -> Result<()> {
    let test = E2eTest::start(server)?;
    let control = test.control();
    let document = control.get("/v1/openapi.json")?.ok()?;
    let mut calls = Vec::new();
    for (path, methods) in document["paths"].as_object().context("no paths")? {
        for (method, call) in methods.as_object().context("no methods")? {
            let method = method.clone();
            calls.push(Described { path, method, call });
        }
    }
    ensure!(calls.len() >= 9, "{} calls", calls.len());
    let mut generator = Generator {
        document: &document,
        random: Random::new(SEED),
        unique: test.topology.unique().to_owned(),
        folder: test.topology.folder().join("main").display().to_string(),
    };
    let mut statuses = std::collections::BTreeMap::<u16, u32>::new();
    let mut half = Vec::new();
    for number in 0..REQUESTS {
        let of = &calls[generator.random.index(calls.len())];
        let request = generator.request(of);
        let told = || {
            let body = String::from_utf8_lossy(&request.body[..request.body.len().min(300)]).into_owned();
            let (method, target) = (&request.method, &request.target[..request.target.len().min(300)]);
            format!("request {number}: {method} {target}\n{}{body}", request.headers)
        };
        let answer = send(&control, &request).with_context(told)?;
        *statuses.entry(answer.status).or_default() += 1;
        check_described(of, &answer)
            .with_context(|| format!("{}\nis answered with {}\n{}", told(), answer.head, answer.text()))?;
        ensure!(
            !request.wrong || (400..500).contains(&answer.status),
            "{}\nis wrong, and answered with {}",
            told(),
            answer.head
        );
        if answer.status == 200 {
            undo(&control, &request, &answer).with_context(told)?;
        }
        // Other requests begin, and never end.
        if number % 100 == 0 {
            let mut connection = control.connect()?;
            let cut = generator.random.index(request.target.len());
            write!(connection, "{} {}", request.method, &request.target[..cut])?;
            half.push(connection);
            half.drain(..half.len().saturating_sub(16));
        }
        if number % 250 == 0 {
            let status = control.get("/v1/status")?.ok()?;
            let names: Vec<_> = status["tasks"]
                .as_array()
                .context("no tasks")?
                .iter()
                .map(|task| &task["task"])
                .collect();
            ensure!(
                names == ["web-1"] && status["drift"] == json!([]),
                "{}\nleft {status}",
                told()
            );
            let answers = [80, 81].map(|port| probe(&test.topology.outside, at(WEB, port)));
            let [open, closed] = answers;
            ensure!(
                open? == Answer::Refused && closed? == Answer::Silence,
                "{}\nchanged the policy",
                told()
            );
        }
    }
    for status in [200, 400, 404, 409, 413, 415, 422] {
        ensure!(
            statuses.contains_key(&status),
            "none is answered with {status}: {statuses:?}"
        );
    }
    control.call("POST", "/v1/apply", "")?.ok()?;
    ensure!(control.get("/v1/status")?.ok()?["healthy"] == true);
    let expected = test.denied_in(&[("outside", "web-1")])?;
    test.finish(&expected)?;
    Ok(())
}
