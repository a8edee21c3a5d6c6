//! What goes over the control socket `/run/taskgate/NAME.sock`, as types: the agent answers with them, the commands read them,
//! and `docs/openapi.yaml` is made from them. Keys are in kebab case. New ones may come, none goes or changes its meaning.

mod apply;
mod connections;
mod diff;
mod problem;
mod status;
mod tasks;

pub use apply::{Applied, ApplyRequest, NotGated};
pub use connections::{ConnectionPhase, ConnectionsQuery, FlowTotals, TrackedConnection};
pub use diff::{
    AdmittingRule, Change, ChangeCounts, ConnectionCounts, ConnectionOutcome, ConnectionsDiff, DiffRequest,
    Differences, FieldChange, LostConnections, ModelDiff, ObjectChange, ObjectKind,
};
pub use problem::{PROBLEM_JSON, ProblemAt, ProblemDetails};
pub use status::{
    ApplyOutcome, DaemonStatus, DestinationStatus, Deviation, DeviationKind, GateSide, LastApply, Losses, TableFill,
    TableFills, TaskState, TaskStatus,
};
pub use tasks::{AddTask, IsolateTask, Task};

use std::path::{Path, PathBuf};

/// The folder of the sockets.
pub const SOCKET_FOLDER: &str = "/run/taskgate";

/// The socket of an instance.
pub fn socket_path(instance: &str) -> PathBuf {
    Path::new(SOCKET_FOLDER).join(format!("{instance}.sock"))
}
