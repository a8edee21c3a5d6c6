//! Settings of the host's network stack for one link, and for all: files in /proc/sys/net.
//!
//! The settings are those of the calling thread's network namespace.

use std::{
    fmt, fs,
    io::{self, Write as _},
};

/// A kind of message by which a neighbour on a link can change the host's own addresses and routes, without a packet that
/// the host forwards. A gate drops all of these messages from a task; the host's settings are the second line of defence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighbourControl {
    /// IPv6 router advertisements: default routes, addresses, name servers.
    RouterAdvertisements,
    /// ICMPv6 redirects: the route to one destination.
    Redirects6,
    /// ICMP redirects: the route to one destination.
    Redirects4,
}

impl NeighbourControl {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RouterAdvertisements, Self::Redirects6, Self::Redirects4];

    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::RouterAdvertisements => ("ipv6", "accept_ra"),
            Self::Redirects6 => ("ipv6", "accept_redirects"),
            Self::Redirects4 => ("ipv4", "accept_redirects"),
        }
    }

    /// The setting of a link.
    pub fn sysctl(self, link: &str) -> Sysctl {
        let (family, key) = self.place();
        Sysctl::of_link(family, link, key)
    }

    /// Whether the host accepts these messages on a link. With IPv6 only the link's settings count: a link that forwards accepts no
    /// redirects, and router advertisements only with `accept_ra` 2. With IPv4 a link that forwards accepts redirects if both
    /// its setting and that of `all` are on, another link if either is (kernel documentation, ip-sysctl).
    pub fn is_heeded(self, link: &str) -> bool {
        let (family, key) = self.place();
        let value = |link: &str, key: &str| Sysctl::of_link(family, link, key).get().unwrap_or(0);
        let (own, forwards) = (value(link, key), value(link, "forwarding") != 0);
        match self {
            Self::RouterAdvertisements if forwards => own == 2,
            Self::RouterAdvertisements => own != 0,
            Self::Redirects6 => own != 0 && !forwards,
            Self::Redirects4 if forwards => own != 0 && value("all", key) != 0,
            Self::Redirects4 => own != 0 || value("all", key) != 0,
        }
    }

    /// The remedy to turn them off on a link.
    pub fn remedy(self, link: &str) -> String {
        let own = self.sysctl(link);
        let all = self.sysctl("all");
        let (family, _) = self.place();
        let forwards = Sysctl::of_link(family, link, "forwarding")
            .get()
            .is_ok_and(|value| value != 0);
        if self == Self::Redirects4 && !forwards && all.get().is_ok_and(|value| value != 0) {
            return format!("sysctl -w {all}=0 {own}=0");
        }
        format!("sysctl -w {own}=0")
    }
}

impl fmt::Display for NeighbourControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RouterAdvertisements => "router advertisements",
            Self::Redirects6 => "ICMPv6 redirects",
            Self::Redirects4 => "ICMP redirects",
        })
    }
}

/// One setting. It is displayed in the syntax of sysctl(8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// Below /proc/sys. A link's name may have dots.
    path: String,
}

impl Sysctl {
    /// A setting without a link in its name, with dots as sysctl(8) shows it.
    pub(super) fn named(name: &str) -> Self {
        Self {
            path: name.replace('.', "/"),
        }
    }

    /// A setting of a link, or of `all` or `default`.
    pub(super) fn of_link(family: &str, link: &str, key: &str) -> Self {
        Self {
            path: format!("net/{family}/conf/{link}/{key}"),
        }
    }

    /// Reads the value.
    pub(super) fn get(&self) -> io::Result<i64> {
        let text = fs::read_to_string(self.file())?;
        text.trim().parse().map_err(io::Error::other)
    }

    /// Sets the value, if it differs. `NotFound` if the kernel does not have the setting.
    pub(super) fn set(&self, value: i64) -> io::Result<()> {
        if self.get()? == value {
            return Ok(());
        }
        let mut file = fs::OpenOptions::new().write(true).open(self.file())?;
        file.write_all(value.to_string().as_bytes())
    }

    fn file(&self) -> String {
        format!("/proc/sys/{}", self.path)
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In a path with slashes a dot is literal.
        if self.path.contains('.') {
            f.write_str(&self.path)
        } else {
            f.write_str(&self.path.replace('/', "."))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_shown_as_sysctl_takes_it() {
        for (link, shown) in [
            ("tg-web", "net.ipv6.conf.tg-web.accept_ra"),
            ("eth0.100", "net/ipv6/conf/eth0.100/accept_ra"),
        ] {
            assert_eq!(NeighbourControl::RouterAdvertisements.sysctl(link).to_string(), shown);
        }
        assert_eq!(
            Sysctl::named("net.ipv4.ip_forward").file(),
            "/proc/sys/net/ipv4/ip_forward"
        );
    }
}
