//! The formats of lines: AWS's space-separated words, or JSON.

mod value;
mod write;

use bytes::{Bytes, BytesMut};
use taskgate_model::{FlowLog, RecordField, RecordFormat};

use self::value::RecordLine;
use super::{eni::LoggedEni, record::FlowRecord, schedule::Bounds};

/// `log-status` of a line without a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogStatus {
    /// Records of the window are missing.
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

/// The header line with the names of the fields, as in files that AWS delivers; empty for JSON.
pub(super) fn header(log: &FlowLog) -> Bytes {
    if log.format == RecordFormat::Json {
        return Bytes::new();
    }
    let names: Vec<&str> = log.format.fields().into_iter().map(RecordField::name).collect();
    Bytes::from(names.join(" ") + "\n")
}

/// An estimate of a field's bytes without its lead, for the size of buffers.
const FIELD_BYTES: usize = 10;

/// A field and its lead: the space, or the JSON key.
#[derive(Clone, Debug)]
struct Column {
    field: RecordField,
    lead: Box<str>,
}

/// Writes records in one format. The list of fields is fixed when the writer is made.
///
/// ```
/// use std::{net::IpAddr, sync::Arc};
///
/// use bytes::BytesMut;
/// use taskgate_ebpf::abi::Direction;
/// use taskgate_flowlog::{Attribution, Bounds, FlowRecord, LogStatus, LoggedEni, Reasons, RecordAction, RecordWriter, Tuple};
/// use taskgate_model::{EcsFields, Eni, RecordFormat};
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
///     vpc: Some("vpc-01".to_owned()),
///     subnet: None,
///     az_id: None,
///     region: None,
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
///     attribution: Attribution::default(),
/// };
/// let bounds = Bounds { start: 1_767_225_600, end: 1_767_225_660 };
/// let mut lines = BytesMut::new();
/// let writer = RecordWriter::new(&RecordFormat::Default);
/// writer.write_flow(&mut lines, &record, bounds);
/// writer.write_status(&mut lines, &record.eni, LogStatus::NoData, bounds);
/// let custom = RecordFormat::parse("${version} ${vpc-id} ${tcp-flags} ${subnet-id}")?;
/// RecordWriter::new(&custom).write_flow(&mut lines, &record, bounds);
/// assert_eq!(
///     lines,
///     "2 111122223333 eni-0123456789abcdef0 10.0.1.5 10.0.1.20 49152 443 6 12 3480 1767225600 1767225660 ACCEPT OK\n\
///      2 111122223333 eni-0123456789abcdef0 - - - - - - - 1767225600 1767225660 - NODATA\n\
///      3 vpc-01 3 -\n"
/// );
/// # Ok::<(), taskgate_model::FormatError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RecordWriter {
    version: u8,
    columns: Vec<Column>,
    is_json: bool,
}

impl RecordWriter {
    /// A writer for a format.
    pub fn new(format: &RecordFormat) -> Self {
        let is_json = *format == RecordFormat::Json;
        let column = |(at, field): (usize, RecordField)| {
            let lead = match (is_json, at) {
                (false, 0) => String::new(),
                (false, _) => String::from(" "),
                (true, 0) => format!("{{\"{}\":", field.name()),
                (true, _) => format!(",\"{}\":", field.name()),
            };
            Column {
                field,
                lead: lead.into(),
            }
        };
        Self {
            version: format.version(),
            columns: format.fields().into_iter().enumerate().map(column).collect(),
            is_json,
        }
    }

    /// An estimate of a line's bytes, for the size of buffers.
    pub(super) fn line_bytes(&self) -> usize {
        self.columns.iter().map(|column| column.lead.len() + FIELD_BYTES).sum()
    }

    /// Appends the line of a flow.
    pub fn write_flow(&self, lines: &mut BytesMut, record: &FlowRecord, bounds: Bounds) {
        let line = RecordLine {
            version: self.version,
            eni: &record.eni,
            bounds,
            flow: Some(record),
            status: "OK",
        };
        self.write(lines, &line);
    }

    /// Appends a SKIPDATA or NODATA line.
    pub fn write_status(&self, lines: &mut BytesMut, eni: &LoggedEni, status: LogStatus, bounds: Bounds) {
        let line = RecordLine {
            version: self.version,
            eni,
            bounds,
            flow: None,
            status: status.name(),
        };
        self.write(lines, &line);
    }

    fn write(&self, lines: &mut BytesMut, line: &RecordLine<'_>) {
        for Column { field, lead } in &self.columns {
            lines.extend_from_slice(lead.as_bytes());
            let value = line.value(*field);
            if self.is_json {
                write::json(lines, &value);
            } else {
                write::word(lines, &value);
            }
        }
        lines.extend_from_slice(if self.is_json { b"}\n" } else { b"\n" });
    }
}
