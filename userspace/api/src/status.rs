//! `GET /v1/status` and `GET /v1/tasks`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{NotGated, ProblemAt};

/// What the kernel holds, and how the daemon fares.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DaemonStatus {
    /// Whether nothing is off: no deviation, every task that has a link gated, the last apply not refused, every destination of flow
    /// records written to.
    pub healthy: bool,
    /// The instance's name.
    pub instance: String,
    /// Whether a daemon runs. Without one gates go on judging by what was in force last.
    pub running: bool,
    /// The daemon's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Seconds since it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// The kernel's release.
    pub kernel: String,
    /// The folder that is followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// The generation that the image says is in force.
    pub generation: u64,
    /// How gates hang on links that come now: `tcx` or `clsact`.
    pub attach: String,
    /// The tasks that are to be gated on this host.
    pub tasks: Vec<TaskStatus>,
    /// Use of the kernel's tables by all tasks.
    pub tables: TableFills,
    /// Packets that are in no record, of all tasks.
    pub losses: Losses,
    /// The destinations of flow records.
    #[serde(default)]
    pub destinations: Vec<DestinationStatus>,
    /// Where the kernel holds something else than it should, as of the last look.
    pub drift: Vec<Deviation>,
    /// Tasks that are not gated because of an error.
    pub not_gated: Vec<NotGated>,
    /// The last configuration that was to be applied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_apply: Option<LastApply>,
}

/// A task that is to be gated on this host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TaskStatus {
    /// Its name.
    pub task: String,
    /// Its ENI.
    pub eni: String,
    /// Whether it was added while taskgate runs, and stands in no file.
    #[serde(default)]
    pub added: bool,
    /// Whether it is isolated: nothing passes, whatever its rules.
    #[serde(default)]
    pub isolated: bool,
    /// Its number in image and tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// Whether it is gated.
    pub state: TaskState,
    /// Its link, as it is named now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The link's ifindex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
    /// The VLAN id of a trunk's branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The programs on both sides of the link, as the kernel names them.
    pub gates: Vec<GateSide>,
    /// What it uses of the kernel's tables, and may use.
    pub tables: TableFills,
    /// Its packets that are in no record.
    pub losses: Losses,
}

/// Whether a task is gated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// It is.
    Gated,
    /// Its link is not there; it is gated as soon as it is.
    #[default]
    Waiting,
    /// Its link passes nothing until it can be gated.
    Closed,
    /// Its link could not be gated, which is tried again.
    Failed,
}

impl TaskState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Gated, Self::Waiting, Self::Closed, Self::Failed];

    /// Its word in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gated => "gated",
            Self::Waiting => "waiting",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }
}

/// A program on one side of a task's link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct GateSide {
    /// Seen from the task: `egress` or `ingress`.
    pub direction: String,
    /// How it hangs there: `tcx` or `clsact`.
    pub attach: String,
    /// The program's name.
    pub program: String,
    /// Its id in the kernel (`bpftool prog show id`).
    pub program_id: u32,
    /// Its tag: a hash of its instructions.
    pub tag: String,
}

/// Use of the kernel's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TableFills {
    /// Tracked connections.
    pub connections: TableFill,
    /// Denied flows.
    pub denials: TableFill,
}

/// Use of one table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct TableFill {
    /// Entries in use.
    pub used: u64,
    /// The most there can be: of a task its floor and the whole common pool, or its cap.
    pub limit: u64,
    /// New entries that found no room.
    pub refused: u64,
}

/// Packets that are in no record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Losses {
    /// That passed.
    pub passed: u64,
    /// That were denied.
    pub denied: u64,
}

/// How a destination of flow records fares. What it counts, it counts from the daemon's start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct DestinationStatus {
    /// The path of a file or folder, or what it is: `standard output`.
    pub destination: String,
    /// Records that were written.
    pub records: u64,
    /// Bytes of records that wait to be written.
    pub waiting: u64,
    /// Records that were given up, since their reader is gone.
    pub dropped: u64,
    /// Packets that are in no record here, since too many records waited: SKIPDATA says whose.
    pub lost: u64,
    /// Why nothing can be written now. It is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// Something in the kernel that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct Deviation {
    /// Its kind.
    pub kind: DeviationKind,
    /// The task that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
    /// The link that it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// What it is, in words.
    pub message: String,
    /// When it was found: seconds since the Unix epoch.
    pub since: u64,
    /// When it was put right; absent while it is not. It is shown for some time after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repaired: Option<u64>,
}

/// Kinds of [`Deviation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DeviationKind {
    /// A side of a link has no gate.
    GateMissing,
    /// A side of a link has another program where the gate should be.
    GateReplaced,
    /// A program runs before the gate, and may pass packets by it.
    ProgramBefore,
    /// A name in bpffs is missing or another's: what has it would not outlive the daemon.
    PinMissing,
    /// The uplink has no prefilter: what is denied is dropped by the gates behind it.
    PrefilterMissing,
    /// What the kernel holds could not be looked at.
    Unknown,
}

impl DeviationKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::GateMissing,
        Self::GateReplaced,
        Self::ProgramBefore,
        Self::PinMissing,
        Self::PrefilterMissing,
        Self::Unknown,
    ];

    /// Its word in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GateMissing => "gate-missing",
            Self::GateReplaced => "gate-replaced",
            Self::ProgramBefore => "program-before",
            Self::PinMissing => "pin-missing",
            Self::PrefilterMissing => "prefilter-missing",
            Self::Unknown => "unknown",
        }
    }
}

/// The last configuration that was to be applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub struct LastApply {
    /// When: seconds since the Unix epoch.
    pub at: u64,
    /// How it went.
    pub result: ApplyOutcome,
    /// How long it took once its files were read, in milliseconds; absent of the one that taskgate began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<u64>,
    /// Its folder.
    pub config: String,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Each problem of the configuration that was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<ProblemAt>,
}

/// How an apply went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ApplyOutcome {
    /// It is in force.
    Applied,
    /// It is not, and the one before stays.
    Refused,
}
