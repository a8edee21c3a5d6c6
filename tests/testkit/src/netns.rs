//! Network namespaces that belong to a test.
#![expect(unsafe_code, reason = "a child enters a namespace between fork and exec")]

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic::resume_unwind,
    process::{self, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};

use crate::names;

/// The time limit for anything that will certainly happen, on a machine that is busy or emulated on a busy one. Only a
/// failing test waits this long.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A network namespace. One that was made here has no name: the kernel removes it once this is dropped and no process
/// runs in it, even if the test panics or is killed.
#[derive(Debug)]
pub struct Netns {
    label: String,
    file: File,
}

impl Netns {
    /// Makes a namespace in which only `lo` is up. `label` is for messages.
    pub fn new(label: &str) -> Result<Self> {
        let file = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("it takes root: run `cargo xtask test`")?;
            // `self` would be the process's main thread.
            File::open("/proc/thread-self/ns/net").context("/proc is not mounted")
        });
        let file = file.with_context(|| format!("cannot make network namespace `{label}`"))?;
        let label = label.to_owned();
        let netns = Self { label, file };
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace of the calling thread.
    pub fn current(label: &str) -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").context("/proc is not mounted")?;
        let label = label.to_owned();
        Ok(Self { label, file })
    }

    /// Opens that of the calling thread.
    pub fn here() -> Result<Self> {
        let file = File::open("/proc/thread-self/ns/net").context("/proc is not mounted")?;
        let label = "here".to_owned();
        Ok(Self { label, file })
    }

    /// Opens a named namespace, as `ip netns` does.
    pub fn named(name: &str) -> Result<Self> {
        let path = names::namespace_file(name);
        let file = File::open(&path).with_context(|| format!("there is no network namespace `{name}`"))?;
        let label = name.to_owned();
        Ok(Self { label, file })
    }

    pub fn try_clone(&self) -> Result<Self> {
        let (label, file) = (self.label.clone(), self.file.try_clone()?);
        Ok(Self { label, file })
    }

    /// Its name in messages.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A path by which other processes can open the namespace while this value lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd())
    }

    /// Runs `inside` in the namespace, on a separate thread. Sockets opened there stay in the namespace and can be used
    /// from any thread.
    pub fn run<R: Send>(&self, inside: impl FnOnce() -> Result<R> + Send) -> Result<R> {
        on_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)?;
            inside()
        })
        .with_context(|| format!("in network namespace `{}`", self.label))
    }

    /// Opens a socket in the namespace with exclusive use of its address, as soon as the address is free: a socket closed
    /// here lives on in each process that another thread has just forked, until that process execs.
    pub fn bind<S: Send>(&self, open: impl Fn() -> io::Result<S> + Sync) -> Result<S> {
        let end = Instant::now() + PATIENCE;
        self.run(|| {
            loop {
                match open() {
                    Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => {
                        thread::sleep(Duration::from_millis(5));
                    }
                    done => return Ok(done?),
                }
            }
        })
    }

    /// A command that runs in the namespace.
    pub fn command(&self, program: &str) -> Result<Command> {
        let file = self.file.try_clone()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only setns is called, which is a plain system call and allocates nothing.
        unsafe {
            command.pre_exec(move || setns(&file, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
        }
        Ok(command)
    }

    /// Runs `ip` with `commands`, one a line, without the word `ip`.
    pub fn ip(&self, commands: &str) -> Result<()> {
        let mut ip = self
            .command("ip")?
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run `ip`: run `cargo xtask setup`")?;
        if let Some(mut stdin) = ip.stdin.take() {
            stdin.write_all(commands.as_bytes())?;
        }
        let output = ip.wait_with_output()?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!(
                "in network namespace `{}` ip refused:\n{commands}\n{message}",
                self.label
            );
        }
        Ok(())
    }

    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(program)?
            .args(arguments)
            .output()
            .with_context(|| format!("cannot run `{program}`: run `cargo xtask setup`"))?;
        if !output.status.success() {
            let message = String::from_utf8_lossy(&output.stderr);
            bail!("`{program} {}` failed: {message}", arguments.join(" "));
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Sets a sysctl of its network.
    pub fn set(&self, sysctl: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", sysctl.replace('.', "/"));
        self.run(|| fs::write(&path, value).with_context(|| format!("cannot set `{sysctl}` to {value}")))
    }

    /// The names of its links, sorted.
    pub fn links(&self) -> Result<Vec<String>> {
        self.run(|| {
            let links = nix::net::if_::if_nameindex()?;
            let mut names: Vec<_> = links.iter().map(|link| link.name().to_string_lossy().into()).collect();
            names.sort();
            Ok(names)
        })
    }

    /// Makes a veth pair: `link` here, `other_link` in `other`. Both are down.
    pub fn add_veth(&self, link: &str, other: &Self, other_link: &str) -> Result<()> {
        let path = other.path();
        self.ip(&format!(
            "link add name {link} type veth peer name {other_link} netns {path}"
        ))
    }
}

/// Waits until both ends of a veth pair are up. Until the kernel has noticed that, a little after they were set up, they
/// drop packets.
pub fn await_up(ends: &[(&Netns, &str)]) -> Result<()> {
    for (netns, link) in ends {
        until(&format!("`{link}` in `{}` is up", netns.label), || {
            Ok(netns
                .output("ip", &["-o", "link", "show", "dev", link])?
                .contains(" state UP "))
        })?;
    }
    Ok(())
}

/// Polls every few milliseconds until `ready` returns true, for conditions that have no event to wait for.
pub fn until(what: &str, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !ready()? {
        if Instant::now() > end {
            bail!("waited {PATIENCE:?} in vain: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn on_thread<R: Send>(run: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    thread::scope(|scope| scope.spawn(run).join().unwrap_or_else(|panic| resume_unwind(panic)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_only_lo_and_that_is_up() -> Result<()> {
        let netns = Netns::new("alone")?;
        assert_eq!(netns.links()?, ["lo"]);
        let lo = netns.output("ip", &["-o", "link", "show", "lo"])?;
        assert!(lo.contains("LOWER_UP"), "{lo}");
        Ok(())
    }

    #[test]
    fn a_veth_pair_joins_two_namespaces_and_goes_with_one() -> Result<()> {
        let near = Netns::new("near")?;
        let far = Netns::new("far")?;
        near.add_veth("a", &far, "b")?;
        assert_eq!(
            (near.links()?, far.links()?),
            (vec!["a".into(), "lo".into()], vec!["b".into(), "lo".into()])
        );
        drop(far);
        until("the pair goes with its other end", || Ok(near.links()? == ["lo"]))
    }

    #[test]
    fn refusals_say_where_and_what() -> Result<()> {
        let netns = Netns::new("strict")?;
        let refused = netns.ip("link set nothing up").unwrap_err().to_string();
        assert!(
            refused.contains("`strict`") && refused.contains("link set nothing up"),
            "{refused}"
        );
        Ok(())
    }
}
