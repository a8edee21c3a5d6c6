//! `POST /v1/tasks`, `DELETE /v1/tasks/NAME`, `POST /v1/tasks/NAME/isolate`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A task that is to be added. Its ENI is bound to `device`, or taskgate makes it in the network namespace that `namespace`,
/// `netns` or `pid` names; without any of them in the one that is named as the task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AddTask {
    /// Its name.
    pub name: String,
    /// Its security groups, by name or id; at least one.
    pub groups: Vec<String>,
    /// Its addresses; at least one.
    pub addresses: Vec<String>,
    /// A network namespace by name, which is made where it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The host's end of the task's veth pair, or a VLAN link on the host. It has to be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// A network namespace by its file: an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// The network namespace of a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
}

/// A task whose gate stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Task {
    /// Its name.
    pub task: String,
    /// Its ENI.
    pub eni: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// The host's end of its link; absent for a branch of a trunk, and while it is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// That link's ifindex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// The network namespace in which taskgate made its ENI, by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Whether it was added while taskgate runs, and stands in no file.
    pub added: bool,
    /// Whether it is isolated: nothing passes.
    pub isolated: bool,
}

/// Whether a task is to be isolated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IsolateTask {
    /// No more: its rules decide again.
    #[serde(default)]
    pub undo: bool,
}
