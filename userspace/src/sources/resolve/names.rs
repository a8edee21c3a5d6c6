//! Which group or prefix list a name or an id means: case is ignored, and a name that fits several means none.

use std::collections::HashMap;

use crate::model::{GroupIndex, PrefixListIndex};

use super::super::problem::Fault;
use super::super::raw::{RawGroup, RawPrefixList};

/// What a name or an id stands for.
#[derive(Debug)]
pub(super) enum Found<T> {
    One(T),
    /// Nobody has it.
    Unknown(Fault),
    /// Several have it.
    Ambiguous(Fault),
}

/// All names and ids of one kind.
#[derive(Debug)]
struct Table {
    /// `security group`, for messages.
    kind: &'static str,
    /// What every id begins with.
    prefix: &'static str,
    ids: Vec<String>,
    names: Vec<String>,
    positions: HashMap<String, Vec<usize>>,
}

impl Table {
    fn new<'o>(
        kind: &'static str,
        prefix: &'static str,
        objects: impl Iterator<Item = (&'o str, Option<&'o str>)>,
    ) -> Self {
        let mut table = Self {
            kind,
            prefix,
            ids: Vec::new(),
            names: Vec::new(),
            positions: HashMap::new(),
        };
        for (id, name) in objects {
            let position = table.ids.len();
            table.ids.push(id.to_owned());
            table.positions.entry(id.to_lowercase()).or_default().push(position);
            if let Some(name) = name {
                table.names.push(name.to_owned());
                table.positions.entry(name.to_lowercase()).or_default().push(position);
            }
        }
        table
    }

    fn find(&self, text: &str) -> Found<usize> {
        let Self { kind, .. } = self;
        match self.positions.get(&text.to_lowercase()).map(Vec::as_slice) {
            Some([position]) => Found::One(*position),
            Some(several) => {
                let ids: Vec<String> = several
                    .iter()
                    .map(|position| format!("`{}`", self.ids[*position]))
                    .collect();
                let message = format!("`{text}` is the name of several {kind}s: {}", ids.join(", "));
                Found::Ambiguous(Fault::new(message, "write the id"))
            }
            None if text.starts_with(self.prefix) => Found::Unknown(Fault::new(
                format!("there is no {kind} `{text}`"),
                "add the file that holds it, or put the id right",
            )),
            None => Found::Unknown(Fault::new(
                format!("there is no {kind} named `{text}`"),
                self.known_names(),
            )),
        }
    }

    /// The names that there are, as far as they fit a message.
    fn known_names(&self) -> String {
        const SHOWN: usize = 8;
        let shown: Vec<String> = self.names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
        match self.names.len() {
            0 => format!("no {} is known by a name: write an id", self.kind),
            all if all > SHOWN => format!("known are {} and {} more", shown.join(", "), all - SHOWN),
            _ => format!("known are {}", shown.join(", ")),
        }
    }
}

/// The names and ids of a configuration.
#[derive(Debug)]
pub(super) struct Names {
    groups: Table,
    lists: Table,
    known_lists: usize,
}

impl Names {
    pub(super) fn new(groups: &[RawGroup], lists: &[RawPrefixList]) -> Self {
        let groups = groups.iter().map(|group| (group.id.as_str(), group.name.as_deref()));
        let known_lists = lists.len();
        let lists = lists.iter().map(|list| (list.id.as_str(), list.name.as_deref()));
        Self {
            groups: Table::new("security group", "sg-", groups),
            lists: Table::new("prefix list", "pl-", lists),
            known_lists,
        }
    }

    pub(super) fn group(&self, text: &str) -> Found<GroupIndex> {
        match self.groups.find(text) {
            Found::One(position) => Found::One(GroupIndex(position)),
            Found::Unknown(fault) => Found::Unknown(fault),
            Found::Ambiguous(fault) => Found::Ambiguous(fault),
        }
    }

    pub(super) fn list(&self, text: &str) -> Found<PrefixListIndex> {
        match self.lists.find(text) {
            Found::One(position) => Found::One(PrefixListIndex(position)),
            Found::Unknown(fault) => Found::Unknown(fault),
            Found::Ambiguous(fault) => Found::Ambiguous(fault),
        }
    }

    /// Makes a list known by its id alone: its entries may only be wanting.
    pub(super) fn add_list(&mut self, id: &str) -> PrefixListIndex {
        let position = self.lists.ids.len();
        self.lists.ids.push(id.to_owned());
        self.lists
            .positions
            .entry(id.to_lowercase())
            .or_default()
            .push(position);
        PrefixListIndex(position)
    }

    /// The ids given to [`Names::add_list`], in order.
    pub(super) fn unknown_lists(&self) -> &[String] {
        &self.lists.ids[self.known_lists..]
    }
}
