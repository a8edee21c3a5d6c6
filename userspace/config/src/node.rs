//! Values of a JSON or YAML file, with their places.
//!
//! Scalars stay text: the key determines how a value is read, so `012345678901`, `8000-8100` or `0a:00:00:00:00:01` never
//! become a number, an octal number or a time.

use std::borrow::Cow;
use std::collections::HashSet;

use super::problem::{Diagnostics, Location};

/// A value and its place. It borrows from the file's text where possible.
#[derive(Clone, Debug)]
pub(super) struct Node<'t> {
    pub(super) location: Location,
    pub(super) value: Value<'t>,
}

/// The kind of a value.
#[derive(Clone, Debug)]
pub(super) enum Value<'t> {
    /// Nothing, or a plain `null`.
    Null,
    /// A string, a number or a boolean, as written.
    Scalar(Cow<'t, str>),
    /// A sequence.
    List(Vec<Node<'t>>),
    /// A mapping, in the order of the file.
    Map(Vec<Entry<'t>>),
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry<'t> {
    pub(super) key: Cow<'t, str>,
    pub(super) location: Location,
    pub(super) value: Node<'t>,
}

impl Node<'_> {
    /// Whether it is `null` or an empty string.
    pub(super) fn is_absent(&self) -> bool {
        match &self.value {
            Value::Null => true,
            Value::Scalar(text) => text.is_empty(),
            Value::List(_) | Value::Map(_) => false,
        }
    }

    /// The name of its kind in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "empty",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// The place after the end of `text`.
pub(super) fn end_of(file: Location, text: &str) -> Location {
    let last = text.rsplit('\n').next().unwrap_or_default();
    location(file, text.matches('\n').count() + 1, last.chars().count())
}

/// A place in `file`: the line from 1, the column from 0.
pub(super) fn location(file: Location, line: usize, column: usize) -> Location {
    let whole = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Location {
        file: file.file,
        line: whole(line),
        column: whole(column).saturating_add(1),
    }
}

/// Reports every duplicate key of a mapping.
pub(super) fn keys_once(entries: &[Entry<'_>], report: &mut Diagnostics) {
    /// Up to this number, comparing all pairs is faster than hashing.
    const FEW: usize = 24;
    let mut twice = |entry: &Entry<'_>| {
        let message = format!("the key `{}` stands twice", entry.key);
        report.error(entry.location, message, "keep one of them");
    };
    if entries.len() <= FEW {
        for (at, entry) in entries.iter().enumerate() {
            if entries[..at].iter().any(|earlier| earlier.key == entry.key) {
                twice(entry);
            }
        }
    } else {
        let mut seen: HashSet<&str> = HashSet::with_capacity(entries.len());
        for entry in entries {
            if !seen.insert(&entry.key) {
                twice(entry);
            }
        }
    }
}
