//! A public type's name is unique in the whole workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail};

use super::source;
use crate::workspace;

/// Exceptions, clear where they are used: the configuration's uplink and the packet's (`Uplink`), a test's view of a flow
/// (`Flow`), and the probing of two kinds of tables (`Probe`). No further names are added.
const TWICE: [&str; 3] = ["Flow", "Probe", "Uplink"];

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut places = BTreeMap::<String, BTreeSet<String>>::new();
    for file in source::files(&root)? {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let place = file.strip_prefix(&root).unwrap_or(&file).display().to_string();
        for name in public_types(&text) {
            places.entry(name.to_owned()).or_default().insert(place.clone());
        }
    }
    let faults = faults(&places, &TWICE);
    if !faults.is_empty() {
        bail!("one name, several types\n{}", faults.join("\n"));
    }
    Ok(())
}

/// The duplicate names, given the files that define each name; names in `allowed` may be in several.
fn faults(places: &BTreeMap<String, BTreeSet<String>>, allowed: &[&str]) -> Vec<String> {
    let is_twice = |name: &str| places.get(name).is_some_and(|files| files.len() > 1);
    let twice = places
        .iter()
        .filter(|(name, _)| is_twice(name) && !allowed.contains(&name.as_str()));
    let twice = twice.map(|(name, files)| {
        let files: Vec<_> = files.iter().map(String::as_str).collect();
        format!("`{name}` is public in {}", files.join(", "))
    });
    let needless = allowed.iter().filter(|name| !is_twice(name));
    let needless = needless.map(|name| format!("`{name}` is unique now: take it out of the list in this check"));
    twice.chain(needless).collect()
}

/// The names of the types that a file makes public, or would if its module were public.
fn public_types(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| {
        let item = line.trim_start().strip_prefix("pub ")?;
        let item = item.strip_prefix("unsafe ").unwrap_or(item);
        let (kind, name) = item.split_once(' ')?;
        let is_type = matches!(kind, "struct" | "enum" | "union" | "trait" | "type");
        let end = name
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(name.len());
        is_type.then_some(&name[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_types_are_found() {
        let text = "pub struct A;\n    pub enum B<T> {\npub trait C: D {\npub type E = F;\npub unsafe trait G {\n\
                    struct H;\npub(crate) struct I;\npub fn j() {}\n// pub struct K;\n";
        assert_eq!(public_types(text).collect::<Vec<_>>(), ["A", "B", "C", "E", "G"]);
    }

    #[test]
    fn the_list_only_shrinks() {
        let places = [("A", &["a.rs", "b.rs"][..]), ("B", &["a.rs", "c.rs"]), ("C", &["c.rs"])];
        let places = places.map(|(name, files)| (name.to_owned(), files.iter().map(|&file| file.to_owned()).collect()));
        let places = BTreeMap::from(places);
        assert_eq!(faults(&places, &["A", "B"]), [""; 0]);
        assert_eq!(
            faults(&places, &["A", "C", "D"]),
            [
                "`B` is public in a.rs, c.rs",
                "`C` is unique now: take it out of the list in this check",
                "`D` is unique now: take it out of the list in this check",
            ]
        );
    }
}
