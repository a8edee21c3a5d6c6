//! The tasks that were added while taskgate runs, and those that are isolated. They are kept in a file in /run, which
//! is written before a change comes into force, so that they outlive the process and every reload.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::state::{Kept, KeptFile, StateError};

/// The content of the file of tasks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct TaskList {
    format: u32,
    boot: String,
    /// The added tasks, by name in lower case.
    #[serde(default)]
    pub(crate) added: BTreeMap<String, AddedTask>,
    /// The isolated tasks, added or configured, by name in lower case.
    #[serde(default)]
    pub(crate) isolated: BTreeSet<String>,
}

/// A task that was added, as it is kept in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct AddedTask {
    /// Its name, as it was given.
    pub(crate) name: String,
    /// Its entry, in the form of an entry of `tasks` in a file.
    pub(crate) entry: Map<String, Value>,
    /// The path at which its network namespace was found, if it was not given by name: the namespace then has a name as
    /// long as the task exists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attached: Option<String>,
}

impl AddedTask {
    /// The task's designation in messages.
    pub(super) fn title(&self) -> String {
        format!("added task `{}`", self.name)
    }

    /// The task as a document of the configuration.
    pub(super) fn document(&self) -> String {
        json!({ "taskgate": "v1", "tasks": [self.entry] }).to_string()
    }

    /// The namespace that its entry names.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.entry.get("namespace")?.as_str()
    }

    /// The link that its entry names.
    pub(crate) fn device(&self) -> Option<&str> {
        self.entry.get("device")?.as_str()
    }
}

/// The key of a task: names that differ only in case are the same.
pub(crate) fn key(name: &str) -> String {
    name.to_ascii_lowercase()
}

impl TaskList {
    fn of(boot: &str) -> Self {
        Self {
            format: Self::FORMAT,
            boot: boot.to_owned(),
            added: BTreeMap::new(),
            isolated: BTreeSet::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.isolated.is_empty()
    }
}

impl Kept for TaskList {
    const SUFFIX: &str = "tasks";
    const FORMAT: u32 = 1;

    fn format(&self) -> u32 {
        self.format
    }

    fn boot(&self) -> &str {
        &self.boot
    }
}

/// The list and its file.
#[derive(Debug)]
pub(super) struct KeptList {
    file: KeptFile<TaskList>,
    list: TaskList,
}

impl KeptList {
    pub(super) fn open(instance: &str) -> Result<Self, StateError> {
        let file = KeptFile::of(instance)?;
        let list = file.read()?.unwrap_or_else(|| TaskList::of(file.boot()));
        Ok(Self { file, list })
    }

    pub(super) fn list(&self) -> &TaskList {
        &self.list
    }

    /// Changes the list and writes the file. If that fails, nothing is changed.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut TaskList)) -> Result<(), StateError> {
        let mut next = self.list.clone();
        change(&mut next);
        if next == self.list {
            return Ok(());
        }
        if next.is_empty() {
            self.file.remove()?;
        } else {
            self.file.write(&next)?;
        }
        self.list = next;
        Ok(())
    }
}

/// Forgets the tasks that were added to an instance, and all isolations.
pub(crate) fn forget(instance: &str) -> Result<(), StateError> {
    KeptFile::<TaskList>::of(instance)?.remove()
}
