//! Samples: visible at once, stored once, whatever is sent again.

use std::time::Duration;

use nilometer_contract::{SAMPLES, Timestamp, encode};
use nilometer_ingest::IngestConfig;

use crate::bucket::everywhere;
use crate::faults::Faults;
use crate::place::{Place, Sample, T0, batch, eventually, hasty, line, lines, patient};

const A: Sample<'static> = ("cpu.time", "vm-a", 10, 1.5);
const B: Sample<'static> = ("cpu.time", "vm-b", 10, 2.0);
const C: Sample<'static> = ("memory.usage", "vm-a", 20, 4096.0);

everywhere!(a_restart_goes_on_where_it_stopped, what_is_sent_again_changes_nothing,);

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_is_seen_before_it_is_stored_and_then_once() {
    let place = Place::new();
    let config = IngestConfig { commit_interval: Duration::from_secs(1), ..patient() };
    let running = place.start(config).await;
    place.samples(0, &[A, C]).await;
    place.samples(1, &[B]).await;
    let memory = || running.tables.now().tables["samples"].memory.len();
    eventually("samples are seen", async || {
        place.seen(&running.tables, "samples").await == lines(&[A, B, C])
    })
    .await;
    assert!(memory() > 0, "they are seen before they are in a file");
    assert_eq!(running.tables.now().newest, Timestamp::from_seconds(T0 + 20));
    // Every view on the way shows each row once.
    eventually("samples are stored", async || {
        assert_eq!(place.seen(&running.tables, "samples").await, lines(&[A, B, C]));
        memory() == 0
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&[A, B, C]));
}

async fn a_restart_goes_on_where_it_stopped(place: Place) {
    place.samples(0, &[A]).await;
    assert_eq!(place.ingest(patient()).await.samples.get(), 1);
    place.samples(0, &[C]).await;
    let metrics = place.ingest(patient()).await;
    assert_eq!((metrics.samples.get(), metrics.repeats.get()), (1, 0));
    assert_eq!(metrics.records.with_label_values(&[SAMPLES]).get(), 1);
    assert_eq!(place.stored_in("samples").await, lines(&[A, C]));
    let running = place.start(patient()).await;
    assert_eq!(place.seen(&running.tables, "samples").await, lines(&[A, C]));
    assert_eq!(running.tables.shared.index.read().unwrap().len(), 2);
    running.stop().await.unwrap();
}

async fn what_is_sent_again_changes_nothing(place: Place) {
    place.samples(0, &[A, C]).await;
    place.samples(0, &[A, C]).await;
    let metrics = place.ingest(patient()).await;
    assert_eq!((metrics.samples.get(), metrics.repeats.get()), (2, 2));
    // After a restart, with identities kept in memory, and with all of them looked up in files.
    for window in [Duration::from_secs(3_600), Duration::ZERO] {
        place.samples(0, &[C, A]).await;
        let config = IngestConfig { identity_window: window, ..patient() };
        let metrics = place.ingest(config).await;
        assert_eq!((metrics.samples.get(), metrics.repeats.get()), (0, 2));
    }
    assert_eq!(place.stored().await, lines(&[A, C]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_again_while_it_is_being_stored_changes_nothing() {
    let place = Place::new();
    let faults = Faults::default();
    let running = place.start_on(hasty(), place.storage().through(|s| faults.over(s))).await;
    faults.refuse_puts(true);
    place.samples(0, &[A, C]).await;
    eventually("a flush is under way", async || running.metrics.commit_failures.get() > 0).await;
    place.samples(0, &[C, B, A]).await;
    eventually("all is seen", async || {
        place.seen(&running.tables, "samples").await == lines(&[A, B, C])
    })
    .await;
    assert_eq!(running.metrics.repeats.get(), 2);
    faults.refuse_puts(false);
    running.stop().await.unwrap();
    assert_eq!(place.stored().await, lines(&[A, B, C]));
}

#[tokio::test(flavor = "multi_thread")]
async fn late_samples_are_admitted() {
    let place = Place::new();
    let late = |second| ("cpu.time", "vm-a", second, second as f64);
    place.samples(0, &[late(1_000)]).await;
    place.samples(0, &[late(500), late(499)]).await;
    place.ingest(patient()).await;
    // After a restart too, and before all that identities are kept of.
    place.samples(0, &[late(600), late(400), late(500)]).await;
    let config = IngestConfig { identity_window: Duration::from_secs(1), ..patient() };
    let metrics = place.ingest(config).await;
    assert_eq!((metrics.samples.get(), metrics.repeats.get()), (2, 1));
    let all = [late(1_000), late(500), late(499), late(600), late(400)];
    assert_eq!(place.stored().await, lines(&all));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_value_under_the_same_identity_is_a_dead_letter() {
    let place = Place::new();
    let other = ("cpu.time", "vm-a", 10, 9.0);
    place.samples(0, &[A, C]).await;
    place.samples(0, &[other]).await;
    place.ingest(patient()).await;
    place.samples(0, &[C, other]).await;
    place.ingest(patient()).await;
    let reason =
        "another value is stored under the same meter, resource, labels, source and instant";
    let mut expected = lines(&[A, C]);
    expected.push(format!("dead_letters {SAMPLES} 0 1 0 {reason}"));
    expected.push(format!("dead_letters {SAMPLES} 0 2 1 {reason}"));
    assert_eq!(place.stored().await, expected);
}

/// The line of a stored sample of another source than those of [`line`].
fn line_of(source: &str, (meter, resource, second, value): Sample<'_>) -> String {
    let (kind, project, node, labels) = ("vm", "p", "n", "");
    let series =
        nilometer_store::Description { meter, resource, kind, project, node, source, labels };
    format!("samples {} {} {value:?}", series.id(), Timestamp::from_seconds(T0 + second))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_samples_of_another_source_are_kept_beside() {
    let place = Place::new();
    place.samples(0, &[A]).await;
    let others = ("cpu.time", "vm-a", 10, 9.0);
    for (sample, source) in [(A, "other"), (others, "third"), (others, "third")] {
        let mut batch = batch(&[sample]);
        batch.source = source.to_owned();
        for record in encode(&batch).unwrap() {
            place.append(SAMPLES, 0, record).await;
        }
    }
    let metrics = place.ingest(patient()).await;
    assert_eq!((metrics.samples.get(), metrics.repeats.get()), (3, 1));
    let mut expected = vec![line(A), line_of("other", A), line_of("third", others)];
    expected.sort();
    assert_eq!(place.stored().await, expected, "no conflict, nothing lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_looked_up_now_is_settled_later() {
    let place = Place::new();
    place.samples(0, &[A, C]).await;
    place.ingest(patient()).await;
    place.samples(0, &[C, B]).await;
    let faults = Faults::default();
    let config = IngestConfig { identity_window: Duration::ZERO, ..hasty() };
    let running = place.start_on(config, place.storage().through(|s| faults.over(s))).await;
    faults.refuse_gets(true);
    place.samples(0, &[A]).await;
    running.has_read(2).await;
    faults.refuse_gets(false);
    eventually("it is settled", async || running.metrics.repeats.get() == 2).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored().await, lines(&[A, B, C]));
}
