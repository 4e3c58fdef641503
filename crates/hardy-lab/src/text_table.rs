//! Tables for terminals: columns as wide as their widest cell, two spaces between them, a rule under the header.

/// Where the text of a column stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Flush left.
    Left,
    /// Flush right.
    Right,
}

/// A table of text; every row has as many cells as there are columns.
#[derive(Debug, Clone, Default)]
pub struct TextTable {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// A table with these columns and no rows.
    #[must_use]
    pub fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            columns: columns.iter().map(|(name, align)| ((*name).to_owned(), *align)).collect(),
            rows: vec![],
        }
    }

    /// Adds a row; cells that are missing are left empty.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// Columns of the terminal that the table takes.
    #[must_use]
    pub fn width(&self) -> usize {
        self.widths().iter().sum::<usize>() + 2 * self.columns.len().saturating_sub(1)
    }

    /// The table as lines, each ended by a newline, without trailing blanks.
    #[must_use]
    pub fn render(&self) -> String {
        let header = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let widths = self.widths();
        let rule = widths.iter().map(|width| "─".repeat(*width)).collect();
        let lines = [header, rule].into_iter().chain(self.rows.iter().cloned());
        lines.map(|cells: Vec<String>| self.line(&cells, &widths)).collect()
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut out = String::new();
        for (i, (width, (_, align))) in widths.iter().zip(&self.columns).enumerate() {
            let cell = cells.get(i).map_or("", String::as_str);
            let gap = " ".repeat(width - cell.chars().count());
            let separator = if i == 0 { "" } else { "  " };
            match align {
                Align::Right => out.extend([separator, &gap, cell]),
                Align::Left => out.extend([separator, cell, &gap]),
            }
        }
        format!("{}\n", out.trim_end())
    }

    fn widths(&self) -> Vec<usize> {
        let of_column = |i: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(i));
            cells.chain([&self.columns[i].0]).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        (0..self.columns.len()).map(of_column).collect()
    }
}

/// Breaks `text` at blanks into lines of at most `width` characters where words allow, each after `indent` blanks. A number
/// and its per cent sign stay together.
#[must_use]
pub fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    let mut used = usize::MAX;
    for word in text.replace(" %", "\u{a0}%").split_ascii_whitespace() {
        let length = word.chars().count();
        if used.saturating_add(1 + length) > width {
            out.push_str(if out.is_empty() { "" } else { "\n" });
            out.push_str(&" ".repeat(indent));
            used = indent;
        } else {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += length;
    }
    out.push('\n');
    out.replace('\u{a0}', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_characters_not_bytes() {
        let mut table = TextTable::new(&[("level", Align::Left), ("lost", Align::Right)]);
        table.row(["clean".into(), "–".into()]);
        table.row(["10 %".into(), "−12.5".into()]);
        assert_eq!(table.render(), "level   lost\n─────  ─────\nclean      –\n10 %   −12.5\n");
        assert_eq!(table.width(), 12);
    }

    #[test]
    fn wrapped_lines_stay_within_the_width() {
        let text = wrap("one two three four five six seven", 12, 2);
        assert_eq!(text, "  one two\n  three four\n  five six\n  seven\n");
    }
}
