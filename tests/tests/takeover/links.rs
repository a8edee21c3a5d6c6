//! Links that changed while no taskgate ran.

use anyhow::Result;
use nix::net::if_::if_nametoindex;
use testkit::{
    Config, Daemon, Netns, Topology, at,
    kernel::{await_gates, gates},
    netns::await_up,
    traffic::{Client, TcpEcho, try_connect},
};

use crate::{SERVER, WEB, check_denials};

const LINK: &str = "tg-task";

fn config(topology: &Topology, device: &str, rules: &str) -> Config {
    let config = topology.config().group("server", rules);
    config.device_task("web-1", device, &[WEB], &["server"])
}

/// A task on a link, a connection to it that no rule of [`closed`] allows, and a taskgate that was killed.
struct Killed {
    topology: Topology,
    task: Netns,
    live: Client,
    _echo: TcpEcho,
}

fn killed() -> Result<Killed> {
    let topology = Topology::new()?;
    let task = topology.device(LINK, &[WEB], true)?;
    let daemon = topology.start(&config(&topology, LINK, SERVER))?;
    let echo = TcpEcho::start(&task, 80)?;
    let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
    live.echo(1000)?;
    daemon.kill_now()?;
    Ok(Killed {
        topology,
        task,
        live,
        _echo: echo,
    })
}

impl Killed {
    /// Starts the next process, with no rule that allows the connection.
    fn closed(&self, device: &str) -> Result<Daemon> {
        self.topology.start(&config(&self.topology, device, "egress: []"))
    }

    /// Connects the task's namespace to the host by another pair, with the same addresses as before.
    fn join(&self, link: &str, number: Option<u32>) -> Result<()> {
        let number = number.map_or_else(String::new, |number| format!("index {number}"));
        let path = self.task.path();
        self.topology.host.ip(&format!(
            "link add name {link} {number} type veth peer name eth0 netns {path}
             address add 169.254.1.1/32 dev {link}
             link set {link} up
             route add {WEB}/32 dev {link}"
        ))?;
        self.task.ip(&format!(
            "link set eth0 up
             address add {WEB}/32 dev eth0
             route add default via 169.254.1.1 dev eth0 onlink"
        ))?;
        await_up(&[(&self.topology.host, link), (&self.task, "eth0")])
    }

    fn is_open(&self) -> Result<bool> {
        Ok(try_connect(&self.topology.outside, at(WEB, 80))?.is_some())
    }
}

/// The baseline: the connection lives by its entry alone.
#[test]
fn a_link_that_stays_keeps_its_connections() -> Result<()> {
    let mut killed = killed()?;
    let daemon = killed.closed(LINK)?;
    killed.live.echo(1000)?;
    assert!(!killed.is_open()?);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_link_that_was_deleted_is_gated_when_it_comes_again() -> Result<()> {
    let mut killed = killed()?;
    killed.topology.host.ip(&format!("link delete {LINK}"))?;
    let daemon = killed.closed(LINK)?;
    daemon.await_message(&format!("is gated as soon as link `{LINK}` is there"))?;
    killed.join(LINK, None)?;
    await_gates(&killed.topology.host, LINK)?;
    assert!(!killed.live.echoes()?, "it was another link's");
    assert!(!killed.is_open()?);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_link_that_was_made_again_inherits_nothing() -> Result<()> {
    for with_its_number in [false, true] {
        let mut killed = killed()?;
        let number = killed.topology.host.run(|| Ok(if_nametoindex(LINK)?))?;
        killed.topology.host.ip(&format!("link delete {LINK}"))?;
        killed.join(LINK, with_its_number.then_some(number))?;
        // The new link has no gate.
        assert_eq!(gates(&killed.topology.host, LINK)?, (0, 0));
        killed.live.echo(1000)?;
        let daemon = killed.closed(LINK)?;
        assert_eq!(gates(&killed.topology.host, LINK)?, (1, 1));
        assert!(!killed.live.echoes()?, "with its number: {with_its_number}");
        assert!(!killed.is_open()?);
        check_denials(&killed.topology.outside, &killed.task, WEB)?;
        daemon.stop()?;
    }
    Ok(())
}

#[test]
fn a_link_that_got_the_number_of_another_inherits_nothing() -> Result<()> {
    let mut killed = killed()?;
    let number = killed.topology.host.run(|| Ok(if_nametoindex(LINK)?))?;
    killed.topology.host.ip(&format!("link delete {LINK}"))?;
    killed.join("tg-other", Some(number))?;
    killed.live.echo(1000)?;
    let daemon = killed.closed("tg-other")?;
    assert!(!killed.live.echoes()?);
    assert!(!killed.is_open()?);
    daemon.stop()?;
    Ok(())
}

#[test]
fn a_link_that_was_renamed_is_known_by_its_number() -> Result<()> {
    // No task names the renamed link.
    let mut killed_once = killed()?;
    rename(&killed_once, "tg-new")?;
    let daemon = killed_once.closed(LINK)?;
    assert_eq!(gates(&killed_once.topology.host, "tg-new")?, (1, 1));
    assert!(!killed_once.live.echoes()?, "nobody says what may pass there");
    assert!(!killed_once.is_open()?);
    daemon.stop()?;

    // The task is configured with the link's new name.
    let mut killed_again = killed()?;
    rename(&killed_again, "tg-new")?;
    let daemon = killed_again.closed("tg-new")?;
    killed_again.live.echo(1000)?;
    assert!(!killed_again.is_open()?);
    daemon.stop()?;
    Ok(())
}

fn rename(killed: &Killed, name: &str) -> Result<()> {
    killed.topology.host.ip(&format!(
        "link set {LINK} down
         link set {LINK} name {name}
         link set {name} up
         route replace {WEB}/32 dev {name}"
    ))?;
    await_up(&[(&killed.topology.host, name), (&killed.task, "eth0")])
}

#[test]
fn a_link_that_was_moved_passes_nothing_where_it_is() -> Result<()> {
    let mut killed = killed()?;
    let away = Netns::new("away")?;
    let path = away.path();
    killed.topology.host.ip(&format!("link set {LINK} netns {path}"))?;
    away.ip(&format!(
        "address add 169.254.1.1/32 dev {LINK}
         link set {LINK} up
         route add {WEB}/32 dev {LINK}"
    ))?;
    await_up(&[(&away, LINK), (&killed.task, "eth0")])?;
    let daemon = killed.closed(LINK)?;
    assert!(try_connect(&away, at(WEB, 80))?.is_none());
    // Another link with the old name appears.
    let other = killed.topology.device(LINK, &["10.88.0.11"], true)?;
    await_gates(&killed.topology.host, LINK)?;
    assert!(!killed.live.echoes()?);
    drop(other);
    daemon.stop()?;
    Ok(())
}
