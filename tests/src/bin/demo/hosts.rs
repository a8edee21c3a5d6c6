//! The hosts that send and answer: the tasks of the example, and the client outside.

use std::{
    fs,
    io::Write as _,
    net::{IpAddr, Ipv6Addr, TcpListener},
    path::Path,
    thread,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::topology::CLIENT;
use testkit::netns::Netns;

pub(super) struct Host {
    pub(super) name: String,
    /// Its addresses: IPv4, IPv6.
    pub(super) addresses: [IpAddr; 2],
    /// The id of its ENI; `None` for the client.
    pub(super) eni: Option<String>,
    /// Its network namespace.
    pub(super) netns: Netns,
}

pub(super) struct Hosts(Vec<Host>);

/// The client's name. The client is not a task: `taskgate explain` knows it by its address.
pub(super) const OUTSIDE: &str = "client";

/// The relevant fields of `aws ec2 describe-network-interfaces`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    network_interfaces: Vec<Interface>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Interface {
    network_interface_id: String,
    private_ip_address: IpAddr,
    ipv6_addresses: [Ipv6; 1],
    tag_set: [Tag; 1],
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Ipv6 {
    ipv6_address: IpAddr,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tag {
    value: String,
}

impl Hosts {
    /// The tasks of a configuration whose gates are up, and the client. Each ENI of the example has its task's name as
    /// its only tag, and its namespace is named after it.
    pub(super) fn new(config: &Path, client: Netns) -> Result<Self> {
        let path = config.join("describe-network-interfaces.json");
        let mut hosts = tasks(&path).with_context(|| format!("cannot use `{}`", path.display()))?;
        hosts.push(Host {
            name: OUTSIDE.to_owned(),
            addresses: [CLIENT[0].parse()?, CLIENT[1].parse()?],
            eni: None,
            netns: client,
        });
        Ok(Self(hosts))
    }

    pub(super) fn get(&self, name: &str) -> Result<&Host> {
        let found = self.0.iter().find(|host| host.name == name);
        found.with_context(|| format!("the example has no task `{name}`"))
    }

    /// The task that an ENI belongs to.
    pub(super) fn owner(&self, eni: &str) -> Option<&Host> {
        self.0.iter().find(|host| host.eni.as_deref() == Some(eni))
    }

    pub(super) fn all(&self) -> &[Host] {
        &self.0
    }
}

impl Host {
    /// Serves [`greeting`] on a port, over both families, until the process ends.
    pub(super) fn serve(&self, port: u16) -> Result<()> {
        // Both families: `bindv6only` is off in a fresh namespace, unless the machine has another default. A socket stays
        // in its namespace, whichever thread uses it.
        let listen = || TcpListener::bind((Ipv6Addr::UNSPECIFIED, port));
        let listener = self
            .netns
            .bind(listen)
            .with_context(|| format!("`{}` cannot listen on {port}", self.name))?;
        let greeting = greeting(&self.name);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                // A client that has already closed has seen that it was let through.
                stream.write_all(greeting.as_bytes()).ok();
            }
        });
        Ok(())
    }
}

/// The line that a task answers with.
pub(super) fn greeting(name: &str) -> String {
    format!("this is {name}\n")
}

fn tasks(path: &Path) -> Result<Vec<Host>> {
    let document: Document = serde_json::from_str(&fs::read_to_string(path)?)?;
    let hosts = document.network_interfaces.into_iter().map(|interface| {
        let [Tag { value: name }] = interface.tag_set;
        let [Ipv6 { ipv6_address }] = interface.ipv6_addresses;
        Ok(Host {
            netns: Netns::named(&format!("demo-{name}"))?,
            name,
            addresses: [interface.private_ip_address, ipv6_address],
            eni: Some(interface.network_interface_id),
        })
    });
    hosts.collect()
}
