//! The default line of VPC Flow Logs, version 2: fourteen fields with one space between, in AWS's order.

use std::fmt::Write as _;

use bytes::BytesMut;

use super::{eni::LoggedEni, record::FlowRecord, schedule::Bounds};

/// `log-status` of a line that is no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStatus {
    /// Something that the window should have is missing.
    SkipData,
    /// The ENI had no traffic.
    NoData,
}

impl LogStatus {
    /// The word in `log-status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SkipData => "SKIPDATA",
            Self::NoData => "NODATA",
        }
    }
}

/// Bytes that a line is reckoned with, for the size of buffers.
pub(super) const LINE_BYTES: usize = 128;

/// Appends the line of a flow.
///
/// ```
/// use std::{net::IpAddr, sync::Arc};
///
/// use bytes::BytesMut;
/// use taskgate_ebpf::abi::Direction;
/// use taskgate_flowlog::{RecordAction, Bounds, LoggedEni, Reasons, FlowRecord, Tuple, write_flow};
/// use taskgate_model::{EcsFields, Eni};
/// use taskgate_tables::FlowCount;
///
/// let local = IpAddr::from([10, 0, 1, 5]);
/// let eni = Eni {
///     id: "eni-0123456789abcdef0".to_owned(),
///     task: None,
///     account: None,
///     addresses: vec![local],
///     groups: Vec::new(),
///     groups_known: true,
///     gate_known: true,
///     binding: None,
///     source_dest_check: true,
///     vpc: None,
///     subnet: None,
///     ecs: EcsFields::default(),
/// };
/// let record = FlowRecord {
///     eni: Arc::new(LoggedEni::new(eni, "111122223333")),
///     tuple: Tuple {
///         source: local,
///         destination: IpAddr::from([10, 0, 1, 20]),
///         source_port: 49152,
///         destination_port: 443,
///         protocol: 6,
///     },
///     action: RecordAction::Accept,
///     direction: Direction::Egress,
///     local: Some(local),
///     count: FlowCount { packets: 12, bytes: 3480 },
///     tcp_flags: 3,
///     reasons: Reasons::NONE,
/// };
/// let mut lines = BytesMut::new();
/// write_flow(&mut lines, &record, Bounds { start: 1_767_225_600, end: 1_767_225_660 });
/// assert_eq!(
///     lines,
///     "2 111122223333 eni-0123456789abcdef0 10.0.1.5 10.0.1.20 49152 443 6 12 3480 1767225600 1767225660 ACCEPT OK\n"
/// );
/// ```
pub fn write_flow(lines: &mut BytesMut, record: &FlowRecord, bounds: Bounds) {
    let tuple = &record.tuple;
    append(
        lines,
        format_args!(
            "2 {} {} {} {} {} {} {} {} {} {} {} {} OK\n",
            record.eni.account(),
            record.eni.id(),
            tuple.source,
            tuple.destination,
            tuple.source_port,
            tuple.destination_port,
            tuple.protocol,
            record.count.packets,
            record.count.bytes,
            bounds.start,
            bounds.end,
            record.action.name(),
        ),
    );
}

/// Appends a line that says what the records alone do not.
///
/// ```
/// # use bytes::BytesMut;
/// # use taskgate_flowlog::{Bounds, LoggedEni, LogStatus, write_status};
/// # use taskgate_model::{EcsFields, Eni};
/// # let eni = Eni {
/// #     id: "eni-0123456789abcdef0".to_owned(),
/// #     task: None,
/// #     account: Some("111122223333".to_owned()),
/// #     addresses: Vec::new(),
/// #     groups: Vec::new(),
/// #     groups_known: true,
/// #     gate_known: true,
/// #     binding: None,
/// #     source_dest_check: true,
/// #     vpc: None,
/// #     subnet: None,
/// #     ecs: EcsFields::default(),
/// # };
/// # let eni = LoggedEni::new(eni, "000000000000");
/// let mut lines = BytesMut::new();
/// write_status(&mut lines, &eni, LogStatus::NoData, Bounds { start: 1_767_225_660, end: 1_767_225_720 });
/// assert_eq!(lines, "2 111122223333 eni-0123456789abcdef0 - - - - - - - 1767225660 1767225720 - NODATA\n");
/// ```
pub fn write_status(lines: &mut BytesMut, eni: &LoggedEni, status: LogStatus, bounds: Bounds) {
    append(
        lines,
        format_args!(
            "2 {} {} - - - - - - - {} {} - {}\n",
            eni.account(),
            eni.id(),
            bounds.start,
            bounds.end,
            status.name(),
        ),
    );
}

fn append(lines: &mut BytesMut, line: std::fmt::Arguments<'_>) {
    // `BytesMut` refuses only what is longer than an address space.
    if lines.write_fmt(line).is_err() {
        tracing::error!("no memory for a flow record");
    }
}
