//! Configurations in taskgate's native form, as a user would write them.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

/// A configuration. A second item of the same name replaces the first, so that a test can reload a small change.
#[derive(Clone, Debug, Default)]
pub struct Config {
    namespaces: String,
    groups: BTreeMap<String, String>,
    prefix_lists: BTreeMap<String, String>,
    tasks: BTreeMap<String, Task>,
    members: BTreeMap<String, String>,
    extra: String,
}

#[derive(Clone, Debug)]
struct Task {
    text: String,
    addresses: Vec<IpAddr>,
    made: bool,
}

impl Config {
    /// An empty configuration. The names of its tasks' namespaces begin with `namespaces` and a dash.
    pub fn new(namespaces: &str) -> Self {
        Self {
            namespaces: namespaces.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a group. `rules`: its keys after the name, such as `ingress: [{ protocol: tcp, from: any }], egress: []`.
    #[must_use]
    pub fn group(mut self, name: &str, rules: &str) -> Self {
        let separator = if rules.is_empty() { "" } else { ", " };
        self.groups
            .insert(name.to_owned(), format!("name: {name}{separator}{rules}"));
        self
    }

    #[must_use]
    pub fn prefix_list(mut self, name: &str, entries: &[&str]) -> Self {
        let list = format!("name: {name}, entries: {}", list(entries));
        self.prefix_lists.insert(name.to_owned(), list);
        self
    }

    /// A task whose ENI taskgate makes, in the namespace [`Config::namespace`].
    #[must_use]
    pub fn task(self, name: &str, addresses: &[&str], groups: &[&str]) -> Self {
        self.task_in(name, name, addresses, groups)
    }

    /// Adds a task whose ENI taskgate makes in the namespace of another task.
    #[must_use]
    pub fn task_in(self, name: &str, whose: &str, addresses: &[&str], groups: &[&str]) -> Self {
        let namespace = self.namespace(whose);
        self.bound_task(name, &format!("namespace: {namespace}"), addresses, groups, true)
    }

    /// Adds a task on a device that exists, or will exist later.
    #[must_use]
    pub fn device_task(self, name: &str, device: &str, addresses: &[&str], groups: &[&str]) -> Self {
        self.bound_task(name, &format!("device: {device}"), addresses, groups, false)
    }

    /// A task on a VLAN of the trunk.
    #[must_use]
    pub fn vlan_task(self, name: &str, vlan: u16, addresses: &[&str], groups: &[&str]) -> Self {
        let binding = format!("vlan: {vlan}, mac: \"{}\"", Self::vlan_mac_text(vlan));
        self.bound_task(name, &binding, addresses, groups, false)
    }

    /// The hardware address of a VLAN's task.
    pub fn vlan_mac(vlan: u16) -> [u8; 6] {
        let [high, low] = vlan.to_be_bytes();
        [2, 0, 0, 0, high, low]
    }

    /// The same address as text, in the form of `ip` and of the configuration.
    pub fn vlan_mac_text(vlan: u16) -> String {
        Self::vlan_mac(vlan).map(|byte| format!("{byte:02x}")).join(":")
    }

    /// Adds a task whose ENI taskgate makes; other files have all other keys of the task.
    #[must_use]
    pub fn bind(mut self, name: &str) -> Self {
        let text = format!(
            "name: {name}, eni: {}, namespace: {}",
            Self::eni(name),
            self.namespace(name)
        );
        let task = Task {
            text,
            addresses: Vec::new(),
            made: true,
        };
        self.tasks.insert(name.to_owned(), task);
        self
    }

    fn bound_task(mut self, name: &str, binding: &str, addresses: &[&str], groups: &[&str], made: bool) -> Self {
        let text = format!(
            "name: {name}, eni: {}, {binding}, addresses: {}, groups: {}",
            Self::eni(name),
            list(addresses),
            list(groups)
        );
        let addresses = addresses.iter().filter_map(|address| address.parse().ok()).collect();
        self.tasks.insert(name.to_owned(), Task { text, addresses, made });
        self
    }

    /// Adds keys to a task.
    #[must_use]
    pub fn amend(mut self, task: &str, yaml: &str) -> Self {
        if let Some(task) = self.tasks.get_mut(task) {
            task.text.push_str(", ");
            task.text.push_str(yaml);
        }
        self
    }

    #[must_use]
    pub fn without_task(mut self, name: &str) -> Self {
        self.tasks.remove(name);
        self
    }

    /// An ENI that is elsewhere.
    #[must_use]
    pub fn member(mut self, address: &str, groups: &[&str]) -> Self {
        let member = format!("address: {}, groups: {}", quoted(address), list(groups));
        self.members.insert(address.to_owned(), member);
        self
    }

    /// Further top-level keys, in YAML.
    #[must_use]
    pub fn with(mut self, yaml: &str) -> Self {
        self.extra.push_str(yaml);
        self.extra.push('\n');
        self
    }

    /// Removes the text that [`Config::with`] added.
    #[must_use]
    pub fn without_extra(mut self) -> Self {
        self.extra.clear();
        self
    }

    /// The namespace of a task that taskgate makes the ENI of.
    pub fn namespace(&self, task: &str) -> String {
        format!("{}-{task}", self.namespaces)
    }

    /// The ENI id of a task.
    pub fn eni(task: &str) -> String {
        let mut hasher = DefaultHasher::new();
        task.hash(&mut hasher);
        format!("eni-0{:016x}", hasher.finish())
    }

    /// The names of its tasks.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks.keys().map(String::as_str)
    }

    /// The names of the tasks whose ENIs taskgate makes.
    pub fn made_tasks(&self) -> impl Iterator<Item = &str> {
        self.tasks
            .iter()
            .filter(|(_, task)| task.made)
            .map(|(name, _)| name.as_str())
    }

    /// The addresses of a task, or of a member.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        match self.tasks.get(name) {
            Some(task) => task.addresses.clone(),
            None => name.parse().into_iter().collect(),
        }
    }
}

/// The text of its file.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespaces: _,
            groups,
            prefix_lists,
            tasks,
            members,
            extra,
        } = self;
        f.write_str("taskgate: v1\n")?;
        let tasks = tasks
            .iter()
            .map(|(name, task)| (name.clone(), task.text.clone()))
            .collect();
        for (key, items) in [
            ("groups", groups),
            ("prefix-lists", prefix_lists),
            ("tasks", &tasks),
            ("members", members),
        ] {
            if !items.is_empty() {
                writeln!(f, "{key}:")?;
            }
            for item in items.values() {
                writeln!(f, "  - {{ {item} }}")?;
            }
        }
        f.write_str(extra)
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn list(items: &[&str]) -> String {
    let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
    format!("[{}]", items.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_written_as_a_user_would() {
        let config = Config::new("tgt-1-2")
            .group("web", "egress: []")
            .group("all", "")
            .prefix_list("corp", &["10.0.0.0/8", "fd00::/8"])
            .task("web-1", &["10.88.0.10"], &["all"])
            .task("web-1", &["10.88.0.10"], &["web", "all"])
            .device_task("db-1", "tg-db", &["10.88.0.20", "fd88::20"], &["web"])
            .task("gone", &["10.88.0.30"], &["web"])
            .without_task("gone")
            .member("10.99.0.2", &["web"])
            .with("settings: { exempt: none }");
        let expected = format!(
            r#"taskgate: v1
groups:
  - {{ name: all }}
  - {{ name: web, egress: [] }}
prefix-lists:
  - {{ name: corp, entries: ["10.0.0.0/8", "fd00::/8"] }}
tasks:
  - {{ name: db-1, eni: {}, device: tg-db, addresses: ["10.88.0.20", "fd88::20"], groups: ["web"] }}
  - {{ name: web-1, eni: {}, namespace: tgt-1-2-web-1, addresses: ["10.88.0.10"], groups: ["web", "all"] }}
members:
  - {{ address: "10.99.0.2", groups: ["web"] }}
settings: {{ exempt: none }}
"#,
            Config::eni("db-1"),
            Config::eni("web-1")
        );
        assert_eq!(config.to_string(), expected);
    }
}
