//! A file's top object and its values: nodes of a tree, or parts of a JSON text that are not parsed yet.

use super::json;
use super::node::{Node, Value};
use super::object::items;
use super::problem::{Diagnostics, Location};

/// A value: a node of a tree, or a part of a JSON text that is not parsed yet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a, 't> {
    Tree(&'a Node<'t>),
    Text(json::Text<'t>),
}

impl<'t> Content<'_, 't> {
    pub(super) fn location(self) -> Location {
        match self {
            Self::Tree(node) => node.location,
            Self::Text(text) => text.location(),
        }
    }

    pub(super) fn is_null(self) -> bool {
        match self {
            Self::Tree(node) => matches!(node.value, Value::Null),
            Self::Text(text) => text.is_null(),
        }
    }

    /// The whole value as a tree.
    pub(super) fn node(self, report: &mut Diagnostics) -> Node<'t> {
        match self {
            Self::Tree(node) => node.clone(),
            Self::Text(text) => text.node(report),
        }
    }

    /// Calls a function for each item of a list; an error if the value is not a list.
    pub(super) fn for_each(
        self,
        key: &str,
        report: &mut Diagnostics,
        mut each: impl FnMut(&Node<'_>, &mut Diagnostics),
    ) {
        match self {
            Self::Text(text) if text.is_list() => text.for_each(report, each),
            Self::Text(text) => {
                items(&text.node(report), key, report);
            }
            Self::Tree(node) => {
                for item in items(node, key, report) {
                    each(item, report);
                }
            }
        }
    }
}

/// The top object of a file, or of a page in it.
#[derive(Debug)]
pub(super) struct Top<'a, 't> {
    pub(super) location: Location,
    pub(super) entries: Vec<(&'a str, Location, Content<'a, 't>)>,
}

impl<'a, 't> Top<'a, 't> {
    pub(super) fn of(node: &'a Node<'t>) -> Option<Self> {
        let Value::Map(entries) = &node.value else { return None };
        let entries = entries.iter();
        Some(Self {
            location: node.location,
            entries: entries
                .map(|entry| (&*entry.key, entry.location, Content::Tree(&entry.value)))
                .collect(),
        })
    }

    /// The key's place and value, `null` included.
    pub(super) fn get(&self, key: &str) -> Option<(Location, Content<'a, 't>)> {
        let found = self.entries.iter().find(|(name, _, _)| *name == key);
        found.map(|(_, location, content)| (*location, *content))
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = (&'a str, Location)> {
        self.entries.iter().map(|(key, location, _)| (*key, *location))
    }
}
