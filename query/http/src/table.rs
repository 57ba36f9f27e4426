//! A table for people, written as its rows come.
//!
//! The first rows say how wide the columns are. A longer text of a later row pushes what follows
//! it to the right, and changes nothing else.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow::util::pretty::pretty_format_batches_with_schema;

/// Rows that say how wide the columns are.
const MEASURED_ROWS: usize = 1_000;

pub(crate) struct TableWriter {
    schema: SchemaRef,
    /// The first rows, until there are enough of them.
    measured: Vec<RecordBatch>,
    rows: usize,
    /// The line below the table and the widths of its columns, once they are known.
    columns: Option<(String, Vec<usize>)>,
    pub(crate) bytes: Vec<u8>,
}

impl TableWriter {
    pub(crate) fn new(schema: &SchemaRef) -> Self {
        let schema = schema.clone();
        TableWriter { schema, measured: Vec::new(), rows: 0, columns: None, bytes: Vec::new() }
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let first = batch.num_rows().min(MEASURED_ROWS.saturating_sub(self.rows));
        self.rows += batch.num_rows();
        if first > 0 {
            self.measured.push(batch.slice(0, first));
        }
        if first == batch.num_rows() {
            return Ok(());
        }
        self.head()?;
        self.lines(&batch.slice(first, batch.num_rows() - first))
    }

    pub(crate) fn finish(&mut self) -> Result<(), ArrowError> {
        self.head()?;
        if let Some((border, _)) = &self.columns {
            self.bytes.extend_from_slice(border.as_bytes());
        }
        self.bytes.push(b'\n');
        Ok(())
    }

    /// Header and first rows, without the line below them.
    fn head(&mut self) -> Result<(), ArrowError> {
        if self.columns.is_some() {
            return Ok(());
        }
        let table = pretty_format_batches_with_schema(self.schema.clone(), &self.measured)?;
        self.measured.clear();
        let text = table.to_string();
        let (above, border) = text.rsplit_once('\n').unwrap_or(("", text.as_str()));
        self.bytes.extend_from_slice(above.as_bytes());
        if !above.is_empty() {
            self.bytes.push(b'\n');
        }
        let dashes = border.trim_matches('+').split('+');
        let widths = dashes.map(|dashes| dashes.len().saturating_sub(2)).collect();
        self.columns = Some((border.to_owned(), widths));
        Ok(())
    }

    fn lines(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let Some((_, widths)) = &self.columns else { return Ok(()) };
        let options = FormatOptions::default().with_display_error(true);
        let columns = batch.columns().iter();
        let cells = columns.map(|column| ArrayFormatter::try_new(column.as_ref(), &options));
        let cells = cells.collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            let texts: Vec<String> =
                cells.iter().map(|cells| cells.value(row).to_string()).collect();
            let height = texts.iter().map(|text| text.lines().count()).max().unwrap_or(1).max(1);
            for line in 0..height {
                for (text, width) in texts.iter().zip(widths) {
                    let part = text.lines().nth(line).unwrap_or("");
                    self.bytes.extend_from_slice(format!("| {part:<width$} ").as_bytes());
                }
                self.bytes.extend_from_slice(b"|\n");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn batch(range: std::ops::Range<i64>) -> RecordBatch {
        let texts = range.clone().map(|n| if n % 7 == 0 { "two\nlines" } else { "one" });
        let texts: ArrayRef = Arc::new(StringArray::from_iter_values(texts));
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(range));
        RecordBatch::try_from_iter([("number", numbers), ("text", texts)]).unwrap()
    }

    #[test]
    fn a_table_that_comes_in_parts_is_the_table_as_a_whole() {
        for rows in [0, 1, 999, 1_000, 1_001, 2_500] {
            let all = batch(0..rows);
            let mut writer = TableWriter::new(&all.schema());
            for start in (0..rows).step_by(700) {
                writer.write(&batch(start..rows.min(start + 700))).unwrap();
            }
            writer.finish().unwrap();
            let whole = pretty_format_batches_with_schema(all.schema(), &[all]).unwrap();
            assert_eq!(String::from_utf8(writer.bytes).unwrap(), format!("{whole}\n"), "{rows}");
        }
    }
}
