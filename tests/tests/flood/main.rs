//! Floods: a task uses up its floor of the tables and the common pool, but no other task's floor; losses are reported.

mod connections;
mod denials;
mod fragments;
mod scans;

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use anyhow::Result;
use testkit::{
    Action, Config, E2eTest, at,
    ledger::Ledger,
    netns::Netns,
    record::{Record, Status},
    traffic::{Client, try_connect},
};

const LOUD: &str = "10.88.0.10";
const QUIET: &str = "10.88.0.20";
const OUTSIDE: &str = "10.99.0.2";

/// Connections from here are tracked: their rule is not open to any.
const CLIENT: &str = "egress: [{ protocol: all, to: [10.99.0.0/24] }]";

/// Where floods go: a UDP port at which datagrams end, and a TCP port that resets.
const SINK: u16 = 9000;
const CLOSED: u16 = 9001;
const ECHO: u16 = 7;
/// The first port of floods.
const FIRST: u16 = 10_000;

/// The room for denied flows, and the part that one task can use: its floor, which is an eighth, and the pool.
const DENIALS: u64 = 1024;
const MOST_DENIALS: u64 = DENIALS - DENIALS / 4 / 2;

/// The most connections that a task opens during a flood: less than its share, part of which closed connections use for
/// some seconds.
const MOST_OPENED: usize = 200;

/// Runs `flood` while a task's connection to the echo outside continues and the task opens and closes others all the
/// time. Returns how many it opened.
fn beside<R>(quiet: &Netns, live: &mut Client, flood: impl FnOnce() -> Result<R> + Send) -> Result<(R, usize)>
where
    R: Send,
{
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let loud = scope.spawn(|| {
            let done = flood();
            over.store(true, Relaxed);
            done
        });
        let mut opened = 0;
        while !over.load(Relaxed) || opened < 10 {
            live.echo(1000)?;
            if opened == MOST_OPENED {
                continue;
            }
            let mut new = Client::connect(quiet, at(OUTSIDE, ECHO))?;
            new.echo(100)?;
            new.finish()?;
            opened += 1;
        }
        let done = loud.join().map_err(|_panic| anyhow::anyhow!("the flood panicked"))??;
        Ok((done, opened))
    })
}

/// Whether a task can connect to the echo outside.
fn connects(task: &Netns) -> Result<bool> {
    let client = try_connect(task, at(OUTSIDE, ECHO))?;
    Ok(client.map(Client::abort).transpose()?.is_some())
}

/// Whether the records of a task report missing packets.
fn lacks(records: &[Record], task: &str) -> bool {
    let eni = Config::eni(task);
    records
        .iter()
        .any(|record| record.eni == eni && record.status == Status::SkipData)
}

/// Stops taskgate. The records of `loud-1` lack this many packets, and report that; those of `quiet-1` lack none.
fn sums_are_whole(test: E2eTest, expected: &Ledger, lost: u64) -> Result<()> {
    let stopped = test.daemon.stop()?;
    let recorded = stopped.ledger()?;
    let packets =
        |ledger: &Ledger, task: &str| [Action::Accept, Action::Reject].map(|action| ledger.total(task, action).packets);
    let [accepted, rejected] = packets(&recorded, "loud-1");
    let [passed, denied] = packets(expected, "loud-1");
    assert_eq!(
        accepted + rejected + lost,
        passed + denied,
        "records and losses, or what was on the wire"
    );
    assert!(accepted <= passed && rejected <= denied, "{recorded:?} or {expected:?}");
    assert_eq!(packets(&recorded, "quiet-1"), packets(expected, "quiet-1"));
    assert!(lacks(&stopped.records, "loud-1"), "SKIPDATA");
    assert!(
        !lacks(&stopped.records, "quiet-1"),
        "no SKIPDATA of a task that lacks nothing"
    );
    Ok(())
}
