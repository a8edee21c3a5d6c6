//! The window of a new link: the packets that pass before its gate is attached, on an idle and on a busy machine. The
//! link already passes traffic when it gets the name by which taskgate knows the task; otherwise part of the window would
//! not show.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::UdpSocket,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::{machine::unpinned, spread::Spread};
use testkit::{
    netns::{Netns, until},
    topology::Topology,
};

const TASK: &str = "10.88.0.10";
const BUSY: &str = "10.88.0.20";
const COLLECTOR: &str = "10.99.0.2:9";
/// A port without a listener.
const ABYSS: &str = "10.99.0.2:10";
/// How many entries the prefix list has that a reload reads.
const ENTRIES: u32 = 150_000;
/// By this time the gate is attached, or the figures show that it is not.
const LONGEST: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowEffort(pub u32);

impl WindowEffort {
    /// For published figures: some minutes.
    pub const FULL: Self = Self(31);
    /// Enough to see that everything works.
    pub const QUICK: Self = Self(3);
}

/// The machine's other load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Idle,
    Flood,
    Reload,
}

pub fn run(effort: WindowEffort) -> Result<String> {
    let mut text = unpinned()?;
    writeln!(text, "rounds:  {}, medians of them\n", effort.0)?;
    writeln!(
        text,
        "{:<44}datagrams passed  least   most  over ms  least   most",
        "a link that comes while"
    )?;
    for (load, name) in [
        (Load::Idle, "nothing else happens"),
        (Load::Flood, "another task floods"),
        (Load::Reload, "a reload reads a list of 150,000 entries"),
    ] {
        let [passed, time] = measure(load, effort)?;
        writeln!(
            text,
            "{name:<44}{:>16.0}{:>7.0}{:>7.0}{:>9.1}{:>7.1}{:>7.1}",
            passed.median, passed.least, passed.most, time.median, time.least, time.most
        )?;
    }
    Ok(text)
}

fn measure(load: Load, effort: WindowEffort) -> Result<[Spread; 2]> {
    let topology = Topology::new()?;
    let config = topology
        .config()
        .group("closed", "egress: []")
        .group("open", "")
        .device_task("task", "tg-task", &[TASK], &["closed"])
        .device_task("busy", "tg-busy", &[BUSY], &["open"]);
    let busy = topology.device("tg-busy", &[BUSY], true)?;
    let daemon = topology.start_with(&config, Some(600))?;
    if load == Load::Reload {
        let entries: Vec<String> = (0..ENTRIES)
            .map(|entry| {
                let [_, high, middle, low] = entry.to_be_bytes();
                format!(r#"{{"Cidr":"11.{high}.{middle}.{low}/32"}}"#)
            })
            .collect();
        let list = topology.folder().join("main/pl-0123456789abcdef0.json");
        fs::write(list, format!(r#"{{"Entries":[{}]}}"#, entries.join(",")))?;
    }
    let collector = topology.outside.bind(|| UdpSocket::bind(COLLECTOR))?;
    collector.set_read_timeout(Some(Duration::from_millis(400)))?;
    let task = Netns::new("task")?;
    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let sent = scope.spawn(|| send(&task, COLLECTOR, Duration::from_micros(100), &ended));
        let flood = (load == Load::Flood).then(|| scope.spawn(|| send(&busy, ABYSS, Duration::ZERO, &ended)));
        let rounds = (0..effort.0).map(|_| {
            if load == Load::Reload {
                daemon.signal(Signal::SIGHUP)?;
            }
            round(&topology, &task, &collector)
        });
        let rounds: Result<Vec<(f64, f64)>> = rounds.collect();
        ended.store(true, Ordering::Relaxed);
        for thread in [Some(sent), flood].into_iter().flatten() {
            thread.join().ok().context("a sender panicked")??;
        }
        let rounds = rounds?;
        let passed = Spread::of(rounds.iter().map(|(passed, _)| *passed)).context("no rounds")?;
        let time = Spread::of(rounds.iter().map(|(_, time)| *time)).context("no rounds")?;
        daemon.stop()?;
        Ok([passed, time])
    })
}

/// Sends datagrams one after the other, from a namespace with or without a link.
fn send(from: &Netns, to: &str, pause: Duration, ended: &AtomicBool) -> Result<()> {
    let socket = from.run(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
    while !ended.load(Ordering::Relaxed) {
        // Without a link there is no route, so sending fails until the link is there.
        let sent = socket.send_to(b"window", to).is_ok();
        if !pause.is_zero() || !sent {
            thread::sleep(pause.max(Duration::from_micros(20)));
        }
    }
    Ok(())
}

/// Makes a link that passes everything, gives it the task's name, and counts the datagrams that arrive after that, and
/// for how long.
fn round(topology: &Topology, task: &Netns, collector: &UdpSocket) -> Result<(f64, f64)> {
    let path = task.path();
    topology.host.ip(&format!(
        "link add tg-new type veth peer name eth0 netns {path}
         address add 169.254.1.1/32 dev tg-new
         link set tg-new up
         route add {TASK}/32 dev tg-new"
    ))?;
    task.ip(&format!(
        "address add {TASK}/32 dev eth0
         link set eth0 up
         route add default via 169.254.1.1 dev eth0 onlink"
    ))?;
    until("the new link passes", || Ok(collector.recv(&mut [0; 8]).is_ok()))?;
    let mut ip = topology
        .host
        .command("ip")?
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()?;
    let mut commands = ip.stdin.take().context("no standard input")?;
    // Gives `ip` time to start and wait for its input.
    thread::sleep(Duration::from_millis(50));
    collector.set_nonblocking(true)?;
    while collector.recv(&mut [0; 8]).is_ok() {}
    collector.set_nonblocking(false)?;
    let begun = Instant::now();
    commands.write_all(b"link set tg-new name tg-task\n")?;
    let (mut passed, mut last) = (0.0, begun);
    while begun.elapsed() < LONGEST && collector.recv(&mut [0; 8]).is_ok() {
        passed += 1.0;
        last = Instant::now();
    }
    drop(commands);
    ip.wait()?;
    topology.host.ip("link delete tg-task")?;
    Ok((passed, (last - begun).as_secs_f64() * 1e3))
}
