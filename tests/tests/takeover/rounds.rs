//! Kills at any moment, again and again, under traffic.

use std::{
    collections::BTreeSet,
    panic::resume_unwind,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use taskgate_bpf::{gate::AttachKind, sys::lift_open_files_limit};
use testkit::{
    E2eTest, Netns, OUTSIDE_V4, at,
    kernel::{Objects, hooks},
    ledger::Flow,
    pins,
    random::Random,
    traffic::{Bulk, Client, TcpEcho, UdpPeer},
};

use crate::{SERVER, WEB, check_whole, server};

/// Ends the traffic, also where the test fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Calls `act` every so many milliseconds until `stop` is set.
fn repeat(stop: &AtomicBool, every: u64, mut act: impl FnMut() -> Result<()>) -> Result<()> {
    while !stop.load(Relaxed) {
        act()?;
        thread::sleep(Duration::from_millis(every));
    }
    Ok(())
}

/// New connections, each with an echo.
fn connect(stop: &AtomicBool, outside: &Netns) -> Result<Vec<Flow>> {
    let mut flows = Vec::new();
    // The server keeps its side of each until the end.
    repeat(stop, 20, || {
        let mut client = Client::connect(outside, at(WEB, 80))?;
        client.echo(100)?;
        flows.push(client.finish()?);
        Ok(())
    })?;
    Ok(flows)
}

fn join<R>(thread: ScopedJoinHandle<'_, Result<R>>) -> Result<R> {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// Keeps traffic running during `rounds`; then compares the sums of all records.
pub(crate) fn under_traffic(rounds: impl FnOnce(&mut E2eTest, &mut Vec<Objects>) -> Result<()>) -> Result<()> {
    lift_open_files_limit();
    let mut test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let (outside, task) = (test.topology.outside.try_clone()?, test.task("web-1")?.try_clone()?);
    let bulk = Bulk::start(&outside, &task, at(WEB, 8000))?;
    let mut live = Client::connect(&outside, at(WEB, 80))?;
    live.echo(1000)?;
    let talk = [
        UdpPeer::bind(&outside, "10.99.0.2:0")?,
        UdpPeer::bind(&task, &format!("{WEB}:53"))?,
    ];
    let out = UdpPeer::bind(&task, &format!("{WEB}:0"))?;
    let denied = [
        UdpPeer::bind(&task, &format!("{WEB}:54"))?,
        UdpPeer::bind(&outside, "10.99.0.2:54")?,
    ];
    let mut objects = vec![test.daemon.objects()?];

    let stop = AtomicBool::new(false);
    let mut flows = thread::scope(|scope| {
        let ends = Stop(&stop);
        let connects = scope.spawn(|| connect(&stop, &outside));
        let talks = scope.spawn(|| repeat(&stop, 3, || talk[0].converse(&talk[1], 1).map(drop)));
        let denials = scope.spawn(|| {
            repeat(&stop, 3, || {
                talk[0].send(denied[0].address(), b"no")?;
                out.send((OUTSIDE_V4, 54).into(), b"no")?;
                Ok(())
            })
        });
        let done = rounds(&mut test, &mut objects);
        drop(ends);
        join(talks)?;
        join(denials)?;
        let flows = join(connects);
        done?;
        flows
    })?;
    live.echo(1000)?;
    flows.extend([live.finish()?, bulk.flow(), talk[0].flow_to(talk[1].address())]);
    bulk.finish()?;
    for denied in &denied {
        ensure!(denied.is_silent()?, "something came through to {}", denied.address());
    }
    check_whole(&test, "web-1", &flows)?;

    // As much as after the first start.
    let (first, last) = (&objects[0], test.daemon.objects()?);
    let sizes = |objects: &Objects| [&objects.programs, &objects.maps, &objects.links].map(BTreeSet::len);
    ensure!(sizes(first) == sizes(&last), "{first} became {last}");
    let instance = test.topology.instance("main");
    // A filter has no name.
    let links = if hooks().contains(&AttachKind::Tcx) { 2 } else { 0 };
    ensure!(pins::names(&instance, "links")?.len() == links && pins::names(&instance, "images")?.len() == 1);
    objects.push(last);
    let expected = test.denied_at("web-1")?;
    test.finish(&expected)?;
    ensure!(!pins::folder(&instance).exists());
    objects.iter().try_for_each(Objects::await_gone)
}

/// Reads the flows of all wires, before their buffers are full.
pub(crate) fn hear(test: &E2eTest) -> Result<()> {
    test.outside.flows()?;
    test.wire("web-1")?.flows().map(drop)
}

#[test]
fn kills_at_random_moments() -> Result<()> {
    let seed = u64::from(std::process::id()) << 20 | 1;
    let mut random = Random::new(seed);
    let more = SERVER.replace("ports: [80,", "ports: [80, 443,");
    under_traffic(|test, objects| {
        for round in 0..20 {
            let what = random.below(3);
            match what {
                // In any of the capture windows.
                0 => thread::sleep(Duration::from_millis(random.below(1500))),
                1 => {
                    let rules = if round % 2 == 0 { SERVER } else { &more };
                    let next = test.config.clone().group("server", rules);
                    test.daemon.begin_reload(&next.to_string())?;
                    thread::sleep(Duration::from_millis(random.below(60)));
                }
                _ => {
                    test.kill()?;
                    let next = test.topology.begin(&test.config, Some(1))?;
                    thread::sleep(Duration::from_millis(random.below(800)));
                    test.succeed(next)?;
                }
            }
            objects.push(test.daemon.objects()?);
            test.kill()?;
            hear(test)?;
            test.restart(|config| config)
                .with_context(|| format!("round {round}, {what}, seed {seed}"))?;
            hear(test)?;
        }
        Ok(())
    })
}
