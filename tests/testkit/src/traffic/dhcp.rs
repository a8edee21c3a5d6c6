//! Real DHCP: busybox's client and server.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::Netns, netns::PATIENCE, output::Lines};

/// A program that ends with this value.
#[derive(Debug)]
struct Running(Child);

impl Running {
    fn start(mut command: Command) -> Result<(Self, Lines)> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run `busybox`: run `cargo xtask setup`")?;
        let lines = Lines::of(child.stdout.take().context("busybox has no output")?);
        Ok((Self(child), lines))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("busybox may still run: {error}");
        }
    }
}

/// A server with a single address to lease.
#[derive(Debug)]
pub struct Server(#[expect(dead_code, reason = "it runs as long as this lives")] Running);

impl Server {
    /// Listens on a link as `own`, and leases `address` for ten minutes.
    pub fn start(netns: &Netns, folder: &Path, link: &str, own: &str, address: Ipv4Addr) -> Result<Self> {
        let (conf, leases) = (folder.join("udhcpd.conf"), folder.join("leases"));
        fs::write(&leases, "")?;
        let text = format!(
            "interface {link}\nstart {address}\nend {address}\nmax_leases 1\nlease_file {}\npidfile {}\n\
             option subnet 255.255.255.0\noption lease 600\n",
            leases.display(),
            folder.join("udhcpd.pid").display()
        );
        fs::write(&conf, text)?;
        let mut command = netns.command("busybox")?;
        // The server probes whether the address is in use before it offers it.
        command.args(["udhcpd", "-f", "-a", "100", "-I", own]).arg(conf);
        Ok(Self(Running::start(command)?.0))
    }
}

#[derive(Debug)]
pub struct DhcpClient {
    running: Running,
    events: Lines,
}

impl DhcpClient {
    /// Requests an address on `eth0` of a task without one, every second until a server answers, and puts the address on
    /// the link. `broadcast`: the client asks for answers by broadcast.
    pub fn start(netns: &Netns, folder: &Path, broadcast: bool) -> Result<Self> {
        let script = folder.join("udhcpc.sh");
        let text = "#!/bin/sh\n[ -z \"$ip\" ] || ip address replace \"$ip/32\" dev \"$interface\" || exit 1\n\
                    echo \"$1 $ip by $serverid\"\n";
        fs::write(&script, text)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        let mut command = netns.command("busybox")?;
        command.args(["udhcpc", "-f", "-i", "eth0", "-t", "1000", "-T", "1"]);
        command.arg("-s").arg(script);
        if broadcast {
            command.arg("-B");
        }
        let (running, events) = Running::start(command)?;
        Ok(Self { running, events })
    }

    /// Waits until the client reports this event after `start` earlier ones: `bound` or `renew`, the address, and the
    /// server.
    pub fn await_event(&self, start: usize, event: &str) -> Result<()> {
        let said = |lines: &[String]| Ok(lines.iter().any(|line| line == event).then_some(()));
        self.events.wait(start, PATIENCE, said)
    }

    pub fn events(&self) -> usize {
        self.events.len()
    }

    /// Makes the client renew its lease now, by asking the server that granted it.
    pub fn renew(&self) -> Result<()> {
        Ok(kill(
            Pid::from_raw(i32::try_from(self.running.0.id())?),
            Signal::SIGUSR1,
        )?)
    }
}
