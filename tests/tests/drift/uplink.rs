//! The uplink's prefilter, which another process detaches.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use taskgate_bpf::sys;
use testkit::{
    E2eTest, Topology, at,
    netns::until,
    traffic::{Client, TcpEcho, try_connect},
};

use crate::{OPEN, WEB};

/// The XDP link that taskgate has on the uplink.
fn prefilter(test: &E2eTest) -> Result<u32> {
    let wire = test.topology.host.run(|| Ok(if_nametoindex("wire")?))?;
    for id in test.daemon.objects()?.links {
        let link = sys::link_by_id(id)?;
        // The gates of tasks are on other links.
        if sys::attached(link.as_fd())?.ifindex == wire {
            return Ok(id);
        }
    }
    anyhow::bail!("the uplink has no prefilter")
}

#[test]
fn a_prefilter_that_was_taken_off_is_told_of_and_attached_again() -> Result<()> {
    let topology = Topology::new()?;
    let test = E2eTest::in_topology(topology, |config| {
        config
            .with("uplink: { device: wire, mode: routed }")
            .group("web", OPEN)
            .task("web-1", &[WEB], &["web"])
    })?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    let before = prefilter(&test)?;
    sys::detach(sys::link_by_id(before)?.as_fd())?;
    until("it is told of and attached again", || {
        let status: Value = test.control().get("/v1/status")?.ok()?;
        let drift = status["drift"].as_array().context("no drift")?;
        let of_it = |deviation: &&Value| deviation["kind"] == "prefilter-missing" && deviation["link"] == "wire";
        Ok(status["healthy"] == true && drift.iter().any(|deviation| of_it(&deviation)))
    })?;
    ensure!(prefilter(&test)? != before);
    live.echo(1000)?;
    ensure!(try_connect(&test.topology.outside, at(WEB, 81))?.is_none());
    test.daemon.stop()?;
    Ok(())
}
