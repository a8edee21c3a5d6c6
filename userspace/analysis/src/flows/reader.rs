//! Lines of stored records: AWS's default format, custom formats with or without a header line, and JSON.

use std::fmt;

use serde_json::Value;
use taskgate_model::{RecordField, RecordFormat};

use super::record::{StoredRecord, percent_decoded};

/// Why a line is no flow record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineError {
    /// It is the first one, and neither a header nor of a format that a line shows by itself.
    NoFormat,
    /// It has another number of words than its format.
    Words {
        /// The fields of the format.
        fields: usize,
        /// The words of the line.
        words: usize,
    },
    /// It is no object of JSON.
    Json(String),
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoFormat => f.write_str(
                "its format is not known: it has no header line, and is neither AWS's default format nor JSON; name it with `--format`",
            ),
            Self::Words { fields, words } => {
                write!(f, "{words} words, and the format has {fields} fields: a line that was cut, or of another format")
            }
            Self::Json(error) => write!(f, "no JSON object: {error}"),
        }
    }
}

impl std::error::Error for LineError {}

/// What the lines of a file hold.
#[derive(Clone, Debug)]
enum Columns {
    /// Words, by position. A field of a version that is not known here has none.
    Words(Vec<Option<RecordField>>),
    Json,
}

/// Reads the lines of one file in turn.
#[derive(Clone, Debug, Default)]
pub struct RecordReader {
    columns: Option<Columns>,
}

impl RecordReader {
    /// One for lines of a format, or of whatever format the first line shows.
    pub fn new(format: Option<&RecordFormat>) -> Self {
        let columns = format.map(|format| match format {
            RecordFormat::Json => Columns::Json,
            format => Columns::Words(format.fields().into_iter().map(Some).collect()),
        });
        Self { columns }
    }

    /// Reads a line. `None`: it is empty, or a header.
    ///
    /// # Errors
    /// [`LineError`]; the next line may be a record all the same.
    pub fn read(&mut self, line: &str) -> Result<Option<StoredRecord>, LineError> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(None);
        }
        if let Some(header) = header(line) {
            self.columns = Some(Columns::Words(header));
            return Ok(None);
        }
        match self.columns.get_or_insert_with(|| shown_by(line)) {
            Columns::Json => json(line).map(Some),
            Columns::Words(fields) if fields.is_empty() => {
                self.columns = None;
                Err(LineError::NoFormat)
            }
            Columns::Words(fields) => words(line, fields).map(Some),
        }
    }
}

/// The fields that a header line names. All of its words could be names of fields, and most are: a task may be called `region`.
fn header(line: &str) -> Option<Vec<Option<RecordField>>> {
    let could_be = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_lowercase())
            && word
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    };
    if !line.split_whitespace().all(could_be) {
        return None;
    }
    let fields: Vec<_> = line.split_whitespace().map(RecordField::named).collect();
    let known = fields.iter().flatten().count();
    (2 * known > fields.len()).then_some(fields)
}

/// The format of a first line without a header: that of JSON, the default one, or none.
fn shown_by(line: &str) -> Columns {
    if line.starts_with('{') {
        return Columns::Json;
    }
    let fields: Vec<_> = RecordField::default_format().map(Some).collect();
    let is_default = line.starts_with("2 ") && line.split_whitespace().count() == fields.len();
    Columns::Words(if is_default { fields } else { Vec::new() })
}

fn words(line: &str, fields: &[Option<RecordField>]) -> Result<StoredRecord, LineError> {
    let words = line.split_whitespace().count();
    if words != fields.len() {
        return Err(LineError::Words {
            fields: fields.len(),
            words,
        });
    }
    let mut record = StoredRecord::default();
    for (field, word) in fields.iter().zip(line.split_whitespace()) {
        match field {
            // Its commas are between names, and those within are encoded.
            Some(field @ RecordField::TaskgatePeerGroups) => record.set(*field, word),
            Some(field) => record.set(*field, &percent_decoded(word)),
            None => {}
        }
    }
    Ok(record)
}

fn json(line: &str) -> Result<StoredRecord, LineError> {
    let bad = |error: &dyn fmt::Display| LineError::Json(error.to_string());
    let value: Value = serde_json::from_str(line).map_err(|error| bad(&error))?;
    let object = value.as_object().ok_or_else(|| bad(&"it is another value"))?;
    let mut record = StoredRecord::default();
    for (name, value) in object {
        let Some(field) = RecordField::named(name) else {
            continue;
        };
        match value {
            Value::String(text) => record.set(field, text),
            Value::Array(list) => {
                let names = list.iter().filter_map(Value::as_str).map(encoded);
                record.set(field, &names.collect::<Vec<_>>().join(","));
            }
            Value::Null => {}
            other => record.set(field, &other.to_string()),
        }
    }
    Ok(record)
}

/// A name of a list, as a word of a custom format has it.
fn encoded(name: &str) -> String {
    name.replace('%', "%25").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: Option<&str>, text: &str) -> Vec<Result<StoredRecord, LineError>> {
        let format = format.map(|format| RecordFormat::parse(format).expect("a format"));
        let mut reader = RecordReader::new(format.as_ref());
        text.lines().filter_map(|line| reader.read(line).transpose()).collect()
    }

    fn field(record: &StoredRecord, name: &str) -> Option<String> {
        record
            .get(RecordField::named(name).expect("a field"))
            .map(str::to_owned)
    }

    #[test]
    fn the_default_format_is_known_by_its_first_line() {
        let text = "2 123456789012 eni-1 10.0.0.1 10.0.0.2 49152 80 6 5 300 100 160 ACCEPT OK\n\n\
                    2 123456789012 eni-1 - - - - - - - 160 220 - SKIPDATA\n";
        let records = read(None, text);
        let [Ok(flow), Ok(skipped)] = &records[..] else {
            panic!("{records:?}")
        };
        assert_eq!(field(flow, "dstport").as_deref(), Some("80"));
        assert_eq!(flow.number(RecordField::Bytes), Some(300));
        assert!(flow.is_flow() && !skipped.is_flow());
        assert_eq!(field(skipped, "srcaddr"), None);
    }

    #[test]
    fn a_header_line_names_the_fields_also_those_that_are_not_known() {
        let text = "srcaddr tgw-id dstaddr taskgate-group taskgate-peer-groups\n10.0.0.1 tgw-1 10.0.0.2 my%20web a%2Cb,c\n\
                    dstaddr srcaddr\n10.0.0.3 -\n";
        let records = read(None, text);
        let [Ok(one), Ok(other)] = &records[..] else {
            panic!("{records:?}")
        };
        assert_eq!(field(one, "dstaddr").as_deref(), Some("10.0.0.2"));
        assert_eq!(field(one, "taskgate-group").as_deref(), Some("my web"));
        assert_eq!(one.peer_groups(), ["a,b", "c"]);
        assert_eq!(field(other, "dstaddr").as_deref(), Some("10.0.0.3"));
        assert_eq!(field(other, "srcaddr"), None);
    }

    #[test]
    fn json_has_numbers_lists_and_nulls() {
        let line = r#"{"srcaddr":"10.0.0.1","dstport":443,"taskgate-same-host":true,"taskgate-peer-groups":["a,b","c"],"az-id":null,"x":1}"#;
        let records = read(None, line);
        let [Ok(record)] = &records[..] else {
            panic!("{records:?}")
        };
        assert_eq!(record.number(RecordField::DstPort), Some(443));
        assert_eq!(field(record, "taskgate-same-host").as_deref(), Some("true"));
        assert_eq!(record.peer_groups(), ["a,b", "c"]);
        assert_eq!(field(record, "az-id"), None);
    }

    #[test]
    fn what_is_no_record_is_said_and_does_not_end_the_file() {
        let good = "2 123456789012 eni-1 10.0.0.1 10.0.0.2 49152 80 6 5 300 100 160 ACCEPT OK";
        assert_eq!(read(None, "10.0.0.1 10.0.0.2 ACCEPT"), [Err(LineError::NoFormat)]);
        let records = read(None, &format!("{good}\n2 123456789012 eni-1 10.0\n{good}\n"));
        let cut = Err(LineError::Words { fields: 14, words: 4 });
        assert!(records[0].is_ok() && records[1] == cut && records[2].is_ok());
        let records = read(None, "{\"srcaddr\":\"10.0.0.1\"}\n{\"srcaddr\":\n[]\n");
        assert!(
            matches!(
                &records[..],
                [
                    Ok(_),
                    Err(LineError::Json(_)),
                    Err(LineError::NoFormat | LineError::Json(_))
                ]
            ),
            "{records:?}"
        );
        let records = read(Some("${taskgate-task} ${srcaddr}"), "region 10.0.0.1\n");
        assert_eq!(
            field(records[0].as_ref().expect("a record"), "taskgate-task").as_deref(),
            Some("region")
        );
        let records = read(Some("${srcaddr} ${action}"), "10.0.0.1 ACCEPT\n");
        assert_eq!(
            field(records[0].as_ref().expect("a record"), "action").as_deref(),
            Some("ACCEPT")
        );
    }
}
