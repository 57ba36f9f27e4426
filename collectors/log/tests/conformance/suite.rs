//! What every log must do, whatever is behind it.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_log::{Incarnation, Log, LogError, Record, TopicConfig, TopicPartition, Watermarks};
use proptest::{
    prelude::{Rng, RngExt},
    test_runner::{RngAlgorithm, TestRng},
};

use crate::reading::a_reader_is_told_what_is_gone;

/// Opens logs over one and the same storage.
#[async_trait]
pub(crate) trait Factory: Sync {
    fn open(&self) -> Arc<dyn Log>;

    /// Deletes a topic behind the back of all that have it open.
    async fn delete_topic(&self, topic: &str);
}

const DAY: Duration = Duration::from_secs(86_400);
const MIB: usize = 1 << 20;

/// Long enough for a busy machine; no case waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Runs every case.
pub(crate) async fn run(factory: &dyn Factory) {
    topics_are_made_once(factory).await;
    order_and_offsets(factory).await;
    fetch_waits_for_records_and_no_longer(factory).await;
    ends_are_told_apart(factory).await;
    truncation_is_told(factory).await;
    large_records_and_batches(factory).await;
    appenders_to_many_partitions(factory).await;
    appenders_to_one_partition(factory).await;
    everything_is_there_after_reopening(factory).await;
    random_reads_agree_with_what_was_appended(factory).await;
    a_topic_made_anew_is_another_log(factory).await;
    a_topic_that_is_gone_is_made_again(factory).await;
    a_reader_is_told_what_is_gone(factory).await;
}

pub(crate) fn rng(seed: u8) -> TestRng {
    TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32])
}

pub(crate) fn at(topic: &str, partition: u32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

pub(crate) fn numbered(range: std::ops::Range<u64>) -> Vec<Bytes> {
    range.map(|i| Bytes::from(format!("record {i}"))).collect()
}

pub(crate) async fn make(log: &dyn Log, topic: &str, partitions: u32) {
    let config = TopicConfig { name: topic.into(), partitions, retention: DAY };
    assert_eq!(log.ensure_topic(&config).await.unwrap(), partitions);
}

/// Reads on from an offset of the log as it is now.
pub(crate) async fn fetch(
    log: &dyn Log,
    from: &TopicPartition,
    offset: u64,
    max_bytes: usize,
    wait: Duration,
) -> Result<Vec<Record>, LogError> {
    let of = log.incarnation(from).await?;
    log.fetch(from, of, offset, max_bytes, wait).await
}

/// Asks again while the log cannot be reached, as while it is being replaced.
pub(crate) async fn settled<T>(
    mut ask: impl AsyncFnMut() -> Result<T, LogError>,
) -> Result<T, LogError> {
    let started = std::time::Instant::now();
    loop {
        match ask().await {
            Err(LogError::Unavailable { .. }) if started.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
}

/// Reads from an offset to the high watermark.
pub(crate) async fn read_all(log: &dyn Log, from: &TopicPartition, mut offset: u64) -> Vec<Record> {
    let high = log.watermarks(from).await.unwrap().high;
    let mut all = Vec::new();
    while offset < high {
        let records = fetch(log, from, offset, MIB, PATIENCE).await.unwrap();
        assert!(!records.is_empty(), "nothing at {offset} below {high}");
        assert!(records.iter().enumerate().all(|(i, r)| r.offset == offset + i as u64), "dense");
        offset += records.len() as u64;
        all.extend(records);
    }
    all
}

fn payloads(records: &[Record]) -> Vec<Bytes> {
    records.iter().map(|record| record.payload.clone()).collect()
}

async fn topics_are_made_once(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "made", 3).await;
    make(&*log, "made", 3).await;
    let more = TopicConfig { name: "made".into(), partitions: 5, retention: DAY };
    assert_eq!(log.ensure_topic(&more).await.unwrap(), 3, "the count there is, not the one asked");
    for nowhere in [at("made", 3), at("never-made", 0)] {
        let appended = log.append(&nowhere, numbered(0..1)).await;
        assert!(matches!(appended, Err(LogError::Invalid(_))), "{appended:?}");
        let incarnation = log.incarnation(&nowhere).await;
        assert!(matches!(incarnation, Err(LogError::Invalid(_))), "{incarnation:?}");
        let fetched = log.fetch(&nowhere, Incarnation::default(), 0, 1, Duration::ZERO).await;
        assert!(matches!(fetched, Err(LogError::Invalid(_))), "{fetched:?}");
        let marks = log.watermarks(&nowhere).await;
        assert!(matches!(marks, Err(LogError::Invalid(_))), "{marks:?}");
    }
    let none = TopicConfig { name: "none".into(), partitions: 0, retention: DAY };
    assert!(matches!(log.ensure_topic(&none).await, Err(LogError::Invalid(_))));
    let bad = TopicConfig { name: "../bad".into(), partitions: 1, retention: DAY };
    assert!(matches!(log.ensure_topic(&bad).await, Err(LogError::Invalid(_))));
}

async fn order_and_offsets(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "order", 2).await;
    let one = at("order", 1);
    assert_eq!(log.watermarks(&one).await.unwrap(), Watermarks { low: 0, high: 0 });
    assert_eq!(log.append(&one, numbered(0..10)).await.unwrap(), 0);
    assert_eq!(log.append(&one, numbered(10..11)).await.unwrap(), 10);
    assert_eq!(log.append(&one, numbered(11..300)).await.unwrap(), 11);
    assert_eq!(log.watermarks(&one).await.unwrap(), Watermarks { low: 0, high: 300 });
    assert_eq!(log.watermarks(&at("order", 0)).await.unwrap(), Watermarks { low: 0, high: 0 });
    for from in [0, 7, 10, 150, 299, 0] {
        let records = read_all(&*log, &one, from).await;
        assert_eq!(payloads(&records), numbered(from..300));
        assert!(records.iter().all(|r| r.appended_at_micros > 1_700_000_000_000_000));
    }
    let first = fetch(&*log, &one, 3, 1, PATIENCE).await.unwrap();
    assert_eq!(payloads(&first), numbered(3..4), "one record though it is longer than asked");
    let two = fetch(&*log, &one, 4, 2 * "record 4".len(), PATIENCE).await.unwrap();
    assert_eq!(payloads(&two), numbered(4..6), "as many as fit");
}

async fn fetch_waits_for_records_and_no_longer(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "wait", 1).await;
    let zero = at("wait", 0);
    let wait = Duration::from_millis(120);
    let started = std::time::Instant::now();
    assert_eq!(fetch(&*log, &zero, 0, MIB, wait).await.unwrap(), vec![]);
    assert!(started.elapsed() >= wait, "came back early: {:?}", started.elapsed());
    for i in 0..5 {
        let (reader, from) = (log.clone(), zero.clone());
        let waiting =
            tokio::spawn(async move { fetch(&*reader, &from, i, MIB, PATIENCE).await.unwrap() });
        tokio::task::yield_now().await;
        assert_eq!(log.append(&zero, numbered(i..i + 1)).await.unwrap(), i);
        assert_eq!(payloads(&waiting.await.unwrap()), numbered(i..i + 1));
    }
}

async fn ends_are_told_apart(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "ends", 1).await;
    let zero = at("ends", 0);
    log.append(&zero, numbered(0..5)).await.unwrap();
    assert_eq!(fetch(&*log, &zero, 5, MIB, Duration::ZERO).await.unwrap(), vec![]);
    for asked in [6, 7, 1000] {
        match fetch(&*log, &zero, asked, MIB, PATIENCE).await {
            Err(LogError::BeyondEnd { at, asked: told, high: 5 }) => {
                assert_eq!((at, told), (zero.clone(), asked));
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
    assert_eq!(payloads(&read_all(&*log, &zero, 2).await), numbered(2..5));
}

async fn truncation_is_told(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "cut", 1).await;
    let zero = at("cut", 0);
    for i in 0..60 {
        log.append(&zero, numbered(i * 10..i * 10 + 10)).await.unwrap();
    }
    assert_eq!(payloads(&fetch(&*log, &zero, 0, 1, PATIENCE).await.unwrap()), numbered(0..1));
    log.truncate(&zero, 0).await.unwrap();
    assert_eq!(log.watermarks(&zero).await.unwrap(), Watermarks { low: 0, high: 600 });
    log.truncate(&zero, 400).await.unwrap();
    let marks = log.watermarks(&zero).await.unwrap();
    assert!(marks.low > 0 && marks.low <= 400 && marks.high == 600, "{marks:?}");
    for asked in [0, 1, marks.low - 1] {
        match fetch(&*log, &zero, asked, MIB, PATIENCE).await {
            Err(LogError::Truncated { at, asked: told, low }) => {
                assert_eq!((at, told, low), (zero.clone(), asked, marks.low));
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
    assert_eq!(payloads(&read_all(&*log, &zero, marks.low).await), numbered(marks.low..600));
    log.truncate(&zero, 5_000).await.unwrap();
    assert_eq!(log.watermarks(&zero).await.unwrap(), Watermarks { low: 600, high: 600 });
    let log = factory.open();
    assert_eq!(log.append(&zero, numbered(600..601)).await.unwrap(), 600, "never used again");
    assert_eq!(payloads(&read_all(&*log, &zero, 600).await), numbered(600..601));
    let gone = fetch(&*log, &zero, 599, MIB, PATIENCE).await;
    assert!(matches!(gone, Err(LogError::Truncated { low: 600, .. })), "{gone:?}");
}

async fn large_records_and_batches(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "large", 1).await;
    let zero = at("large", 0);
    let mut random = vec![0; 1_000_000];
    rng(1).fill_bytes(&mut random);
    let longest = Bytes::from(random);
    let tiny: Vec<Bytes> = (0..20_000_u32).map(|i| Bytes::from(i.to_le_bytes().to_vec())).collect();
    let long = vec![longest.clone(), Bytes::new(), longest.clone()];
    assert_eq!(log.append(&zero, tiny.clone()).await.unwrap(), 0);
    assert_eq!(log.append(&zero, long.clone()).await.unwrap(), 20_000);
    let wide: Vec<Bytes> = (0..200).map(|i| longest.slice(i * 4000..(i + 1) * 4000)).collect();
    assert_eq!(log.append(&zero, wide.clone()).await.unwrap(), 20_003);
    let expected = [tiny, long, wide].concat();
    assert!(payloads(&read_all(&*log, &zero, 0).await) == expected);
    let one = fetch(&*log, &zero, 20_000, 10, PATIENCE).await.unwrap();
    assert!(one.len() == 1 && one[0].payload == longest);
    let too_long = Bytes::from(vec![0; 80 * MIB]);
    let refused = log.append(&zero, vec![too_long]).await;
    assert!(matches!(refused, Err(LogError::Refused(_))), "{refused:?}");
}

async fn appenders_to_many_partitions(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "many", 4).await;
    let appending = (0..4).map(|partition| {
        let log = log.clone();
        tokio::spawn(async move {
            for i in 0..20 {
                let first = log.append(&at("many", partition), numbered(i * 5..i * 5 + 5)).await;
                assert_eq!(first.unwrap(), i * 5);
            }
        })
    });
    for done in futures::future::join_all(appending).await {
        done.unwrap();
    }
    for partition in 0..4 {
        let all = read_all(&*log, &at("many", partition), 0).await;
        assert_eq!(payloads(&all), numbered(0..100));
    }
}

async fn appenders_to_one_partition(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "one", 1).await;
    let zero = at("one", 0);
    let appending = (0..4).map(|appender| {
        let (log, zero) = (factory.open(), zero.clone());
        tokio::spawn(async move {
            for i in 0..20 {
                log.append(&zero, vec![Bytes::from(format!("{appender} {i}"))]).await.unwrap();
            }
        })
    });
    for done in futures::future::join_all(appending).await {
        done.unwrap();
    }
    let all = read_all(&*log, &zero, 0).await;
    assert_eq!(all.len(), 80);
    for appender in 0..4 {
        let prefix = format!("{appender} ");
        let mut own = payloads(&all);
        own.retain(|payload| payload.starts_with(prefix.as_bytes()));
        let sent: Vec<Bytes> = (0..20).map(|i| Bytes::from(format!("{appender} {i}"))).collect();
        assert_eq!(own, sent, "each appender's records in its order, each once");
    }
}

async fn everything_is_there_after_reopening(factory: &dyn Factory) {
    let zero = at("reopened", 0);
    for round in 0..3 {
        let log = factory.open();
        make(&*log, "reopened", 1).await;
        let first = log.append(&zero, numbered(round * 50..round * 50 + 50)).await.unwrap();
        assert_eq!(first, round * 50);
    }
    let log = factory.open();
    assert_eq!(log.watermarks(&zero).await.unwrap(), Watermarks { low: 0, high: 150 });
    assert_eq!(payloads(&read_all(&*log, &zero, 0).await), numbered(0..150));
}

async fn random_reads_agree_with_what_was_appended(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "random", 1).await;
    let zero = at("random", 0);
    let mut rng = rng(2);
    let mut sent: Vec<Bytes> = Vec::new();
    for _ in 0..60 {
        let batch: Vec<Bytes> = (0..rng.random_range(1..9))
            .map(|_| {
                let mut payload = vec![0; rng.random_range(0..3000)];
                rng.fill_bytes(&mut payload);
                Bytes::from(payload)
            })
            .collect();
        let first = log.append(&zero, batch.clone()).await.unwrap();
        assert_eq!(first, sent.len() as u64);
        sent.extend(batch);
        let from = rng.random_range(0..sent.len());
        let most = rng.random_range(1..20_000);
        let records = fetch(&*log, &zero, from as u64, most, PATIENCE).await.unwrap();
        assert!(!records.is_empty() && records[0].offset == from as u64);
        assert_eq!(payloads(&records), sent[from..from + records.len()]);
        let bytes: usize = records.iter().map(|record| record.payload.len()).sum();
        assert!(bytes <= most || records.len() == 1, "{bytes} bytes for {most}");
    }
}

async fn a_topic_made_anew_is_another_log(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "anew", 2).await;
    let (zero, one) = (at("anew", 0), at("anew", 1));
    let before = log.incarnation(&zero).await.unwrap();
    assert_eq!(factory.open().incarnation(&zero).await.unwrap(), before, "told by all alike");
    for partition in [&zero, &one] {
        log.append(partition, numbered(0..50)).await.unwrap();
        let records = log.fetch(partition, before, 0, MIB, PATIENCE).await.unwrap();
        assert_eq!(records[0].payload, numbered(0..1)[0]);
    }
    let (reader, from) = (log.clone(), zero.clone());
    let waiting = tokio::spawn(async move { reader.fetch(&from, before, 50, MIB, PATIENCE).await });
    tokio::task::yield_now().await;
    factory.delete_topic("anew").await;
    // As many records as the old one had, and more: its offsets are all there again.
    let other = factory.open();
    make(&*other, "anew", 2).await;
    let renewed: Vec<Bytes> = (0..80).map(|i| Bytes::from(format!("anew {i}"))).collect();
    for partition in [&zero, &one] {
        let appended = settled(async || other.append(partition, renewed.clone()).await).await;
        assert_eq!(appended.unwrap(), 0);
    }
    match waiting.await.unwrap() {
        Ok(records) => assert!(records.is_empty(), "records of another log: {records:?}"),
        Err(LogError::Replaced { .. } | LogError::Unavailable { .. }) => {}
        Err(e) => panic!("{e:?}"),
    }
    for offset in [50, 0, 10, 80, 200] {
        match settled(async || log.fetch(&zero, before, offset, MIB, Duration::ZERO).await).await {
            Err(LogError::Replaced { at, asked, found }) => {
                assert_eq!((at, asked), (zero.clone(), before));
                let now = settled(async || log.incarnation(&zero).await).await.unwrap();
                assert_eq!(found, now);
                assert_ne!(found, before);
            }
            other => panic!("{offset}: {other:?}"),
        }
    }
    let now = log.incarnation(&one).await.unwrap();
    for partition in [&zero, &one] {
        let mut read = Vec::new();
        while read.len() < renewed.len() {
            let next = read.len() as u64;
            let more = settled(async || log.fetch(partition, now, next, MIB, PATIENCE).await).await;
            read.extend(payloads(&more.unwrap()));
        }
        assert_eq!(read, renewed);
    }
    let appended = settled(async || log.append(&zero, numbered(80..81)).await).await;
    assert_eq!(appended.unwrap(), 80, "who has it open goes on in the new one");
}

async fn a_topic_that_is_gone_is_made_again(factory: &dyn Factory) {
    let log = factory.open();
    make(&*log, "gone", 2).await;
    let zero = at("gone", 0);
    let before = log.incarnation(&zero).await.unwrap();
    log.append(&zero, numbered(0..5)).await.unwrap();
    factory.delete_topic("gone").await;
    let appended = settled(async || log.append(&zero, numbered(0..3)).await).await;
    assert_eq!(appended.unwrap(), 0);
    let replaced = settled(async || log.fetch(&zero, before, 5, MIB, Duration::ZERO).await).await;
    assert!(matches!(replaced, Err(LogError::Replaced { .. })), "{replaced:?}");
    let now = settled(async || log.incarnation(&zero).await).await.unwrap();
    let read = settled(async || log.fetch(&zero, now, 0, MIB, PATIENCE).await).await;
    assert_eq!(payloads(&read.unwrap()), numbered(0..3));
}
