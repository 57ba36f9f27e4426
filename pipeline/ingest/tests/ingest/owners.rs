//! Several ingesters of the same tables: one owns them, the others wait or are refused.

use std::time::Duration;

use nilometer_contract::{Change, SAMPLES};
use nilometer_ingest::{IngestConfig, IngestError};
use nilometer_store::LeaseConfig;

use crate::bucket::everywhere;
use crate::faults::Faults;
use crate::follow::busy;
use crate::place::{Place, Running, Sample, event, eventually, hasty, lines};

const A: Sample<'static> = ("cpu.time", "vm-a", 10, 1.5);
const B: Sample<'static> = ("memory.usage", "vm-b", 20, 2.5);

everywhere!(
    a_second_ingester_waits_follows_and_takes_over,
    a_frozen_ingester_loses_the_tables_after_its_term,
    of_ingesters_that_start_at_once_one_owns_the_tables,
);

fn short_term() -> IngestConfig {
    let lease = LeaseConfig { term: Duration::from_millis(600), wait: true };
    IngestConfig { lease, ..hasty() }
}

async fn owns(running: &Running) {
    eventually("it owns the tables", async || running.metrics.owner.get() == 1).await;
}

async fn has_all(place: &Place, samples: &[Sample<'_>]) {
    eventually("all is stored", async || place.missing().await == 0).await;
    assert_eq!(place.stored_in("samples").await, lines(samples));
    assert_eq!(place.stored_in("events").await.len(), samples.len());
    assert_eq!(place.stored_in("dead_letters").await.len(), samples.len());
}

async fn a_second_ingester_waits_follows_and_takes_over(place: Place) {
    place.create_topics().await;
    let first = place.start(hasty()).await;
    owns(&first).await;
    let second = place.start(short_term()).await;
    let mut samples = busy(&place).await;
    eventually("it sees what the first stores", async || {
        place.seen(&second.tables, "samples").await == lines(&samples)
    })
    .await;
    let why = second.metrics.readiness().unwrap_err();
    assert!(why.contains("owned by `nilometer ingest`, process "), "{why}");
    assert!(why.contains("waiting for it"), "{why}");
    assert_eq!(second.metrics.owner.get(), 0);
    first.stop().await.unwrap();
    owns(&second).await;
    // Of a series that the first never saw, and one that both know.
    let more = [("memory.usage", "vm-c", 50, 1.0), ("cpu.time", "vm-a", 51, 2.0)];
    for (n, sample) in more.into_iter().enumerate() {
        place.samples(0, &[sample]).await;
        place.append(SAMPLES, 0, "garbage").await;
        place.event(0, &event(Change::Created, &format!("more-{n}"), 60)).await;
        samples.push(sample);
    }
    has_all(&place, &samples).await;
    eventually("it is ready", async || second.metrics.readiness().is_ok()).await;
    second.stop().await.unwrap();
    // Given back, so that the next need not wait.
    place.start(IngestConfig { lease: refusing(), ..hasty() }).await.stop().await.unwrap();
    assert_eq!(series_stored(&place).await, 3);
}

async fn series_stored(place: &Place) -> usize {
    let series = place.storage().table(&nilometer_store::SERIES).await.unwrap();
    series.files().iter().map(|file| file.rows as usize).sum()
}

async fn a_frozen_ingester_loses_the_tables_after_its_term(place: Place) {
    let faults = Faults::default();
    let storage = place.storage().through(|store| faults.over(store));
    let frozen = place.start_on(short_term(), storage).await;
    owns(&frozen).await;
    place.samples(0, &[A]).await;
    eventually("it commits", async || frozen.metrics.commits.get() > 0).await;
    faults.freeze(true);
    place.samples(1, &[B]).await;
    place.append(SAMPLES, 1, "garbage").await;
    place.event(1, &event(Change::Created, "vm-b", 1)).await;
    eventually("it has read them", async || frozen.read() >= 4).await;
    let second = place.start(short_term()).await;
    owns(&second).await;
    eventually("all is stored", async || place.missing().await == 0).await;
    let stored = place.stored().await;
    faults.freeze(false);
    let why = frozen.task.await.unwrap();
    assert!(matches!(why, Err(IngestError::Overtaken(_) | IngestError::Lease(_))), "{why:?}");
    second.stop().await.unwrap();
    assert_eq!(place.stored().await, stored);
    assert_eq!(place.stored_in("samples").await, lines(&[A, B]));
    assert_eq!((series_stored(&place).await, place.stored_in("dead_letters").await.len()), (2, 1));
}

async fn of_ingesters_that_start_at_once_one_owns_the_tables(place: Place) {
    place.create_topics().await;
    let start = || place.start(hasty());
    let (samples, running) =
        tokio::join!(busy(&place), futures::future::join_all([start(), start(), start()]));
    has_all(&place, &samples).await;
    let owners: i64 = running.iter().map(|one| one.metrics.owner.get()).sum();
    assert_eq!(owners, 1);
    for one in running {
        one.stop().await.unwrap();
    }
    has_all(&place, &samples).await;
}

fn refusing() -> LeaseConfig {
    LeaseConfig { wait: false, ..LeaseConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ingester_may_be_refused_by_name_and_the_first_goes_on() {
    let place = Place::new();
    place.samples(0, &[A]).await;
    let first = place.start(hasty()).await;
    owns(&first).await;
    let config = IngestConfig { lease: refusing(), ..hasty() };
    let why = place.try_start(config, place.storage()).await.err().unwrap();
    let text = why.to_string();
    assert!(matches!(why, IngestError::Owned(_)), "{why:?}");
    assert!(text.contains(&format!("process {} on ", std::process::id())), "{text}");
    place.samples(1, &[B]).await;
    eventually("all is stored", async || place.missing().await == 0).await;
    first.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&[A, B]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_within_its_deadline_and_the_log_keeps_the_rest() {
    let place = Place::new();
    let faults = Faults::default();
    let config = IngestConfig { stop_deadline: Duration::from_millis(200), ..hasty() };
    let storage = place.storage().through(|store| faults.over(store));
    let running = place.start_on(config, storage).await;
    faults.refuse_puts(true);
    place.samples(0, &[A]).await;
    eventually("commits fail", async || running.metrics.commit_failures.get() > 0).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await.len(), 0);
    faults.refuse_puts(false);
    place.ingest(hasty()).await;
    assert_eq!(place.stored_in("samples").await, lines(&[A]));
}
