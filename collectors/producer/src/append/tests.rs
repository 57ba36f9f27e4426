//! What becomes of observations, and of appends that fail.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use nilometer_clock::SystemClock;
use nilometer_contract::{
    Change, GapKind, Labels, MAX_TEXT_BYTES, Resource, ResourceKind, Subject, decode,
};
use nilometer_log::{
    EmbeddedConfig, EmbeddedLog, Fsync, Incarnation, Record, TopicConfig, Watermarks,
};
use proptest::prelude::*;

use super::*;

const PARTITIONS: u32 = 4;
const DAY: Duration = Duration::from_secs(86_400);

/// A log on disk of which partitions can be made to fail, and which can be made not to answer.
struct Failing {
    log: EmbeddedLog,
    fails: Mutex<BTreeSet<TopicPartition>>,
    silent: AtomicBool,
    _dir: tempfile::TempDir,
}

impl Failing {
    fn new() -> Arc<Failing> {
        let dir = tempfile::tempdir().unwrap();
        let fsync = Fsync::Every(Duration::from_secs(60));
        let config = EmbeddedConfig { fsync, ..EmbeddedConfig::new(dir.path()) };
        let log = EmbeddedLog::open(config, Arc::new(SystemClock)).unwrap();
        Arc::new(Failing {
            log,
            fails: Mutex::default(),
            silent: AtomicBool::new(false),
            _dir: dir,
        })
    }

    fn set_failing(&self, topic: &str, partition: u32, fails: bool) {
        let at = TopicPartition { topic: topic.to_owned(), partition };
        let mut all = self.fails.lock().unwrap();
        if fails {
            all.insert(at)
        } else {
            all.remove(&at)
        };
    }

    async fn answer(&self) {
        if self.silent.load(Relaxed) {
            std::future::pending().await
        }
    }

    async fn payloads(&self, topic: &TopicConfig, partition: u32) -> Vec<Bytes> {
        let at = TopicPartition { topic: topic.name.clone(), partition };
        let of = self.log.incarnation(&at).await.unwrap();
        let records = self.log.fetch(&at, of, 0, 64 << 20, Duration::ZERO).await.unwrap();
        records.into_iter().map(|record| record.payload).collect()
    }
}

#[async_trait]
impl Log for Failing {
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        self.answer().await;
        self.log.ensure_topic(topic).await
    }

    async fn incarnation(&self, of: &TopicPartition) -> Result<Incarnation, LogError> {
        self.log.incarnation(of).await
    }

    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        self.answer().await;
        if self.fails.lock().unwrap().contains(to) {
            return Err(LogError::Unavailable { what: "asked to fail".to_owned(), cause: None });
        }
        self.log.append(to, payloads).await
    }

    async fn fetch(
        &self,
        from: &TopicPartition,
        of: Incarnation,
        offset: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError> {
        self.log.fetch(from, of, offset, max_bytes, wait).await
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        self.log.watermarks(of).await
    }

    async fn truncate(&self, of: &TopicPartition, below: u64) -> Result<(), LogError> {
        self.log.truncate(of, below).await
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + second)
}

fn event(id: &str, at: i64) -> LifecycleEvent {
    let resource = Resource::new(id, ResourceKind::VM);
    LifecycleEvent { change: Change::Created, at: second(at), resource, source: "t".to_owned() }
}

/// Of each resource a sample each second, and an event at the first.
fn observation(resources: &[String], seconds: i64) -> Observation {
    let mut seen = Observation::new("t");
    for id in resources {
        seen.events.push(event(id, 0));
        let (project, node) = (String::new(), String::new());
        let labels = Labels::none();
        let subject = Subject { id: id.clone(), kind: ResourceKind::VM, project, node, labels };
        let subject = seen.samples.subject(subject);
        for at in 0..seconds {
            seen.samples.push_named(subject, "cpu.time", second(at), at as f64);
        }
    }
    seen
}

fn gap(node: &str) -> Gap {
    Gap {
        kind: GapKind::Unobserved,
        agent: "a".to_owned(),
        node: node.to_owned(),
        sources: Vec::new(),
        topic: "t".to_owned(),
        partition: None,
        start: second(0),
        end: second(1),
        records: 0,
        samples: 0,
        reason: "paused".to_owned(),
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("vm-{n}")).collect()
}

fn lone() -> Producer {
    Producer::new(Failing::new(), Topics::new(PARTITIONS, DAY))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn all_of_an_observation_is_in_records_each_where_its_resource_lies(
        resources in proptest::collection::btree_set("[a-z]{1,12}", 0..40), seconds in 0..5_i64,
    ) {
        let resources: Vec<String> = resources.into_iter().collect();
        let records = lone().produce(observation(&resources, seconds)).whole().unwrap();
        let (mut events, mut samples) = (Vec::new(), Vec::new());
        for record in records {
            let span = record.start.0..record.end.0;
            match record.topic {
                Topic::Gaps => prop_assert!(false, "nothing is missing"),
                Topic::Events => {
                    let event = LifecycleEvent::decode(&record.payload).unwrap();
                    prop_assert_eq!(record.partition, partition_of(&event.resource.id, PARTITIONS));
                    prop_assert_eq!((record.samples, span), (0, event.at.0..event.at.0 + 1));
                    events.push(event.resource.id);
                }
                Topic::Samples => {
                    let batch = decode(&record.payload).unwrap();
                    prop_assert_eq!(record.samples as usize, batch.len());
                    for row in 0..batch.len() {
                        let id = batch.subjects.id.value(batch.resource[row] as usize);
                        prop_assert_eq!(record.partition, partition_of(id, PARTITIONS));
                        prop_assert!(span.contains(&batch.at[row]));
                        samples.push((id.to_owned(), batch.at[row]));
                    }
                }
            }
        }
        prop_assert_eq!(&events, &resources, "in order");
        samples.sort();
        let instants = |id: &String| (0..seconds).map(|at| (id.clone(), second(at).0)).collect();
        let expected: Vec<(String, i64)> =
            resources.iter().flat_map(|id| -> Vec<(String, i64)> { instants(id) }).collect();
        prop_assert_eq!(samples, expected);
    }
}

#[tokio::test]
async fn all_is_in_the_log_when_an_append_returns() {
    let log = Failing::new();
    let producer = Producer::open(log.clone(), Topics::new(PARTITIONS, DAY)).await.unwrap();
    let produced = producer.gaps(&[gap("n")]).and(producer.produce(observation(&names(20), 3)));
    let records = produced.whole().unwrap();
    producer.append(records.clone()).await.unwrap();
    for topic in Topic::ALL {
        for partition in 0..producer.topics().of(topic).partitions {
            let of =
                |record: &&ProducerRecord| (record.topic, record.partition) == (topic, partition);
            let expected: Vec<Bytes> =
                records.iter().filter(of).map(|record| record.payload.clone()).collect();
            let found = log.payloads(producer.topics().of(topic), partition).await;
            assert_eq!(found, expected, "{topic:?} {partition}");
        }
    }
}

#[tokio::test]
async fn what_a_failing_partition_did_not_take_is_left_with_all_topics_after_it() {
    let log = Failing::new();
    let producer = Producer::open(log.clone(), Topics::new(PARTITIONS, DAY)).await.unwrap();
    let records = producer.produce(observation(&names(20), 3)).whole().unwrap();
    let events = producer.topics().events.clone();
    log.set_failing(&events.name, 2, true);
    let failed = producer.append(records.clone()).await.unwrap_err();
    assert!(matches!(failed.cause, LogError::Unavailable { .. }), "{}", failed.cause);
    let is_left =
        |record: &&ProducerRecord| record.topic == Topic::Samples || record.partition == 2;
    let expected: Vec<ProducerRecord> = records.iter().filter(is_left).cloned().collect();
    assert_eq!(failed.left, expected);
    assert_ne!(failed.left.len(), records.len(), "other partitions took theirs");
    assert!(log.payloads(&events, 2).await.is_empty());

    log.set_failing(&events.name, 2, false);
    producer.append(failed.left).await.unwrap();
    let mut there = 0;
    for topic in [Topic::Events, Topic::Samples] {
        for partition in 0..PARTITIONS {
            there += log.payloads(producer.topics().of(topic), partition).await.len();
        }
    }
    assert_eq!(there, records.len(), "each once");
}

#[tokio::test]
async fn records_go_to_the_partitions_that_a_topic_has() {
    let log = Failing::new();
    log.ensure_topic(&Topics::new(2, DAY).samples).await.unwrap();
    let producer = Producer::open(log.clone(), Topics::new(PARTITIONS, DAY)).await.unwrap();
    let records = producer.produce(observation(&names(40), 1)).whole().unwrap();
    let partitions = |topic: Topic| -> BTreeSet<u32> {
        let of_topic = records.iter().filter(|record| record.topic == topic);
        of_topic.map(|record| record.partition).collect()
    };
    assert_eq!(partitions(Topic::Samples), [0, 1].into());
    assert_eq!(partitions(Topic::Events), (0..PARTITIONS).collect());
    producer.append(records.clone()).await.unwrap();
}

#[test]
fn what_breaks_a_bound_is_refused_with_the_reason_and_alone() {
    let long = "x".repeat(MAX_TEXT_BYTES + 1);
    let producer = lone();
    let produced = producer.produce(observation(&["a".into(), long, "b".into()], 2));
    let samples: u32 = produced.records.iter().map(|record| record.samples).sum();
    assert_eq!(samples, 4);
    let refused: Vec<(Topic, u32)> =
        produced.refused.iter().map(|it| (it.record.topic, it.record.samples)).collect();
    assert_eq!(refused, [(Topic::Events, 0), (Topic::Samples, 2)]);
    assert!(matches!(produced.refused[0].why, Refusal::Event { .. }));
    assert!(matches!(produced.refused[1].why, Refusal::Samples(_)));
    assert!(produced.whole().is_err());

    let backwards = Gap { start: second(2), ..gap("n") };
    let produced = producer.gaps(&[gap("n"), backwards]);
    assert_eq!((produced.records.len(), produced.refused.len()), (1, 1));
    assert!(matches!(produced.refused[0].why, Refusal::Gap(_)));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_does_not_answer_is_away() {
    let timeout = Duration::from_secs(3);
    let log = Failing::new();
    log.silent.store(true, Relaxed);
    let producer = Producer::new(log, Topics::new(PARTITIONS, DAY)).with_timeout(timeout);
    let records = producer.events(&[event("a", 0)]).whole().unwrap();
    let asked = tokio::time::Instant::now();
    assert!(matches!(producer.prepare(Topic::Events).await, Err(LogError::Unavailable { .. })));
    let failed = producer.append(records.clone()).await.unwrap_err();
    assert_eq!((failed.left, asked.elapsed()), (records, 2 * timeout));
}
