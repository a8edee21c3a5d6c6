//! What the guard holds, for those who compare it with the kernel.

use taskgate_api::TaskState;
use taskgate_bpf::gate::Gate;

/// A task and its gate; or the gate of a link that is no task's any more, or of the trunk.
#[derive(Clone, Debug)]
pub(crate) struct ObservedTask {
    /// The ENI of the task.
    pub(crate) eni: Option<String>,
    /// The task's name.
    pub(crate) task: Option<String>,
    pub(crate) state: TaskState,
    /// The VLAN id of a branch, whose gate is the trunk's.
    pub(crate) vlan: Option<u16>,
    pub(crate) gate: Option<Gate>,
}
