//! `docs/aws-semantics.md` and the tests agree on which of AWS's facts are shown.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The facts by their ids, and whether they are marked as tested.
fn facts() -> Result<BTreeMap<String, bool>> {
    let text = fs::read_to_string(workspace().join("docs/aws-semantics.md"))?;
    let mut facts = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [id, fact, source, state] = cells[..] else {
            continue;
        };
        if !is_id(id) {
            continue;
        }
        assert!(!fact.is_empty() && !source.is_empty(), "{line}");
        assert!(matches!(state, "tested" | "relied on"), "`{id}` is `{state}`");
        let twice = facts.insert(id.to_owned(), state == "tested");
        assert_eq!(twice, None, "`{id}` stands twice");
    }
    Ok(facts)
}

/// `SG-TRACK-1`.
fn is_id(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_uppercase());
    matches!(parts[..], [a, b, number] if word(a) && word(b) && number.parse::<u32>().is_ok())
}

/// The ids that the sources of a folder name, with a place of each.
fn carried(folder: &Path, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            carried(&path, found)?;
            continue;
        }
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        for (number, line) in fs::read_to_string(&path)?.lines().enumerate() {
            let comment = line.trim().trim_start_matches('/').trim();
            let Some(ids) = comment.strip_prefix("AWS: ").filter(|_| line.trim().starts_with("//")) else {
                continue;
            };
            let place = format!("{}:{}", path.display(), number + 1);
            for id in ids.split(", ") {
                assert!(is_id(id), "{place}: `{id}` is no id");
                found.insert(id.to_owned(), place.clone());
            }
        }
    }
    Ok(())
}

#[test]
fn every_id_in_a_test_is_a_fact_and_every_tested_fact_is_in_a_test() -> Result<()> {
    let facts = facts()?;
    assert!(facts.len() > 40, "{} facts", facts.len());
    let mut found = BTreeMap::new();
    for folder in ["ebpf", "userspace", "tests"] {
        carried(&workspace().join(folder), &mut found)?;
    }
    let unknown: Vec<_> = found.iter().filter(|(id, _)| !facts.contains_key(*id)).collect();
    assert!(unknown.is_empty(), "docs/aws-semantics.md lacks {unknown:?}");
    let tested: BTreeSet<_> = facts.iter().filter(|(_, tested)| **tested).map(|(id, _)| id).collect();
    let in_tests: BTreeSet<_> = found.keys().collect();
    let untested: Vec<_> = tested.difference(&in_tests).collect();
    assert!(untested.is_empty(), "no test carries {untested:?}");
    let unmarked: Vec<_> = in_tests.difference(&tested).collect();
    assert!(unmarked.is_empty(), "{unmarked:?} are tested, and not marked so");
    Ok(())
}
