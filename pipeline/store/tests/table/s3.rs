//! What only object stores do: refuse, forget, and be the wrong one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::TryStreamExt;
use nilometer_clock::SystemClock;
use nilometer_store::{
    CommitError, PlaceError, Position, Row, SAMPLES, Storage, StorageConfig, StoreError, Table,
    write_samples,
};
use object_store::path::Path;

use crate::place::Place;
use crate::quirk::{Quirk, Quirky};
use crate::tables::{NOON, row, series_of};

fn quirky(storage: Storage, quirk: Quirk) -> Storage {
    storage.through(|store| Arc::new(Quirky { store, quirk }))
}

/// Why no table can be had there.
async fn refused(storage: Storage) -> PlaceError {
    match storage.table(&SAMPLES).await.map(|table| table.version()) {
        Err(StoreError::Location { cause, .. }) => *cause.downcast().unwrap(),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_conditional_puts_is_refused() {
    let Some(place) = Place::s3() else { return };
    let why = refused(quirky(place.storage(), Quirk::Overwrites)).await;
    assert!(matches!(why, PlaceError::Unconditional), "{why:?}");
    assert!(why.to_string().contains("If-None-Match"), "{why}");
    let root = Path::from_url_path(place.storage().root().path()).unwrap();
    let left = place.storage().object_store().list(Some(&root)).try_collect::<Vec<_>>().await;
    assert!(left.unwrap().is_empty(), "nothing stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_can_read() {
    let Some(place) = Place::s3() else { return };
    append(&mut place.samples().await, row(1, NOON), (None, 1)).await.unwrap();
    let mut table = quirky(place.storage(), Quirk::Denies).table(&SAMPLES).await.unwrap();
    assert_eq!(series_of(&table).await, [1]);
    let denied = append(&mut table, row(2, NOON), (Some(1), 2)).await;
    assert!(matches!(denied, Err(CommitError::Store(_))), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_are_explained() {
    let Some(place) = Place::s3() else { return };
    let with = |key: &str, value: &str| {
        let mut config = place.config.clone();
        config.options.insert(key.to_owned(), value.to_owned());
        Storage::open(&config, Arc::new(SystemClock)).unwrap()
    };
    let why = refused(with("aws_secret_access_key", "wrong")).await;
    assert!(matches!(why, PlaceError::Refused(_)), "{why:?}");
    let answer = std::error::Error::source(&why).unwrap().to_string();
    assert!(answer.starts_with("SignatureDoesNotMatch: "), "{answer}");
    let location = "s3://no-such-bucket/tables".to_owned();
    let elsewhere = StorageConfig { location, ..place.config.clone() };
    let why = refused(Storage::open(&elsewhere, Arc::new(SystemClock)).unwrap()).await;
    assert!(matches!(why, PlaceError::NoBucket(_)), "{why:?}");
    let why = refused(with("aws_endpoint", "http://127.0.0.1:9")).await;
    assert!(matches!(why, PlaceError::Unwell(_)), "{why:?}");
}

async fn append(
    table: &mut Table,
    row: Row,
    (from, next): (Option<i64>, i64),
) -> Result<(), CommitError> {
    let adds = write_samples(table, vec![row]).await.unwrap();
    table.append(adds, &[Position { app: "app".to_owned(), from, next }]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_no_conflict() {
    let place = Place::local();
    let mut table = place.samples().await;
    append(&mut table, row(1, NOON), (None, 1)).await.unwrap();
    let losses = Arc::new(AtomicUsize::new(0));
    let storage = quirky(place.storage(), Quirk::LosesAnswers(losses.clone()));
    let mut forgetful = storage.table(&SAMPLES).await.unwrap();
    // With positions, and with none that Delta could tell the commit by.
    losses.store(1, Ordering::SeqCst);
    append(&mut forgetful, row(2, NOON), (Some(1), 2)).await.unwrap();
    assert_eq!(forgetful.position("app").await.unwrap(), Some(2));
    losses.store(1, Ordering::SeqCst);
    let adds = write_samples(&forgetful, vec![row(3, NOON)]).await.unwrap();
    forgetful.append(adds, &[]).await.unwrap();
    append(&mut forgetful, row(4, NOON), (Some(2), 3)).await.unwrap();
    table.refresh().await.unwrap();
    for table in [&table, &forgetful] {
        let mut series = series_of(table).await;
        series.sort_unstable();
        assert_eq!(series, [1, 2, 3, 4]);
    }
    // A commit that another made meanwhile is none of ours.
    append(&mut table, row(5, NOON), (Some(3), 4)).await.unwrap();
    let late = append(&mut forgetful, row(5, NOON), (Some(3), 4)).await;
    assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
}
