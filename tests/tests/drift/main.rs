//! Another process removes taskgate's objects from the kernel: the drift is found, reported and repaired, live
//! connections go on, and denied packets pass only until then.

mod gates;
mod names;
mod uplink;

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use taskgate_bpf::gate::AttachKind;
use testkit::{
    Config, ControlSocket, Daemon, Netns, Topology, at,
    kernel::{gates, hooks},
    netns::until,
    traffic::{Answer, Client, TcpEcho, probe, try_connect},
};

const WEB: &str = "10.88.0.10";
const OPEN: &str = "ingress: [{ protocol: tcp, ports: 80, from: any }], egress: []";
/// No rule allows anything: only packets of earlier connections pass.
const CLOSED: &str = "egress: []";

/// The maker of the task's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    ByTaskgate,
    ByOthers,
}

/// A running taskgate, a task, and a connection to the task.
struct Gated {
    daemon: Daemon,
    task: Netns,
    link: String,
    ifindex: u32,
    live: Client,
    _echo: TcpEcho,
    attach: AttachKind,
    made: Made,
    topology: Topology,
}

/// The kinds of attachment that this kernel has, for links of both kinds.
fn cases() -> impl Iterator<Item = (AttachKind, Made)> {
    let both = |attach| [Made::ByTaskgate, Made::ByOthers].map(|made| (attach, made));
    hooks().into_iter().flat_map(both)
}

impl Gated {
    fn start(attach: AttachKind, made: Made) -> Result<Self> {
        let topology = Topology::new()?;
        let device = (made == Made::ByOthers)
            .then(|| topology.device("tg-web", &[WEB], true))
            .transpose()?;
        let daemon = topology.start(&config(&topology, attach, made, OPEN))?;
        let (task, link) = match device {
            Some(task) => (task, "tg-web".to_owned()),
            None => (topology.task("web-1")?, topology.host_link("web-1")?),
        };
        let echo = TcpEcho::start(&task, 80)?;
        let mut live = Client::connect(&topology.outside, at(WEB, 80))?;
        live.echo(1000)?;
        let ifindex = topology.host.run(|| Ok(if_nametoindex(&*link)?))?;
        Ok(Self {
            daemon,
            task,
            link,
            ifindex,
            live,
            _echo: echo,
            attach,
            made,
            topology,
        })
    }

    fn config(&self, rules: &str) -> Config {
        config(&self.topology, self.attach, self.made, rules)
    }

    fn instance(&self) -> String {
        self.topology.instance("main")
    }

    /// The status as `taskgate status` reports it; its exit code must match.
    fn status(&self) -> Result<Value> {
        let control = ControlSocket::of(&self.instance());
        let output = control.taskgate(&self.topology.host, &["status", "-o", "json"])?;
        let status: Value = serde_json::from_slice(&output.stdout)?;
        let expected = if status["healthy"] == true { 0 } else { 6 };
        ensure!(output.status.code() == Some(expected), "{}: {status}", output.status);
        let is_open = |deviation: &Value| deviation["repaired"].is_null();
        let has_open = status["drift"]
            .as_array()
            .is_some_and(|drift| drift.iter().any(is_open));
        ensure!(has_open != (status["healthy"] == true), "{status}");
        Ok(status)
    }

    /// Waits until the drift is reported in the status, repaired, and logged.
    fn await_repair(&self, kind: &str) -> Result<()> {
        let is_told = |status: &Value| {
            let drift = status["drift"].as_array().map_or(&[][..], Vec::as_slice);
            drift.iter().any(|deviation| deviation["kind"] == kind)
        };
        until("it is told of", || Ok(is_told(&self.status()?)))?;
        until("it is put right", || Ok(self.status()?["healthy"] == true))?;
        self.daemon.await_message("does not hold what it should")
    }

    /// The task's link is the same as before, its connection lives, and no other packet passes.
    fn check_closed(&mut self) -> Result<()> {
        self.live.echo(1000)?;
        ensure!(try_connect(&self.topology.outside, at(WEB, 80))?.is_none());
        ensure!(probe(&self.task, at("10.99.0.2", 80))? == Answer::Silence);
        let (link, host) = (&self.link, &self.topology.host);
        ensure!(gates(host, link)? == (1, 1), "{:?}", gates(host, link)?);
        ensure!(host.run(|| Ok(if_nametoindex(&**link)?))? == self.ifindex);
        self.live.echo(1000)
    }

    /// No message says that a link is gone, or could not be gated.
    fn check_said(&self) -> Result<()> {
        for wrong in [
            "was taken away",
            "is gone",
            "made anew",
            "File exists",
            "not gated",
            "cannot be put right",
        ] {
            let said = self.daemon.messages();
            ensure!(!said.iter().any(|line| line.contains(wrong)), "{said:#?}");
        }
        Ok(())
    }

    /// The next process takes everything over.
    fn check_successor(mut self) -> Result<()> {
        let config = self.config(CLOSED);
        self.daemon.kill_now()?;
        self.live.echo(1000)?;
        ensure!(try_connect(&self.topology.outside, at(WEB, 80))?.is_none());
        self.daemon = self.topology.start(&config)?;
        self.check_closed()?;
        self.check_said()?;
        self.daemon.stop()?;
        Ok(())
    }
}

fn config(topology: &Topology, attach: AttachKind, made: Made, rules: &str) -> Config {
    let attach = match attach {
        AttachKind::Tcx => "tcx",
        AttachKind::Clsact => "clsact",
    };
    let config = topology
        .config()
        .with(&format!("settings: {{ attach: {attach} }}"))
        .group("web", rules);
    match made {
        Made::ByTaskgate => config.task("web-1", &[WEB], &["web"]),
        Made::ByOthers => config.device_task("web-1", "tg-web", &[WEB], &["web"]),
    }
}
