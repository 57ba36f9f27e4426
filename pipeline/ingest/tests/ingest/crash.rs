//! Crashes at every write and at every record: nothing is lost, nothing is doubled.

use std::time::Duration;

use nilometer_contract::{Change, DEAD_LETTERS, EVENTS, GAPS, Gap, GapKind, SAMPLES, Timestamp};
use nilometer_ingest::IngestConfig;
use nilometer_log::{Log, TopicPartition};
use nilometer_testbed::fed::{AUDIT, DECISIONS, audit};

use crate::faults::{Death, Faults};
use crate::place::{PARTITIONS, Place, T0, event, eventually, hasty, patient};

/// A bit of everything: samples, repeats, conflicts, garbage, events, gaps, a truncated start.
async fn fill(place: &Place) {
    let partitions = 0..PARTITIONS;
    for partition in partitions.clone() {
        let vm = format!("vm-{partition}");
        place.samples(partition, &[("cpu.time", &vm, 0, 0.0)]).await;
        for second in 1..6 {
            let sample = ("cpu.time", vm.as_str(), second, second as f64);
            place.samples(partition, &[sample, ("memory.usage", &vm, second, 1.0)]).await;
            place.samples(partition, &[sample]).await;
        }
        place.samples(partition, &[("cpu.time", &vm, 3, 9.0)]).await;
        place.append(SAMPLES, partition, "garbage").await;
        place.append(EVENTS, partition, "garbage").await;
        for second in [1, 2, 1] {
            place.event(partition, &event(Change::Created, &vm, second)).await;
        }
    }
    let at = Timestamp::from_seconds(T0);
    let gap = Gap {
        kind: GapKind::Lost,
        agent: "agent".to_owned(),
        node: String::new(),
        sources: Vec::new(),
        topic: EVENTS.to_owned(),
        partition: Some(1),
        start: at,
        end: at,
        records: 1,
        samples: 0,
        reason: "spool full".to_owned(),
    };
    place.append(GAPS, 0, gap.encode().unwrap()).await;
    place.append(DECISIONS, 0, format!(r#"{{"at":"{at}","id":"d","kind":"plan"}}"#)).await;
    place.append(AUDIT, 0, audit(at, "POST /v1/sql")).await;
    let first = TopicPartition { topic: SAMPLES.to_owned(), partition: 1 };
    place.log.truncate(&first, 1).await.unwrap();
}

fn small_steps() -> IngestConfig {
    IngestConfig { fetch_bytes: 1, commit_interval: Duration::from_millis(1), ..hasty() }
}

/// Runs until the store dies, or until everything is stored; says whether it died.
async fn run_into(place: &Place, faults: &Faults, records: u64) -> bool {
    let storage = place.storage().through(|store| faults.over(store));
    let Ok(running) = place.try_start(small_steps(), storage).await else {
        assert!(faults.is_dead());
        return true;
    };
    eventually("it dies or is done", async || faults.is_dead() || running.read() >= records).await;
    running.ask_to_stop();
    eventually("it dies or is done", async || faults.is_dead() || running.task.is_finished()).await;
    let died = faults.is_dead();
    running.kill().await;
    died
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_write_loses_and_doubles_nothing() {
    assert!(crash_at_writes(Place::new(), 1).await > 40);
}

/// At some writes only: each takes many requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_a_write_to_s3_loses_and_doubles_nothing() {
    if let Some(source) = Place::on_s3() {
        assert!(crash_at_writes(source, 10).await > 3);
    }
}

/// Crashes at every so many writes, before and after; says how often.
async fn crash_at_writes(source: Place, every: usize) -> usize {
    fill(&source).await;
    let records = source.missing().await;
    let calm = source.beside();
    calm.ingest(patient()).await;
    let expected = calm.stored().await;
    assert_eq!(expected.len(), 1 + 20 + 4 + 2 + 6 + 1 + 1, "{expected:#?}");
    let letters = TopicPartition { topic: DEAD_LETTERS.to_owned(), partition: 0 };
    let mut deaths = 0;
    for (put, how) in
        (0..).step_by(every).flat_map(|put| [(put, Death::Before), (put, Death::After)])
    {
        let copied = source.log.watermarks(&letters).await.unwrap().high;
        let place = source.beside();
        if !run_into(&place, &Faults::dying_at(put, how), records).await {
            break;
        }
        deaths += 1;
        place.ingest(patient()).await;
        assert_eq!(place.stored().await, expected, "death at write {put}, {how:?}");
        let copies = source.log.watermarks(&letters).await.unwrap().high - copied;
        assert!(copies >= 4, "{copies} copies after death at write {put}, {how:?}");
    }
    deaths
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_one_after_the_other_lose_and_double_nothing() {
    let source = Place::new();
    fill(&source).await;
    let records = source.missing().await;
    let calm = source.beside();
    calm.ingest(patient()).await;
    let place = source.beside();
    for step in 0..records {
        let running = place.start(small_steps()).await;
        eventually("it reads on", async || {
            running.read() >= step % 5 || place.missing().await == 0
        })
        .await;
        running.kill().await;
    }
    place.ingest(patient()).await;
    assert_eq!(place.stored().await, calm.stored().await);
}
