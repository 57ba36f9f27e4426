//! Merging: bounded by bytes, whatever the rows are; days that are over are merged to the end.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    AsArray, BinaryArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::TimestampMicrosecondType;
use nilometer_contract::{ColumnType, RowRule, RowSource, TableDef, Timestamp, column};
use nilometer_store::{CompactionPolicy, SAMPLES, Table, compact, pick, write_samples};

use crate::place::Place;
use crate::tables::{DAY, NOON, row, series_of};

const KIB: usize = 1 << 10;

/// Bytes that do not compress, of a letter.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(step).collect()
}

/// A table with a column of every type but the day.
pub(crate) const LETTERS: TableDef = TableDef {
    name: "letters",
    doc: "",
    columns: &[
        column("at", ColumnType::Instant, "", ""),
        column("number", ColumnType::Int, "", ""),
        column("reason", ColumnType::Text, "", ""),
        column("part", ColumnType::Float, "", ""),
        column("amount", ColumnType::Decimal, "", ""),
        column("payload", ColumnType::Bytes, "", ""),
    ],
    partition: None,
    order: &["at"],
    time: Some("at"),
    retention_days: 0,
    rule: RowRule::Operator,
    from: RowSource::Original,
};

fn letters(instants: &[i64], bytes: usize) -> RecordBatch {
    let many = instants.len();
    let payloads: Vec<Vec<u8>> = instants.iter().map(|at| noise(*at as u64, bytes)).collect();
    let amounts = Decimal128Array::from_iter_values((0..many as i128).map(|n| n * n));
    LETTERS.batch(vec![
        ("at", Arc::new(TimestampMicrosecondArray::from(instants.to_vec()).with_timezone("UTC"))),
        ("number", Arc::new(Int64Array::from_iter_values(0..many as i64))),
        ("reason", Arc::new(StringArray::from_iter_values(vec!["why"; many]))),
        ("part", Arc::new(Float64Array::from_iter_values(vec![0.5; many]))),
        ("amount", Arc::new(amounts.with_precision_and_scale(38, 12).unwrap())),
        ("payload", Arc::new(BinaryArray::from_iter_values(payloads))),
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_is_bounded_by_bytes_and_not_by_rows() {
    let place = Place::local();
    let mut table = place.storage().table(&LETTERS).await.unwrap();
    for n in 0..16 {
        let instants: Vec<i64> = (0..5).map(|letter| letter * 16 + n).collect();
        let add = table.write(&[letters(&instants, 200 * KIB)], None).await.unwrap();
        table.append(vec![add], &[]).await.unwrap();
    }
    let full_bytes = 4 << 20;
    let policy = CompactionPolicy { full_bytes, fan_in: 16, ..CompactionPolicy::default() };
    assert_eq!(compact(&mut table, policy, Timestamp(NOON)).await.unwrap(), 16);
    let files = table.files();
    assert!((4..=5).contains(&files.len()), "16 MB in files of 4: {}", files.len());
    assert!(files.iter().all(|file| file.size < full_bytes + (2 << 20)), "{files:?}");
    let mut instants = Vec::new();
    for file in files.iter() {
        for batch in table.read(file).await.unwrap() {
            let at = batch["at"].as_primitive::<TimestampMicrosecondType>().values();
            let payloads = batch["payload"].as_binary::<i32>();
            for (at, payload) in at.iter().zip(payloads) {
                assert_eq!(payload.unwrap(), noise(*at as u64, 200 * KIB));
                instants.push(*at);
            }
        }
    }
    assert_eq!(instants, (0..80).collect::<Vec<_>>());
    assert_eq!(compact(&mut table, policy, Timestamp(NOON)).await.unwrap(), 0);
}

async fn day_of(table: &mut Table, day: i64, commits: i64) {
    for n in 0..commits {
        let rows = (0..3).map(|series| row(series * 10 + n, NOON + day * DAY + n));
        let adds = write_samples(table, rows.collect()).await.unwrap();
        table.append(adds, &[]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_over_is_merged_to_the_end() {
    let place = Place::local();
    let mut table = place.samples().await;
    day_of(&mut table, 0, 7).await;
    day_of(&mut table, 1, 7).await;
    day_of(&mut table, 2, 4).await;
    let policy = CompactionPolicy { fan_in: 100, ..CompactionPolicy::default() };
    let second_day = Timestamp(NOON + DAY);
    // Written just now, so not quiet yet, whatever the clock says of the day.
    assert_eq!(compact(&mut table, policy, second_day).await.unwrap(), 0);
    let policy = CompactionPolicy { quiet: Duration::ZERO, ..policy };
    let far = Timestamp(NOON + 100_000 * DAY);
    assert!(pick(&table.files(), policy, second_day).is_empty(), "by its clock it was not quiet");
    let picked = pick(&table.files(), policy, far);
    assert_eq!(picked.len(), 7);
    let days = table.files().iter().filter(|file| file.partition == picked[0].partition).count();
    assert_eq!(days, 7);
    assert_eq!(compact(&mut table, policy, far).await.unwrap(), 7);
    assert_eq!(compact(&mut table, policy, far).await.unwrap(), 7);
    // Few files stay: late samples do not cause the day to be written again each time.
    assert_eq!(compact(&mut table, policy, far).await.unwrap(), 0);
    assert_eq!(table.files().len(), 1 + 1 + 4);
    assert_eq!(series_of(&table).await.len(), 3 * 18);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_merged_is_left_out() {
    let place = Place::local();
    let mut table = place.storage().table(&SAMPLES).await.unwrap();
    day_of(&mut table, 0, 9).await;
    let broken = place.folder().join("samples").join(&table.files()[3].path);
    std::fs::write(broken, "no Parquet").unwrap();
    let policy = CompactionPolicy::default();
    let failed = compact(&mut table, policy, Timestamp(NOON)).await;
    assert!(failed.is_err(), "{failed:?}");
    assert_eq!(compact(&mut table, policy, Timestamp(NOON)).await.unwrap(), 8);
    assert_eq!(table.files().len(), 2);
}
