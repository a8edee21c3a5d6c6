//! Imports between files have no cycles: no file imports a name from a file that, directly or indirectly, imports from it.
//!
//! A module and its submodules are exempt from each other: `name/mod.rs` may use its submodules, and they may use it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use syn::{
    Attribute, File, Item, ItemMod, ItemUse, Meta, UseTree, Visibility,
    visit::{self, Visit},
};

use super::source;
use crate::workspace;

pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut found = Vec::new();
    for file in source::files(&root)? {
        if file.ends_with("src/lib.rs") || file.ends_with("src/main.rs") {
            let modules = Modules::read(&file)?;
            let name = |module: &Module| {
                module
                    .file
                    .strip_prefix(&root)
                    .unwrap_or(&module.file)
                    .display()
                    .to_string()
            };
            found.extend(modules.circles().into_iter().map(|circle| {
                let ties = circle.iter().map(|&(from, to, ref names)| {
                    let [from, to] = [from, to].map(|at| name(&modules.all[at]));
                    let names: Vec<_> = names.iter().map(String::as_str).collect();
                    format!("\n  {from} takes {} from {to}", names.join(", "))
                });
                format!("\na circle:{}", ties.collect::<String>())
            }));
        }
    }
    if !found.is_empty() {
        bail!("files import each other{}", found.concat());
    }
    Ok(())
}

/// A path in a file, by its segments.
type Names = Vec<String>;

/// A file, as a module of its crate.
#[derive(Default)]
struct Module {
    file: PathBuf,
    /// The module's path from the crate's root.
    place: Names,
    /// Its definitions.
    items: BTreeSet<String>,
    /// Its imports, by their local names.
    imports: BTreeMap<String, Names>,
    globs: Vec<Names>,
    /// Paths in the code, and in imports that are not re-exported.
    named: BTreeSet<Names>,
}

/// The modules of one crate.
#[derive(Default)]
struct Modules {
    all: Vec<Module>,
    by_place: BTreeMap<Names, usize>,
}

/// An import from one module to another, with the imported names.
type Tie = (usize, usize, BTreeSet<String>);

impl Modules {
    /// Reads the modules of the crate with this root file.
    fn read(root: &Path) -> Result<Self> {
        let mut modules = Self::default();
        let folder = root.parent().context("a file lies in a folder")?;
        modules.add(root, folder, &[])?;
        Ok(modules)
    }

    /// Adds a file and, from `folder`, the files of the modules that it declares.
    fn add(&mut self, file: &Path, folder: &Path, place: &[String]) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read `{}`", file.display()))?;
        let syntax = syn::parse_file(&text).with_context(|| format!("cannot parse `{}`", file.display()))?;
        let mut reader = Reader::default();
        reader.visit_file(&syntax);
        self.by_place.insert(place.to_vec(), self.all.len());
        self.all.push(Module {
            file: file.to_owned(),
            place: place.to_vec(),
            ..reader.module
        });
        for name in reader.declared {
            let (alone, with_files) = (folder.join(format!("{name}.rs")), folder.join(&name).join("mod.rs"));
            let child = if alone.exists() { alone } else { with_files };
            // Some modules are declared for one target only.
            if child.exists() {
                let place: Names = place.iter().cloned().chain([name.clone()]).collect();
                self.add(&child, &folder.join(&name), &place)?;
            }
        }
        Ok(())
    }

    /// The module that defines a path used in another module; `None` for names of other crates and of modules.
    fn definer(&self, from: usize, path: &[String], depth: u32) -> Option<usize> {
        // An import may refer to itself through a glob.
        const DEEPEST: u32 = 16;
        let (mut at, mut rest) = (from, path);
        if depth > DEEPEST {
            return None;
        }
        loop {
            let (first, behind) = rest.split_first()?;
            let module = &self.all[at];
            let place = match first.as_str() {
                "crate" => Names::new(),
                "self" => module.place.clone(),
                "super" => module.place.split_last()?.1.to_vec(),
                name => module.place.iter().cloned().chain([name.to_owned()]).collect(),
            };
            if let Some(&next) = self.by_place.get(&place) {
                (at, rest) = (next, behind);
                continue;
            }
            if module.items.contains(first) {
                return Some(at);
            }
            if let Some(import) = module.imports.get(first) {
                let whole: Names = import.iter().chain(behind).cloned().collect();
                return (whole != path).then(|| self.definer(at, &whole, depth + 1))?;
            }
            let mut globs = module.globs.iter();
            return globs.find_map(|glob| {
                let whole: Names = glob.iter().chain(rest).cloned().collect();
                self.definer(at, &whole, depth + 1)
            });
        }
    }

    /// The imports of each module from modules that are neither below nor above it.
    fn ties(&self) -> Vec<Tie> {
        let mut ties = BTreeMap::<(usize, usize), BTreeSet<String>>::new();
        for (from, module) in self.all.iter().enumerate() {
            for path in &module.named {
                let Some(to) = self.definer(from, path, 0) else {
                    continue;
                };
                let other = &self.all[to].place;
                if !module.place.starts_with(other) && !other.starts_with(&module.place) {
                    ties.entry((from, to)).or_default().extend(path.last().cloned());
                }
            }
        }
        ties.into_iter().map(|((from, to), names)| (from, to, names)).collect()
    }

    /// The import cycles, each as the imports between its modules.
    fn circles(&self) -> Vec<Vec<Tie>> {
        let ties = self.ties();
        let mut reached = vec![BTreeSet::new(); self.all.len()];
        for (start, reached) in reached.iter_mut().enumerate() {
            let mut left = vec![start];
            while let Some(at) = left.pop() {
                let next = ties.iter().filter(|&&(from, ..)| from == at).map(|&(_, to, _)| to);
                left.extend(next.filter(|&to| reached.insert(to)));
            }
        }
        let mut circles = BTreeMap::<Vec<usize>, Vec<Tie>>::new();
        for tie in &ties {
            let (from, to, _) = *tie;
            if reached[to].contains(&from) {
                let both = |&at: &usize| reached[from].contains(&at) && reached[at].contains(&from);
                let members = (0..self.all.len()).filter(both).collect();
                circles.entry(members).or_default().push(tie.clone());
            }
        }
        circles.into_values().collect()
    }
}

/// Reads one file's module.
#[derive(Default)]
struct Reader {
    module: Module,
    /// Modules in separate files.
    declared: Names,
}

/// Whether an item is for tests only.
fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("cfg") => list.tokens.to_string() == "test",
        _ => false,
    })
}

impl Visit<'_> for Reader {
    fn visit_file(&mut self, file: &File) {
        let name = |item: &Item| match item {
            Item::Const(item) => Some(item.ident.clone()),
            Item::Enum(item) => Some(item.ident.clone()),
            Item::Fn(item) => Some(item.sig.ident.clone()),
            Item::Macro(item) => item.ident.clone(),
            Item::Static(item) => Some(item.ident.clone()),
            Item::Struct(item) => Some(item.ident.clone()),
            Item::Trait(item) => Some(item.ident.clone()),
            Item::Type(item) => Some(item.ident.clone()),
            Item::Union(item) => Some(item.ident.clone()),
            _ => None,
        };
        let names = file.items.iter().filter_map(name);
        self.module.items.extend(names.map(|name| name.to_string()));
        visit::visit_file(self, file);
    }

    fn visit_item_mod(&mut self, item: &ItemMod) {
        if for_tests(&item.attrs) {
            return;
        }
        if item.content.is_none() {
            self.declared.push(item.ident.to_string());
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        let handed_on = !matches!(item.vis, Visibility::Inherited);
        self.import(&item.tree, &mut Names::new(), handed_on);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string());
        self.module.named.insert(names.collect());
        visit::visit_path(self, path);
    }
}

impl Reader {
    fn import(&mut self, tree: &UseTree, before: &mut Names, handed_on: bool) {
        let (name, alias) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(&path.tree, before, handed_on);
                before.pop();
                return;
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(tree, before, handed_on);
                }
                return;
            }
            UseTree::Glob(_) => {
                self.module.globs.push(before.clone());
                return;
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(rename) => (rename.ident.to_string(), rename.rename.to_string()),
        };
        let mut path = before.clone();
        // `self` in a list is the module before the list.
        let alias = if let ("self", Some(last)) = (name.as_str(), path.last()) {
            last.clone()
        } else {
            path.push(name);
            alias
        };
        if !handed_on {
            self.module.named.insert(path.clone());
        }
        self.module.imports.insert(alias, path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cycles in a crate with these files, by their imported names.
    fn circles(files: &[(&str, &str)]) -> Result<Vec<Vec<String>>> {
        let folder = std::env::temp_dir().join(format!("taskgate-circles-{}-{}", std::process::id(), files.len()));
        for (name, text) in files {
            let file = folder.join(name);
            fs::create_dir_all(file.parent().context("a folder")?)?;
            fs::write(file, text)?;
        }
        let modules = Modules::read(&folder.join("lib.rs"));
        fs::remove_dir_all(&folder)?;
        let names = |circle: Vec<Tie>| circle.into_iter().flat_map(|(_, _, names)| names).collect();
        Ok(modules?.circles().into_iter().map(names).collect())
    }

    #[test]
    fn files_that_import_each_other_are_found() -> Result<()> {
        let found = circles(&[
            (
                "lib.rs",
                "mod a; mod b; mod c; pub use b::B; #[cfg(test)] mod tests { use super::*; }",
            ),
            ("a.rs", "use crate::B; pub struct A(B);"),
            ("b.rs", "use super::c; pub struct B; fn f() { c::made() }"),
            ("c/mod.rs", "mod d; pub(super) use d::made; pub struct C;"),
            (
                "c/d.rs",
                "use crate::{a::A as X, c::C}; pub(in crate::c) fn made(_: X) -> C { todo!() }",
            ),
        ])?;
        assert_eq!(found, [["B", "made", "A", "X"]]);
        Ok(())
    }

    #[test]
    fn one_direction_is_none() -> Result<()> {
        let found = circles(&[
            ("lib.rs", "mod a; mod b; fn f() { a::f() } pub struct Root;"),
            ("a.rs", "use super::{Root, b::*}; fn f() -> B { g() }"),
            (
                "b.rs",
                "use std::fs; pub struct B; pub fn g() -> B { crate::Root; fs::read(); B }",
            ),
        ])?;
        assert_eq!(found, [[""; 0]; 0]);
        Ok(())
    }
}
