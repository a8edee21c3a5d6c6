//! The place of the demo: a sandbox in the role of the host, and a client outside of it.

use std::{fs, path::Path};

use anyhow::{Result, bail};

use testkit::{
    netns::{Netns, await_up},
    pins::PINS,
};

/// The client's addresses.
pub(super) const CLIENT: [&str; 2] = ["198.51.100.7", "2001:db8:ffff::7"];

/// The folders of namespaces, of taskgate's own files, and of the objects that outlive it.
const KEPT: [&str; 3] = ["/run/netns", "/run/taskgate", PINS];

/// Makes the calling thread's namespace a host that forwards, and connects a client to it.
pub(super) fn host_and_client() -> Result<(Netns, Netns)> {
    let (host, client) = (Netns::current("host")?, Netns::new("client")?);
    for (sysctl, value) in [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv6.conf.default.accept_dad", "0"),
    ] {
        host.set(sysctl, value)?;
    }
    client.set("net.ipv6.conf.default.accept_dad", "0")?;
    host.add_veth("uplink", &client, "eth0")?;
    host.ip("address add 198.51.100.1/24 dev uplink
         address add 2001:db8:ffff::1/64 dev uplink nodad
         link set uplink up")?;
    let [v4, v6] = CLIENT;
    client.ip(&format!(
        "address add {v4}/24 dev eth0
         address add {v6}/64 dev eth0 nodad
         link set eth0 up
         route add default via 198.51.100.1
         route add ::/0 via 2001:db8:ffff::1"
    ))?;
    await_up(&[(&host, "uplink"), (&client, "eth0")])?;
    Ok((host, client))
}

/// Fails with a list of the objects that taskgate should have removed.
pub(super) fn check_nothing_left(host: &Netns) -> Result<()> {
    let mut left: Vec<String> = KEPT
        .iter()
        .filter_map(|folder| fs::read_dir(Path::new(folder)).ok())
        .flat_map(Iterator::flatten)
        .map(|entry| entry.path().display().to_string())
        .collect();
    let links = host.links()?.into_iter().filter(|name| name.starts_with("tg-"));
    left.extend(links.map(|name| format!("link {name}")));
    if !left.is_empty() {
        bail!("taskgate left behind: {}", left.join(", "));
    }
    Ok(())
}
