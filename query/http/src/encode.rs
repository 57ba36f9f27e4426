//! Rows as bytes, batch by batch: JSON, CSV, Arrow, or a table for people.

use arrow::array::RecordBatch;
use arrow::csv::{Writer as CsvWriter, WriterBuilder};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, Writer as JsonWriter, WriterBuilder as JsonBuilder};
use bytes::Bytes;
use nilometer_engine::Rows;
use nilometer_surface::Format;

use crate::table::TableWriter;

/// Turns batches into bytes of one format; holds no more than one batch.
pub(crate) enum Encoder {
    Json(JsonWriter<Vec<u8>, JsonArray>),
    Csv(Csv),
    Arrow(Box<StreamWriter<Vec<u8>>>),
    Table(TableWriter),
}

/// The header comes with the first batch, or with an empty one at the end.
pub(crate) struct Csv {
    schema: SchemaRef,
    /// Says the header, as long as it was not said.
    headed: bool,
    bytes: Vec<u8>,
}

impl Csv {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let with_header = !std::mem::replace(&mut self.headed, true);
        let mut writer: CsvWriter<&mut Vec<u8>> =
            WriterBuilder::new().with_header(with_header).build(&mut self.bytes);
        writer.write(batch)
    }
}

impl Encoder {
    pub(crate) fn new(format: Format, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(match format {
            Format::Json => {
                Encoder::Json(JsonBuilder::new().with_explicit_nulls(true).build(Vec::new()))
            }
            Format::Csv => {
                Encoder::Csv(Csv { schema: schema.clone(), headed: false, bytes: Vec::new() })
            }
            Format::Arrow => Encoder::Arrow(Box::new(StreamWriter::try_new(Vec::new(), schema)?)),
            Format::Table => Encoder::Table(TableWriter::new(schema)),
        })
    }

    pub(crate) fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        match self {
            Encoder::Json(writer) => writer.write(batch),
            Encoder::Csv(writer) => writer.write(batch),
            Encoder::Arrow(writer) => writer.write(batch),
            Encoder::Table(writer) => writer.write(batch),
        }
    }

    pub(crate) fn finish(&mut self) -> Result<(), ArrowError> {
        match self {
            Encoder::Json(writer) => writer.finish(),
            Encoder::Csv(writer) if writer.headed => Ok(()),
            Encoder::Csv(writer) => writer.write(&RecordBatch::new_empty(writer.schema.clone())),
            Encoder::Arrow(writer) => writer.finish(),
            Encoder::Table(writer) => writer.finish(),
        }
    }

    /// The bytes that are ready; they are not kept.
    pub(crate) fn take(&mut self) -> Bytes {
        let bytes = match self {
            Encoder::Json(writer) => writer.get_mut(),
            Encoder::Csv(writer) => &mut writer.bytes,
            Encoder::Arrow(writer) => writer.get_mut(),
            Encoder::Table(writer) => &mut writer.bytes,
        };
        std::mem::take(bytes).into()
    }
}

/// Renders rows that are all there.
pub fn render(rows: &Rows, format: Format) -> Result<Vec<u8>, ArrowError> {
    let mut encoder = Encoder::new(format, &rows.schema)?;
    rows.batches.iter().try_for_each(|batch| encoder.write(batch))?;
    encoder.finish()?;
    Ok(encoder.take().into())
}
