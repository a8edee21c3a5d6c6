//! Lookup of groups and prefix lists by name or id: case is ignored, and a name with several matches is ambiguous.

use std::collections::HashMap;

use taskgate_model::{GroupIndex, PrefixListIndex};

use super::super::problem::Diagnostic;
use super::super::raw::{RawGroup, RawPrefixList};

/// The result of a lookup.
#[derive(Debug)]
pub(super) enum Found<T> {
    One(T),
    /// There is no such name or id.
    Unknown(Diagnostic),
    /// Several objects have the name.
    Ambiguous(Diagnostic),
}

/// All names and ids of one kind.
#[derive(Debug)]
struct Table {
    /// `security group`, for messages.
    kind: &'static str,
    /// The common prefix of ids.
    prefix: &'static str,
    ids: Vec<String>,
    names: Vec<String>,
    /// Positions by id and by name, in lower case. Ids are looked up first: an id never matches another object's name.
    by_id: HashMap<String, Vec<usize>>,
    by_name: HashMap<String, Vec<usize>>,
}

impl Table {
    fn new(kind: &'static str, prefix: &'static str) -> Self {
        Self {
            kind,
            prefix,
            ids: Vec::new(),
            names: Vec::new(),
            by_id: HashMap::new(),
            by_name: HashMap::new(),
        }
    }

    /// Adds the object at the next position.
    fn add(&mut self, id: &str, name: Option<&str>) {
        let position = self.ids.len();
        self.ids.push(id.to_owned());
        self.by_id.entry(id.to_lowercase()).or_default().push(position);
        if let Some(name) = name {
            self.names.push(name.to_owned());
            self.by_name.entry(name.to_lowercase()).or_default().push(position);
        }
    }

    fn find(&self, text: &str) -> Found<usize> {
        let Self { kind, .. } = self;
        let wanted = text.to_lowercase();
        let found = self.by_id.get(&wanted).or_else(|| self.by_name.get(&wanted));
        match found.map(Vec::as_slice) {
            Some([position]) => Found::One(*position),
            Some(several) => {
                let ids: Vec<String> = several
                    .iter()
                    .map(|position| format!("`{}`", self.ids[*position]))
                    .collect();
                let message = format!("`{text}` is the name of several {kind}s: {}", ids.join(", "));
                Found::Ambiguous(Diagnostic::new(message, "write the id"))
            }
            None if text.starts_with(self.prefix) => Found::Unknown(Diagnostic::new(
                format!("there is no {kind} `{text}`"),
                "add the file that holds it, or put the id right",
            )),
            None => Found::Unknown(Diagnostic::new(
                format!("there is no {kind} named `{text}`"),
                self.known_names(),
            )),
        }
    }

    /// The existing names, as many as fit into a message.
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
    /// The number of groups with known rules, which come first.
    held_groups: usize,
    lists: Table,
    known_lists: usize,
}

impl Names {
    pub(super) fn new(groups: &[RawGroup], lists: &[RawPrefixList]) -> Self {
        let held_groups = groups.iter().take_while(|group| group.rules_known).count();
        let (held, on_enis) = groups.split_at(held_groups);
        let mut group_names = Table::new("security group", "sg-");
        for group in held {
            group_names.add(&group.id, group.name.as_deref());
        }
        // A group name in a file takes precedence over names that ENIs of other VPCs give their groups.
        let held_names = group_names.by_name.clone();
        for group in on_enis {
            let name = group.name.as_deref();
            let name = name.filter(|name| !held_names.contains_key(&name.to_lowercase()));
            group_names.add(&group.id, name);
        }
        let mut list_names = Table::new("prefix list", "pl-");
        for list in lists {
            list_names.add(&list.id, list.name.as_deref());
        }
        Self {
            groups: group_names,
            held_groups,
            lists: list_names,
            known_lists: lists.len(),
        }
    }

    /// Looks up a group of a gated ENI: its rules must be known.
    pub(super) fn gated_group(&self, text: &str) -> Found<GroupIndex> {
        match self.group(text) {
            Found::One(group) if group.0 >= self.held_groups => Found::Unknown(Diagnostic::new(
                format!("no file holds the rules of security group `{text}`"),
                "add the output of `aws ec2 describe-security-groups` that holds it",
            )),
            found => found,
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

    /// Adds an unknown list by its id: only its entries may be missing.
    pub(super) fn add_list(&mut self, id: &str) -> PrefixListIndex {
        self.lists.add(id, None);
        PrefixListIndex(self.lists.ids.len() - 1)
    }

    /// The ids given to [`Names::add_list`], in order.
    pub(super) fn unknown_lists(&self) -> &[String] {
        &self.lists.ids[self.known_lists..]
    }
}
