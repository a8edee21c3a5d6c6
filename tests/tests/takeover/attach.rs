//! `settings.attach`, and gates attached by another hook than the setting's: they stay as they are.

use anyhow::{Result, bail, ensure};
use taskgate_bpf::gate::AttachKind;
use testkit::{
    Config, Daemon, E2eTest, Reload, Topology, at,
    kernel::hooks,
    pins,
    traffic::{Client, TcpEcho},
};

use crate::{WEB, check_gate, server};

const OTHER: &str = "10.88.0.11";

fn attach(config: Config, how: &str) -> Config {
    config.without_extra().with(&format!("settings: {{ attach: {how} }}"))
}

/// How many sides of gates hang by TCX.
fn tcx(topology: &Topology) -> Result<usize> {
    Ok(pins::names(&topology.instance("main"), "links")?.len())
}

#[test]
fn a_gate_stays_as_it_hangs() -> Result<()> {
    if !hooks().contains(&AttachKind::Tcx) {
        return nothing_is_changed_where_there_is_no_tcx();
    }
    let mut test = E2eTest::start(|config| attach(server(config), "clsact"))?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    ensure!(tcx(&test.topology)? == 0);
    // Gates keep their hooks over takeovers: `web-1` its filters, `web-2` TCX.
    for (how, sides) in [("tcx", 2), ("clsact", 2), ("auto", 2)] {
        test.kill()?;
        live.echo(1000)?;
        check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
        test.restart(|config| {
            let config = if how == "tcx" {
                config.task("web-2", &[OTHER], &["server"])
            } else {
                config
            };
            attach(config, how)
        })?;
        ensure!(tcx(&test.topology)? == sides, "{how}: {}", tcx(&test.topology)?);
        live.echo(1000)?;
        let echo = TcpEcho::start(test.task("web-2")?, 80)?;
        check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
        check_gate(&test.topology.outside, test.task("web-2")?, OTHER)?;
        drop(echo);
    }
    live.finish()?;
    let links = [test.topology.host_link("web-1")?, test.topology.host_link("web-2")?];
    let stopped = test.daemon.stop()?;
    for link in links {
        ensure!(stopped.cleaned.contains(&link), "`{link}`: {}", stopped.cleaned);
    }
    Ok(())
}

/// An `attach` setting that this kernel does not support is refused at the start and at a reload; attached gates stay in
/// force.
fn nothing_is_changed_where_there_is_no_tcx() -> Result<()> {
    let mut test = E2eTest::start(server)?;
    let _echo = TcpEcho::start(test.task("web-1")?, 80)?;
    let mut live = Client::connect(&test.topology.outside, at(WEB, 80))?;
    match test.daemon.reload(&attach(test.config.clone(), "tcx"))? {
        Reload::Refused(why) => ensure!(why.contains("write `auto` or `clsact`"), "{why}"),
        Reload::Done => bail!("it was taken"),
    }
    live.echo(1000)?;
    check_gate(&test.topology.outside, test.task("web-1")?, WEB)?;
    test.daemon.stop()?;
    Ok(())
}

fn many(topology: &Topology, tasks: u8) -> Config {
    (1..=tasks).fold(server(topology.config()), |config, number| {
        config.task(&format!("more-{number}"), &[&format!("10.88.1.{number}")], &["server"])
    })
}

/// Whether the log says that filters were chosen for many links at once.
fn chose_filters(daemon: &Daemon) -> bool {
    daemon
        .messages()
        .iter()
        .any(|message| message.contains("65 links come up at once: their gates are filters of clsact"))
}

#[test]
fn many_links_at_once_get_filters_and_one_more_gets_tcx() -> Result<()> {
    let topology = Topology::new()?;
    let mut daemon = topology.start(&many(&topology, 64))?;
    let has_tcx = hooks().contains(&AttachKind::Tcx);
    ensure!(chose_filters(&daemon) == has_tcx && tcx(&topology)? == 0);
    let web = topology.task("web-1")?;
    let _echo = TcpEcho::start(&web, 80)?;
    let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
    check_gate(&topology.outside, &web, WEB)?;
    daemon.apply(&many(&topology, 65))?;
    let sides = if has_tcx { 2 } else { 0 };
    ensure!(tcx(&topology)? == sides, "{}", tcx(&topology)?);
    daemon.kill_now()?;
    // The gates are attached already.
    let daemon = topology.start(&many(&topology, 65))?;
    ensure!(!chose_filters(&daemon) && tcx(&topology)? == sides);
    live.echo(1000)?;
    check_gate(&topology.outside, &web, WEB)?;
    daemon.stop()?;
    Ok(())
}
