//! Data files: Parquet in, Parquet out, and the statistics of what is in them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{concat_batches, lexsort_to_indices, max, min, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};

use nilometer_contract::{ColumnType, TableDef, Timestamp};

/// Rows of one row group: whole columns decode fast, and the page index finds single series.
const ROW_GROUP_ROWS: usize = 1 << 20;
const PAGE_ROWS: usize = 16 * 1024;
/// Bytes of one row group before compression, about: what a merge holds of each of its inputs.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Why a file could not be written or read.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct FileError {
    what: &'static str,
    #[source]
    cause: Box<dyn std::error::Error + Send + Sync>,
}

impl FileError {
    pub(crate) fn of(
        what: &'static str,
        cause: Box<dyn std::error::Error + Send + Sync>,
    ) -> FileError {
        FileError { what, cause }
    }

    fn new(
        what: &'static str,
    ) -> impl FnOnce(Box<dyn std::error::Error + Send + Sync>) -> FileError {
        move |cause| FileError { what, cause }
    }
}

/// Statistics of rows in the form that Delta keeps: counts, and bounds of integers and instants.
#[derive(Default)]
pub(crate) struct Stats {
    rows: usize,
    bounds: BTreeMap<String, (DataType, i64, i64)>,
    nulls: BTreeMap<String, usize>,
}

impl Stats {
    pub(crate) fn add(&mut self, batch: &RecordBatch) {
        self.rows += batch.num_rows();
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            *self.nulls.entry(field.name().clone()).or_default() += column.null_count();
            let range = match field.data_type() {
                DataType::Int64 => {
                    let column = column.as_primitive::<Int64Type>();
                    min(column).zip(max(column))
                }
                DataType::Timestamp(_, _) => {
                    let column = column.as_primitive::<TimestampMicrosecondType>();
                    min(column).zip(max(column))
                }
                _ => None,
            };
            if let Some((low, high)) = range {
                let entry = self
                    .bounds
                    .entry(field.name().clone())
                    .or_insert_with(|| (field.data_type().clone(), low, high));
                (entry.1, entry.2) = (entry.1.min(low), entry.2.max(high));
            }
        }
    }

    pub(crate) fn text(&self) -> String {
        let side = |pick: fn(&(DataType, i64, i64)) -> i64| -> Map<String, Value> {
            let values = self.bounds.iter().map(|(name, bound)| {
                let value = match bound.0 {
                    DataType::Int64 => json!(pick(bound)),
                    _ => json!(Timestamp(pick(bound)).to_string()),
                };
                (name.clone(), value)
            });
            values.collect()
        };
        json!({
            "numRecords": self.rows,
            "minValues": side(|bound| bound.1),
            "maxValues": side(|bound| bound.2),
            "nullCount": self.nulls,
        })
        .to_string()
    }
}

/// Statistics of some rows.
pub(crate) fn stats_of(batches: &[RecordBatch]) -> String {
    let mut stats = Stats::default();
    batches.iter().for_each(|batch| stats.add(batch));
    stats.text()
}

/// Sorts rows by the table's order.
pub(crate) fn sorted(def: &TableDef, batches: &[RecordBatch]) -> Result<RecordBatch, FileError> {
    let what = "sort rows";
    let all = concat_batches(&def.file_schema(), batches)
        .map_err(|error| FileError::new(what)(Box::new(error)))?;
    let columns: Vec<_> = def
        .order
        .iter()
        .filter_map(|name| all.column_by_name(name))
        .map(|values| arrow::compute::SortColumn { values: values.clone(), options: None })
        .collect();
    let order = lexsort_to_indices(&columns, None)
        .map_err(|error| FileError::new(what)(Box::new(error)))?;
    take_record_batch(&all, &order).map_err(|error| FileError::new(what)(Box::new(error)))
}

pub(crate) fn properties(def: &TableDef) -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page);
    for column in def.columns {
        let path = ColumnPath::from(column.name);
        if column.kind == ColumnType::Bytes {
            // Its decoded size is then what the file says it is, however often a value repeats.
            builder = builder.set_column_dictionary_enabled(path.clone(), false);
        }
        if column.kind == ColumnType::Float {
            builder = builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), Encoding::BYTE_STREAM_SPLIT)
                .set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    builder.build()
}

/// Encodes rows, already in the table's order, as one Parquet file.
pub fn encode_parquet(def: &TableDef, batches: &[RecordBatch]) -> Result<Vec<u8>, FileError> {
    let what = "encode Parquet";
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, def.file_schema(), Some(properties(def)))
        .map_err(|error| FileError::new(what)(Box::new(error)))?;
    for batch in batches {
        writer.write(batch).map_err(|error| FileError::new(what)(Box::new(error)))?;
    }
    writer.close().map_err(|error| FileError::new(what)(Box::new(error)))?;
    Ok(bytes)
}

/// Decodes a whole Parquet file.
pub fn read_parquet(bytes: Bytes) -> Result<Vec<RecordBatch>, FileError> {
    let what = "decode Parquet";
    let read = || {
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
            .and_then(|builder| builder.with_batch_size(64 * 1024).build())
            .map_err(|error| FileError::new(what)(Box::new(error)))?;
        reader.collect::<Result<_, _>>().map_err(|error| FileError::new(what)(Box::new(error)))
    };
    // A file that another program wrote has no checksums, and damage may be anything.
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(FileError::of(what, "the decoder panicked".into())))
}

/// Rows with exactly the columns of the table's files, in their order.
pub(crate) fn conform(def: &TableDef, batch: &RecordBatch) -> Result<RecordBatch, FileError> {
    let schema = def.file_schema();
    let columns = schema.fields().iter().map(|field| {
        batch.column_by_name(field.name()).cloned().ok_or_else(|| {
            let cause = format!("column {} is missing", field.name());
            FileError::new("rows do not fit the table")(cause.into())
        })
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(&schema), columns)
        .map_err(|error| FileError::new("rows do not fit the table")(Box::new(error)))
}
