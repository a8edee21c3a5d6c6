//! Host-wide configuration: settings, the uplink, and the destinations of flow records.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::record_format::RecordFormat;

/// `settings` of the native form.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// ICMP errors about a tracked connection that need no rule.
    pub icmp_errors: IcmpErrors,
    /// The treatment of a tracked connection that no rule allows any more.
    pub on_rule_removal: OnRuleRemoval,
    /// The destinations that a task may use without a rule.
    pub exempt: AddressList,
    /// The traffic without flow records.
    pub unlogged: AddressList,
    /// Idle time-outs.
    pub timeouts: Timeouts,
    /// Limits of tracked connections.
    pub connections: ConnectionLimits,
    /// Limits of recorded denied flows.
    pub denials: DenialLimits,
    /// How gates are attached to links.
    pub attach: Attach,
}

/// `icmp-errors`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IcmpErrors {
    /// Only errors for path MTU discovery: IPv4 type 3 code 4, IPv6 type 2.
    #[default]
    Pmtu,
    /// Every ICMP error that quotes a tracked connection.
    All,
    /// None: AWS's documented reading.
    None,
}

/// `on-rule-removal`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRuleRemoval {
    /// A tracked connection lives on until it closes or idles out, as on AWS.
    #[default]
    Keep,
    /// A tracked connection that no rule allows any more is cut.
    Cut,
}

/// `attach`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attach {
    /// TCX if the kernel has it, but clsact filters where many links come up at once.
    #[default]
    Auto,
    /// TCX, which needs Linux 6.6.
    Tcx,
    /// clsact filters.
    Clsact,
}

/// `exempt` and `unlogged`: AWS's own list, nothing, or addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AddressList {
    /// AWS's list.
    #[default]
    Aws,
    /// Nothing.
    None,
    /// These addresses, sorted; no DHCP.
    List(Vec<IpAddr>),
}

/// `timeouts`, in seconds, in AWS's ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Idle established TCP: 60 to 432,000.
    pub tcp_established: u32,
    /// UDP with traffic in one direction only, or a single request and response: 30 to 60.
    pub udp: u32,
    /// UDP from the second exchange on: 60 to 180.
    pub udp_stream: u32,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: 432_000,
            udp: 30,
            udp_stream: 180,
        }
    }
}

/// `connections`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Tracked connections on this host, both families together.
    pub total: u32,
    /// The number of entries guaranteed to each present task.
    pub floor: Floor,
    /// The most connections of one task; `None`: no limit.
    pub per_task: Option<u32>,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 262_144,
            floor: Floor::Auto,
            per_task: None,
        }
    }
}

/// `denials`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenialLimits {
    /// Denied flows that are waiting to be recorded, both families together. The room for first fragments of datagrams in
    /// flight is an eighth of this.
    pub total: u32,
    /// The number of entries guaranteed to each present task.
    pub floor: Floor,
}

impl Default for DenialLimits {
    fn default() -> Self {
        Self {
            total: 65_536,
            floor: Floor::Auto,
        }
    }
}

/// `floor`: the guaranteed share of each task that is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Floor {
    /// A quarter of the total, divided among the present tasks.
    Auto,
    /// This number for each task.
    Fixed(u32),
}

impl Floor {
    /// The floor of each task if `tasks` are present; 0 if none is.
    pub fn of(self, total: u32, tasks: u32) -> u32 {
        match self {
            Self::Auto => (total / 4).checked_div(tasks),
            // The guarantees cannot exceed the total.
            Self::Fixed(floor) => total.checked_div(tasks).map(|most| floor.min(most)),
        }
        .unwrap_or(0)
    }
}

/// `uplink`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The link to the wire.
    pub device: String,
    /// How frames on it are assigned to ENIs.
    pub mode: UplinkMode,
}

/// `uplink.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UplinkMode {
    /// By destination address.
    Routed,
    /// By VLAN id.
    Trunk,
}

/// One entry of `flow-logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowLog {
    /// The destination of its records.
    pub destination: Destination,
    /// The format of its records.
    pub format: RecordFormat,
    /// The traffic that is recorded.
    pub traffic: Traffic,
    /// The tasks whose traffic is recorded, by name in lower case; empty: all.
    pub tasks: Vec<String>,
    /// Aggregation interval in seconds: 1 to 600.
    pub interval: u32,
    /// Whether a window without traffic is recorded as NODATA.
    pub nodata: bool,
}

impl Default for FlowLog {
    fn default() -> Self {
        Self {
            destination: Destination::Stdout,
            format: RecordFormat::Default,
            traffic: Traffic::All,
            tasks: Vec::new(),
            interval: 60,
            nodata: false,
        }
    }
}

/// `flow-logs[].destination`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// A file, to which records are appended.
    File(LogFile),
    /// A folder with the files that AWS would deliver to S3.
    Folder(LogFolder),
}

/// `destination: file`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFile {
    /// Absolute.
    pub path: PathBuf,
    /// When taskgate rotates the file; `None`: never.
    pub rotate: Option<Rotate>,
}

/// `rotate`: at least one of size and age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotate {
    /// The largest file in bytes, unless a single line is longer.
    pub size: Option<u64>,
    /// The largest age in seconds: an older file is no longer appended to.
    pub age: Option<u64>,
    /// The number of earlier files that are kept, at least 1.
    pub keep: u32,
}

/// `destination: s3` with the URL of a folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogFolder {
    /// The folder that contains `AWSLogs`: absolute.
    pub path: PathBuf,
    /// The flow log's id, `fl-…`.
    pub id: String,
    /// Twelve digits.
    pub account: String,
    /// The region in names of folders and files.
    pub region: String,
    /// Whether folders are Hive-compatible: `year=2026`.
    pub hive_partitions: bool,
    /// Whether there is a folder for each hour.
    pub hourly_partitions: bool,
}

/// `flow-logs[].traffic`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Traffic {
    /// Passed and denied traffic.
    All,
    /// Passed traffic.
    Accept,
    /// Denied traffic.
    Reject,
}
