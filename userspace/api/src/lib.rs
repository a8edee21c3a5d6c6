//! The types that are exchanged over the control socket `/run/taskgate/NAME.sock`: the agent answers with them, the
//! commands read them, and `docs/openapi.yaml` is generated from them. Keys are in kebab case. New keys may be added;
//! none is removed or changes its meaning.

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

/// The folder that contains the control sockets.
pub const SOCKET_FOLDER: &str = "/run/taskgate";

/// The path of an instance's control socket.
pub fn socket_path(instance: &str) -> PathBuf {
    Path::new(SOCKET_FOLDER).join(format!("{instance}.sock"))
}
