//! Aligned columns in plain text.

/// How a column's cells line up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// On the left.
    Left,
    /// On the right.
    Right,
    /// On the decimal point, the column as a whole on the right.
    Point,
}

/// Rows of cells that are written in aligned columns.
pub(crate) struct Table {
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        let columns = columns.iter().map(|&(name, align)| (name.to_owned(), align)).collect();
        Table { columns, rows: Vec::new() }
    }

    /// Adds a row of as many cells as there are columns.
    pub(crate) fn push<const N: usize>(&mut self, row: [String; N]) {
        assert_eq!(N, self.columns.len(), "a row has a cell for each column");
        self.rows.push(row.into());
    }

    /// The table as text.
    pub(crate) fn text(self) -> String {
        self.written(None)
    }

    /// The table as text with a value under the last column, and its label on the left.
    pub(crate) fn footed(self, label: &str, value: &str) -> String {
        self.written(Some((label, value)))
    }

    fn written(mut self, footer: Option<(&str, &str)>) -> String {
        self.align_points(footer.map(|(_, value)| value));
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|at| {
                let cells = self.rows.iter().map(|row| width(&row[at]));
                let below = footer.filter(|_| at + 1 == self.columns.len());
                let cells = cells.chain(below.map(|(_, value)| width(value)));
                cells.chain([width(&self.columns[at].0)]).max().unwrap_or(0)
            })
            .collect();
        let heading: Vec<String> = self.columns.iter().map(|(name, _)| name.clone()).collect();
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut text = self.line(&heading, &widths) + &self.line(&rule, &widths);
        self.rows.iter().for_each(|row| text.push_str(&self.line(row, &widths)));
        if let Some((label, value)) = footer {
            let all = widths.iter().sum::<usize>() + 2 * (widths.len() - 1);
            text.push_str(&self.line(&rule, &widths));
            let room = all.saturating_sub(width(value));
            text.push_str(&format!("{label:<room$}{value}\n"));
        }
        text
    }

    /// Pads cells of point columns so that their points stand in line; the footer's value, which
    /// goes under the last column, is counted in.
    fn align_points(&mut self, footer: Option<&str>) {
        let places = |cell: &str| cell.split_once('.').map_or(0, |(_, rest)| width(rest) + 1);
        let last = self.columns.len() - 1;
        for at in 0..self.columns.len() {
            if self.columns[at].1 != Align::Point {
                continue;
            }
            let below = footer.filter(|_| at == last).map_or(0, places);
            let most = self.rows.iter().map(|row| places(&row[at])).max().unwrap_or(0).max(below);
            for row in &mut self.rows {
                let pad = most - places(&row[at]);
                row[at].push_str(&" ".repeat(pad));
            }
        }
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut text = String::new();
        for ((cell, width_of), (_, align)) in cells.iter().zip(widths).zip(&self.columns) {
            let pad = " ".repeat(width_of.saturating_sub(width(cell)));
            match align {
                Align::Left => text.push_str(&format!("{cell}{pad}  ")),
                Align::Right | Align::Point => text.push_str(&format!("{pad}{cell}  ")),
            }
        }
        text.truncate(text.trim_end().len());
        text + "\n"
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}
