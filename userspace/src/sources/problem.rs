//! What is wrong in a configuration, where, and what would be right.

use std::fmt;

pub(super) use crate::model::Location as Spot;

/// One thing that is wrong, or that deserves a warning, at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named to the reader.
    pub file: String,
    /// The line, from 1; 0 if the problem is the whole file.
    pub line: u32,
    /// The column in characters, from 1; 0 if the problem is the whole file.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            line,
            column,
            message,
            hint,
        } = self;
        if *line == 0 {
            write!(f, "{file}: {message}; {hint}")
        } else {
            write!(f, "{file}:{line}:{column}: {message}; {hint}")
        }
    }
}

/// All that is wrong in a configuration, in the order of files and lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Problems {
    /// What has to be put right.
    pub errors: Vec<Problem>,
    /// What was found beside it and would not have kept the configuration from loading.
    pub warnings: Vec<Problem>,
}

/// What is wrong with one value, whose place the caller knows.
#[derive(Debug)]
pub(super) struct Fault {
    message: String,
    hint: String,
}

impl Fault {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

/// Collects problems, so that all are shown at once.
#[derive(Debug, Default)]
pub(super) struct Report {
    files: Vec<String>,
    errors: Vec<(Spot, Fault)>,
    warnings: Vec<(Spot, Fault)>,
    /// Something that others may refer to could not be read: "unknown" would be a follow-up error.
    pub(super) objects_lost: bool,
    /// An AWS rule could not be read: comparing `SecurityGroups` and `SecurityGroupRules` would be a follow-up error.
    pub(super) rules_lost: bool,
}

impl Report {
    /// Names the next file and returns the spot of the whole of it.
    pub(super) fn file(&mut self, name: impl Into<String>) -> Spot {
        let file = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.push(name.into());
        Spot {
            file,
            line: 0,
            column: 0,
        }
    }

    /// The name of the file that `spot` lies in.
    pub(super) fn file_name(&self, spot: Spot) -> &str {
        self.files.get(spot.file as usize).map_or("", String::as_str)
    }

    /// `FILE:LINE:COLUMN`, for a message about another place.
    pub(super) fn place(&self, spot: Spot) -> String {
        format!("{}:{}:{}", self.file_name(spot), spot.line, spot.column)
    }

    pub(super) fn error(&mut self, spot: Spot, message: impl Into<String>, hint: impl Into<String>) {
        self.errors.push((spot, Fault::new(message, hint)));
    }

    pub(super) fn warn(&mut self, spot: Spot, message: impl Into<String>, hint: impl Into<String>) {
        self.warnings.push((spot, Fault::new(message, hint)));
    }

    /// The value, or its fault on record.
    pub(super) fn take<T>(&mut self, spot: Spot, value: Result<T, Fault>) -> Option<T> {
        value.map_err(|fault| self.errors.push((spot, fault))).ok()
    }

    /// How many errors there are so far: unchanged after reading an object means that it was read whole.
    pub(super) fn errors(&self) -> usize {
        self.errors.len()
    }

    /// The warnings and the files' names, or everything that is wrong if there is an error.
    pub(super) fn finish(self) -> Result<(Vec<Problem>, Vec<String>), Problems> {
        let errors = in_order(&self.files, self.errors);
        let warnings = in_order(&self.files, self.warnings);
        if errors.is_empty() {
            Ok((warnings, self.files))
        } else {
            Err(Problems { errors, warnings })
        }
    }
}

fn in_order(files: &[String], mut found: Vec<(Spot, Fault)>) -> Vec<Problem> {
    found.sort_by_key(|(spot, _)| (spot.file, spot.line, spot.column));
    let mut problems: Vec<Problem> = found
        .into_iter()
        .map(|(spot, fault)| Problem {
            file: files.get(spot.file as usize).cloned().unwrap_or_default(),
            line: spot.line,
            column: spot.column,
            message: fault.message,
            hint: fault.hint,
        })
        .collect();
    problems.dedup();
    problems
}
