//! Attempts and their outcomes.

use std::{
    fmt,
    io::{ErrorKind, Read as _},
    net::{IpAddr, SocketAddr, TcpStream},
    panic::resume_unwind,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::hosts::{Host, Hosts, greeting};

/// The time limit for an answer. It is shorter than the second after which a lost SYN is retransmitted, so that each
/// attempt sends one.
pub(super) const PATIENCE: Duration = Duration::from_millis(900);

/// An attempt, made over both families.
pub(super) struct Attempt {
    /// The name of the sending host.
    pub(super) from: &'static str,
    /// The name of the receiving host.
    pub(super) to: &'static str,
    /// The traffic.
    pub(super) what: What,
    /// Whether the example's rules allow it.
    pub(super) passes: bool,
    /// The point that it demonstrates.
    pub(super) shows: &'static str,
}

/// Kinds of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A TCP connection to this port.
    Tcp(u16),
    /// An echo request.
    Ping,
}

/// The demo's attempts, in their order.
pub(super) const PLAN: [Attempt; 6] = [
    Attempt {
        from: "web",
        to: "db",
        what: What::Tcp(5432),
        passes: true,
        shows: "both gates have a rule, by group",
    },
    Attempt {
        from: "worker",
        to: "db",
        what: What::Tcp(5432),
        passes: false,
        shows: "the same port on the same host, but another group",
    },
    Attempt {
        from: "client",
        to: "web",
        what: What::Tcp(443),
        passes: true,
        shows: "from outside the host",
    },
    Attempt {
        from: "client",
        to: "worker",
        what: What::Tcp(443),
        passes: false,
        shows: "it listens on web's port, but has no rule",
    },
    Attempt {
        from: "client",
        to: "web",
        what: What::Ping,
        passes: true,
        shows: "an ICMP rule with a prefix list",
    },
    Attempt {
        from: "worker",
        to: "web",
        what: What::Ping,
        passes: false,
        shows: "not in the prefix list",
    },
];

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.what {
            What::Tcp(port) => write!(f, "{} -> {}:{port}", self.from, self.to),
            What::Ping => write!(f, "{} -> {} ping", self.from, self.to),
        }
    }
}

impl Attempt {
    /// The way over IPv4, and that over IPv6.
    pub(super) fn ways<'a>(&self, hosts: &'a Hosts) -> Result<[Way<'a>; 2]> {
        let (from, to) = (hosts.get(self.from)?, hosts.get(self.to)?);
        Ok([0, 1].map(|family| Way { from, to, family }))
    }
}

/// The sender and the receiver, over one family.
pub(super) struct Way<'a> {
    from: &'a Host,
    to: &'a Host,
    family: usize,
}

impl<'a> Way<'a> {
    /// The family's name.
    pub(super) fn family(&self) -> &'static str {
        ["IPv4", "IPv6"][self.family]
    }

    /// Whether it is IPv6.
    pub(super) fn is_v6(&self) -> bool {
        self.family == 1
    }

    /// The sending host and its address.
    pub(super) fn from(&self) -> (&'a Host, IpAddr) {
        (self.from, self.from.addresses[self.family])
    }

    /// The receiving host and its address.
    pub(super) fn to(&self) -> (&'a Host, IpAddr) {
        (self.to, self.to.addresses[self.family])
    }
}

/// The outcome of an attempt over one family.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    /// The intended server answered, after this time.
    Answered(Duration),
    /// No answer.
    Silence,
    /// Something that no rule explains.
    Broken(String),
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answered(_) => f.write_str("answered"),
            Self::Silence => f.write_str("no answer"),
            Self::Broken(how) => f.write_str(how),
        }
    }
}

/// Makes an attempt over both families at once.
pub(super) fn make(attempt: &Attempt, ways: &[Way<'_>; 2]) -> [Happened; 2] {
    thread::scope(|scope| {
        let started = ways.each_ref().map(|way| {
            let (from, _) = way.from();
            let (to, address) = way.to();
            let expected = greeting(&to.name);
            scope.spawn(move || {
                from.netns.run(|| match attempt.what {
                    What::Tcp(port) => connect(SocketAddr::new(address, port), &expected),
                    What::Ping => ping(address),
                })
            })
        });
        started.map(|thread| {
            let happened = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            happened.unwrap_or_else(|error| Happened::Broken(format!("{error:#}")))
        })
    })
}

/// Connects and reads the server's text.
fn connect(to: SocketAddr, expected: &str) -> Result<Happened> {
    let began = Instant::now();
    let mut stream = match TcpStream::connect_timeout(&to, PATIENCE) {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(Happened::Silence),
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {to}")),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut said = String::new();
    stream
        .read_to_string(&mut said)
        .with_context(|| format!("connected to {to}, but it said nothing"))?;
    if said != expected {
        bail!("{to} said `{}`", said.trim());
    }
    Ok(Happened::Answered(began.elapsed()))
}

/// Sends an echo request.
fn ping(to: IpAddr) -> Result<Happened> {
    let mut command = Command::new("ping");
    command.args([
        "-n",
        "-c",
        "1",
        "-W",
        &PATIENCE.as_secs_f64().to_string(),
        &to.to_string(),
    ]);
    let output = command.env("LC_ALL", "C").output().context("cannot run `ping`")?;
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        Some(0) => round_trip(&said)
            .map(Happened::Answered)
            .with_context(|| format!("`ping` said `{}`", said.trim())),
        // No answer. An error from a host on the path would be printed with `From`.
        Some(1) if !said.contains("From ") => Ok(Happened::Silence),
        _ => bail!(
            "`ping` said `{}`",
            format!("{said}{}", String::from_utf8_lossy(&output.stderr)).trim()
        ),
    }
}

/// The time that `ping` prints behind an answer.
fn round_trip(said: &str) -> Option<Duration> {
    let (_, rest) = said.split_once(" time=")?;
    let (number, _) = rest.split_once(" ms")?;
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_read_from_what_ping_prints() {
        let said = "PING 10.0.1.10 (10.0.1.10) 56(84) bytes of data.\n64 bytes from 10.0.1.10: icmp_seq=1 ttl=63 \
                    time=0.051 ms\n\n--- 10.0.1.10 ping statistics ---\n1 packets transmitted, 1 received";
        assert_eq!(round_trip(said), Some(Duration::from_micros(51)));
        assert_eq!(
            round_trip("1 packets transmitted, 0 received, 100% packet loss, time 0ms"),
            None
        );
    }
}
