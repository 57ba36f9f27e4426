//! Compaction, retention and vacuum beside an ingester and readers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use nilometer_contract::Timestamp;
use nilometer_ingest::{IngestConfig, Metrics, maintain};
use nilometer_store::{CompactionPolicy, SAMPLES, Storage, compact};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

use crate::bucket::everywhere;
use crate::faults::{Death, Faults};
use crate::place::{Place, T0, eventually, hasty, lines, patient};

/// Three files are enough for a merge.
fn few() -> CompactionPolicy {
    CompactionPolicy { fan_in: 3, ..CompactionPolicy::default() }
}

fn later() -> Timestamp {
    Timestamp::from_seconds(T0 + 86_400)
}

everywhere!(merging_and_deleting_files_changes_no_answer);

async fn data_files(storage: &Storage) -> usize {
    let samples = Path::from_url_path(storage.root().path()).unwrap().join("samples");
    let objects: Vec<_> = storage.object_store().list(Some(&samples)).try_collect().await.unwrap();
    let path = |object: &ObjectMeta| object.location.to_string();
    let data = |path: &String| path.ends_with(".parquet") && !path.contains("/_delta_log/");
    objects.iter().map(path).filter(data).count()
}

async fn merging_and_deleting_files_changes_no_answer(place: Place) {
    let config = IngestConfig {
        compaction: few(),
        maintenance_interval: Duration::from_millis(10),
        // Longer than any look at the files takes.
        vacuum_after: Duration::from_secs(5),
        refresh_interval: Duration::from_millis(50),
        ..hasty()
    };
    let running = place.start(config.clone()).await;
    let (storage, cancel) = (place.storage(), CancellationToken::new());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let now = Arc::new(later);
    let upkeep = tokio::spawn(maintain(storage, config, metrics.clone(), now, cancel.clone()));
    let (mut sent, mut seen) = (Vec::new(), 0);
    for n in 0..60 {
        let sample = ("cpu.time", if n % 3 == 0 { "vm-a" } else { "vm-b" }, n, n as f64);
        place.samples((n % 2) as u32, &[sample]).await;
        sent.push(sample);
        let rows = place.seen(&running.tables, "samples").await;
        assert_eq!(rows.iter().collect::<BTreeSet<_>>().len(), rows.len(), "no row twice");
        assert!(rows.len() >= seen, "no row is gone: {} of {seen}", rows.len());
        seen = rows.len();
    }
    let all = lines(&sent);
    eventually("all is seen", async || place.seen(&running.tables, "samples").await == all).await;
    eventually("old files are deleted", async || {
        let live = place.storage().table(&SAMPLES).await.unwrap().files().len();
        live < 10 && data_files(&place.storage()).await == live
    })
    .await;
    assert_eq!(place.seen(&running.tables, "samples").await, all);
    assert!(metrics.compacted_files.get() > 30);
    cancel.cancel();
    upkeep.await.unwrap().unwrap();
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, all);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_ingester_follows_what_others_commit() {
    let place = Place::new();
    for n in 0..3 {
        place.samples(0, &[("cpu.time", "vm-a", n, 0.0)]).await;
        place.ingest(patient()).await;
    }
    let config = IngestConfig { refresh_interval: Duration::from_millis(20), ..patient() };
    let running = place.start(config).await;
    let files = || running.tables.now().tables["samples"].files.len();
    assert_eq!(files(), 3);
    let mut table = place.storage().table(&SAMPLES).await.unwrap();
    assert_eq!(compact(&mut table, few(), later()).await.unwrap(), 3);
    eventually("it sees the merged file", async || files() == 1).await;
    assert_eq!(place.seen(&running.tables, "samples").await.len(), 3);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compactor_that_dies_at_any_write_changes_no_row() {
    for (put, how) in (0..4).flat_map(|put| [(put, Death::Before), (put, Death::After)]) {
        let place = Place::new();
        let sent: Vec<_> = (0..4).map(|n| ("cpu.time", "vm-a", n, n as f64)).collect();
        for sample in &sent {
            place.samples(0, &[*sample]).await;
            place.ingest(patient()).await;
        }
        let faults = Faults::dying_at(put, how);
        let dying = place.storage().through(|store| faults.over(store));
        let mut table = dying.table(&SAMPLES).await.unwrap();
        let done = compact(&mut table, few(), later()).await;
        assert_eq!(done.is_err(), faults.is_dead(), "death at write {put}, {how:?}: {done:?}");
        assert_eq!(place.stored().await, lines(&sent), "death at write {put}, {how:?}");
        let mut table = place.storage().table(&SAMPLES).await.unwrap();
        compact(&mut table, few(), later()).await.unwrap();
        assert_eq!(table.files().len(), 1);
        assert_eq!(place.stored().await, lines(&sent));
    }
}

/// Maintenance under a clock, until it has gone round some times.
pub(crate) async fn go_round(place: &Place, kept_days: u64, now: Timestamp) -> Metrics {
    let kept = Duration::from_secs(kept_days * 86_400);
    let config = IngestConfig {
        maintenance_interval: Duration::from_millis(1),
        expiry_interval: Duration::ZERO,
        expiry_parts: 1,
        retention: [("samples", kept), ("events", kept)].into(),
        ..patient()
    };
    let (storage, cancel) = (place.storage(), CancellationToken::new());
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let rounds = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = rounds.clone();
    let clock = Arc::new(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        now
    });
    let upkeep = tokio::spawn(maintain(storage, config, metrics.clone(), clock, cancel.clone()));
    eventually("it goes round", async || rounds.load(std::sync::atomic::Ordering::SeqCst) > 50)
        .await;
    cancel.cancel();
    upkeep.await.unwrap().unwrap();
    metrics
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_ahead_lets_nothing_expire() {
    let place = Place::new();
    let sent: Vec<_> = (0..4).map(|day| ("cpu.time", "vm-a", day * 86_400, day as f64)).collect();
    for sample in &sent {
        place.samples(0, &[*sample]).await;
        place.ingest(patient()).await;
    }
    let far = Timestamp::from_seconds(T0 + 500 * 86_400);
    let metrics = go_round(&place, 30, far).await;
    assert_eq!(metrics.expired_rows.get(), 0);
    assert_eq!(place.stored_in("samples").await, lines(&sent));
    // What is held stays, whatever its age.
    let mut samples = place.storage().table(&SAMPLES).await.unwrap();
    samples.hold("billing", Timestamp::from_seconds(T0 + 86_400)).await.unwrap();
    let metrics = go_round(&place, 2, far).await;
    assert_eq!(metrics.expired_rows.get(), 1);
    samples.refresh().await.unwrap();
    samples.hold("billing", far).await.unwrap();
    let metrics = go_round(&place, 2, far).await;
    assert_eq!(metrics.expired_rows.get(), 1);
    assert_eq!(place.stored_in("samples").await, lines(&sent[2..]));
    let gaps = place.stored_in("gaps").await;
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert!(gaps.iter().all(|gap| gap.contains("older than the 2 days")), "{gaps:?}");
}
