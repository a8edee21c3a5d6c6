//! YAML as a tree.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span, options};

use super::bounds;
use super::node::{self, Entry, Node, Value, location};
use super::problem::{Diagnostics, Location};

/// Parses one file of at most `values` values; `None` if it has no document, after reporting an error.
pub(super) fn parse<'t>(
    file: Location,
    text: &'t str,
    values: usize,
    report: &mut Diagnostics,
) -> Option<(Node<'t>, usize)> {
    let mut tree = Tree {
        file,
        report,
        open: Vec::new(),
        anchors: HashMap::new(),
        copied: Size::default(),
        values: 0,
        most: values.min(bounds::YAML_VALUES),
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
    let (root, values) = (tree.root, tree.values);
    if root.is_none() {
        report.error(
            file,
            "the file is empty",
            "put AWS CLI output or `taskgate: v1` into it, or take it away",
        );
    }
    root.map(|root| (root, values))
}

/// The tree under construction.
struct Tree<'t, 'r> {
    file: Location,
    report: &'r mut Diagnostics,
    open: Vec<Open<'t>>,
    anchors: HashMap<usize, Node<'t>>,
    /// The size of all expanded anchors and aliases.
    copied: Size,
    values: usize,
    most: usize,
    root: Option<Node<'t>>,
}

/// A list or mapping that is not complete yet.
struct Open<'t> {
    location: Location,
    anchor: usize,
    kind: OpenKind<'t>,
}

enum OpenKind<'t> {
    List(Vec<Node<'t>>),
    Map {
        entries: Vec<Entry<'t>>,
        key: Option<(Cow<'t, str>, Location)>,
    },
}

/// The size of a copy of a value.
#[derive(Clone, Copy, Debug, Default)]
struct Size {
    values: usize,
    bytes: usize,
}

impl Size {
    fn of(node: &Node<'_>) -> Self {
        let mut size = Self { values: 1, bytes: 0 };
        match &node.value {
            Value::Null => {}
            Value::Scalar(text) => size.bytes = text.len(),
            Value::List(items) => items.iter().for_each(|item| size.add(Self::of(item))),
            Value::Map(entries) => {
                for entry in entries {
                    size.add(Self::of(&entry.value));
                    size.bytes += entry.key.len();
                }
            }
        }
        size
    }

    fn add(&mut self, other: Self) {
        self.values += other.values;
        self.bytes += other.bytes;
    }
}

impl<'t> Tree<'t, '_> {
    fn unreadable(&mut self, error: &ScanError) {
        let location = location(self.file, error.marker().line(), error.marker().col());
        self.report.error(
            location,
            format!("not readable: {}", error.info()),
            "write JSON or YAML",
        );
    }

    /// Processes one event; `None` stops the parser, after reporting an error.
    fn take(&mut self, event: Event<'t>, span: Span) -> Option<()> {
        let location = location(self.file, span.start.line(), span.start.col());
        match event {
            Event::DocumentStart(..) if self.root.is_some() => {
                self.report.second_document(location);
                None
            }
            Event::Scalar(text, style, anchor, _) => {
                self.count(location)?;
                let plain_null = style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = if plain_null { Value::Null } else { Value::Scalar(text) };
                self.place(Node { location, value }, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    let message = "the alias stands for something that holds it";
                    self.report.error(location, message, "write the value out");
                    return None;
                };
                let size = Size::of(node);
                self.copy(size, location)?;
                let node = self.anchors.get(&anchor).cloned()?;
                self.place(node, 0)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(location, anchor, OpenKind::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                let (entries, key) = (Vec::new(), None);
                self.begin(location, anchor, OpenKind::Map { entries, key })
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { location, anchor, kind } = self.open.pop()?;
                let value = match kind {
                    OpenKind::List(items) => Value::List(items),
                    OpenKind::Map { entries, .. } => {
                        node::keys_once(&entries, self.report);
                        Value::Map(entries)
                    }
                };
                self.place(Node { location, value }, anchor)
            }
            _ => Some(()),
        }
    }

    /// Counts a value of the file.
    fn count(&mut self, location: Location) -> Option<()> {
        self.values += 1;
        if self.values <= self.most {
            return Some(());
        }
        let message = "the configuration has more values than taskgate reads";
        self.report.error(
            location,
            message,
            "print it with `--output json`, which takes less memory, or less of it",
        );
        None
    }

    /// Counts the expansion of an anchor or an alias.
    fn copy(&mut self, size: Size, location: Location) -> Option<()> {
        self.copied.add(size);
        let message = if self.copied.values > bounds::ALIASED_VALUES {
            format!("the aliases stand for more than {} values", bounds::ALIASED_VALUES)
        } else if self.copied.bytes > bounds::ALIASED_BYTES {
            format!("the aliases stand for more than {} MiB", bounds::ALIASED_BYTES >> 20)
        } else {
            return Some(());
        };
        self.report.error(location, message, "write the values out");
        None
    }

    fn begin(&mut self, location: Location, anchor: usize, kind: OpenKind<'t>) -> Option<()> {
        self.count(location)?;
        if self.open.len() >= bounds::DEPTH {
            let message = format!("lists and objects are nested more than {} deep", bounds::DEPTH);
            self.report.error(location, message, "no configuration is");
            return None;
        }
        self.open.push(Open { location, anchor, kind });
        Some(())
    }

    /// Adds a complete value to its list or mapping.
    fn place(&mut self, node: Node<'t>, anchor: usize) -> Option<()> {
        if anchor != 0 {
            self.copy(Size::of(&node), node.location)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, key } => {
                if let Some((key, location)) = key.take() {
                    entries.push(Entry {
                        key,
                        location,
                        value: node,
                    });
                    return Some(());
                }
                let location = node.location;
                let text = match node.value {
                    Value::Scalar(text) => text,
                    Value::Null => Cow::Borrowed("null"),
                    Value::List(_) | Value::Map(_) => {
                        self.report.error(
                            location,
                            "a key is a list or an object",
                            "write a plain word as the key",
                        );
                        return None;
                    }
                };
                *key = Some((text, location));
            }
        }
        Some(())
    }
}
