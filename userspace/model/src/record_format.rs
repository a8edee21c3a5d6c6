//! `format` of a flow log: the fields of its records, and their notation.

use std::fmt::{self, Display, Formatter};

use serde::{Deserialize, Serialize};

use super::{near::near, record_field::RecordField};

/// The format of a flow record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RecordFormat {
    /// AWS's default format, version 2.
    #[default]
    Default,
    /// These fields in this order: at least one, no duplicates.
    Custom(Vec<RecordField>),
    /// A JSON object per line.
    Json,
}

/// Why a text is not a format. Positions count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FormatError {
    /// The text has no fields.
    Empty,
    /// There is more than one space, or a space at an end.
    Space {
        /// Where.
        at: usize,
    },
    /// A part is not of the form `${field}`.
    Literal {
        /// Where.
        at: usize,
        /// The part.
        text: String,
    },
    /// A field is unknown.
    Unknown {
        /// Where.
        at: usize,
        /// The name.
        name: String,
    },
    /// A field occurs twice.
    Twice {
        /// The position of the second one.
        at: usize,
        /// The field.
        field: RecordField,
    },
}

impl FormatError {
    /// The remedy.
    pub fn hint(&self) -> String {
        let known = || RecordField::ALL.iter().map(|field| field.name());
        let list = |names: &[&str]| {
            let fields: Vec<String> = names.iter().map(|name| format!("`${{{name}}}`")).collect();
            fields.join(" or ")
        };
        match self {
            Self::Empty => String::from("write `default`, `json`, or fields as AWS does: `${srcaddr} ${dstaddr}`"),
            Self::Space { .. } => String::from("write one space between two fields, and none at the ends"),
            Self::Literal { text, .. } => {
                let inner = text.trim_matches(|c: char| !c.is_ascii_alphanumeric());
                match near(inner, known().chain(["default", "json"]))[..] {
                    [word @ ("default" | "json"), ..] => format!("write `{word}`, or fields alone"),
                    [] => String::from("write `default`, `json`, or fields alone, as `${srcaddr} ${dstaddr}`"),
                    ref names => format!("write {}", list(names)),
                }
            }
            Self::Unknown { name, .. } => {
                let names = near(name, known());
                if names.is_empty() {
                    String::from(
                        "write a field of VPC Flow Logs, versions 2 to 11, or one of those that begin with `taskgate-`",
                    )
                } else {
                    format!("write {}", list(&names))
                }
            }
            Self::Twice { .. } => String::from("keep one of them"),
        }
    }
}

impl Display for FormatError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the format is empty"),
            Self::Space { at } => write!(f, "the format has a space too many at character {at}"),
            Self::Literal { at, text } => write!(f, "`{text}` at character {at} of the format is no `${{field}}`"),
            Self::Unknown { at, name } => {
                write!(
                    f,
                    "flow records have no field `{name}`, at character {at} of the format"
                )
            }
            Self::Twice { at, field } => {
                write!(f, "`{}` is twice in the format, again at character {at}", field.name())
            }
        }
    }
}

impl std::error::Error for FormatError {}

impl RecordFormat {
    /// Reads `default`, `json`, or fields as AWS writes them: `${srcaddr} ${dstaddr}`.
    ///
    /// # Errors
    /// [`FormatError`]: the first fault.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        match text {
            "" => return Err(FormatError::Empty),
            "default" => return Ok(Self::Default),
            "json" => return Ok(Self::Json),
            _ => {}
        }
        let mut fields = Vec::new();
        let mut at = 1;
        for part in text.split(' ') {
            if part.is_empty() {
                return Err(FormatError::Space { at });
            }
            let field = field_at(part, at)?;
            if fields.contains(&field) {
                return Err(FormatError::Twice { at, field });
            }
            fields.push(field);
            at += part.chars().count() + 1;
        }
        Ok(Self::Custom(fields))
    }

    /// The fields, in order. JSON has the fields that taskgate can fill.
    pub fn fields(&self) -> Vec<RecordField> {
        match self {
            Self::Default => RecordField::default_format().collect(),
            Self::Custom(fields) => fields.clone(),
            Self::Json => {
                let all = RecordField::ALL.iter().copied();
                all.filter(|field| !field.is_absent()).collect()
            }
        }
    }

    /// The value of `version`: the highest version among the fields.
    pub fn version(&self) -> u8 {
        let versions = self.fields().into_iter().filter_map(RecordField::version);
        versions.max().unwrap_or(2)
    }

    /// Whether a field describes the ENI with the peer's address.
    pub fn has_peer(&self) -> bool {
        self.fields().into_iter().any(RecordField::is_of_peer)
    }
}

/// Parses one part of a format.
fn field_at(part: &str, at: usize) -> Result<RecordField, FormatError> {
    let name = part.strip_prefix("${").and_then(|part| part.strip_suffix('}'));
    let name = name.filter(|name| !name.is_empty() && !name.contains(['$', '{', '}']));
    let Some(name) = name else {
        return Err(FormatError::Literal {
            at,
            text: part.to_owned(),
        });
    };
    RecordField::named(name).ok_or_else(|| FormatError::Unknown {
        at,
        name: name.to_owned(),
    })
}

/// The notation in a configuration.
impl Display for RecordFormat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Json => f.write_str("json"),
            Self::Custom(fields) => {
                for (number, field) in fields.iter().enumerate() {
                    let space = if number == 0 { "" } else { " " };
                    write!(f, "{space}${{{}}}", field.name())?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_read_by_its_name_and_written_back() {
        let text: Vec<String> = RecordField::ALL
            .iter()
            .map(|field| format!("${{{}}}", field.name()))
            .collect();
        let text = text.join(" ");
        let format = RecordFormat::parse(&text).unwrap();
        assert_eq!(format, RecordFormat::Custom(RecordField::ALL.to_vec()));
        assert_eq!(format.to_string(), text);
        for word in ["default", "json"] {
            assert_eq!(RecordFormat::parse(word).unwrap().to_string(), word);
        }
        let default: Vec<&str> = RecordField::default_format().map(RecordField::name).collect();
        assert_eq!(
            default.join(" "),
            "version account-id interface-id srcaddr dstaddr srcport dstport protocol packets bytes start end action \
             log-status"
        );
    }

    /// AWS: FL-FORMAT-2
    #[test]
    fn the_version_is_the_highest_of_the_fields() {
        for (text, version) in [
            ("default", 2),
            ("${srcaddr} ${dstaddr}", 2),
            ("${version} ${vpc-id} ${srcaddr}", 3),
            ("${region} ${vpc-id}", 4),
            ("${version} ${flow-direction} ${tcp-flags}", 5),
            ("${ecs-task-id} ${version}", 7),
            ("${reject-reason} ${ecs-task-id}", 8),
            ("${resource-id}", 9),
            ("${encryption-status}", 10),
            ("${version} ${next-hop-vpc-id}", 11),
            // taskgate's own fields have no version.
            ("${version} ${taskgate-rule}", 2),
            ("json", 7),
        ] {
            assert_eq!(RecordFormat::parse(text).unwrap().version(), version, "{text}");
        }
        let of = |version| {
            let all = RecordField::ALL.iter();
            all.filter(|field| field.version() == Some(version)).count()
        };
        assert_eq!(
            [2, 3, 4, 5, 6, 7, 8, 9, 10, 11].map(of),
            [14, 7, 4, 4, 0, 10, 1, 1, 1, 12]
        );
    }

    /// AWS: FL-FORMAT-1
    #[test]
    fn what_is_no_format_is_refused_with_its_place_and_the_nearest_name() {
        for (text, message, hint) in [
            ("", "the format is empty", "`${srcaddr} ${dstaddr}`"),
            (" ${srcaddr}", "a space too many at character 1", "one space"),
            ("${srcaddr} ", "a space too many at character 12", "none at the ends"),
            (
                "${srcaddr}  ${dstaddr}",
                "a space too many at character 12",
                "one space",
            ),
            (
                "srcaddr",
                "`srcaddr` at character 1 of the format is no",
                "write `${srcaddr}`",
            ),
            ("${srcaddr}${dstaddr}", "`${srcaddr}${dstaddr}` at character 1", "alone"),
            ("${srcaddr} -> ${dstaddr}", "`->` at character 12", "alone"),
            ("${srcaddr},${dstaddr}", "`${srcaddr},${dstaddr}`", "alone"),
            ("$srcaddr", "`$srcaddr`", "write `${srcaddr}`"),
            ("$${srcaddr}", "`$${srcaddr}`", "write `${srcaddr}`"),
            ("${}", "`${}`", "alone"),
            ("JSON", "`JSON`", "write `json`"),
            ("${srcaddr}\n${dstaddr}", "no `${field}`", "alone"),
            (
                "${srcaddr} ${dst-addr}",
                "no field `dst-addr`, at character 12",
                "write `${dstaddr}`",
            ),
            ("${SRCADDR}", "no field `SRCADDR`", "write `${srcaddr}`"),
            ("${taskgate-rul}", "no field `taskgate-rul`", "write `${taskgate-rule}`"),
            ("${tgw-id}", "no field `tgw-id`", "versions 2 to 11"),
            (
                "${srcaddr} ${srcaddr}",
                "`srcaddr` is twice in the format, again at character 12",
                "keep one",
            ),
        ] {
            let error = RecordFormat::parse(text).unwrap_err();
            assert!(error.to_string().contains(message), "{text:?}: {error}");
            assert!(error.hint().contains(hint), "{text:?}: {}", error.hint());
        }
    }
}
