//! The log of a table: what it costs, what others read in it, and what damage does to it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deltalake_core::DeltaTable;
use deltalake_core::logstore::{StorageConfig, logstore_with};
use deltalake_core::table::config::TablePropertiesExt;
use nilometer_contract::Timestamp;
use nilometer_store::{
    CommitError, CompactionPolicy, Position, SAMPLES, Table, compact, write_samples,
};

use crate::place::{Place, everywhere};
use crate::quirk::{Quirk, Quirky, Requests};
use crate::tables::{NOON, row, series_of};

everywhere!(
    a_commit_and_a_look_cost_the_same_at_any_age,
    others_read_what_we_read,
    damage_of_one_commit_is_its_own,
    who_slept_through_a_clean_up_commits_nothing,
);

async fn append(table: &mut Table, n: i64) -> Result<(), CommitError> {
    let adds = write_samples(table, vec![row(n, NOON + n)]).await.unwrap();
    let from = table.position("app").await.unwrap();
    table.append(adds, &[Position { app: "app".to_owned(), from, next: n }]).await
}

async fn grow(table: &mut Table, numbers: std::ops::RangeInclusive<i64>) {
    for n in numbers {
        append(table, n).await.unwrap();
    }
}

fn log_of(place: &Place) -> PathBuf {
    place.folder().join("samples/_delta_log")
}

async fn a_commit_and_a_look_cost_the_same_at_any_age(place: Place) {
    place.samples().await;
    let requests = Arc::new(Requests::default());
    let quirk = || Quirk::Counts(requests.clone());
    let storage = place.storage().through(|store| Arc::new(Quirky { store, quirk: quirk() }));
    let (mut writer, mut reader) = (place.samples().await, place.samples().await);
    let mut costs = BTreeSet::new();
    for n in 1..=230 {
        let of_writer = match n % 30 {
            0 => storage.table(&SAMPLES).await.unwrap(),
            _ => writer,
        };
        writer = of_writer;
        requests.take();
        append(&mut writer, n).await.unwrap();
        if n % 30 == 0 {
            costs.insert(requests.take());
        }
        writer.keep_short().await.unwrap();
        assert!(reader.refresh().await.unwrap());
    }
    // The file, the commit; and one look whether the log was cleaned up.
    assert_eq!(costs, BTreeSet::from([[2, 1, 0]]));
    requests.take();
    let mut reader = storage.table(&SAMPLES).await.unwrap();
    let [puts, gets, lists] = requests.take();
    assert_eq!((puts, lists), (0, 1));
    assert!(gets < 110, "a start reads what came since the checkpoint: {gets}");
    assert!(!reader.refresh().await.unwrap());
    assert_eq!(requests.take(), [0, 1, 0]);
    assert_eq!(reader.files().len(), 230);
}

/// The same table by the reference implementation.
async fn by_others(place: &Place) -> DeltaTable {
    let location = place.storage().root().join("samples/").unwrap();
    let store = place.storage().object_store();
    let store = logstore_with(store, &location, StorageConfig::default()).unwrap();
    let mut table = DeltaTable::new(store);
    table.load().await.unwrap();
    table
}

async fn agree(place: &Place, table: &mut Table) {
    let theirs = by_others(place).await;
    assert_eq!(theirs.version(), Some(table.version() as u64));
    let state = theirs.snapshot().unwrap();
    let told = |path: String, rows: usize, low: String| format!("{path} {rows} {low}");
    let files = state.log_data();
    let files: BTreeSet<String> = files
        .iter()
        .map(|file| {
            let low = file.partition_values_map()["day"].clone().unwrap();
            told(file.object_store_path().to_string(), file.num_records().unwrap(), low)
        })
        .collect();
    let ours = table.files();
    let ours = ours
        .iter()
        .map(|file| told(file.path.clone(), file.rows as usize, file.partition.clone().unwrap()));
    assert_eq!(files, ours.collect());
    let log_store = theirs.log_store();
    for app in ["app", "compactor", "nobody"] {
        let position = state.transaction_version(log_store.as_ref(), app).await.unwrap();
        assert_eq!(position, table.position(app).await.unwrap(), "{app}");
    }
    let statistics = files_of(state).await;
    assert_eq!(statistics, table.files().rows());
}

async fn files_of(state: &deltalake_core::table::state::DeltaTableState) -> u64 {
    state.log_data().iter().map(|file| file.num_records().unwrap_or(0) as u64).sum()
}

async fn others_read_what_we_read(place: Place) {
    let mut table = place.samples().await;
    agree(&place, &mut table).await;
    grow(&mut table, 1..=60).await;
    agree(&place, &mut table).await;
    assert!(compact(&mut table, CompactionPolicy::default(), Timestamp(NOON)).await.unwrap() > 0);
    grow(&mut table, 61..=120).await;
    assert!(table.keep_short().await.unwrap());
    assert!(!table.keep_short().await.unwrap());
    agree(&place, &mut table).await;
    grow(&mut table, 121..=125).await;
    agree(&place, &mut table).await;
    let mut again = place.samples().await;
    agree(&place, &mut again).await;
    assert_eq!(again.version(), table.version());
    assert_eq!(series_of(&again).await.len(), 125);
    let theirs = by_others(&place).await;
    let config = theirs.snapshot().unwrap().table_config();
    let day = Duration::from_secs(86_400);
    assert_eq!(config.log_retention_duration(), day);
    assert_eq!(config.deleted_file_retention_duration(), day);
}

async fn damage_of_one_commit_is_its_own(place: Place) {
    if place.is_remote() {
        return;
    }
    let mut table = place.samples().await;
    grow(&mut table, 1..=9).await;
    let commit = |version: i64| log_of(&place).join(format!("{version:020}.json"));
    std::fs::remove_file(commit(3)).unwrap();
    std::fs::write(commit(6), "{\"add\":{\"pa").unwrap();
    let mut again = place.samples().await;
    assert_eq!(again.version(), 9);
    assert_eq!(again.position("app").await.unwrap(), Some(9));
    let unread: Vec<_> = again.unread().iter().map(|it| it.version).collect();
    assert_eq!(unread, [3, 6]);
    assert!(again.unread()[1].reason.contains("damaged"), "{:?}", again.unread());
    let mut series = series_of(&again).await;
    series.sort_unstable();
    assert_eq!(series, [1, 2, 4, 5, 7, 8, 9]);
    // It goes on, and the first who may says that they are missing.
    grow(&mut again, 10..=10).await;
    assert!(!again.keep_short().await.unwrap());
    again.go_without().await.unwrap();
    agree(&place, &mut again).await;
    assert_eq!(place.samples().await.unread(), []);
    // A damaged checkpoint, or a damaged hint of it, costs nothing.
    let newest = log_of(&place).join(format!("{:020}.checkpoint.parquet", 10));
    grow(&mut again, 11..=12).await;
    again.go_without().await.unwrap();
    let newer = log_of(&place).join(format!("{:020}.checkpoint.parquet", 12));
    assert!(newest.exists() && newer.exists());
    std::fs::write(&newer, "no Parquet").unwrap();
    assert_eq!(place.samples().await.files().len(), 10);
    let hint = log_of(&place).join("_last_checkpoint");
    std::fs::write(&hint, "{").unwrap();
    assert_eq!(place.samples().await.files().len(), 10);
    // Nor does a hint of one that there is not: it was taken for a log that was cleaned up.
    std::fs::write(&hint, r#"{"version":999,"size":1}"#).unwrap();
    let mut again = place.samples().await;
    grow(&mut again, 13..=13).await;
    assert_eq!(again.files().len(), 11);
}

async fn who_slept_through_a_clean_up_commits_nothing(place: Place) {
    if place.is_remote() {
        return;
    }
    let mut asleep = place.samples().await;
    let mut awake = place.samples().await;
    grow(&mut asleep, 1..=1).await;
    awake.refresh().await.unwrap();
    grow(&mut awake, 2..=110).await;
    assert!(awake.keep_short().await.unwrap());
    grow(&mut awake, 111..=220).await;
    assert!(awake.keep_short().await.unwrap());
    assert_eq!(awake.clean_log().await.unwrap(), 0, "nothing is old enough");
    for version in 0..100 {
        std::fs::remove_file(log_of(&place).join(format!("{version:020}.json"))).unwrap();
    }
    let late = append(&mut asleep, 2).await;
    assert!(matches!(late, Err(CommitError::Conflict(_))), "{late:?}");
    assert_eq!(asleep.version(), awake.version(), "it knows better now");
    let late = asleep
        .append(Vec::new(), &[Position { app: "app".to_owned(), from: Some(1), next: 2 }])
        .await;
    assert!(matches!(late, Err(CommitError::Stale { found: Some(220), .. })), "{late:?}");
    assert_eq!(place.samples().await.files().len(), 220);
}
