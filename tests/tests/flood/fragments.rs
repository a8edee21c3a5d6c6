//! Floods of first fragments.

use std::time::{Duration, Instant};

use anyhow::Result;
use taskgate_ebpf::abi::Direction::Egress;
use testkit::{
    E2eTest, MapDump, at,
    netns::until,
    traffic::{UdpPeer, inject, udp_packet},
};

use super::{CLIENT, LOUD, MOST_DENIALS, OUTSIDE, QUIET, SINK};

/// First fragments without the rest are remembered for half a minute, and for about a second at most if they use up the
/// room of other datagrams.
#[test]
fn a_flood_of_fragments_is_over_in_seconds() -> Result<()> {
    // Floor and pool of the task that sends them, and as many again.
    const LONE: u16 = 2 * (MOST_DENIALS / 8) as u16;
    const LARGE: [u8; 1600] = [7; 1600];
    const MORE_FRAGMENTS: u8 = 0x20;
    let test = E2eTest::start_with(Some(600), |config| {
        config
            .group("client", CLIENT)
            .task("loud-1", &[LOUD], &["client"])
            .task("quiet-1", &[QUIET], &["client"])
            .with("settings: { denials: { total: 1024 } }")
    })?;
    let held = MapDump::of(&test.daemon)?;
    let server = UdpPeer::bind(&test.topology.outside, &at(OUTSIDE, SINK).to_string())?;
    let [loud, quiet] = [("loud-1", LOUD), ("quiet-1", QUIET)]
        .map(|(task, own)| UdpPeer::bind(test.task(task)?, &at(own, 0).to_string()));
    let (loud, quiet) = (loud?, quiet?);
    loud.send(server.address(), &LARGE)?;
    server.expect(&LARGE)?;
    for identification in 1..=LONE {
        // To another host: no complete datagram has the same addresses and identification.
        let mut first = udp_packet(loud.flow_to(at("10.99.0.3", SINK)), &LARGE[..16])?;
        first[4..6].copy_from_slice(&identification.to_be_bytes());
        first[6] |= MORE_FRAGMENTS;
        inject(test.task("loud-1")?, &first)?;
    }
    loud.send(server.address(), &LARGE)?;
    held.await_counted(Egress, "fragment-without-first", &[1])?;
    assert!(server.is_silent()?, "half of a datagram is none");
    quiet.send(server.address(), &LARGE)?;
    server.expect(&LARGE)?;
    test.daemon
        .await_message("task `loud-1` is at its limit of datagrams in fragments")?;

    let began = Instant::now();
    until("the task's datagrams arrive again", || {
        loud.send(server.address(), &LARGE)?;
        Ok(!server.is_silent()?)
    })?;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    Ok(())
}
