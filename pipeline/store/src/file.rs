//! Data files: Parquet in, Parquet out, with what the Delta log says of each.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::{concat_batches, lexsort_to_indices, max, min, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use bytes::Bytes;
use nilometer_contract::Timestamp;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use parquet::schema::types::ColumnPath;
use serde_json::{Map, Value, json};

use crate::schema::{ColumnType, TableDef};

/// Rows of one row group: whole columns decode fast, and the page index finds single series.
const ROW_GROUP_ROWS: usize = 1 << 20;
const PAGE_ROWS: usize = 16 * 1024;

/// A file of a table, as the Delta log tells of it.
#[derive(Clone, Debug, PartialEq)]
pub struct DataFile {
    /// Path below the table's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Rows.
    pub rows: u64,
    /// Value of the partition column, if the table has one.
    pub partition: Option<String>,
    /// Smallest and largest value per integer or instant column, where known.
    pub ranges: HashMap<String, (i64, i64)>,
}

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

impl DataFile {
    /// Whether the file may hold a value of `[low, high]` in an integer or instant column.
    pub fn may_hold(&self, column: &str, low: i64, high: i64) -> bool {
        self.ranges.get(column).is_none_or(|&(min, max)| min <= high && low <= max)
    }

    /// Reads the statistics of an add action.
    pub(crate) fn of_stats(
        def: &TableDef,
        path: String,
        size: u64,
        partition: Option<String>,
        stats: Option<&str>,
    ) -> Self {
        let stats: Value =
            stats.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let bound = |side: &str, column: &str, kind: ColumnType| -> Option<i64> {
            let value = stats.get(side)?.get(column)?;
            match kind {
                ColumnType::Int => value.as_i64(),
                ColumnType::Instant => Some(value.as_str()?.parse::<Timestamp>().ok()?.0),
                _ => None,
            }
        };
        let ranges = def.columns.iter().filter_map(|column| {
            let low = bound("minValues", column.name, column.kind)?;
            let high = bound("maxValues", column.name, column.kind)?;
            Some((column.name.to_owned(), (low, high)))
        });
        let rows = stats.get("numRecords").and_then(Value::as_u64).unwrap_or(0);
        DataFile { path, size, rows, partition, ranges: ranges.collect() }
    }
}

/// Statistics of rows in the form that Delta keeps: counts, and bounds of integers and instants.
pub(crate) fn stats_of(batches: &[RecordBatch]) -> String {
    let mut bounds: HashMap<String, (DataType, i64, i64)> = HashMap::new();
    let mut nulls: Map<String, Value> = Map::new();
    let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
    for batch in batches {
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            let count = nulls.entry(field.name().clone()).or_insert(json!(0));
            *count = json!(count.as_u64().unwrap_or(0) + column.null_count() as u64);
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
                let entry = bounds
                    .entry(field.name().clone())
                    .or_insert_with(|| (field.data_type().clone(), low, high));
                (entry.1, entry.2) = (entry.1.min(low), entry.2.max(high));
            }
        }
    }
    let side = |pick: fn(&(DataType, i64, i64)) -> i64| -> Map<String, Value> {
        let values = bounds.iter().map(|(name, bound)| {
            let value = match bound.0 {
                DataType::Int64 => json!(pick(bound)),
                _ => json!(Timestamp(pick(bound)).to_string()),
            };
            (name.clone(), value)
        });
        values.collect()
    };
    json!({
        "numRecords": rows,
        "minValues": side(|bound| bound.1),
        "maxValues": side(|bound| bound.2),
        "nullCount": nulls,
    })
    .to_string()
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

fn properties(def: &TableDef) -> WriterProperties {
    let level = ZstdLevel::try_new(1).unwrap_or_default();
    let mut builder = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_statistics_enabled(EnabledStatistics::Page);
    for column in def.columns {
        let path = ColumnPath::from(column.name);
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
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(64 * 1024).build())
        .map_err(|error| FileError::new(what)(Box::new(error)))?;
    reader.collect::<Result<_, _>>().map_err(|error| FileError::new(what)(Box::new(error)))
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
