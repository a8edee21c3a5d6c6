//! JSON and YAML as a tree in which everything knows its place.
//!
//! YAML contains JSON, so one parser reads both. Scalars stay text: what a value means is decided by the key it stands
//! under, and so `012345678901`, `8000-8100` or `0a:00:00:00:00:01` never become a number, an octal or a time.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, options};

use super::problem::{Report, Spot};

/// How many values aliases may stand for, all together: more is an attack, not a configuration.
const ALIASED_MAX: usize = 100_000;

/// A value and its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) spot: Spot,
    pub(super) value: Value,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Value {
    /// Nothing, or a plain `null`.
    Null,
    /// A string, a number or a boolean, as it is written.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order of the file, no key twice.
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) spot: Spot,
    pub(super) value: Node,
}

impl Node {
    /// The word for what it is, in messages.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "empty",
            Value::Scalar(_) => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }

    fn size(&self) -> usize {
        1 + match &self.value {
            Value::Null | Value::Scalar(_) => 0,
            Value::List(items) => items.iter().map(Self::size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.size()).sum(),
        }
    }
}

/// Reads one file; `None` if it holds no document, with an error on record.
pub(super) fn parse(file: Spot, text: &str, report: &mut Report) -> Option<Node> {
    let mut tree = Tree {
        file,
        report,
        open: Vec::new(),
        anchors: HashMap::new(),
        aliased: 0,
        root: None,
    };
    for event in Parser::new_from_str_with_options(text, options! { emit_comments: false }) {
        let (event, span) = match event {
            Ok(event) => event,
            Err(error) => {
                tree.unreadable(&error);
                return None;
            }
        };
        tree.take(event, span)?;
    }
    let root = tree.root;
    if root.is_none() {
        report.error(
            file,
            "the file is empty",
            "put AWS CLI output or `taskgate: v1` into it, or take it away",
        );
    }
    root
}

/// The place after all of `text`.
pub(super) fn end_of(file: Spot, text: &str) -> Spot {
    let last = text.rsplit('\n').next().unwrap_or_default();
    spot(file, text.matches('\n').count() + 1, last.chars().count())
}

/// A place in `file`: the line from 1, the column from 0.
fn spot(file: Spot, line: usize, column: usize) -> Spot {
    let whole = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Spot {
        file: file.file,
        line: whole(line),
        column: whole(column).saturating_add(1),
    }
}

/// The tree while it grows.
struct Tree<'r> {
    file: Spot,
    report: &'r mut Report,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    root: Option<Node>,
}

/// A list or mapping that has not ended yet.
struct Open {
    spot: Spot,
    anchor: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        key: Option<(String, Spot)>,
    },
}

impl Tree<'_> {
    fn unreadable(&mut self, error: &ScanError) {
        let spot = spot(self.file, error.marker().line(), error.marker().col());
        self.report
            .error(spot, format!("not readable: {}", error.info()), "write JSON or YAML");
    }

    /// Takes one event; `None` ends the reading, with an error on record.
    fn take(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let spot = spot(self.file, span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                self.report.error(
                    spot,
                    "a second document begins here",
                    "put each document into a file of its own",
                );
                None
            }
            Event::Scalar(text, style, anchor, _) => {
                let plain_null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if plain_null {
                    Value::Null
                } else {
                    Value::Scalar(text.into_owned())
                };
                self.place(Node { spot, value }, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    self.report.error(
                        spot,
                        "the alias stands for something that holds it",
                        "write the value out",
                    );
                    return None;
                };
                self.aliased += node.size();
                if self.aliased > ALIASED_MAX {
                    let message = format!("the aliases stand for more than {ALIASED_MAX} values");
                    self.report.error(spot, message, "write the values out");
                    return None;
                }
                self.place(node, 0)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Open {
                    spot,
                    anchor,
                    kind: OpenKind::List(Vec::new()),
                });
                Some(())
            }
            Event::MappingStart(_, anchor, _) => {
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    key: None,
                };
                self.open.push(Open { spot, anchor, kind });
                Some(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { spot, anchor, kind } = self.open.pop()?;
                let value = match kind {
                    OpenKind::List(items) => Value::List(items),
                    OpenKind::Map { entries, .. } => Value::Map(entries),
                };
                self.place(Node { spot, value }, anchor)
            }
            _ => Some(()),
        }
    }

    /// Puts a finished value where it belongs.
    fn place(&mut self, node: Node, anchor: usize) -> Option<()> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, seen, key } => {
                if let Some((key, spot)) = key.take() {
                    entries.push(Entry { key, spot, value: node });
                    return Some(());
                }
                let spot = node.spot;
                let text = match node.value {
                    Value::Scalar(text) => text,
                    Value::Null => String::from("null"),
                    Value::List(_) | Value::Map(_) => {
                        self.report
                            .error(spot, "a key is a list or an object", "write a plain word as the key");
                        return None;
                    }
                };
                if !seen.insert(text.clone()) {
                    self.report
                        .error(spot, format!("the key `{text}` stands twice"), "keep one of them");
                }
                *key = Some((text, spot));
            }
        }
        Some(())
    }
}
