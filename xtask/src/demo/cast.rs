//! Who takes part: the tasks of the example, and the client outside.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::place::{CLIENT, Place};
use crate::workspace;

/// One who sends and answers.
pub(super) struct Actor {
    /// What it is called.
    pub(super) name: String,
    /// Its addresses: IPv4, IPv6.
    pub(super) addresses: [IpAddr; 2],
    /// Its ENI's id; the client has none.
    pub(super) eni: Option<String>,
    /// Its network namespace.
    pub(super) place: Place,
}

/// All who take part.
pub(super) struct Cast {
    actors: Vec<Actor>,
}

/// The client's name. It is no task: `taskgate explain` knows it by its address.
pub(super) const OUTSIDE: &str = "client";

/// What is of interest in `aws ec2 describe-network-interfaces`.
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

impl Cast {
    /// The tasks of a configuration whose gates stand, and the client. Each ENI of the example has its task's name as its
    /// only tag, and its namespace is named after it.
    pub(super) fn new(config: &str, client: Place) -> Result<Self> {
        let path = workspace::root().join(config).join("describe-network-interfaces.json");
        let mut actors = tasks(&path).with_context(|| format!("cannot use `{}`", path.display()))?;
        actors.push(Actor {
            name: OUTSIDE.to_owned(),
            addresses: [CLIENT[0].parse()?, CLIENT[1].parse()?],
            eni: None,
            place: client,
        });
        Ok(Self { actors })
    }

    /// One of them, by name.
    pub(super) fn get(&self, name: &str) -> Result<&Actor> {
        let found = self.actors.iter().find(|actor| actor.name == name);
        found.with_context(|| format!("the example has no task `{name}`"))
    }

    /// Whose an ENI is.
    pub(super) fn owner(&self, eni: &str) -> Option<&Actor> {
        self.actors.iter().find(|actor| actor.eni.as_deref() == Some(eni))
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Actor] {
        &self.actors
    }
}

fn tasks(path: &Path) -> Result<Vec<Actor>> {
    let document: Document = serde_json::from_str(&fs::read_to_string(path)?)?;
    let actors = document.network_interfaces.into_iter().map(|interface| {
        let [Tag { value: name }] = interface.tag_set;
        let [Ipv6 { ipv6_address }] = interface.ipv6_addresses;
        Ok(Actor {
            place: Place::named(&format!("demo-{name}"))?,
            name,
            addresses: [interface.private_ip_address, ipv6_address],
            eni: Some(interface.network_interface_id),
        })
    });
    actors.collect()
}
