//! Reading the keys of an object; missing, mistyped and unknown keys are reported.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::node::{Entry, Node, Value};
use super::problem::{Diagnostic, Diagnostics, Location};

/// An object of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'n> {
    /// The kind of object in messages, with an article: `a group`.
    what: &'static str,
    pub(super) location: Location,
    pub(super) entries: &'n [Entry<'n>],
    /// Whether an empty string counts as absent, as in the AWS forms.
    empty_is_absent: bool,
}

impl<'n> Object<'n> {
    /// `node` as an object; an error if it is something else.
    pub(super) fn of(node: &'n Node<'n>, what: &'static str, report: &mut Diagnostics) -> Option<Self> {
        if let Value::Map(entries) = &node.value {
            return Some(Self {
                what,
                location: node.location,
                entries,
                empty_is_absent: false,
            });
        }
        let message = format!("{what} should be an object and is {}", node.kind());
        report.error(node.location, message, "write keys and values");
        None
    }

    /// [`Self::of`] for an AWS form, where an empty string counts as absent.
    pub(super) fn of_aws(node: &'n Node<'n>, what: &'static str, report: &mut Diagnostics) -> Option<Self> {
        Some(Self {
            empty_is_absent: true,
            ..Self::of(node, what, report)?
        })
    }

    /// The key's entry; `null` counts as absent.
    pub(super) fn entry(&self, key: &str) -> Option<&'n Entry<'n>> {
        self.entries.iter().find(|entry| {
            entry.key == key
                && match &entry.value.value {
                    Value::Null => false,
                    Value::Scalar(text) => !(self.empty_is_absent && text.is_empty()),
                    Value::List(_) | Value::Map(_) => true,
                }
        })
    }

    /// The key's value; `null` counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'n Node<'n>> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// Whether the key is there, `null` included.
    pub(super) fn has(&self, key: &str) -> bool {
        self.entries.iter().any(|entry| entry.key == key)
    }

    /// The key's value; an error if it is absent.
    pub(super) fn required(&self, key: &str, hint: &str, report: &mut Diagnostics) -> Option<&'n Node<'n>> {
        let found = self.get(key);
        if found.is_none() {
            report.error(self.location, format!("{} has no `{key}`", self.what), hint);
        }
        found
    }

    /// A scalar as written.
    pub(super) fn text(&self, key: &str, report: &mut Diagnostics) -> Option<&'n str> {
        self.get(key).and_then(|node| text(node, key, report))
    }

    /// A required scalar.
    pub(super) fn required_text(&self, key: &str, hint: &str, report: &mut Diagnostics) -> Option<&'n str> {
        self.required(key, hint, report)
            .and_then(|node| text(node, key, report))
    }

    /// A scalar, converted by `read`.
    pub(super) fn value<T>(
        &self,
        key: &str,
        report: &mut Diagnostics,
        read: impl FnOnce(&str) -> Result<T, Diagnostic>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let text = text(node, key, report)?;
        report.take(node.location, read(text))
    }

    /// A required scalar, converted by `read`.
    pub(super) fn required_value<T>(
        &self,
        key: &str,
        hint: &str,
        report: &mut Diagnostics,
        read: impl FnOnce(&str) -> Result<T, Diagnostic>,
    ) -> Option<T> {
        self.required(key, hint, report)?;
        self.value(key, report, read)
    }

    /// A whole number in `range`.
    pub(super) fn number<N>(&self, key: &str, range: RangeInclusive<N>, report: &mut Diagnostics) -> Option<N>
    where
        N: FromStr + PartialOrd + Display,
    {
        self.value(key, report, |text| number(text, key, &range))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self, key: &str, report: &mut Diagnostics) -> Option<bool> {
        self.value(key, report, |text| match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            other => Err(Diagnostic::new(
                format!("`{key}` is `{other}`"),
                "write `true` or `false`",
            )),
        })
    }

    /// One of the given words.
    pub(super) fn word<T: Copy>(&self, key: &str, words: &[(&str, T)], report: &mut Diagnostics) -> Option<T> {
        self.value(key, report, |text| {
            words
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, value)| *value)
                .ok_or_else(|| {
                    Diagnostic::new(
                        format!("`{key}` is `{text}`"),
                        format!("write {}", either(words.iter().map(|(word, _)| *word))),
                    )
                })
        })
    }

    /// A list's items; empty if the key is absent.
    pub(super) fn items(&self, key: &str, report: &mut Diagnostics) -> &'n [Node<'n>] {
        self.get(key).map_or(&[], |node| items(node, key, report))
    }

    /// Refuses all keys except `known`.
    pub(super) fn only(&self, known: &[&str], report: &mut Diagnostics) {
        for entry in self.entries.iter().filter(|entry| !known.contains(&&*entry.key)) {
            let message = format!("{} has no key `{}`", self.what, entry.key);
            report.error(
                entry.location,
                message,
                format!("its keys are {}", all(known.iter().copied())),
            );
        }
    }
}

/// The items of a list.
pub(super) fn items<'n>(node: &'n Node<'n>, key: &str, report: &mut Diagnostics) -> &'n [Node<'n>] {
    if let Value::List(items) = &node.value {
        return items;
    }
    report.error(
        node.location,
        format!("`{key}` should be a list and is {}", node.kind()),
        "write `[…]` around it",
    );
    &[]
}

/// A scalar as written.
pub(super) fn text<'n>(node: &'n Node<'n>, key: &str, report: &mut Diagnostics) -> Option<&'n str> {
    if let Value::Scalar(text) = &node.value {
        return Some(text);
    }
    report.error(
        node.location,
        format!("`{key}` should be a single value and is {}", node.kind()),
        "write one value",
    );
    None
}

/// A whole number in `range`.
pub(super) fn number<N>(text: &str, key: &str, range: &RangeInclusive<N>) -> Result<N, Diagnostic>
where
    N: FromStr + PartialOrd + Display,
{
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let hint = format!("write a whole number from {} to {}", range.start(), range.end());
            Diagnostic::new(format!("`{key}` is `{text}`"), hint)
        })
}

/// `a`, `b` or `c`.
pub(super) fn either<'w>(words: impl Iterator<Item = &'w str>) -> String {
    joined(words, " or ")
}

/// `a`, `b` and `c`.
pub(super) fn all<'w>(words: impl Iterator<Item = &'w str>) -> String {
    joined(words, " and ")
}

fn joined<'w>(words: impl Iterator<Item = &'w str>, last: &str) -> String {
    let words: Vec<String> = words.map(|word| format!("`{word}`")).collect();
    match words.split_last() {
        None => String::from("none"),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{}{last}{end}", rest.join(", ")),
    }
}
