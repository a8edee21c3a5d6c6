//! An uplink that comes, goes and changes while taskgate runs. A former branch is never open.

use anyhow::{Result, ensure};
use taskgate_ebpf::abi::{Direction, DropReason};
use testkit::{
    Capture, Config, ControlSocket, Counters, Daemon, Reload, at,
    fixture::frames::{self, flags},
    ip,
    kernel::{await_gates, gates, hooks, take_off},
    netns::{await_up, until},
    traffic::Sender,
};

use super::place::{Far, Judge, Place, Side, vlan};

const WEB: &str = "10.88.1.10";
const PEER: &str = "10.99.0.9";
/// No task's.
const HOST: &str = "10.99.0.1";
const HTTP: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";

fn one(config: Config) -> Config {
    config.group("http", HTTP).vlan_task("web-1", 101, &[WEB], &["http"])
}

/// Sends frames to VLANs of the trunk and reports which arrive.
struct Probe<'p> {
    sender: Sender,
    arrivals: Capture,
    counters: Counters,
    place: &'p Place,
    sent: u16,
}

impl<'p> Probe<'p> {
    fn new(place: &'p Place, daemon: &Daemon) -> Result<Self> {
        Ok(Self {
            sender: place.sender(Side::Wire)?,
            arrivals: place.capture(Side::Inside)?,
            counters: Counters::of(daemon)?,
            place,
            sent: 0,
        })
    }

    fn send(&mut self, tags: &[(u16, u16)], port: u16) -> Result<Vec<u8>> {
        self.sent += 1;
        let mark = format!("frame {:05} of this test", self.sent).into_bytes();
        let tcp = frames::tcp(40000 + self.sent, port, flags::SYN, &mark);
        let to = if tags.is_empty() { HOST } else { WEB };
        let frame = frames::with_checksum(frames::ip(ip(PEER), ip(to), 6, &tcp));
        self.sender.send(&Side::Wire.sends(tags, &frame))?;
        Ok(mark)
    }

    fn passes(&mut self, tags: &[(u16, u16)], port: u16) -> Result<()> {
        let mark = self.send(tags, port)?;
        self.arrivals.await_bytes(&mark)
    }

    /// The packet is dropped once, for this reason.
    fn drops(&mut self, tags: &[(u16, u16)], port: u16, reason: DropReason) -> Result<()> {
        let before = self.counters.dropped(Direction::Ingress, reason)?;
        let mark = self.send(tags, port)?;
        self.counters.await_dropped(Direction::Ingress, reason, before + 1)?;
        ensure!(self.arrivals.count(&mark)? == 0, "it arrived");
        Ok(())
    }

    /// The branch is judged, the host's frames go on, and nothing else passes.
    fn is_trunk(&mut self) -> Result<()> {
        await_gates(&self.place.topology.host, "trunk")?;
        self.passes(&vlan(101), 80)?;
        self.drops(&vlan(101), 81, DropReason::NoRule)?;
        self.drops(&vlan(102), 80, DropReason::UnknownTask)?;
        self.passes(&[], 80)
    }

    /// No branch, and only the host's frames go on.
    fn is_former(&mut self) -> Result<()> {
        assert_eq!(gates(&self.place.topology.host, "trunk")?, (1, 1));
        self.drops(&vlan(101), 80, DropReason::UnknownTask)?;
        self.drops(&vlan(102), 80, DropReason::UnknownTask)?;
        self.passes(&[], 80)
    }

    fn is_open(&mut self) -> Result<()> {
        assert_eq!(gates(&self.place.topology.host, "trunk")?, (0, 0));
        self.passes(&vlan(101), 81)?;
        self.passes(&vlan(102), 80)
    }
}

fn has_xdp(place: &Place) -> Result<bool> {
    let shown = place
        .topology
        .host
        .output("ip", &["-d", "link", "show", "dev", "trunk"])?;
    Ok(shown.contains("xdp"))
}

#[test]
fn what_branches_were_stays_closed_when_the_uplink_changes() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    let empty = place.topology.config().group("http", HTTP);
    let mut daemon = place.topology.start(&empty)?;
    let mut probe = Probe::new(&place, &daemon)?;
    probe.is_open()?;
    let routed = empty.clone().with("uplink: { device: trunk, mode: routed }");
    for _ in 0..2 {
        daemon.apply(&one(place.config()))?;
        probe.is_trunk()?;
        assert!(has_xdp(&place)?);
        daemon.apply(&empty)?;
        probe.is_former()?;
        assert!(!has_xdp(&place)?);
        daemon.apply(&routed)?;
        probe.is_former()?;
        assert!(has_xdp(&place)?);
    }
    daemon.apply(&one(place.config()))?;
    probe.is_trunk()?;
    let cleaned = daemon.stop()?.cleaned;
    assert!(cleaned.contains("nothing is filtered any more on `trunk`"), "{cleaned}");
    assert!(!has_xdp(&place)?);
    probe.is_open()
}

#[test]
fn a_trunk_moves_to_another_link() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    let host = &place.topology.host;
    let mut daemon = place.start(&one(place.config()))?;
    let mut probe = Probe::new(&place, &daemon)?;
    probe.is_trunk()?;
    host.add_veth("second", &place.wire, "eth1")?;
    host.ip("link set dev second up")?;
    place.wire.ip("link set dev eth1 up")?;
    daemon.apply(&one(place.topology.config()).with("uplink: { device: second, mode: trunk }"))?;
    assert_eq!((gates(host, "second")?, gates(host, "trunk")?), ((1, 1), (1, 1)));
    probe.drops(&vlan(101), 80, DropReason::UnknownTask)?;
    probe.passes(&[], 80)?;
    daemon.await_message("link `trunk` is no longer the trunk: it passes no tagged frame")?;

    // The second link takes the first one's place behind the bridge, too.
    host.ip("link set dev trunk nomaster
         link set dev second master behind")?;
    await_up(&[(host, "second"), (&place.wire, "eth1")])?;
    probe.sender = Sender::on(&place.wire, "eth1")?;
    probe.passes(&vlan(101), 80)?;
    probe.drops(&vlan(101), 81, DropReason::NoRule)?;
    probe.passes(&[], 80)?;

    // The trunk moves once more: the first trunk is no longer remembered.
    host.add_veth("third", &place.wire, "eth2")?;
    daemon.apply(&one(place.topology.config()).with("uplink: { device: third, mode: trunk }"))?;
    probe.passes(&[], 80)?;
    probe.drops(&vlan(101), 80, DropReason::UnknownTask)?;
    daemon.await_message("link `trunk` was a trunk before `second` was: it passes nothing")?;
    probe.sender = Sender::on(&place.wire, "eth0")?;
    probe.drops(&[], 80, DropReason::UnknownTask)?;
    daemon.stop()?;
    assert_eq!((gates(host, "second")?, gates(host, "trunk")?), ((0, 0), (0, 0)));
    Ok(())
}

#[test]
fn a_trunk_that_is_not_there_is_gated_when_it_comes_and_again_when_it_comes_back() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    place.unplug()?;
    let daemon = place.topology.start(&one(place.config()))?;
    daemon.await_message("the uplink is gated as soon as link `trunk` is there")?;
    daemon.await_message("0 tasks gated, 1 without a link yet")?;
    for _ in 0..2 {
        place.plug()?;
        Probe::new(&place, &daemon)?.is_trunk()?;
        place.unplug()?;
        daemon.await_message("uplink `trunk` is gone")?;
    }
    // Under another name the link stays the uplink, until another link has the configured name.
    place.plug()?;
    let mut probe = Probe::new(&place, &daemon)?;
    probe.is_trunk()?;
    // Before Linux 6.2 only a link that is down can be renamed.
    place.topology.host.ip("link set dev trunk down
         link set dev trunk name renamed
         link set dev renamed up")?;
    await_up(&[(&place.topology.host, "renamed"), (&place.wire, "eth0")])?;
    daemon.await_message("uplink `trunk` has another name now")?;
    probe.passes(&vlan(101), 80)?;
    probe.drops(&vlan(101), 81, DropReason::NoRule)?;
    assert_eq!(gates(&place.topology.host, "renamed")?, (1, 1));
    daemon.stop()?;
    assert_eq!(gates(&place.topology.host, "renamed")?, (0, 0));
    Ok(())
}

#[test]
fn a_vlan_goes_from_one_task_to_another() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    let config = place.config().group("http", HTTP).group("shut", "egress: []");
    let task = |name: &str, vlan, groups: &[&str]| config.clone().vlan_task(name, vlan, &[WEB], groups);
    let mut daemon = place.start(&task("web-1", 101, &["http"]))?;
    let mut probe = Probe::new(&place, &daemon)?;
    probe.passes(&vlan(101), 80)?;
    // The task moves to another VLAN.
    daemon.apply(&task("web-1", 102, &["http"]))?;
    probe.drops(&vlan(101), 80, DropReason::UnknownTask)?;
    probe.passes(&vlan(102), 80)?;
    // Another task has its VLAN, with other groups.
    daemon.apply(&task("web-2", 102, &["shut"]))?;
    probe.drops(&vlan(102), 80, DropReason::NoRule)?;
    daemon.apply(&config)?;
    probe.drops(&vlan(102), 80, DropReason::UnknownTask)?;
    daemon.await_message("task `web-2` is no longer named: VLAN 102 passes nothing")?;
    daemon.stop()?;
    Ok(())
}

#[test]
fn links_that_cannot_be_the_uplink_are_refused() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    place.topology.host.add_veth("tg-task", &place.inside, "task")?;
    let config = place.topology.config().group("http", HTTP);
    let with_task = config.clone().device_task("web-1", "tg-task", &[WEB], &["http"]);
    let mut daemon = place.topology.start(&with_task)?;
    await_gates(&place.topology.host, "tg-task")?;
    let uplink = |device: &str| {
        config
            .clone()
            .with(&format!("uplink: {{ device: {device}, mode: trunk }}"))
    };
    let mut refused = |config: &Config, why: &str| -> Result<()> {
        match daemon.reload(config)? {
            Reload::Refused(said) if said.contains(why) => Ok(()),
            other => anyhow::bail!("{other:?}, and not `{why}`"),
        }
    };
    refused(&uplink("lo"), "link `lo` has no Ethernet headers")?;
    refused(
        &uplink("tg-task"),
        "link `tg-task` has the gate of a task and cannot get that of the uplink: end taskgate and start it again",
    )?;
    daemon.apply(&uplink("trunk"))?;
    let on_trunk = config.clone().device_task("web-1", "trunk", &[WEB], &["http"]);
    // A failure of one task affects that task alone.
    daemon.apply(&on_trunk)?;
    daemon.await_message("task `web-1` is not gated: link `trunk` has the gate of a trunk")?;
    let stopped = daemon.stop_unhealthy()?;
    let last = stopped.messages.last().cloned().unwrap_or_default();
    assert!(
        last.contains("not gated to the end, see the errors above: web-1"),
        "{last}"
    );
    Ok(())
}

/// Also the gate of a link that was the trunk before, and if a reload comes before the repair.
#[test]
fn a_trunks_gate_that_was_taken_off_stands_again() -> Result<()> {
    for attach in ["tcx", "clsact"] {
        let place = Place::new(Judge::Gate, Far::Elsewhere)?;
        let (host, instance) = (&place.topology.host, place.topology.instance("main"));
        let settings = format!(
            "settings: {{ attach: {} }}",
            if hooks().len() == 2 { attach } else { "auto" }
        );
        let config = one(place.config()).with(&settings);
        let mut daemon = place.start(&config)?;
        let mut probe = Probe::new(&place, &daemon)?;
        let control = ControlSocket::of(&instance);
        let is_whole = || {
            let status = control.get("/v1/status")?.ok()?;
            let told = status["drift"].as_array().is_some_and(|drift| !drift.is_empty());
            Ok(told && status["healthy"] == true && gates(host, "trunk")? == (1, 1))
        };
        for sides in [&[true][..], &[false], &[true, false]] {
            for reloads in [false, true] {
                take_off(host, &instance, "trunk", sides)?;
                if reloads {
                    daemon.apply(&config)?;
                }
                until("it is whole again", is_whole)?;
                probe.is_trunk()?;
            }
        }
        let mut said = daemon.messages();
        // Another program of this place keeps XDP off.
        said.retain(|line| !line.contains("dropped early"));
        let wrong = ["is gone", "File exists", "no longer the trunk"];
        ensure!(
            !said.iter().any(|line| wrong.iter().any(|wrong| line.contains(wrong))),
            "{said:#?}"
        );
        daemon.apply(&place.topology.config().with(&settings))?;
        take_off(host, &instance, "trunk", &[true, false])?;
        until("the former trunk is whole again", is_whole)?;
        probe.is_former()?;
        daemon.stop()?;
    }
    Ok(())
}

/// A connection on one branch admits no packets with its 5-tuple on another branch.
#[test]
fn a_connection_of_one_branch_is_none_of_another() -> Result<()> {
    let place = Place::new(Judge::Native, Far::Elsewhere)?;
    let daemon = place.start(&one(place.config()).vlan_task("web-2", 102, &["10.88.2.10"], &["http"]))?;
    let counters = Counters::of(&daemon)?;
    let (sender, arrivals) = (place.sender(Side::Wire)?, place.capture(Side::Inside)?);
    let packet = |tcp_flags, mark: &[u8]| {
        let (from, to) = (at(PEER, 40000), at(WEB, 80));
        let tcp = frames::tcp(from.port(), to.port(), tcp_flags, mark);
        frames::with_checksum(frames::ip(from.ip(), to.ip(), 6, &tcp))
    };
    let send = |id, frame: &[u8]| sender.send(&Side::Wire.sends(&vlan(id), frame));
    send(101, &packet(flags::SYN, b"the first one"))?;
    arrivals.await_bytes(b"the first one")?;
    for id in [102, 103] {
        send(id, &packet(flags::ACK, b"of another branch"))?;
    }
    counters.await_dropped(Direction::Ingress, DropReason::NotForTask, 1)?;
    counters.await_dropped(Direction::Ingress, DropReason::UnknownTask, 1)?;
    send(101, &packet(flags::ACK, b"the second one"))?;
    arrivals.await_bytes(b"the second one")?;
    assert_eq!(arrivals.count(b"of another branch")?, 0);
    daemon.stop()?;
    Ok(())
}
