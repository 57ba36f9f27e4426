//! When what a log lost was of, and how much it was.

use std::fs;
use std::time::Duration;

use nilometer_contract::{Change, EVENTS, SAMPLES, Timestamp};
use nilometer_ingest::IngestConfig;

use crate::place::{Place, Sample, T0, event, eventually, patient};
use crate::replaced::{delete_log, spans};

/// When agents send what they kept, in seconds of the log's clock.
const SENT: i64 = 10_000;

fn sample(second: i64) -> Sample<'static> {
    ("cpu.time", "vm", second, 1.0)
}

/// Damages a record of partition 0.
pub(crate) fn damage(place: &Place, topic: &str, offset: u64) {
    let path = place.log_folder().join(topic).join("0").join(format!("{offset:020}.log"));
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

/// Ingests until so many records are read and so many gaps found, and stops.
async fn ingest(place: &Place, config: IngestConfig, records: u64, gaps: u64) {
    let running = place.start(config).await;
    running.has_read(records).await;
    eventually("the gaps are found", async || running.metrics.gaps.get() >= gaps).await;
    running.stop().await.unwrap();
}

/// Samples that an agent kept while it was without the log: one of each of the hours before.
async fn send_kept(place: &Place, seconds: &[i64]) {
    place.at(SENT);
    for &second in seconds {
        place.samples(0, &[sample(second)]).await;
        place.event(0, &event(Change::Created, &format!("vm-{second}"), second)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_covers_what_an_agent_kept() {
    for topic in [SAMPLES, EVENTS] {
        let place = Place::new();
        send_kept(&place, &[100, 200, 300]).await;
        damage(&place, topic, 1);
        ingest(&place, patient(), 5, 1).await;
        assert_eq!(spans(&place).await, [(100, SENT)], "{topic}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_the_last_record_outlives_a_restart() {
    let place = Place::new();
    send_kept(&place, &[100, 200]).await;
    ingest(&place, patient(), 4, 0).await;
    send_kept(&place, &[300]).await;
    damage(&place, SAMPLES, 2);
    ingest(&place, patient(), 1, 1).await;
    // By the ingester's clock, since there is no record after it.
    assert_eq!(spans(&place).await, [(100, 86_400)]);
    // Nor is there one between that gap and the next.
    send_kept(&place, &[400, 500]).await;
    damage(&place, SAMPLES, 3);
    ingest(&place, patient(), 3, 1).await;
    assert_eq!(spans(&place).await, [(100, SENT), (100, 86_400)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_before_all_records_begins_with_the_metering() {
    let hour = 3_600;
    let stated = Some(Timestamp::from_seconds(T0 - hour));
    let kept = 400 * 86_400;
    for (start, other, expected) in
        [(stated, false, -hour), (None, true, 0), (None, false, 86_400 - kept)]
    {
        for topic in [SAMPLES, EVENTS] {
            let place = Place::new();
            if other {
                place.samples(1, &[sample(0)]).await;
                ingest(&place, patient(), 1, 0).await;
            }
            send_kept(&place, &[100, 200, 300]).await;
            damage(&place, topic, 0);
            ingest(&place, IngestConfig { metering_start: start, ..patient() }, 5, 1).await;
            assert_eq!(spans(&place).await, [(expected, SENT)], "{topic}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_log_says_how_much_it_is_known_to_have_had() {
    const RECORDS: u64 = 100;
    for killed in [false, true] {
        let place = Place::new();
        for second in 0..RECORDS {
            place.samples(0, &[sample(second as i64)]).await;
        }
        // Two records at a time.
        let config = IngestConfig {
            fetch_bytes: 1,
            memory_rows: 2,
            commit_interval: Duration::from_millis(200),
            ..patient()
        };
        let running = place.start(config).await;
        eventually("some are stored", async || place.stored_in("samples").await.len() >= 2).await;
        if killed {
            running.kill().await;
            delete_log(&place);
            place.create_topics().await;
            ingest(&place, patient(), 0, 6).await;
        } else {
            delete_log(&place);
            place.create_topics().await;
            eventually("it is noticed", async || running.metrics.gaps.get() >= 7).await;
            running.stop().await.unwrap();
        }
        let read = place.stored_in("samples").await.len() as u64;
        let left = RECORDS - read;
        assert!(left > 0, "{read} were read");
        let gaps = place.stored_in("gaps").await;
        let of = |what: &str| gaps.iter().filter(|gap| gap.contains(what)).count();
        let said = format!("{SAMPLES} 0 {left} the log was replaced: {read} records were read of");
        assert_eq!((of(&said), of(&format!("at least {left} more are lost"))), (1, 1), "{gaps:#?}");
        assert_eq!(of("how many more it had is not known"), 6, "{gaps:#?}");
    }
}
