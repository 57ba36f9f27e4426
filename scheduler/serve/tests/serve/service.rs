//! The streaming shell over the real embedded log: what goes in by topic comes out as answers,
//! and each answer as a record that can be given again.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_contract::{
    EVENTS, LifecycleEvent, SAMPLES, SampleBatch, Scope, Timestamp, catalogue, encode, partition_of,
};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Log, TopicConfig, TopicPartition};
use nilometer_placement::record::replay;
use nilometer_placement::{DECISIONS, DecisionRecord};
use nilometer_rating::PriceBook;
use nilometer_serve::{Config, NodePrices, Scheduler};
use nilometer_simulated::{Fleet, FleetConfig};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::cluster::{GIB, at, request};

const PARTITIONS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(120);

/// A scheduler that has read all it was given.
pub(crate) struct Running {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) registry: Registry,
    log: Arc<EmbeddedLog>,
    cancel: CancellationToken,
    run: JoinHandle<Result<(), nilometer_serve::SchedulerError>>,
    _dir: tempfile::TempDir,
}

impl Running {
    pub(crate) async fn start(
        events: Vec<LifecycleEvent>,
        samples: Vec<SampleBatch>,
        now: Timestamp,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Arc::new(
            EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap(),
        );
        for name in [EVENTS, SAMPLES] {
            let name = name.to_owned();
            let retention = Duration::from_secs(86_400);
            let topic = TopicConfig { name, partitions: PARTITIONS, retention };
            log.ensure_topic(&topic).await.unwrap();
        }
        let mut parts: Vec<Vec<Bytes>> = vec![Vec::new(); PARTITIONS as usize];
        for event in events {
            let part = partition_of(&event.resource.id, PARTITIONS) as usize;
            parts[part].push(event.encode().unwrap().into());
        }
        append(&log, EVENTS, parts).await;
        let mut parts: Vec<Vec<Bytes>> = vec![Vec::new(); PARTITIONS as usize];
        for batch in samples {
            let part = partition_of(batch.subjects.id.value(0), PARTITIONS) as usize;
            parts[part].extend(encode(&batch).unwrap().into_iter().map(Bytes::from));
        }
        parts[0].push(Bytes::from_static(b"not a batch of samples"));
        append(&log, SAMPLES, parts).await;

        Running::over(dir, log, now).await
    }

    /// Over topics that are there.
    async fn over(dir: tempfile::TempDir, log: Arc<EmbeddedLog>, now: Timestamp) -> Self {
        let registry = Registry::new();
        let book = "name = 'b'\ncurrency = 'EUR'\n[[price]]\nmeter = 'memory.allocation'\n\
            kind = 'node'\nprice = '0.5'\nper = 'GiB*hour'";
        let prices =
            NodePrices::new(PriceBook::parse(book).unwrap(), Arc::new(catalogue().clone()));
        let config = Config { refresh_millis: 0, ..Config::default() };
        let shared: Arc<dyn Log> = log.clone();
        let clock = Arc::new(move || now);
        let scheduler = Scheduler::new(shared, config, prices, clock, &registry).unwrap();
        assert!(!scheduler.is_caught_up());
        let cancel = CancellationToken::new();
        let run = tokio::spawn(scheduler.clone().run(cancel.clone()));
        let reading = tokio::time::timeout(PATIENCE, scheduler.caught_up()).await;
        reading.expect("the scheduler reads its topics");
        assert!(scheduler.is_caught_up());
        Running { scheduler, registry, log, cancel, run, _dir: dir }
    }

    /// Stops it and returns what it recorded.
    pub(crate) async fn stop(self) -> Vec<DecisionRecord> {
        self.cancel.cancel();
        self.run.await.unwrap().unwrap();
        let from = TopicPartition { topic: DECISIONS.to_owned(), partition: 0 };
        let end = self.log.watermarks(&from).await.unwrap().high;
        let mut records = Vec::new();
        while (records.len() as u64) < end {
            let next = records.len() as u64;
            let log = self.log.incarnation(&from).await.unwrap();
            let found = self.log.fetch(&from, log, next, 1 << 20, Duration::ZERO).await.unwrap();
            let read = found.iter().map(|record| serde_json::from_slice(&record.payload).unwrap());
            records.extend(read);
        }
        records
    }

    pub(crate) fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name().ends_with(name));
        let metrics = family.into_iter().flat_map(|family| family.get_metric());
        metrics
            .map(|metric| metric.get_counter().get_value() + metric.get_gauge().get_value())
            .sum()
    }
}

async fn append(log: &EmbeddedLog, topic: &str, parts: Vec<Vec<Bytes>>) {
    for (partition, records) in (0..).zip(parts).filter(|(_, records)| !records.is_empty()) {
        let to = TopicPartition { topic: topic.to_owned(), partition };
        log.append(&to, records).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_simulated_day_is_read_and_each_answer_can_be_given_again() {
    let start = at(0);
    let config = FleetConfig { nodes: 8, vms_and_pods: 120, start, ..FleetConfig::default() };
    let mut fleet = Fleet::new(&config).unwrap();
    let (mut events, mut samples) = (Vec::new(), Vec::new());
    let mut now = start;
    for _ in 0..=24 * 6 {
        let observed = fleet.step(now);
        events.extend(observed.events);
        let parts = observed.samples.build_partitioned(PARTITIONS);
        samples.extend(parts.into_iter().map(|(_, batch)| batch));
        now = now.plus_micros(600 * 1_000_000);
    }
    let now = fleet.position().unwrap();
    let running = Running::start(events, samples, now).await;
    let (nodes, _) = running.scheduler.nodes(&Scope::system(), 0, 1_000);
    let bare = nodes.iter().filter(|(node, _)| !node.guest).count();
    assert_eq!(bare, 8);
    for (node, _) in &nodes {
        assert!(!node.stale, "{node:?}");
        assert!(node.cpu.capacity > 0 && node.cpu.predicted() > 0, "{node:?}");
        assert!(node.cpu.predicted() >= node.cpu.used.unwrap(), "{node:?}");
    }
    let wanted = (0..30).map(|n| request(&format!("w{n}"), 500, GIB)).collect();
    let (record, decision) = running.scheduler.place(wanted, None, 7).unwrap();
    let (_, plan) = running.scheduler.plan(&Scope::system()).unwrap();
    let (again, _) = running.scheduler.nodes(&Scope::system(), 0, 1_000);
    let in_flight: u64 = again.iter().map(|(node, _)| node.cpu.in_flight).sum();
    let placed = decision.placements.iter().filter(|placed| placed.node.is_some()).count();
    assert_eq!(in_flight, 500 * placed as u64, "counted at once, before any sample");
    assert_eq!(running.metric("undecodable_total"), 1.0);
    let records = running.stop().await;
    assert_eq!(records.len(), 2);
    assert_eq!(records[0], record);
    assert_eq!(replay(&records[0]), decision);
    assert_eq!(records[1].chosen.len(), plan.moves.len());
    assert_eq!(records[0].inputs.watermark.newest_sample, Some(now));
}

/// A damaged record where the search for the start looks first must not keep it searching, and a
/// damaged last record must not keep it from having caught up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_in_the_log_does_not_keep_it_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        Arc::new(EmbeddedLog::open(EmbeddedConfig::new(dir.path()), Arc::new(SystemClock)).unwrap())
    };
    let log = open();
    let retention = Duration::from_secs(86_400);
    for topic in [EVENTS, SAMPLES] {
        let topic = TopicConfig { name: topic.to_owned(), partitions: 1, retention };
        log.ensure_topic(&topic).await.unwrap();
    }
    for n in 0..100 {
        append(&log, SAMPLES, vec![vec![Bytes::from(format!("record {n:03}"))]]).await;
    }
    drop(log);
    let segment = dir.path().join(SAMPLES).join("0").join(format!("{:020}.log", 0));
    let mut bytes = std::fs::read(&segment).unwrap();
    for damaged in [b"record 050", b"record 099"] {
        let index = bytes.windows(10).position(|window| window == damaged).unwrap();
        bytes[index] ^= 1;
    }
    std::fs::write(&segment, bytes).unwrap();
    let log = open();
    let running = Running::over(dir, log, at(0)).await;
    assert_eq!(running.metric("undecodable_total"), 98.0);
    running.stop().await;
}
