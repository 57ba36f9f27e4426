//! Rows of `samples` on their way to disk: by day, sorted by series and instant.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{AsArray, Float64Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{Float64Type, Int64Type, TimestampMicrosecondType};
use deltalake_core::kernel::Add;
use nilometer_contract::{EpochId, MICROS_PER_DAY, Timestamp};

use crate::file::{FileError, encode_parquet, stats_of};
use crate::series::SeriesId;
use crate::table::{StoreError, Table, off_thread};
use crate::tables::SAMPLES;

/// One stored sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Row {
    /// Series.
    pub series: SeriesId,
    /// Instant, microseconds since the epoch.
    pub at: i64,
    /// Value.
    pub value: f64,
    /// Epoch in which it was read.
    pub epoch: EpochId,
}

/// Rows as a batch with the columns of a data file.
pub fn sample_batch(
    series: Vec<i64>,
    at: Vec<i64>,
    value: Vec<f64>,
    epoch: Vec<EpochId>,
) -> RecordBatch {
    SAMPLES.batch(vec![
        ("series", Arc::new(Int64Array::from(series))),
        ("at", Arc::new(TimestampMicrosecondArray::from(at).with_timezone("UTC"))),
        ("value", Arc::new(Float64Array::from(value))),
        ("epoch", Arc::new(Int64Array::from(epoch))),
    ])
}

/// Rows of a batch with the columns of a data file.
pub fn rows_of(batch: &RecordBatch) -> impl Iterator<Item = Row> + '_ {
    let series = batch.column(0).as_primitive::<Int64Type>().values();
    let at = batch.column(1).as_primitive::<TimestampMicrosecondType>().values();
    let value = batch.column(2).as_primitive::<Float64Type>().values();
    let epoch = batch.column(3).as_primitive::<Int64Type>().values();
    let row = |n| Row { series: series[n], at: at[n], value: value[n], epoch: epoch[n] };
    (0..batch.num_rows()).map(row)
}

/// Sorts rows and cuts them by day; days in order.
pub fn split_by_day(mut rows: Vec<Row>) -> Vec<(String, Vec<Row>)> {
    rows.sort_unstable_by_key(|row| (row.series, row.at));
    let day = |at: i64| at.div_euclid(MICROS_PER_DAY);
    let first = rows.first().map(|row| day(row.at));
    let name = |day: i64| Timestamp(day * MICROS_PER_DAY).to_datetime().format("%F").to_string();
    match first {
        None => Vec::new(),
        Some(first) if rows.iter().all(|row| day(row.at) == first) => vec![(name(first), rows)],
        Some(_) => {
            let mut days: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
            for row in rows {
                days.entry(day(row.at)).or_default().push(row);
            }
            days.into_iter().map(|(day, rows)| (name(day), rows)).collect()
        }
    }
}

/// Writes rows as one file a day; sorting and encoding run off the async threads.
pub async fn write_samples(table: &Table, rows: Vec<Row>) -> Result<Vec<Add>, StoreError> {
    let encoded = off_thread(move || {
        let days = split_by_day(rows).into_iter().map(|(day, rows)| {
            let batch = sample_batch(
                rows.iter().map(|row| row.series).collect(),
                rows.iter().map(|row| row.at).collect(),
                rows.iter().map(|row| row.value).collect(),
                rows.iter().map(|row| row.epoch).collect(),
            );
            drop(rows);
            let bytes = encode_parquet(&SAMPLES, std::slice::from_ref(&batch))?;
            Ok((day, bytes, stats_of(&[batch])))
        });
        days.collect::<Result<Vec<_>, FileError>>()
    });
    let encoded = encoded.await.map_err(|cause| StoreError::File { table: SAMPLES.name, cause })?;
    let mut adds = Vec::with_capacity(encoded.len());
    for (day, bytes, stats) in encoded {
        adds.push(table.put(bytes, stats, Some(&day)).await?);
    }
    Ok(adds)
}
