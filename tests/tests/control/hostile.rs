//! Hostile clients: none delays other clients, the daemon, or the data path.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::{
    ControlSocket, E2eTest, at,
    control::{await_close, is_closed, read_answer, request},
    traffic::{Client, TcpEcho},
};

use crate::{WEB, server};

/// As many as are served at once for root.
const CONNECTIONS: usize = 64;
/// The limit for a request's head, and for the time between its bytes.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// The longest time to an answer, whatever other clients do.
const SOON: Duration = Duration::from_secs(2);

/// The socket answers, and packets pass.
fn check_alive(test: &E2eTest) -> Result<()> {
    let begun = Instant::now();
    test.control().get("/v1/status")?.ok()?;
    ensure!(begun.elapsed() < SOON, "an answer took {:?}", begun.elapsed());
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    Ok(())
}

/// Sends this text and returns the daemon's bytes until it closes the connection.
fn exchange(control: &ControlSocket, text: &[u8]) -> Result<String> {
    let mut connection = control.connect()?;
    match connection.write_all(text) {
        Err(error) if !is_closed(&error) => return Err(error.into()),
        _ => {}
    }
    let _closed = connection.shutdown(std::net::Shutdown::Write);
    Ok(String::from_utf8_lossy(&await_close(&mut connection, 2 * HEAD_PATIENCE)?).into_owned())
}

#[test]
fn what_is_no_request_is_refused() -> Result<()> {
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let control = test.control();
    let garbage: Vec<u8> = (0..4096_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let many_headers = (0..500).map(|n| format!("h{n}: v\r\n")).collect::<Vec<_>>().concat();
    let endless = "x".repeat(200_000);
    for text in [
        &garbage[..],
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v1/apply HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/apply HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"POST /v1/apply HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
        format!("GET /v1/{endless} HTTP/1.1\r\nhost: t\r\n\r\n").as_bytes(),
        format!("GET /v1/status HTTP/1.1\r\nhost: t\r\nbig: {endless}\r\n\r\n").as_bytes(),
        format!("GET /v1/status HTTP/1.1\r\nhost: t\r\n{many_headers}\r\n").as_bytes(),
    ] {
        let said = exchange(&control, text)?;
        let start = String::from_utf8_lossy(&text[..text.len().min(60)]).into_owned();
        ensure!(
            !said.contains(" 200 ") && !said.contains("generation"),
            "{start}: {said}"
        );
    }

    control.get("/v1/nothing")?.problem(404)?;
    control.get("/")?.problem(404)?;
    control.get("/v1/../../etc/passwd")?.problem(404)?;
    control.call("DELETE", "/v1/status", "")?.problem(405)?;
    control.call("BREW", "/v1/apply", "")?.problem(405)?;
    for body in [
        "{",
        "[]",
        "{\"config\": 1}",
        "{\"folder\": \"/x\"}",
        "\u{0}",
        "{\"config\": \"relative\"}",
        "{\"config\":\"\"}",
        "{\"config\":\"/x\\nforged\"}",
        "{\"config\":\"/\\u001b[31m\"}",
    ] {
        control.call("POST", "/v1/apply", body)?.problem(400)?;
    }
    control.call("GET", "/v1/a%0Aforged", "")?.problem(400)?;
    let long = json!({ "config": format!("/{}", "x".repeat(5000)) });
    control.post("/v1/apply", &long)?.problem(400)?;
    // As deep as can be.
    control.call("POST", "/v1/apply", &"[".repeat(60_000))?.problem(400)?;
    control
        .call("POST", "/v1/apply", &" ".repeat(64 * 1024 + 1))?
        .problem(413)?;
    let missing = control
        .post("/v1/apply", &json!({ "config": "/nowhere" }))?
        .problem(422)?;
    ensure!(missing["errors"][0]["message"].is_string(), "{missing}");
    ensure!(control.get("/v1/status")?.ok()?["generation"] == 1);
    check_alive(&test)?;
    finish(test)
}

fn finish(test: E2eTest) -> Result<()> {
    let expected = test.passed()?;
    test.finish(&expected)?;
    Ok(())
}

#[test]
fn requests_in_a_row_are_answered_in_turn() -> Result<()> {
    let test = E2eTest::start(server)?;
    let mut connection = test.control().connect()?;
    let both = request("GET", "/v1/status", "")
        + &request("POST", "/v1/apply", "{}")
        + &request("GET", "/v1/openapi.json", "");
    // Byte by byte, so that no request comes whole.
    for byte in both.bytes() {
        connection.write_all(&[byte])?;
    }
    ensure!(read_answer(&mut connection)?.ok()?["generation"] == 1);
    ensure!(read_answer(&mut connection)?.ok()?["generation"] == 2);
    let document = read_answer(&mut connection)?.ok()?;
    ensure!(document["paths"]["/v1/apply"]["post"].is_object(), "{document}");
    connection.write_all(request("GET", "/v1/status", "").as_bytes())?;
    ensure!(read_answer(&mut connection)?.ok()?["generation"] == 2);
    drop(connection);
    finish(test)
}

/// Half requests, requests of a byte a second, bodies that never arrive, and silent connections: each is closed in time,
/// and other clients are served meanwhile.
#[test]
fn slow_clients_are_given_up() -> Result<()> {
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let control = test.control();
    let open = |text: &str| -> Result<UnixStream> {
        let mut connection = control.connect()?;
        connection.write_all(text.as_bytes())?;
        Ok(connection)
    };
    let mut slow = vec![
        open("")?,
        open("GET /v1/status HT")?,
        open("GET /v1/status HTTP/1.1\r\nhost: t\r\nheader: un")?,
        open("POST /v1/apply HTTP/1.1\r\nhost: t\r\ncontent-length: 100\r\n\r\n{")?,
    ];
    let mut idle = open(&request("GET", "/v1/status", ""))?;
    read_answer(&mut idle)?.ok()?;
    slow.push(idle);
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let drip = scope.spawn(|| -> Result<Duration> {
            let mut connection = open("POST /v1/apply HTTP/1.1\r\nhost: t\r\n")?;
            let begun = Instant::now();
            while connection.write_all(b"a").is_ok() && !stop.load(Relaxed) {
                thread::sleep(Duration::from_secs(1));
            }
            Ok(begun.elapsed())
        });
        check_alive(&test)?;
        for connection in &mut slow {
            await_close(connection, 2 * HEAD_PATIENCE)?;
        }
        ensure!(begun.elapsed() < 2 * HEAD_PATIENCE, "it took {:?}", begun.elapsed());
        stop.store(begun.elapsed() > 3 * HEAD_PATIENCE, Relaxed);
        let dripped = drip.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(dripped < 2 * HEAD_PATIENCE, "a byte a second was taken for {dripped:?}");
        Ok(())
    })?;
    check_alive(&test)?;
    finish(test)
}

/// Clients beyond the limit of connections are refused at once with 503; places that become free are used again.
#[test]
fn there_are_so_many_places() -> Result<()> {
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let control = test.control();
    let held = (0..CONNECTIONS)
        .map(|_| control.connect())
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..3 * CONNECTIONS {
        control.get("/v1/status")?.problem(503)?;
    }
    Client::connect(&test.topology.outside, at(WEB, 80))?.finish()?;
    drop(held);
    await_place(&control)?;
    check_alive(&test)?;
    finish(test)
}

/// Clients that send requests as fast as they can and read no answer do not block others.
#[test]
fn those_who_read_nothing_hold_nobody_up() -> Result<()> {
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let control = test.control();
    let flood = request("GET", "/v1/openapi.json", "").repeat(200);
    let mut deaf = Vec::new();
    for _ in 0..CONNECTIONS / 2 {
        let mut connection = control.connect()?;
        connection.set_nonblocking(true)?;
        for _ in 0..20 {
            if connection.write(flood.as_bytes()).is_err() {
                break;
            }
        }
        deaf.push(connection);
    }
    for _ in 0..5 {
        check_alive(&test)?;
    }
    // Answers that were sent by then are complete.
    let mut first = deaf.swap_remove(0);
    first.set_nonblocking(false)?;
    let mut start = [0; 15];
    first.read_exact(&mut start)?;
    ensure!(&start == b"HTTP/1.1 200 OK", "{start:?}");
    drop(deaf);
    check_alive(&test)?;
    finish(test)
}

/// Waits until the places of closed connections are free. Some clients get no answer if there are very many.
fn await_place(control: &ControlSocket) -> Result<()> {
    testkit::netns::until("there are places", || {
        Ok(control.get("/v1/status").is_ok_and(|answer| answer.status == 200))
    })
}

/// Many clients ask for applies, and most hang up: their applies are not done, and clients beyond a limit are refused at
/// once.
#[test]
fn applies_of_clients_that_are_gone_hold_nobody_up() -> Result<()> {
    const GONE: usize = 300;
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let control = test.control();
    let folder = |name: &str| -> Result<PathBuf> {
        let folder = test.topology.folder().join(name);
        fs::create_dir(&folder)?;
        fs::write(folder.join("t.yaml"), test.config.to_string())?;
        Ok(folder)
    };
    let folders = (0..CONNECTIONS)
        .map(|number| folder(&format!("f{number}")))
        .collect::<Result<Vec<_>>>()?;
    let ask = |number: usize, more: &str| -> Result<UnixStream> {
        let body = json!({ "config": folders[number % folders.len()] }).to_string();
        let mut connection = control.connect()?;
        connection.write_all((request("POST", "/v1/apply", &body) + more).as_bytes())?;
        Ok(connection)
    };
    // The stopped daemon finds all requests at once, half of them with further bytes behind the request.
    for round in 0..GONE / CONNECTIONS {
        test.daemon.signal(Signal::SIGSTOP)?;
        let gone = (0..CONNECTIONS)
            .map(|number| ask(number, if number % 2 == 0 { "" } else { "GET /v1/st" }))
            .collect::<Result<Vec<_>>>()?;
        test.daemon.signal(Signal::SIGCONT)?;
        thread::sleep(Duration::from_millis(5 * round as u64));
        drop(gone);
    }
    await_place(&control)?;
    let begun = control.get("/v1/status")?.ok()?["generation"]
        .as_u64()
        .unwrap_or_default();
    let answer = control.call("POST", "/v1/apply", "")?.ok()?;
    let applied = answer["generation"].as_u64().unwrap_or_default();
    ensure!(
        applied - begun < 16,
        "{begun} and then {applied}: it applied what nobody waited for"
    );

    // Only a limited number of clients may wait, the others are refused at once; a signal comes before all of them.
    test.daemon.signal(Signal::SIGSTOP)?;
    let mut waiting = (0..CONNECTIONS - 1)
        .map(|number| ask(number, ""))
        .collect::<Result<Vec<_>>>()?;
    test.daemon.signal(Signal::SIGHUP)?;
    test.daemon.signal(Signal::SIGCONT)?;
    let mut done = 0;
    for connection in &mut waiting {
        let answer = read_answer(connection)?;
        if answer.status == 200 {
            done += 1;
        } else {
            answer.problem(503)?;
            ensure!(answer.header("retry-after") == Some("1"), "{}", answer.head);
        }
    }
    ensure!(done >= 32, "only {done} were done");
    drop(waiting);
    await_place(&control)?;
    check_alive(&test)?;
    finish(test)
}

/// Comparisons run one after the other, and only for clients that are still connected.
#[test]
fn comparisons_are_bounded_and_end_with_their_clients() -> Result<()> {
    let test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let control = test.control();
    let ask = || -> Result<UnixStream> {
        let mut connection = control.connect()?;
        connection.write_all(request("POST", "/v1/diff", "").as_bytes())?;
        Ok(connection)
    };
    for _ in 0..20 {
        drop((0..CONNECTIONS - 1).map(|_| ask()).collect::<Result<Vec<_>>>()?);
    }
    await_place(&control)?;
    testkit::netns::until("nobody is compared for", || {
        let answer = control.post("/v1/diff", &json!({}))?;
        ensure!(answer.status == 200 || answer.status == 503, "{}", answer.head);
        Ok(answer.status == 200)
    })?;
    test.daemon.signal(Signal::SIGSTOP)?;
    let mut waiting = (0..CONNECTIONS - 1).map(|_| ask()).collect::<Result<Vec<_>>>()?;
    test.daemon.signal(Signal::SIGCONT)?;
    let mut compared = 0;
    for connection in &mut waiting {
        let answer = read_answer(connection)?;
        if answer.status == 200 {
            compared += 1;
        } else {
            answer.problem(503)?;
            ensure!(answer.header("retry-after") == Some("1"), "{}", answer.head);
        }
    }
    // A comparison for a closed connection may still hold a place.
    ensure!(compared >= 4, "only {compared} were compared");
    drop(waiting);
    await_place(&control)?;
    check_alive(&test)?;
    finish(test)
}
