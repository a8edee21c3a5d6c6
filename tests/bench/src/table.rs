//! Tables in plain text.

/// Rows under a heading: the first column is aligned to the left, the others to the right, except the last, which is
/// text. A row may be shorter than the heading.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let heading = heading.map(str::to_owned);
    let all = || std::iter::once(&heading).chain(rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 || column == N - 1 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        format!("{}\n", line.trim_end())
    };
    all().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a path", "7", "met"], ["b", "1234", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(
            table(["path", "ns", "budget"], &rows),
            "path      ns  budget\n\
             a path     7  met\n\
             b       1234\n"
        );
    }
}
