//! A test's host in a network namespace, a client outside of it, and its tasks.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};
use nix::net::if_::if_indextoname;

use crate::{
    config::Config,
    daemon::{Daemon, Options, binary},
    names::{self, TempDir},
    netns::{Netns, PATIENCE, await_up},
    steps::HeldUp,
};

/// The address of the client outside.
pub const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2));
pub const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 2));

/// Whether new IPv6 addresses undergo duplicate address detection (RFC 4862, 5.4). It takes a second or two, during which
/// the kernel does not send neighbour solicitations on behalf of another host.
const DAD: &str = "net.ipv6.conf.default.accept_dad";

/// A host that forwards, and a client outside of it:
///
/// * `host` has `wire` with 10.99.0.1/24 and fd99::1/64, and in it taskgate runs;
/// * `outside` has `eth0` with 10.99.0.2 and fd99::2, and its way to everything is `host`.
#[derive(Debug)]
pub struct Topology {
    pub host: Netns,
    /// The namespace outside of the host.
    pub outside: Netns,
    unique: String,
    folder: TempDir,
}

impl Topology {
    pub fn new() -> Result<Self> {
        let unique = names::unique();
        let topology = Self {
            host: Netns::new("host")?,
            outside: Netns::new("outside")?,
            folder: TempDir::new(&unique)?,
            unique,
        };
        for (sysctl, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            // Tests send packets with any source address.
            ("net.ipv4.conf.all.rp_filter", "0"),
            ("net.ipv4.conf.default.rp_filter", "0"),
        ] {
            topology.host.set(sysctl, value)?;
        }
        for netns in [&topology.host, &topology.outside] {
            netns.set(DAD, "0")?;
        }
        topology.host.add_veth("wire", &topology.outside, "eth0")?;
        topology.host.ip("address add 10.99.0.1/24 dev wire
             address add fd99::1/64 dev wire nodad
             link set wire up")?;
        topology.outside.ip("address add 10.99.0.2/24 dev eth0
             address add fd99::2/64 dev eth0 nodad
             link set eth0 up
             route add default via 10.99.0.1
             route add ::/0 via fd99::1")?;
        Ok(topology)
    }

    /// An empty configuration, whose namespaces have names that are this test's alone.
    pub fn config(&self) -> Config {
        Config::new(&self.unique)
    }

    /// Starts taskgate on the host, with records every second.
    pub fn start(&self, config: &Config) -> Result<Daemon> {
        self.start_with(config, Some(1))
    }

    /// Starts taskgate with records every `interval` seconds, or at the configuration's interval.
    pub fn start_with(&self, config: &Config, interval: Option<u32>) -> Result<Daemon> {
        self.start_as("main", config, interval)
    }

    /// Starts taskgate as one of several instances, with a separate folder.
    pub fn start_as(&self, name: &str, config: &Config, interval: Option<u32>) -> Result<Daemon> {
        self.launch(name, config, interval, PATIENCE)
    }

    /// Starts taskgate with many tasks, within `patience`; it writes its records when it ends.
    pub fn start_patiently(&self, config: &Config, patience: Duration) -> Result<Daemon> {
        const LONG: u32 = 600;
        self.launch("main", config, Some(LONG), patience)
    }

    /// Starts taskgate and does not wait for its gates; for the rest as [`Topology::start_with`].
    pub fn begin(&self, config: &Config, interval: Option<u32>) -> Result<Daemon> {
        self.launch_by("main", config, interval, PATIENCE, Daemon::begin)
    }

    /// Starts taskgate with its [`Steps`](crate::steps::Steps) held up, and does not wait for its gates.
    pub fn begin_held_up(&self, config: &Config, held_up: HeldUp<'_>) -> Result<Daemon> {
        self.launch_by("main", config, Some(1), PATIENCE, |host, folder, config, options| {
            Daemon::begin(host, folder, config, Options { held_up, ..options })
        })
    }

    /// Starts taskgate with `--watch`; for the rest as [`Topology::start`].
    pub fn start_watching(&self, config: &Config) -> Result<Daemon> {
        self.launch_by("main", config, Some(1), PATIENCE, |host, folder, config, options| {
            Daemon::start(host, folder, config, Options { watch: true, ..options })
        })
    }

    /// Starts taskgate with `--watch` over an existing folder.
    pub fn watch(&self, folder: &Path) -> Result<Daemon> {
        let options = Options {
            instance: &self.instance("main"),
            interval: Some(1),
            patience: PATIENCE,
            watch: true,
            drop_connections: false,
            held_up: HeldUp::Never,
        };
        Daemon::start_in(&self.host, folder, BTreeMap::new(), options)
    }

    /// Starts taskgate with `--drop-connections`; for the rest as [`Topology::start`].
    pub fn start_dropping(&self, config: &Config) -> Result<Daemon> {
        self.launch_by("main", config, Some(1), PATIENCE, |host, folder, config, options| {
            let options = Options {
                drop_connections: true,
                ..options
            };
            Daemon::start(host, folder, config, options)
        })
    }

    fn launch(&self, name: &str, config: &Config, interval: Option<u32>, patience: Duration) -> Result<Daemon> {
        self.launch_by(name, config, interval, patience, Daemon::start)
    }

    fn launch_by(
        &self,
        name: &str,
        config: &Config,
        interval: Option<u32>,
        patience: Duration,
        launch: impl FnOnce(&Netns, &Path, &Config, Options<'_>) -> Result<Daemon>,
    ) -> Result<Daemon> {
        let (instance, folder) = (self.instance(name), self.folder.path().join(name));
        fs::create_dir_all(&folder)?;
        let options = Options {
            instance: &instance,
            interval,
            patience,
            watch: false,
            drop_connections: false,
            held_up: HeldUp::Never,
        };
        launch(&self.host, &folder, config, options)
    }

    /// The name of an instance; that of [`Topology::start`] is `main`.
    pub fn instance(&self, name: &str) -> String {
        format!("{}-{name}", self.unique)
    }

    /// `taskgate run` on the host as the instance `name`, with the configuration in the folder of that name and its
    /// records discarded. For tests of the process itself; all others use [`Daemon`].
    pub fn run_command(&self, name: &str) -> Result<Command> {
        let mut command = self
            .host
            .command(binary()?.to_str().context("the binary's path is no text")?)?;
        command
            .args(["run", "--instance", &self.instance(name), "--config"])
            .arg(self.folder().join(name))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        Ok(command)
    }

    /// A folder of the test's own.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The unique name of this test, with which the names of instances and namespaces begin.
    pub fn unique(&self) -> &str {
        &self.unique
    }

    /// The namespace of a task that taskgate made, once its link is up.
    pub fn task(&self, task: &str) -> Result<Netns> {
        let task = Netns::named(&self.config().namespace(task))?;
        await_up(&[(&task, "eth0")])?;
        Ok(task)
    }

    /// The host's end of the ENI that taskgate made for a task.
    #[expect(clippy::disallowed_methods, reason = "the link is there")]
    pub fn host_link(&self, task: &str) -> Result<String> {
        let inside = self.task(task)?.output("ip", &["-o", "link", "show", "dev", "eth0"])?;
        let other_end = inside.split_once("eth0@if").and_then(|(_, rest)| rest.split_once(':'));
        let (index, _) = other_end.with_context(|| format!("`eth0` of task `{task}` is no veth pair's end"))?;
        let index = index.parse()?;
        self.host.run(|| Ok(if_indextoname(index)?.into_string()?))
    }

    /// The names of the namespaces that taskgate made for this test and that still exist.
    pub fn namespaces(&self) -> Result<Vec<String>> {
        names::namespaces(&self.unique)
    }

    /// Makes a veth pair as a container runtime would: `device` on the host, `eth0` with `addresses` in a new namespace
    /// of the task, and routes both ways. With `nodad` an IPv6 address is usable at once.
    pub fn device(&self, device: &str, addresses: &[&str], nodad: bool) -> Result<Netns> {
        self.numbered_device(device, None, addresses, nodad)
    }

    /// [`Topology::device`] whose host end has this ifindex, if one is given.
    pub fn numbered_device(
        &self,
        device: &str,
        ifindex: Option<u32>,
        addresses: &[&str],
        nodad: bool,
    ) -> Result<Netns> {
        let task = Netns::new(device)?;
        if nodad {
            task.set(DAD, "0")?;
        }
        let number = ifindex.map_or_else(String::new, |ifindex| format!("index {ifindex}"));
        let path = task.path();
        self.host.ip(&format!(
            "link add name {device} {number} type veth peer name eth0 netns {path}"
        ))?;
        let nodad = if nodad { " nodad" } else { "" };
        let mut host = vec![
            format!("address add 169.254.1.1/32 dev {device}"),
            format!("address add fe80::1/64 dev {device} nodad"),
            format!("link set {device} up"),
        ];
        let mut inside = vec![String::from("link set eth0 up")];
        for address in addresses {
            let (length, nodad) = if is_v6(address) { (128, nodad) } else { (32, "") };
            host.push(format!("route add {address}/{length} dev {device}"));
            inside.push(format!("address add {address}/{length} dev eth0{nodad}"));
        }
        if addresses.iter().any(|address| !is_v6(address)) {
            inside.push(String::from("route add default via 169.254.1.1 dev eth0 onlink"));
        }
        if addresses.iter().any(|address| is_v6(address)) {
            inside.push(String::from("route add ::/0 via fe80::1 dev eth0"));
        }
        self.host.ip(&host.join("\n"))?;
        task.ip(&inside.join("\n"))?;
        await_up(&[(&self.host, device), (&task, "eth0")])?;
        Ok(task)
    }
}

fn is_v6(address: &str) -> bool {
    address.contains(':')
}

impl Drop for Topology {
    /// A taskgate that was killed could not clean up.
    fn drop(&mut self) {
        if let Err(error) = names::remove_all(&self.unique) {
            eprintln!("something of `{}` stays: {error:#}", self.unique);
        }
    }
}
