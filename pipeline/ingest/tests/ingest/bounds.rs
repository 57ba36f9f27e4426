//! At each bound: what is beyond it is a dead letter that names the bound, and the rest goes on.

use std::time::Duration;

use nilometer_contract::{
    BatchBuilder, Change, Labels, LifecycleEvent, Resource, ResourceKind, SAMPLES, Subject,
    Timestamp, encode,
};
use nilometer_ingest::{Bounds, IngestConfig};

use crate::place::{Place, Sample, T0, event, eventually, lines, patient};

const A: Sample<'static> = ("cpu.time", "vm-a", 10, 1.5);
const B: Sample<'static> = ("cpu.time", "vm-b", 20, 2.5);
const C: Sample<'static> = ("cpu.time", "vm-c", 30, 3.5);
const A_LATER: Sample<'static> = ("cpu.time", "vm-a", 40, 4.5);
const DAY: i64 = 86_400;

fn within(bounds: Bounds) -> IngestConfig {
    IngestConfig { bounds, ahead_max: Duration::MAX, ..patient() }
}

/// Stored letters, all of them of this bound.
async fn refused(place: &Place, bound: &str) -> usize {
    let letters = place.stored_in("dead_letters").await;
    let name = format!("ingest.bounds.{bound}");
    assert!(letters.iter().all(|letter| letter.ends_with(&name)), "{letters:#?}");
    letters.len()
}

async fn series_are_bounded(bounds: Bounds, bound: &str) {
    let place = Place::new();
    place.samples(0, &[A, B, C]).await;
    let metrics = place.ingest(within(bounds)).await;
    assert_eq!(metrics.refused.with_label_values(&[bound]).get(), 1);
    assert_eq!(place.stored_in("samples").await, lines(&[A, B]));
    assert_eq!(refused(&place, bound).await, 1);
    // What is stored counts after a restart, and goes on.
    place.samples(0, &[C, A_LATER]).await;
    place.ingest(within(bounds)).await;
    assert_eq!(place.stored_in("samples").await, lines(&[A, B, A_LATER]));
    assert_eq!(refused(&place, bound).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn series() {
    series_are_bounded(Bounds { series: 2, ..Bounds::default() }, "series").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_a_source() {
    let bounds = Bounds { series_per_source: 2, ..Bounds::default() };
    series_are_bounded(bounds, "series_per_source").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_a_project() {
    let bounds = Bounds { series_per_project: 2, ..Bounds::default() };
    series_are_bounded(bounds, "series_per_project").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resources() {
    let place = Place::new();
    for vm in ["vm-a", "vm-b"] {
        place.event(0, &event(Change::Created, vm, 1)).await;
        place.event(0, &event(Change::Deleted, vm, 2)).await;
    }
    let bounds = Bounds { resources: 1, ..Bounds::default() };
    let metrics = place.ingest(within(bounds)).await;
    assert_eq!(metrics.refused.with_label_values(&["resources"]).get(), 2);
    assert_eq!((place.stored_in("events").await.len(), refused(&place, "resources").await), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_resource_and_still_it_ends() {
    let place = Place::new();
    for second in 0..4 {
        place.event(0, &event(Change::Created, "vm-a", second)).await;
    }
    place.event(0, &event(Change::Deleted, "vm-a", 9)).await;
    place.event(0, &event(Change::Created, "vm-b", 1)).await;
    let bounds = Bounds { changes_per_resource: 2, ..Bounds::default() };
    place.ingest(within(bounds)).await;
    assert_eq!(refused(&place, "changes_per_resource").await, 2);
    let running = place.start(patient()).await;
    {
        let history = running.tables.shared.history.read().unwrap();
        assert!(history.get("vm-a").unwrap().latest().unwrap().end.is_some());
        assert!(history.get("vm-b").unwrap().latest().unwrap().end.is_none());
    }
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sources_of_a_resource() {
    let place = Place::new();
    for source in ["a", "b", "c", "a", "c"] {
        let created = event(Change::Created, "vm-a", 1);
        place.event(0, &LifecycleEvent { source: source.to_owned(), ..created }).await;
    }
    place.event(0, &event(Change::Created, "vm-b", 1)).await;
    let bounds = Bounds { sources_per_resource: 2, ..Bounds::default() };
    let metrics = place.ingest(within(bounds)).await;
    assert_eq!(metrics.refused.with_label_values(&["sources_per_resource"]).get(), 2);
    assert_eq!(refused(&place, "sources_per_resource").await, 2);
    assert_eq!(place.stored_in("events").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn days_of_a_record_and_of_a_commit() {
    let place = Place::new();
    let bounds = Bounds { days_per_commit: 4, ..Bounds::default() };
    let on = |day: i64| ("cpu.time", "vm-a", day * DAY, day as f64);
    let poison: Vec<Sample<'_>> = (0..40).map(on).collect();
    place.samples(0, &poison).await;
    place.ingest(within(bounds)).await;
    assert_eq!(refused(&place, "days_per_commit").await, 36);
    assert_eq!(place.stored_in("samples").await, lines(&poison[..4]));
    // One day a record: all are taken, with a commit for each four.
    for &sample in &poison[4..24] {
        place.samples(0, &[sample]).await;
    }
    let running = place.start(within(bounds)).await;
    eventually("it commits by itself", async || running.metrics.commits.get() >= 4).await;
    running.has_read(20).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&poison[..24]));
    let log = std::fs::read_dir(place.tables_folder().join("samples/_delta_log")).unwrap();
    for commit in log {
        let text = std::fs::read_to_string(commit.unwrap().path()).unwrap();
        let adds = text.lines().filter(|line| line.starts_with(r#"{"add""#)).count();
        assert!(adds <= 4, "{text}");
    }
    assert_eq!(refused(&place, "days_per_commit").await, 36);
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_changes_of_one_resource_hold_nothing_up() {
    const CHANGES: i64 = 20_000;
    let place = Place::new();
    place.create_topics().await;
    let to = nilometer_log::TopicPartition { topic: "nilometer.events".to_owned(), partition: 0 };
    let records = (0..CHANGES).rev().map(|second| {
        let mut event = event(Change::Changed, "vm-a", second);
        event.resource.project = format!("p{}", second % 7);
        event.encode().unwrap().into()
    });
    let log: &dyn nilometer_log::Log = &place.log;
    for some in records.collect::<Vec<bytes::Bytes>>().chunks(500) {
        log.append(&to, some.to_vec()).await.unwrap();
    }
    place.samples(0, &[A]).await;
    let config = IngestConfig { stop_deadline: Duration::from_secs(60), ..patient() };
    let running = place.start(config).await;
    eventually("all are applied", async || running.metrics.events.get() == CHANGES as u64).await;
    eventually("it is ready", async || running.metrics.readiness().is_ok()).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("events").await.len(), CHANGES as usize);
    assert_eq!(place.stored_in("samples").await, lines(&[A]));
}

/// Records of one meter of one resource, each sample with another value of a label.
fn labelled(values: std::ops::Range<usize>) -> Vec<Vec<u8>> {
    let mut builder = BatchBuilder::new("gateway");
    let mut resource = Resource::new("api", ResourceKind::SERVICE);
    resource.project = "acme".to_owned();
    for value in values {
        let labels = Labels::new([("request", value.to_string())]).unwrap();
        let subject = builder.subject(Subject::from(&resource).with_labels(labels));
        builder.push_named(subject, "requests", Timestamp::from_seconds(T0 + 1), 1.0);
    }
    encode(&builder.build()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_label_are_bounded_and_the_offender_is_named() {
    let place = Place::new();
    let bounds = Bounds { values_per_label: 100, ..Bounds::default() };
    let records = labelled(0..50_000);
    assert!(records.len() > 1);
    for record in records {
        place.append(SAMPLES, 0, record).await;
    }
    place.samples(1, &[("cpu.time", "vm-a", 10, 1.5)]).await;
    let running = place.start(within(bounds)).await;
    eventually("all is read", async || running.metrics.dead_letters.get() == 49_900).await;
    let index = running.tables.shared.index.clone();
    assert_eq!(index.read().unwrap().len(), 101, "one series of another goes on");
    running.stop().await.unwrap();
    let letters = place.stored_in("dead_letters").await;
    assert_eq!(letters.len(), 49_900);
    let reason = "100 values of label request are known from source gateway in project \"acme\", \
                  and this is another: ingest.bounds.values_per_label";
    assert!(letters[0].ends_with(reason), "{}", letters[0]);
    // A restart learns from the table which values there are.
    for record in labelled(99..101) {
        place.append(SAMPLES, 0, record).await;
    }
    let metrics = place.ingest(within(bounds)).await;
    assert_eq!(metrics.dead_letters.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn learnt_meters_are_bounded() {
    let place = Place::new();
    let bounds = Bounds { learnt_meters: 1, ..Bounds::default() };
    let sample = |meter| (meter, "vm-a", 10, 1.5);
    place.samples(0, &[sample("my.first"), sample("my.second"), sample("cpu.time")]).await;
    place.ingest(within(bounds)).await;
    let expected = lines(&[sample("my.first"), sample("cpu.time")]);
    assert_eq!(place.stored_in("samples").await.len(), expected.len());
    let letters = place.stored_in("dead_letters").await;
    assert!(letters[0].ends_with("my.second is another: ingest.bounds.learnt_meters"));
}
