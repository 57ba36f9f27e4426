//! Rows as text: JSON, CSV, Arrow, or a table for people.

use arrow::csv::WriterBuilder;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, WriterBuilder as JsonBuilder};
use arrow::util::pretty::pretty_format_batches_with_schema;

use nilometer_engine::Rows;

/// Form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An array of objects.
    Json,
    /// RFC 4180 with a header.
    Csv,
    /// An Arrow IPC stream.
    Arrow,
    /// A table for people.
    Table,
}

impl Format {
    /// By the `Accept` header; JSON when it does not say.
    pub fn of_accept(accept: &str) -> Self {
        let wanted = accept.split(',').map(|part| part.split(';').next().unwrap_or("").trim());
        let known = wanted.filter_map(|kind| match kind {
            "application/json" => Some(Format::Json),
            "text/csv" => Some(Format::Csv),
            "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
            "text/plain" => Some(Format::Table),
            _ => None,
        });
        known.into_iter().next().unwrap_or(Format::Json)
    }

    /// The `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Csv => "text/csv; charset=utf-8",
            Format::Arrow => "application/vnd.apache.arrow.stream",
            Format::Table => "text/plain; charset=utf-8",
        }
    }
}

/// Renders rows.
pub fn render(rows: &Rows, format: Format) -> Result<Vec<u8>, ArrowError> {
    let mut bytes = Vec::new();
    match format {
        Format::Json => {
            let builder = JsonBuilder::new().with_explicit_nulls(true);
            let mut writer = builder.build::<_, JsonArray>(&mut bytes);
            rows.batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()?;
        }
        Format::Csv => {
            let mut writer = WriterBuilder::new().with_header(true).build(&mut bytes);
            if rows.batches.is_empty() {
                writer.write(&arrow::array::RecordBatch::new_empty(rows.schema.clone()))?;
            }
            rows.batches.iter().try_for_each(|batch| writer.write(batch))?;
        }
        Format::Arrow => {
            let mut writer = StreamWriter::try_new(&mut bytes, &rows.schema)?;
            rows.batches.iter().try_for_each(|batch| writer.write(batch))?;
            writer.finish()?;
        }
        Format::Table => {
            let table = pretty_format_batches_with_schema(rows.schema.clone(), &rows.batches)?;
            bytes.extend(table.to_string().into_bytes());
            bytes.push(b'\n');
        }
    }
    Ok(bytes)
}
