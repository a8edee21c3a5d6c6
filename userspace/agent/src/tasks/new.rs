//! The description of a task to be added, as its client gives it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use taskgate_net::eni::EniSpec;

use super::list::AddedTask;

/// A task to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewTask {
    pub(crate) name: String,
    /// Names or ids of groups.
    pub(crate) groups: Vec<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) place: NewPlace,
}

/// The place of a new task's ENI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NewPlace {
    /// An existing link carries it: the host's end of a veth pair, or a VLAN link.
    Device(String),
    /// taskgate creates it, in the network namespace of this name.
    Namespace(String),
    /// taskgate creates it, in the network namespace behind this file, such as `/proc/PID/ns/net`.
    Netns(PathBuf),
}

impl NewTask {
    /// The task's entry for the list.
    pub(super) fn added(&self, instance: &str) -> AddedTask {
        let mut entry = Map::new();
        entry.insert("name".into(), json!(self.name));
        let (key, value) = match &self.place {
            NewPlace::Device(device) => ("device", device.clone()),
            NewPlace::Namespace(namespace) => ("namespace", namespace.clone()),
            NewPlace::Netns(path) => ("namespace", self.namespace_of(instance, path)),
        };
        entry.insert(key.into(), Value::String(value));
        entry.insert("addresses".into(), json!(self.addresses));
        entry.insert("groups".into(), json!(self.groups));
        AddedTask {
            name: self.name.clone(),
            entry,
            attached: match &self.place {
                NewPlace::Netns(path) => Some(path.display().to_string()),
                _ => None,
            },
        }
    }

    /// The name of the namespace behind a file: its existing name, or else that of the ENI's link.
    fn namespace_of(&self, instance: &str, path: &Path) -> String {
        taskgate_net::netns::Namespace::name_of(path).unwrap_or_else(|| {
            EniSpec {
                instance,
                task: &self.name,
                namespace: "",
                addresses: &[],
                fills_checksums: false,
            }
            .link_name()
        })
    }
}
