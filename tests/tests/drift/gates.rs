//! Gates that another process detaches.

use anyhow::{Context as _, Result, ensure};
use testkit::{
    Netns, at,
    kernel::{gates, take_off},
    netns::until,
    traffic::try_connect,
};

use crate::{CLOSED, Gated, Made, WEB, cases};

/// Which sides lose their gate; `true`: that on which the link receives.
const SIDES: [&[bool]; 3] = [&[true], &[false], &[true, false]];

/// With `TASKGATE_TEST_LONG=1` in all cases; else each kind of attachment and of links with some sides.
fn for_all(act: impl Fn(Gated, &[bool]) -> Result<()>) -> Result<()> {
    let all = std::env::var_os("TASKGATE_TEST_LONG").is_some();
    for (number, (attach, made)) in cases().enumerate() {
        for (at, sides) in SIDES.iter().enumerate() {
            if all || (number + at) % 2 == 0 {
                let case = || format!("{attach:?}, {made:?}, {sides:?}");
                act(Gated::start(attach, made).with_context(case)?, sides).with_context(case)?;
            }
        }
    }
    Ok(())
}

/// The reload comes before the repair: it finds half a gate or none on an existing link.
#[test]
fn a_reload_that_meets_a_gate_that_was_taken_off_cuts_nothing() -> Result<()> {
    for_all(|mut gated, sides| {
        take_off(&gated.topology.host, &gated.instance(), &gated.link, sides)?;
        let config = gated.config(CLOSED);
        gated.daemon.apply(&config)?;
        gated.await_repair("gate-missing")?;
        gated.check_closed()?;
        gated.check_said()?;
        gated.check_successor()
    })
}

/// Link notifications of the kernel say nothing about a gate, and a missing gate says nothing about its link.
#[test]
fn messages_of_a_link_whose_gate_was_taken_off_cut_nothing() -> Result<()> {
    for_all(|mut gated, sides| {
        let config = gated.config(CLOSED);
        gated.daemon.apply(&config)?;
        let (host, link) = (&gated.topology.host, gated.link.clone());
        take_off(host, &gated.instance(), &link, sides)?;
        // A device is a task's by its name alone, so only a link made by taskgate is renamed.
        if gated.made == Made::ByTaskgate {
            host.ip(&format!("link set {link} name renamed"))?;
            host.ip(&format!("link set renamed name {link}"))?;
        }
        host.ip(&format!("link set {link} alias other"))?;
        gated.await_repair("gate-missing")?;
        gated.check_closed()?;
        gated.check_said()
    })
}

/// Half a gate shows a process that the link is the one that was gated before; without any gate it cannot know.
#[test]
fn a_process_that_finds_half_a_gate_goes_on_with_it() -> Result<()> {
    for_all(|mut gated, sides| {
        let (instance, config) = (gated.instance(), gated.config(CLOSED));
        gated.daemon.kill_now()?;
        take_off(&gated.topology.host, &instance, &gated.link, sides)?;
        gated.daemon = gated.topology.start(&config)?;
        if sides.len() == 1 {
            gated.check_closed()?;
        } else {
            ensure!(!gated.live.echoes()?);
        }
        ensure!(gates(&gated.topology.host, &gated.link)? == (1, 1));
        gated.check_said()?;
        gated.daemon.stop()?;
        Ok(())
    })
}

/// A link that no task has any more is closed again, too.
#[test]
fn a_gate_of_nobodys_link_that_was_taken_off_closes_it_again() -> Result<()> {
    for (attach, made) in cases().filter(|(_, made)| *made == Made::ByOthers) {
        let mut gated = Gated::start(attach, made)?;
        let config = gated.config(CLOSED).without_task("web-1");
        gated.daemon.apply(&config)?;
        ensure!(!gated.live.echoes()?);
        let (host, link) = (&gated.topology.host, &gated.link);
        take_off(host, &gated.instance(), link, &[true, false])?;
        gated.await_repair("gate-missing")?;
        until("it is closed", || is_closed(&gated.topology.outside))?;
        gated.daemon.stop()?;
    }
    Ok(())
}

fn is_closed(outside: &Netns) -> Result<bool> {
    Ok(try_connect(outside, at(WEB, 80))?.is_none())
}
