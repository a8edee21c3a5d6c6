//! The link guard's view of tasks and gates, for comparison with the kernel.

use taskgate_api::TaskState;
use taskgate_bpf::gate::Gate;

/// A task with its gate, or the gate of the trunk or of a link that belongs to no task any more.
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
