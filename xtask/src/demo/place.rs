//! Where the demo happens: a "host" and a client outside it, as network namespaces of this process.

use std::{
    fs::{self, File},
    os::fd::AsRawFd as _,
    path::Path,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

use crate::exec;

/// The client's addresses.
pub(super) const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8:ffff::7"];
/// The host's addresses on the link to the client.
const HOST: [&str; 2] = ["198.51.100.1", "2001:db8:ffff::1"];
/// Where taskgate keeps namespaces and its locks.
const NETNS: &str = "/run/netns";
const LOCKS: &str = "/run/taskgate";

/// A network namespace.
pub(super) struct Place {
    file: File,
}

impl Place {
    /// One that has a name here.
    pub(super) fn named(name: &str) -> Result<Self> {
        let path = Path::new(NETNS).join(name);
        let file = File::open(&path).with_context(|| format!("cannot open the namespace `{}`", path.display()))?;
        Ok(Self { file })
    }

    /// A fresh one, without a name: it goes with the process.
    fn fresh() -> Result<Self> {
        let open = || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        };
        let file = joined(thread::spawn(open)).context("cannot make a network namespace")?;
        Ok(Self { file })
    }

    /// Runs `inside` there, on a thread of its own: a thread that goes in does not come out.
    pub(super) fn spawn<R: Send + 'static>(
        &self,
        inside: impl FnOnce() -> Result<R> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<R>>> {
        let file = self.file.try_clone().context("cannot copy a file descriptor")?;
        Ok(thread::spawn(move || {
            setns(file, CloneFlags::CLONE_NEWNET).context("cannot enter a network namespace")?;
            inside()
        }))
    }
}

/// The result of a thread; its panic becomes an error.
pub(super) fn joined<R>(thread: thread::JoinHandle<Result<R>>) -> Result<R> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread of the demo panicked")))
}

/// Moves this process into a network namespace that plays the host, and gives it a /run of its own. To be called before
/// there are other threads that matter; all that is started later is in there too.
pub(super) fn become_host() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make namespaces: the demo needs root with CAP_SYS_ADMIN")?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).context("cannot make mounts private")?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).context("cannot mount a /run")?;
    for family in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        sysctl(family, "1")?;
    }
    sysctl("ipv6/conf/default/accept_dad", "0")?;
    ip("link set lo up")
}

/// Makes the client, on a link to the host.
pub(super) fn client_outside() -> Result<Place> {
    let client = Place::fresh()?;
    let file = format!("/proc/{}/fd/{}", std::process::id(), client.file.as_raw_fd());
    ip(&format!("link add uplink type veth peer name eth0 netns {file}"))?;
    wire("uplink", HOST)?;
    let configure = || {
        sysctl("ipv6/conf/eth0/accept_dad", "0")?;
        ip("link set lo up")?;
        wire("eth0", CLIENT)?;
        let [v4, v6] = HOST;
        ip(&format!("route add default via {v4}"))?;
        ip(&format!("-6 route add default via {v6}"))
    };
    joined(client.spawn(configure)?).context("cannot set up the client")?;
    Ok(client)
}

fn wire(link: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    ip(&format!("address add {v4}/24 dev {link}"))?;
    ip(&format!("address add {v6}/64 dev {link} nodad"))?;
    ip(&format!("link set {link} up"))
}

/// Sets one below `net` for the network namespace of the calling thread.
fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).with_context(|| format!("cannot write `{path}`"))
}

fn ip(words: &str) -> Result<()> {
    exec::stdout(Command::new("ip").args(words.split(' '))).map(drop)
}

/// An error that lists what taskgate should have taken away and did not.
pub(super) fn nothing_left() -> Result<()> {
    let mut left = Vec::new();
    for folder in [NETNS, LOCKS] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        left.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
    }
    let links = exec::stdout(Command::new("ip").args(["-o", "link", "show"]))?;
    left.extend(
        links
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .filter(|name| name.starts_with("tg-"))
            .map(|name| format!("link {name}")),
    );
    if !left.is_empty() {
        bail!("taskgate left behind: {}", left.join(", "));
    }
    Ok(())
}
