//! What is not a sample: dead letters, gaps, events, decisions, the audit.

use std::time::Duration;

use arrow::array::StringArray;
use nilometer_contract::{
    BatchBuilder, Change, DEAD_LETTERS, EVENTS, GAPS, MeterKind, Resource, ResourceKind, SAMPLES,
    Statement, Timestamp, encode,
};
use nilometer_ingest::IngestConfig;
use nilometer_log::{Log, TopicPartition};
use nilometer_testbed::fed::{AUDIT, DECISIONS, audit};

use crate::bucket::everywhere;
use crate::faults::Faults;
use crate::place::{Place, T0, batch, event, eventually, gap, hasty, lines, patient};

const A: (&str, &str, i64, f64) = ("cpu.time", "vm-a", 10, 1.5);
const B: (&str, &str, i64, f64) = ("cpu.time", "vm-b", 20, 2.5);

everywhere!(gaps_decisions_and_the_audit_land_in_their_tables);

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_stored_is_a_dead_letter_and_the_rest_goes_on() {
    let place = Place::new();
    place.append(SAMPLES, 0, "garbage").await;
    let mut unknown = batch(&[A]);
    unknown.meters.name = StringArray::from(vec!["no meter's name"]);
    place.append(SAMPLES, 0, encode(&unknown).unwrap().remove(0)).await;
    let mut odd = batch(&[A, B, ("cpu.time", "vm-c", 30, 3.0)]);
    odd.value = vec![f64::NAN, 2.5, 3.0].into();
    odd.at = vec![odd.at[0], odd.at[1], -5].into();
    place.append(SAMPLES, 0, encode(&odd).unwrap().remove(0)).await;
    place.append(EVENTS, 1, "{}").await;
    place.append(DECISIONS, 0, "[]").await;
    place.append(AUDIT, 0, r#"{"at":"soon"}"#).await;
    place.samples(0, &[A]).await;
    let running = place.start(hasty()).await;
    eventually("letters are copied", async || place.records_of(DEAD_LETTERS).await.len() >= 7)
        .await;
    assert_eq!(running.metrics.dead_letters.get(), 7);
    assert_eq!(place.seen(&running.tables, "dead_letters").await.len(), 7);
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&[A, B]));
    let letters = place.stored_in("dead_letters").await;
    for (letter, expected) in letters.iter().zip([
        "nilometer.audit 0 0 -1 not an audit record: ",
        "nilometer.decisions 0 0 -1 ",
        "nilometer.events 1 0 -1 not a CloudEvent",
        "nilometer.samples 0 0 -1 not an Arrow IPC stream",
        "nilometer.samples 0 1 0 \"no meter's name\" is no name of a meter: ",
        "nilometer.samples 0 2 0 the value is not finite",
        "nilometer.samples 0 2 2 the instant 1969-12-31T23:59:59.999995Z lies outside the years 2000",
    ]) {
        assert!(letter.starts_with(&format!("dead_letters {expected}")), "{letter}");
    }
    let copies = place.records_of(DEAD_LETTERS).await;
    let garbage = copies.iter().any(|copy| {
        let copy: serde_json::Value = serde_json::from_slice(&copy.payload).unwrap();
        copy["topic"] == SAMPLES && copy["offset"] == 0 && copy["payload"] == "garbage"
    });
    assert!(garbage, "a copy says what it is a copy of");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumped_ahead_does_not_take_the_others_along() {
    let place = Place::new();
    place.samples(0, &[A, ("cpu.time", "vm-b", 7_200, 1.0)]).await;
    let config = IngestConfig { ahead_max: Duration::from_secs(3_600), ..patient() };
    let running = place.start(config).await;
    running.has_read(1).await;
    eventually("it is seen", async || {
        running.tables.now().newest == Timestamp::from_seconds(T0 + 10)
    })
    .await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("dead_letters").await.len(), 1);
    assert_eq!(place.stored_in("samples").await, lines(&[A]));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_gone_from_the_log_are_a_gap() {
    let place = Place::new();
    for second in 0..3 {
        place.samples(0, &[("cpu.time", "vm-a", second, 0.0)]).await;
    }
    place.ingest(patient()).await;
    for second in 3..8 {
        place.samples(0, &[("cpu.time", "vm-a", second, 0.0)]).await;
    }
    let at = TopicPartition { topic: SAMPLES.to_owned(), partition: 0 };
    place.log.truncate(&at, 6).await.unwrap();
    let metrics = place.ingest(patient()).await;
    assert_eq!((metrics.gaps.get(), metrics.samples.get()), (1, 2));
    let gap = "gaps nilometer.samples 0 3 records 3 to 5 are gone from the log";
    assert_eq!(place.stored_in("gaps").await, [gap]);
    assert_eq!(place.stored_in("samples").await.len(), 5);
    // Nothing left to read: the gap alone moves the position.
    place.samples(0, &[A]).await;
    place.log.truncate(&at, 9).await.unwrap();
    let running = place.start(hasty()).await;
    eventually("the gap is stored", async || place.stored_in("gaps").await.len() == 2).await;
    running.stop().await.unwrap();
    place.ingest(patient()).await;
    assert_eq!(place.stored_in("gaps").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_stored_once_and_history_comes_back() {
    let place = Place::new();
    let created = event(Change::Created, "vm-a", 1);
    for event in [&created, &event(Change::Deleted, "vm-a", 62), &created] {
        place.event(1, event).await;
    }
    let metrics = place.ingest(patient()).await;
    assert_eq!(metrics.events.get(), 2);
    place.event(1, &created).await;
    place.event(0, &event(Change::Created, "vm-b", 5)).await;
    let running = place.start(patient()).await;
    running.has_read(2).await;
    eventually("both are seen", async || place.seen(&running.tables, "events").await.len() == 3)
        .await;
    let lives = |running: &crate::place::Running| {
        let history = running.tables.shared.history.read().unwrap();
        let mut lives: Vec<_> = history
            .iter()
            .flat_map(|(id, life)| life.segments().iter().map(move |s| (id.to_owned(), s.clone())))
            .collect();
        lives.sort_by_key(|(id, segment)| (id.clone(), segment.start));
        lives
    };
    let before = lives(&running);
    assert_eq!(before.len(), 2);
    assert_eq!(before[0].1.end.unwrap().0 - before[0].1.start.0, 61_000_000);
    running.stop().await.unwrap();
    let running = place.start(patient()).await;
    assert_eq!(lives(&running), before);
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("events").await.len(), 3);
}

async fn gaps_decisions_and_the_audit_land_in_their_tables(place: Place) {
    let gap = gap("spool full");
    place.append(GAPS, 0, gap.encode().unwrap()).await;
    let at = Timestamp::from_seconds(T0);
    let decision = format!(r#"{{"at":"{at}","id":"d1","kind":"placement","choice":"n"}}"#);
    place.append(DECISIONS, 0, decision.clone()).await;
    place.append(AUDIT, 0, audit(at, "GET /v1/tables")).await;
    place.ingest(patient()).await;
    assert_eq!(
        place.stored().await,
        [
            "gaps nilometer.samples -1 6 spool full".to_owned(),
            format!("decisions {at} d1 placement {decision}"),
            "audit user:alice GET /v1/tables 200".to_owned(),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_and_loses_nothing() {
    let place = Place::new();
    let faults = Faults::default();
    let running = place.start_on(hasty(), place.storage().through(|s| faults.over(s))).await;
    faults.refuse_puts(true);
    place.samples(0, &[A]).await;
    place.append(SAMPLES, 0, "garbage").await;
    place.event(0, &event(Change::Created, "vm-a", 1)).await;
    eventually("commits fail", async || running.metrics.commit_failures.get() > 3).await;
    place.samples(1, &[B]).await;
    eventually("rows are seen all the same", async || {
        place.seen(&running.tables, "samples").await == lines(&[A, B])
    })
    .await;
    faults.refuse_puts(false);
    eventually("they are stored", async || place.stored_in("samples").await.len() == 2).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_store_delays_and_loses_nothing() {
    let Some(place) = Place::on_s3_alone() else { return };
    let running = place.start(hasty()).await;
    place.samples(0, &[A]).await;
    eventually("it is stored", async || running.metrics.commits.get() > 0).await;
    place.set_store_running(false);
    place.samples(1, &[B]).await;
    place.event(0, &event(Change::Created, "vm-a", 1)).await;
    eventually("commits fail", async || running.metrics.commit_failures.get() > 0).await;
    place.set_store_running(true);
    eventually("all is stored", async || place.missing().await == 0).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&[A, B]));
    assert_eq!(place.stored_in("events").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_has_a_bound_and_the_log_keeps_the_rest() {
    let place = Place::new();
    let samples: Vec<_> = (0..200).map(|n| ("cpu.time", "vm-a", n, n as f64)).collect();
    for some in samples.chunks(10) {
        place.samples(0, some).await;
    }
    let faults = Faults::default();
    let config = IngestConfig { memory_rows: 50, fetch_bytes: 1, ..hasty() };
    let running = place.start_on(config, place.storage().through(|s| faults.over(s))).await;
    faults.refuse_puts(true);
    eventually("memory is full", async || running.metrics.memory_rows.get() >= 50).await;
    eventually("commits fail", async || running.metrics.commit_failures.get() > 10).await;
    assert!(running.metrics.memory_rows.get() < 70, "{}", running.metrics.memory_rows.get());
    faults.refuse_puts(false);
    running.has_read(20).await;
    running.stop().await.unwrap();
    assert_eq!(place.stored_in("samples").await, lines(&samples));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_contradicts_a_meter_is_a_dead_letter_also_after_a_restart() {
    let place = Place::new();
    let record = |meter: &str, kind: MeterKind, unit: &str, second: i64| {
        let stated = Statement { kind: Some(kind), unit: Some(unit.parse().unwrap()) };
        let mut builder = BatchBuilder::new("gateway");
        let subject = builder.subject(&Resource::new("api", ResourceKind::SERVICE));
        let meter = builder.meter(meter, &stated);
        builder.add(subject, meter, Timestamp::from_seconds(T0 + second), 1.0);
        encode(&builder.build()).unwrap().remove(0)
    };
    let learnt = |second| record("my.requests", MeterKind::Counter, "requests", second);
    for record in [
        learnt(1),
        record("my.requests", MeterKind::Gauge, "requests", 2),
        record("cpu.time", MeterKind::Counter, "minutes", 3),
        learnt(4),
        record("lifetime", MeterKind::Gauge, "1", 5),
    ] {
        place.append(SAMPLES, 0, record).await;
    }
    place.ingest(patient()).await;
    place.append(SAMPLES, 0, record("my.requests", MeterKind::Counter, "calls", 6)).await;
    place.ingest(patient()).await;
    let letters = place.stored_in("dead_letters").await;
    let reasons: Vec<&str> =
        letters.iter().map(|letter| letter.split_once(" 0 meter ").unwrap().1).collect();
    assert_eq!(
        reasons,
        [
            "my.requests is known as counter in requests (learnt from gateway), and the record states \
             gauge in requests",
            "cpu.time is known as counter in seconds (built-in), and the record states counter in minutes",
            "lifetime is known as allocation in 1 (built-in), and the record states gauge in 1",
            "my.requests is known as counter in requests (learnt from gateway), and the record states \
             counter in calls",
        ]
    );
    assert_eq!(place.stored_in("samples").await.len(), 2);
}
