//! An estate to ask about: log, ingester, tables and an engine over them.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_contract::{
    BatchBuilder, Change, EVENTS, GAPS, Gap, GapKind, LifecycleEvent, Principal, Resource,
    ResourceKind, SAMPLES, Scope, Subject, Timestamp, encode, partition_of,
};
use nilometer_engine::{Engine, Limits, QueryError};
use nilometer_http::gate::AUDIT_TABLE;
use nilometer_http::{Format, Gate, render, surface};
use nilometer_ingest::{Follower, IngestConfig, Ingester, Metrics, Tables};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, TopicPartition};
use nilometer_simulated::Fleet;
use nilometer_store::Storage;
use nilometer_testbed::fed::{DECISION_TABLE, DECISIONS};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// 2026-11-02T00:00:00Z.
pub(crate) const T0: i64 = 1_793_577_600;
const PARTITIONS: u32 = 2;

/// Where the rows lie when they are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    InMemory,
    InFiles,
}

pub(crate) struct Estate {
    pub(crate) engine: Engine,
    pub(crate) storage: Storage,
    pub(crate) folder: TempDir,
    log: EmbeddedLog,
    metrics: Metrics,
    cancel: CancellationToken,
    task: Option<JoinHandle<()>>,
    appended: u64,
}

impl Estate {
    pub(crate) async fn new(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = EmbeddedConfig::new(folder.path().join("log"));
        config.fsync = Fsync::Every(Duration::from_secs(60));
        let clock = || Timestamp::from_seconds(T0);
        let log = EmbeddedLog::open(config, Arc::new(clock)).unwrap();
        let storage = Storage::local(&folder.path().join("tables"), Arc::new(SystemClock)).unwrap();
        let config = IngestConfig {
            partitions: PARTITIONS,
            commit_interval: Duration::from_secs(3_600),
            publish_interval: Duration::from_millis(5),
            // The log's clock stands still.
            ahead_max: Duration::MAX,
            others: vec![&DECISION_TABLE, &AUDIT_TABLE],
            ..IngestConfig::default()
        };
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let shared: Arc<dyn Log> = Arc::new(log.clone());
        let (clock, told) = (Arc::new(SystemClock), metrics.clone());
        let ingester = Ingester::open(config, shared, &storage, clock, told).await.unwrap();
        let engine = Engine::new(&storage, ingester.tables(), limits).unwrap();
        let cancel = CancellationToken::new();
        let run = ingester.run(cancel.clone());
        let task = Some(tokio::spawn(async move { run.await.unwrap() }));
        Estate { engine, storage, folder, log, metrics, cancel, task, appended: 0 }
    }

    /// A reader beside the ingester.
    pub(crate) async fn follower(&self) -> Follower {
        let metrics = Metrics::register_follower(&Registry::new()).unwrap();
        let log: Arc<dyn Log> = Arc::new(self.log.clone());
        let (partitions, ahead_max) = (PARTITIONS, Duration::MAX);
        let others = vec![&DECISION_TABLE, &AUDIT_TABLE];
        let config = IngestConfig { partitions, ahead_max, others, ..IngestConfig::default() };
        Follower::open(config, log, &self.storage, Arc::new(SystemClock), metrics).await.unwrap()
    }

    /// An engine over other tables of the same place.
    pub(crate) fn engine_over(&self, tables: Tables) -> Engine {
        Engine::new(&self.storage, tables, Limits::default()).unwrap()
    }

    /// The log that is ingested.
    pub(crate) fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.log.clone())
    }

    pub(crate) async fn append(&mut self, topic: &str, partition: u32, payloads: Vec<Bytes>) {
        self.appended += payloads.len() as u64;
        let to = TopicPartition { topic: topic.to_owned(), partition };
        self.log.append(&to, payloads).await.unwrap();
    }

    pub(crate) async fn event(&mut self, event: &LifecycleEvent) {
        let partition = partition_of(&event.resource.id, PARTITIONS);
        self.append(EVENTS, partition, vec![event.encode().unwrap().into()]).await;
    }

    pub(crate) async fn samples(&mut self, samples: BatchBuilder) {
        for (partition, batch) in samples.build_partitioned(PARTITIONS) {
            let records = encode(&batch).unwrap();
            self.append(SAMPLES, partition, records.into_iter().map(Bytes::from).collect()).await;
        }
    }

    /// Lets a fleet live until `end`.
    pub(crate) async fn fleet(&mut self, fleet: &mut Fleet, end: Timestamp) {
        let step_micros = fleet.config().step_micros;
        for (_, seen) in fleet.steps(end, step_micros) {
            let mut events: Vec<Vec<Bytes>> = vec![Vec::new(); PARTITIONS as usize];
            for event in &seen.events {
                let partition = partition_of(&event.resource.id, PARTITIONS);
                events[partition as usize].push(event.encode().unwrap().into());
            }
            for (partition, events) in (0..).zip(events) {
                self.append(EVENTS, partition, events).await;
            }
            self.samples(seen.samples).await;
        }
    }

    /// Waits until all that was appended is there to be asked about.
    pub(crate) async fn settle(&mut self, lie: Lie) {
        let read = |metrics: &Metrics| -> u64 {
            let of = |topic| metrics.records.with_label_values(&[topic]).get();
            [SAMPLES, EVENTS, GAPS, DECISIONS].into_iter().map(of).sum()
        };
        for _ in 0..24_000 {
            if read(&self.metrics) >= self.appended && self.shows_all() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(read(&self.metrics), self.appended, "all records are read");
        if lie == Lie::InFiles {
            self.cancel.cancel();
            if let Some(task) = self.task.take() {
                task.await.unwrap();
            }
        }
    }

    fn shows_all(&self) -> bool {
        let Metrics { samples, events, gaps, dead_letters, .. } = &self.metrics;
        let applied = [
            ("samples", samples),
            ("events", events),
            ("gaps", gaps),
            ("dead_letters", dead_letters),
        ];
        let view = self.engine.tables().now();
        applied.into_iter().all(|(name, applied)| {
            let memory = &view.tables[name].memory;
            memory.iter().map(|rows| rows.num_rows() as u64).sum::<u64>() == applied.get()
        })
    }

    /// The answer as a table for people, or what is wrong with the question.
    pub(crate) async fn ask(&self, sql: &str) -> Result<String, QueryError> {
        self.ask_of(&self.engine, sql).await
    }

    /// The same of another engine.
    pub(crate) async fn ask_of(&self, engine: &Engine, sql: &str) -> Result<String, QueryError> {
        let rows = engine.query(&Scope::system(), sql).await?;
        Ok(String::from_utf8(render(&rows, Format::Table).unwrap()).unwrap())
    }
}

/// The routes over an engine, for an operator.
pub(crate) fn router(engine: &Engine) -> Router {
    let gate = Gate::trusting(Principal::operator("test"), Arc::new(SystemClock));
    surface(engine).router(gate)
}

impl Drop for Estate {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

pub(crate) fn at(clock: &str) -> Timestamp {
    clock.parse().unwrap()
}

fn resource(id: &str, kind: &ResourceKind, project: &str, size: (&str, &str)) -> Resource {
    let mut resource = Resource::new(id, kind.clone());
    resource.project = project.to_owned();
    resource.name = format!("the {id}");
    resource.node = "n1".to_owned();
    resource.parent = (*kind != ResourceKind::NODE).then(|| "n1".to_owned());
    resource.attributes.insert(size.0.to_owned(), size.1.to_owned());
    resource
}

/// Two days of two virtual machines and a pod on one node; a gap, a dead letter, a decision.
pub(crate) async fn small(lie: Lie) -> Estate {
    let mut estate = Estate::new(Limits::default()).await;
    let vm = &ResourceKind::VM;
    let large = resource("vm-a", vm, "blue", ("vcpus", "4"));
    let node = resource("n1", &ResourceKind::NODE, "", ("vcpus", "8"));
    let (a, b) =
        (resource("vm-a", vm, "blue", ("vcpus", "2")), resource("vm-b", vm, "red", ("vcpus", "1")));
    for (change, clock, resource) in [
        (Change::Created, "2026-11-02T00:00:00Z", &node),
        (Change::Created, "2026-11-02T00:00:00Z", &a),
        (Change::Created, "2026-11-02T00:00:00Z", &b),
        (Change::Changed, "2026-11-02T00:15:00Z", &large),
        (Change::Deleted, "2026-11-02T00:20:30Z", &b),
    ] {
        let resource = resource.clone();
        let event = LifecycleEvent { change, at: at(clock), resource, source: "test".to_owned() };
        estate.event(&event).await;
    }
    let mut samples = BatchBuilder::new("test");
    let pod = resource("pod-1", &ResourceKind::POD, "blue", ("vcpus", "1"));
    for (resource, meter, clock, value) in [
        (&a, "cpu.time", "2026-11-02T00:00:00Z", 0.0),
        (&a, "cpu.time", "2026-11-02T00:10:00Z", 60.0),
        (&a, "cpu.time", "2026-11-02T00:20:00Z", 120.0),
        (&a, "cpu.time", "2026-11-03T00:00:00Z", 1_000.0),
        (&a, "memory.usage", "2026-11-02T00:00:00Z", 1_024.0),
        (&a, "memory.usage", "2026-11-02T00:10:00Z", 2_048.0),
        (&b, "cpu.time", "2026-11-02T00:00:00Z", 0.0),
        (&b, "cpu.time", "2026-11-02T00:10:00Z", 30.0),
        (&b, "cpu.time", "2026-11-02T00:20:00Z", 45.5),
        (&b, "memory.usage", "2026-11-02T00:00:00Z", 512.0),
        (&pod, "cpu.time", "2026-11-02T00:05:00Z", 1.0),
        (&pod, "cpu.time", "2026-11-02T00:15:00Z", 2.0),
    ] {
        let subject = samples.subject(Subject::from(resource));
        samples.push_named(subject, meter, at(clock), value);
    }
    estate.samples(samples).await;
    let gap = Gap {
        kind: GapKind::Lost,
        agent: "agent".to_owned(),
        node: "n1".to_owned(),
        sources: Vec::new(),
        topic: SAMPLES.to_owned(),
        partition: None,
        start: at("2026-11-02T00:30:00Z"),
        end: at("2026-11-02T00:31:00Z"),
        records: 6,
        samples: 12,
        reason: "spool full".to_owned(),
    };
    estate.append(GAPS, 0, vec![gap.encode().unwrap().into()]).await;
    estate.append(EVENTS, 0, vec!["garbage".into()]).await;
    let decision = r#"{"at":"2026-11-02T00:40:00Z","id":"d1","kind":"plan"}"#;
    estate.append(DECISIONS, 0, vec![decision.into()]).await;
    estate.settle(lie).await;
    estate
}
