//! Positions with rows, two writers, compaction, retention, vacuum; wherever the tables are.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use nilometer_contract::{TableDef, Timestamp};
use nilometer_store::{
    CommitError, CompactionPolicy, Position, Row, SAMPLES, SERIES, Table, compact, vacuum,
    write_samples,
};

use crate::merge::LETTERS;
use crate::place::{Place, everywhere};

pub(crate) const DAY: i64 = 86_400_000_000;
pub(crate) const NOON: i64 = 20_000 * DAY + DAY / 2;

fn position(from: Option<i64>, next: i64) -> Position {
    Position { app: "ingest/samples/0".to_owned(), from, next }
}

async fn append(table: &mut Table, rows: Vec<Row>, position: Position) -> Result<(), CommitError> {
    let adds = write_samples(table, rows).await.unwrap();
    table.append(adds, &[position]).await
}

pub(crate) fn row(series: i64, at: i64) -> Row {
    Row { series, at, value: series as f64, epoch: 0 }
}

pub(crate) async fn series_of(table: &Table) -> Vec<i64> {
    let mut series = Vec::new();
    for file in table.files().iter() {
        for batch in table.read(file).await.unwrap() {
            series.extend(batch.column(0).as_primitive::<Int64Type>().values().iter());
        }
    }
    series
}

const TABLES: [&TableDef; 3] = [&SAMPLES, &SERIES, &LETTERS];

everywhere!(
    every_table_is_created_and_opened_again,
    a_table_may_be_created_by_many_at_once,
    rows_and_position_are_one,
    a_position_is_never_passed_twice,
    compaction_keeps_every_row_once_and_two_compactors_cannot_double,
    small_tables_are_sorted_by_their_order,
    single_samples_are_found_among_many,
    writers_at_once_take_turns,
    only_what_nobody_needs_is_deleted,
    many_commits_are_opened_again,
);

async fn every_table_is_created_and_opened_again(place: Place) {
    for _ in 0..2 {
        let storage = place.storage();
        for def in TABLES {
            let table = storage.table(def).await.unwrap();
            assert_eq!((table.version(), table.files().len()), (0, 0), "{}", def.name);
        }
    }
}

async fn a_table_may_be_created_by_many_at_once(place: Place) {
    for def in TABLES {
        let open = async || place.storage().table(def).await.unwrap();
        let opened = futures::future::join_all((0..4).map(|_| open())).await;
        assert!(opened.iter().all(|table| table.version() == 0), "{}", def.name);
    }
}

async fn rows_and_position_are_one(place: Place) {
    let mut table = place.samples().await;
    assert_eq!(table.position("ingest/samples/0").await.unwrap(), None);
    append(&mut table, vec![row(2, NOON), row(1, NOON)], position(None, 7)).await.unwrap();
    let mut again = place.samples().await;
    assert_eq!(again.position("ingest/samples/0").await.unwrap(), Some(7));
    assert_eq!(series_of(&again).await, [1, 2]);
    let file = &again.files()[0];
    assert_eq!((file.rows, file.range("at")), (2, Some((NOON, NOON))));
    assert_eq!(file.range("series"), Some((1, 2)));
}

async fn a_position_is_never_passed_twice(place: Place) {
    let mut first = place.samples().await;
    let mut second = place.samples().await;
    append(&mut first, vec![row(1, NOON)], position(None, 5)).await.unwrap();
    // The second writer has not looked since: Delta's conflict check stops it.
    let stale = append(&mut second, vec![row(1, NOON)], position(None, 5)).await;
    assert!(matches!(stale, Err(CommitError::Conflict(_))), "{stale:?}");
    // It looks again, and its own check stops it.
    second.refresh().await.unwrap();
    let stale = append(&mut second, vec![row(1, NOON)], position(None, 5)).await;
    assert!(matches!(stale, Err(CommitError::Stale { found: Some(5), .. })), "{stale:?}");
    append(&mut second, vec![row(2, NOON)], position(Some(5), 6)).await.unwrap();
    first.refresh().await.unwrap();
    assert_eq!(series_of(&first).await.len(), 2);
}

async fn compaction_keeps_every_row_once_and_two_compactors_cannot_double(place: Place) {
    let mut table = place.samples().await;
    for n in 0..8 {
        let from = (n > 0).then_some(n);
        append(&mut table, vec![row(n, NOON), row(100 - n, NOON + 1)], position(from, n + 1))
            .await
            .unwrap();
    }
    let policy = CompactionPolicy::default();
    let mut stale = place.samples().await;
    let picked = table.files().to_vec();
    assert_eq!(compact(&mut table, policy, Timestamp(NOON)).await.unwrap(), 8);
    assert_eq!(table.files().len(), 1);
    // The compactor that started from the older snapshot is refused.
    let rows: Vec<RecordBatch> = stale.read(&picked[0]).await.unwrap();
    let add = stale.write(&rows, picked[0].partition.as_deref()).await.unwrap();
    let doubled = stale.replace(&picked, vec![add], "compactor").await;
    assert!(matches!(doubled, Err(CommitError::Conflict(_))), "{doubled:?}");
    // An appender that has not looked since goes on.
    let mut series = series_of(&table).await;
    assert!(series.is_sorted());
    append(&mut stale, vec![row(50, NOON)], position(Some(8), 9)).await.unwrap();
    table.refresh().await.unwrap();
    series = series_of(&table).await;
    series.sort_unstable();
    let mut expected: Vec<i64> = (0..8).chain(93..=100).chain([50]).collect();
    expected.sort_unstable();
    assert_eq!(series, expected);
}

async fn small_tables_are_sorted_by_their_order(place: Place) {
    let mut table = place.storage().table(&SERIES).await.unwrap();
    let text = || Arc::new(StringArray::from(vec!["b", "a"])) as _;
    let mut columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(Int64Array::from(vec![2, 1]))];
    columns.extend((1..SERIES.columns.len()).map(|_| text()));
    let rows = RecordBatch::try_new(SERIES.schema(), columns).unwrap();
    let add = table.write(&[rows], None).await.unwrap();
    table.append(vec![add], &[]).await.unwrap();
    assert_eq!(series_of(&table).await, [1, 2]);
    let wrong = RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(vec![1.0])) as _)]);
    assert!(table.write(&[wrong.unwrap()], None).await.is_err());
}

async fn single_samples_are_found_among_many(place: Place) {
    let mut table = place.samples().await;
    let rows = (0..400).flat_map(|series| (0..100).map(move |n| row(series * 7, NOON + n)));
    append(&mut table, rows.collect(), position(None, 1)).await.unwrap();
    let (file, finder) = (table.files()[0].clone(), table.finder());
    let find = async |series: &[i64], low, high| {
        let found = finder.find(&file, series.to_vec(), (low, high)).await.unwrap();
        found.iter().map(|row| (row.series, row.at - NOON)).collect::<Vec<_>>()
    };
    assert_eq!(
        find(&[7 * 399, 8, 0], NOON + 98, NOON + 200).await,
        [(0, 98), (0, 99), (7 * 399, 98), (7 * 399, 99)]
    );
    assert_eq!(find(&[7 * 200], NOON + 5, NOON + 5).await, [(7 * 200, 5)]);
    assert_eq!(find(&[1, 2, 3, 5_000], NOON, NOON + 99).await, []);
    assert_eq!(find(&[7], NOON + 100, NOON + 999).await, []);
    assert_eq!(find(&[], NOON, NOON).await, []);
}

/// Each adds its own rows; a commit of one is never over another's.
async fn writers_at_once_take_turns(place: Place) {
    const WRITERS: i64 = 4;
    const EACH: i64 = 6;
    place.samples().await;
    let write = async |writer: i64| {
        let mut table = place.samples().await;
        let mut beaten = 0;
        for n in 0..EACH {
            // All move the same position, so that all but one are in conflict each time.
            loop {
                let from = table.position("ingest/samples/0").await.unwrap();
                let next = from.unwrap_or(0) + 1;
                match append(&mut table, vec![row(writer * EACH + n, NOON)], position(from, next))
                    .await
                {
                    Ok(()) => break,
                    Err(CommitError::Conflict(_)) => beaten += 1,
                    Err(error) => panic!("{error:?}"),
                }
                table.refresh().await.unwrap();
            }
        }
        beaten
    };
    let beaten: i64 = futures::future::join_all((0..WRITERS).map(write)).await.iter().sum();
    assert!(beaten > 0, "they got in each other's way");
    let mut table = place.samples().await;
    let mut series = series_of(&table).await;
    series.sort_unstable();
    assert_eq!(series, (0..WRITERS * EACH).collect::<Vec<_>>());
    assert_eq!(table.position("ingest/samples/0").await.unwrap(), Some(WRITERS * EACH));
    assert_eq!(table.version(), WRITERS * EACH);
}

async fn only_what_nobody_needs_is_deleted(place: Place) {
    let mut table = place.samples().await;
    for n in 0..8 {
        let from = (n > 0).then_some(n);
        append(&mut table, vec![row(n, NOON)], position(from, n + 1)).await.unwrap();
    }
    // Written, but never committed.
    write_samples(&table, vec![row(9, NOON)]).await.unwrap();
    assert_eq!(compact(&mut table, CompactionPolicy::default(), Timestamp(NOON)).await.unwrap(), 8);
    assert_eq!(vacuum(&table, Duration::from_secs(3_600)).await.unwrap(), 0);
    // Some stores tell the time of an object to the second, and so see them old a second late.
    let mut deleted = 0;
    for _ in 0..200 {
        deleted += vacuum(&table, Duration::ZERO).await.unwrap();
        if deleted == 9 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(deleted, 9);
    assert_eq!(vacuum(&table, Duration::ZERO).await.unwrap(), 0);
    assert_eq!(series_of(&place.samples().await).await, (0..8).collect::<Vec<_>>());
}

/// Past checkpoints of the log.
async fn many_commits_are_opened_again(place: Place) {
    let mut table = place.samples().await;
    for n in 0..120 {
        table.append(Vec::new(), &[position((n > 0).then_some(n), n + 1)]).await.unwrap();
    }
    append(&mut table, vec![row(1, NOON)], position(Some(120), 121)).await.unwrap();
    let mut again = place.samples().await;
    assert_eq!(again.version(), 121);
    assert_eq!(again.position("ingest/samples/0").await.unwrap(), Some(121));
    assert_eq!(series_of(&again).await, [1]);
}
