//! Tables for the terminal.

/// Renders rows with a heading, columns aligned; numbers to the right.
pub fn render(heading: &[&str], rows: &[Vec<String>]) -> String {
    let columns = heading.len();
    let width = |c: usize| rows.iter().map(|r| r[c].chars().count()).chain([heading[c].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric =
        |c: usize| rows.iter().all(|r| r[c].is_empty() || r[c].starts_with(|ch: char| ch.is_ascii_digit() || ch == '-'));
    let line = |cells: &[String]| {
        let cell = |(c, text): (usize, &String)| {
            let pad = " ".repeat(widths[c].saturating_sub(text.chars().count()));
            if numeric(c) && c > 0 { format!("{pad}{text}") } else { format!("{text}{pad}") }
        };
        cells.iter().enumerate().map(cell).collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let mut out = line(&heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>());
    for row in rows {
        out.push('\n');
        out.push_str(&line(row));
    }
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_are_aligned_and_numbers_stand_to_the_right() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "100".to_owned()]];
        assert_eq!(super::render(&["NAME", "N"], &rows), "NAME     N\na        1\nlong   100");
    }
}
