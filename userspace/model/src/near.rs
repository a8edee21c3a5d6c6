//! Suggestions for mistyped names.

use strsim::osa_distance;

/// The most names that a message suggests.
pub const OFFERED: usize = 3;

/// The names nearest to `text`, by the fewest typing errors; completing a prefix counts as one error.
pub fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let text = text.to_ascii_lowercase();
    let most = 1 + text.chars().count() / 4;
    let mut found: Vec<(usize, &str)> = names
        .filter_map(|name| {
            let lower = name.to_ascii_lowercase();
            let begins = text.len() >= 3 && lower.starts_with(&text);
            let away = if begins { 1 } else { osa_distance(&text, &lower) };
            (away <= most).then_some((away, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    let least = found.first().map(|(away, _)| *away);
    found.retain(|(away, _)| Some(*away) == least);
    found.into_iter().take(OFFERED).map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_come_nearest_first() {
        let names = ["web-1", "web-2", "worker", "db-1", "web-canary"];
        assert_eq!(near("WBE-1", names.into_iter()), ["web-1"]);
        assert_eq!(near("web", names.into_iter()), ["web-1", "web-2", "web-canary"]);
        assert_eq!(near("x", names.into_iter()), [""; 0]);
    }
}
