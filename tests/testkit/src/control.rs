//! A hand-written client of taskgate's control socket: the bytes of each request are exactly those given here.

use std::{
    fmt::Write as _,
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{
    daemon::binary,
    netns::{Netns, PATIENCE},
};

/// The socket of an instance.
#[derive(Clone, Debug)]
pub struct ControlSocket {
    pub instance: String,
    pub path: PathBuf,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpAnswer {
    pub status: u16,
    /// The head, in lower case.
    pub head: String,
    pub body: Vec<u8>,
}

impl HttpAnswer {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
    }

    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body of the answer to a call that must succeed.
    pub fn ok(&self) -> Result<Value> {
        ensure!(self.status == 200, "{}: {}", self.status, self.text());
        self.json()
    }

    /// The problem in the answer to a call that must be refused with this status.
    pub fn problem(&self, status: u16) -> Result<Value> {
        ensure!(self.status == status, "{}: {}", self.status, self.text());
        ensure!(
            self.header("content-type") == Some("application/problem+json"),
            "{}",
            self.head
        );
        let problem = self.json()?;
        ensure!(problem["status"] == status && problem["title"].is_string(), "{problem}");
        Ok(problem)
    }
}

impl ControlSocket {
    pub fn of(instance: &str) -> Self {
        Self {
            instance: instance.to_owned(),
            path: Path::new("/run/taskgate").join(format!("{instance}.sock")),
        }
    }

    pub fn get(&self, path: &str) -> Result<HttpAnswer> {
        self.call("GET", path, "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Result<HttpAnswer> {
        self.call("POST", path, &body.to_string())
    }

    /// Makes a call over a new connection.
    pub fn call(&self, method: &str, path: &str, body: &str) -> Result<HttpAnswer> {
        let mut connection = self.connect()?;
        connection.write_all(request(method, path, body).as_bytes())?;
        read_answer(&mut connection)
    }

    /// A connection that nothing was sent on.
    pub fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.path).with_context(|| format!("{}", self.path.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Runs a `taskgate` command with these arguments against this instance and returns its output.
    pub fn taskgate(&self, host: &Netns, words: &[&str]) -> Result<Output> {
        let mut command: Command = host.command(binary()?.to_str().context("the binary's path is no text")?)?;
        command
            .args(words)
            .args(["--instance", &self.instance])
            .env_remove("TASKGATE_CONFIG")
            .stdin(Stdio::null());
        Ok(command.output()?)
    }
}

/// A request's text.
pub fn request(method: &str, path: &str, body: &str) -> String {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: t\r\n");
    if !body.is_empty() {
        // Writing to a string cannot fail.
        write!(text, "content-length: {}\r\n", body.len()).ok();
    }
    text + "\r\n" + body
}

/// Reads an answer, whose body has a length or is chunked.
pub fn read_answer(from: &mut UnixStream) -> Result<HttpAnswer> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(read_byte(from).with_context(|| format!("after {}", String::from_utf8_lossy(&head)))?);
    }
    let head = String::from_utf8(head)?.to_lowercase();
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    let mut answer = HttpAnswer {
        status,
        head,
        body: Vec::new(),
    };
    if answer.header("transfer-encoding") == Some("chunked") {
        loop {
            let length = usize::from_str_radix(&read_line(from)?, 16)?;
            let mut chunk = vec![0; length];
            from.read_exact(&mut chunk)?;
            answer.body.append(&mut chunk);
            ensure!(read_line(from)?.is_empty(), "no end of a chunk");
            if length == 0 {
                return Ok(answer);
            }
        }
    }
    let length = answer.header("content-length").map_or(Ok(0), str::parse)?;
    answer.body = vec![0; length];
    from.read_exact(&mut answer.body)?;
    Ok(answer)
}

/// A line without its end.
fn read_line(from: &mut UnixStream) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(read_byte(from)?);
    }
    line.truncate(line.len() - 2);
    Ok(String::from_utf8(line)?)
}

fn read_byte(from: &mut UnixStream) -> Result<u8> {
    let mut byte = [0];
    from.read_exact(&mut byte)?;
    Ok(byte[0])
}

/// Waits until the peer closes the connection and returns the bytes that it sent before.
pub fn await_close(from: &mut UnixStream, patience: Duration) -> Result<Vec<u8>> {
    from.set_read_timeout(Some(patience))?;
    let mut said = Vec::new();
    let mut some = [0; 4096];
    loop {
        match from.read(&mut some) {
            Ok(0) => return Ok(said),
            Ok(length) => said.extend_from_slice(&some[..length]),
            Err(error) if is_closed(&error) => return Ok(said),
            Err(error) => bail!("it is not closed: {error}, after {}", String::from_utf8_lossy(&said)),
        }
    }
}

/// Whether an error means that the peer has closed the connection.
pub fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
