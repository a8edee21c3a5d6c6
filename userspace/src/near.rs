//! Names that were mistyped: which ones there are that somebody may have meant.

/// How many names a message offers.
pub(crate) const OFFERED: usize = 3;

/// The names that are nearest to `text`: the fewest typing errors away, where one that it only begins counts as one error.
pub(crate) fn near<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
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
