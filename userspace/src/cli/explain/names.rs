//! Who is meant: a task's name, an ENI's id or an address; and who may have been meant instead.

use std::net::IpAddr;

use crate::{
    cli::{Error, words},
    model::{Eni, Model},
};

/// How many near matches a message offers.
const OFFERED: usize = 3;

/// Who `text` names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Who<'a> {
    /// A known ENI, with whichever of its addresses fits.
    Eni(&'a Eni),
    /// An address, and the known ENI that has it.
    Address(IpAddr, Option<&'a Eni>),
}

/// Finds who is meant.
///
/// # Errors
/// [`Error::NotFound`] with near matches.
pub(super) fn find<'a>(model: &'a Model, text: &str) -> Result<Who<'a>, Error> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return Ok(Who::Address(address, model.eni_by_address(address)));
    }
    let by = |fits: &dyn Fn(&str) -> bool| {
        model
            .enis
            .iter()
            .find(|eni| eni.task.as_deref().is_some_and(fits) || fits(&eni.id))
    };
    by(&|name| name == text)
        .or_else(|| by(&|name| name.eq_ignore_ascii_case(text)))
        .map(Who::Eni)
        .ok_or_else(|| Error::NotFound(not_found(model, text)))
}

fn not_found(model: &Model, text: &str) -> String {
    let nobody = format!("there is no task, no ENI and no address `{text}`");
    let group = model
        .groups
        .iter()
        .position(|group| group.id == text || group.name.eq_ignore_ascii_case(text));
    if let Some(group) = group {
        let members = model
            .enis
            .iter()
            .filter(|eni| eni.groups.iter().any(|of| of.0 == group));
        let members: Vec<&str> = members.map(Eni::display_name).collect();
        return if members.is_empty() {
            format!("`{text}` is a security group, and no known ENI has it; name a task, an ENI or an address")
        } else {
            format!("`{text}` is a security group; name one of its ENIs: {}", list(&members))
        };
    }
    let near = near(
        text,
        model
            .enis
            .iter()
            .flat_map(|eni| eni.task.as_deref().into_iter().chain([&*eni.id])),
    );
    if !near.is_empty() {
        return format!("{nobody}; did you mean {}?", words::either(&near));
    }
    let names: Vec<&str> = model.enis.iter().map(Eni::display_name).collect();
    if names.is_empty() {
        format!("{nobody}; the configuration has none")
    } else {
        format!("{nobody}; there are {}", list(&names))
    }
}

/// The first few names.
fn list(names: &[&str]) -> String {
    let shown: Vec<String> = names.iter().take(OFFERED).map(|name| format!("`{name}`")).collect();
    let shown = shown.join(", ");
    match names.len().checked_sub(OFFERED) {
        None | Some(0) => shown,
        Some(more) => format!("{shown} and {more} more"),
    }
}

/// The names that are nearest to `text`: the fewest typing errors away, where one that it only begins counts as one error.
fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let text = text.to_ascii_lowercase();
    let most = 1 + text.chars().count() / 4;
    let mut found: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let lower = name.to_ascii_lowercase();
            let begins = text.len() >= 3 && lower.starts_with(&text);
            let away = if begins { 1 } else { distance(&text, &lower) };
            (away <= most).then_some((away, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    let least = found.first().map(|(away, _)| *away);
    found.retain(|(away, _)| Some(*away) == least);
    found.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

/// How many characters must be put in, taken out, replaced or swapped with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("web", "web", 0),
            ("wbe", "web", 1),
            ("web1", "web-1", 1),
            ("", "abc", 3),
            ("worker", "walker", 2),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }

    #[test]
    fn near_names_come_nearest_first() {
        let names = ["web-1", "web-2", "worker", "db-1", "web-canary"];
        assert_eq!(near("WBE-1", names.into_iter()), ["web-1"]);
        assert_eq!(near("web", names.into_iter()), ["web-1", "web-2", "web-canary"]);
        assert_eq!(near("x", names.into_iter()), [""; 0]);
    }
}
