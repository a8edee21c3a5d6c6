//! Traffic while no taskgate runs, and after the next one has started.

use anyhow::Result;
use testkit::{
    E2eTest, at,
    traffic::{Bulk, Client, TcpEcho, UdpPeer, try_connect},
};

use crate::{Talk, WEB, check_denials, check_gate, check_whole, server};

/// A megabyte or so, on its way while things happen.
const MORE: u64 = 500_000;

#[test]
fn gates_judge_and_connections_live_while_nobody_runs_and_afterwards() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    let talk = Talk::begin(&test)?;
    let mut flows = vec![live.flow(), talk.go_on()?];
    let bulk = Bulk::start(&test.topology.outside, test.task("web-1")?, at(WEB, 8000))?;
    flows.push(bulk.flow());
    let denied = UdpPeer::bind(test.task("web-1")?, &format!("{WEB}:54"))?;
    for _ in 0..3 {
        bulk.await_more(MORE)?;
        test.kill()?;
        bulk.await_more(MORE)?;
        live.echo(1000)?;
        talk.go_on()?;
        talk.client.send(denied.address(), b"no")?;
        check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
        // A connection that only the kernel knows of.
        let mut meanwhile = Client::connect(&test.topology.outside, at(WEB, 80))?;
        meanwhile.echo(1000)?;

        test.restart(|config| config)?;
        bulk.await_more(MORE)?;
        live.echo(1000)?;
        meanwhile.echo(1000)?;
        talk.go_on()?;
        talk.client.send(denied.address(), b"no")?;
        check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
        flows.push(meanwhile.finish()?);
    }
    bulk.finish()?;
    live.finish()?;
    assert!(denied.is_silent()?);
    check_whole(&test, "web-1", &flows)?;
    test.daemon.stop()?;
    Ok(())
}

#[test]
fn connections_live_whose_rule_went_while_nobody_ran() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    let talk = Talk::begin(&test)?;
    let bulk = Bulk::start(&test.topology.outside, test.task("web-1")?, at(WEB, 8000))?;
    let flows = [live.flow(), talk.go_on()?, bulk.flow()];
    live.echo(1000)?;
    test.kill()?;
    let mut meanwhile = Client::connect(&test.topology.outside, at(WEB, 80))?;
    bulk.await_more(MORE)?;
    test.restart(|config| config.group("server", "egress: []"))?;
    // Later removals do not affect these connections.
    for again in 0..2 {
        bulk.await_more(MORE)?;
        live.echo(1000)?;
        meanwhile.echo(1000)?;
        talk.go_on()?;
        assert!(try_connect(&test.topology.outside, at(WEB, 80))?.is_none(), "{again}");
        check_denials(&test.topology.outside, test.task("web-1")?, WEB)?;
        test.kill()?;
        test.restart(|config| config)?;
    }
    bulk.finish()?;
    live.finish()?;
    meanwhile.finish()?;
    check_whole(&test, "web-1", &flows)?;
    test.daemon.stop()?;
    Ok(())
}
