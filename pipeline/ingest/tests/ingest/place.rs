//! A place to ingest in: a log, tables, and what they hold as sorted text.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use nilometer_clock::{Clock, SharedClock, SystemClock};
use nilometer_contract::{
    BatchBuilder, Change, EVENTS, GAPS, Gap, GapKind, LifecycleEvent, Resource, ResourceKind,
    SAMPLES, SampleBatch, Subject, TableDef, Timestamp, encode,
};
use nilometer_ingest::{Follower, IngestConfig, IngestError, Ingester, Metrics, Tables};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, Record, TopicPartition};
use nilometer_store::Storage;
use nilometer_testbed::fed::{AUDIT, AUDIT_TABLE, DECISION_TABLE, DECISIONS};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bucket::Bucket;

/// 2026-11-02T00:00:00Z.
pub(crate) const T0: i64 = 1_793_577_600;
pub(crate) const PARTITIONS: u32 = 2;

/// One sample: meter, resource, second after [`T0`], value.
pub(crate) type Sample<'a> = (&'a str, &'a str, i64, f64);

struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(T0 + 86_400)
    }
}

pub(crate) fn clock() -> SharedClock {
    Arc::new(Fixed)
}

/// Commits only when told to stop; shows rows at once.
pub(crate) fn patient() -> IngestConfig {
    IngestConfig {
        partitions: PARTITIONS,
        commit_interval: Duration::from_secs(3_600),
        publish_interval: Duration::from_millis(5),
        retry_pause: Duration::from_millis(5),
        ahead_max: Duration::from_secs(30 * 86_400),
        others: vec![&DECISION_TABLE, &AUDIT_TABLE],
        ..IngestConfig::default()
    }
}

/// Commits all the time.
pub(crate) fn hasty() -> IngestConfig {
    IngestConfig { commit_interval: Duration::from_millis(20), ..patient() }
}

pub(crate) struct Place {
    pub(crate) log: EmbeddedLog,
    /// Of the log, in seconds after [`T0`].
    clock: Arc<AtomicI64>,
    folder: TempDir,
    /// Where the tables are, unless in the folder.
    bucket: Option<Bucket>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = EmbeddedConfig::new(folder.path().join("log"));
        config.fsync = Fsync::Every(Duration::from_secs(60));
        // Every append begins a segment, so that truncation is to the record.
        config.segment_bytes = 1;
        let clock = Arc::new(AtomicI64::new(0));
        let shown = clock.clone();
        let now = move || Timestamp::from_seconds(T0 + shown.load(Relaxed));
        let log = EmbeddedLog::open(config, Arc::new(now)).unwrap();
        Place { log, clock, folder, bucket: None }
    }

    /// Sets the log's clock to so many seconds after [`T0`].
    pub(crate) fn at(&self, second: i64) {
        self.clock.store(second, Relaxed);
    }

    /// A place with its tables on a real S3 server; none where that cannot be had.
    pub(crate) fn on_s3() -> Option<Self> {
        Bucket::shared().map(|bucket| Place { bucket: Some(bucket), ..Place::new() })
    }

    /// The same on a server of its own, which may be killed.
    pub(crate) fn on_s3_alone() -> Option<Self> {
        Bucket::alone().map(|bucket| Place { bucket: Some(bucket), ..Place::new() })
    }

    /// Kills the server, or starts it again on the same objects.
    pub(crate) fn set_store_running(&self, running: bool) {
        self.bucket.as_ref().unwrap().set_running(running);
    }

    /// Another place with the same log and no tables yet.
    pub(crate) fn beside(&self) -> Self {
        let bucket = self.bucket.as_ref().map(Bucket::beside);
        let (log, clock) = (self.log.clone(), self.clock.clone());
        Place { log, clock, folder: tempfile::tempdir().unwrap(), bucket }
    }

    /// Where the log is.
    pub(crate) fn log_folder(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn tables_folder(&self) -> PathBuf {
        self.folder.path().join("tables")
    }

    pub(crate) fn storage(&self) -> Storage {
        match &self.bucket {
            Some(bucket) => bucket.storage(),
            None => Storage::local(&self.tables_folder(), Arc::new(SystemClock)).unwrap(),
        }
    }

    /// Appends one record; its partition is the one given, whatever its resources.
    pub(crate) async fn append(&self, topic: &str, partition: u32, payload: impl Into<Bytes>) {
        self.create_topics().await;
        let to = TopicPartition { topic: topic.to_owned(), partition };
        self.log.append(&to, vec![payload.into()]).await.unwrap();
    }

    pub(crate) async fn create_topics(&self) {
        for (name, partitions) in
            [(SAMPLES, PARTITIONS), (EVENTS, PARTITIONS), (GAPS, 1), (DECISIONS, 1), (AUDIT, 1)]
        {
            let retention = Duration::from_secs(86_400);
            let topic = nilometer_log::TopicConfig { name: name.to_owned(), partitions, retention };
            self.log.ensure_topic(&topic).await.unwrap();
        }
    }

    pub(crate) async fn samples(&self, partition: u32, samples: &[Sample<'_>]) {
        for record in encode(&batch(samples)).unwrap() {
            self.append(SAMPLES, partition, record).await;
        }
    }

    pub(crate) async fn event(&self, partition: u32, event: &LifecycleEvent) {
        self.append(EVENTS, partition, event.encode().unwrap()).await;
    }

    /// Records of the log that no table covers.
    pub(crate) async fn missing(&self) -> u64 {
        self.create_topics().await;
        let mut missing = 0;
        for (topic, partitions, home) in [
            (SAMPLES, PARTITIONS, &nilometer_store::SAMPLES),
            (EVENTS, PARTITIONS, &nilometer_ingest::EVENTS),
            (GAPS, 1, &nilometer_ingest::GAPS),
            (DECISIONS, 1, &DECISION_TABLE),
            (AUDIT, 1, &AUDIT_TABLE),
        ] {
            let mut home = self.storage().table(home).await.unwrap();
            for partition in 0..partitions {
                let at = TopicPartition { topic: topic.to_owned(), partition };
                let marks = self.log.watermarks(&at).await.unwrap();
                let of = self.log.incarnation(&at).await.unwrap();
                let app = format!("ingest/{topic}/{partition}/{of}");
                let position = home.position(&app).await.unwrap();
                missing += marks.high - marks.low.max(position.unwrap_or(0) as u64);
            }
        }
        missing
    }

    pub(crate) async fn start(&self, config: IngestConfig) -> Running {
        self.start_on(config, self.storage()).await
    }

    pub(crate) async fn start_on(&self, config: IngestConfig, storage: Storage) -> Running {
        self.try_start(config, storage).await.unwrap()
    }

    pub(crate) async fn try_start(
        &self,
        config: IngestConfig,
        storage: Storage,
    ) -> Result<Running, IngestError> {
        let metrics = Metrics::register(&Registry::new()).unwrap();
        let log: Arc<dyn Log> = Arc::new(self.log.clone());
        let opened = Ingester::open(config, log, &storage, clock(), metrics.clone()).await?;
        let (tables, cancel) = (opened.tables(), CancellationToken::new());
        let task = tokio::spawn(opened.run(cancel.clone()));
        Ok(Running { tables, metrics, cancel, task })
    }

    /// A follower that reads nothing yet.
    pub(crate) async fn follower(&self) -> Follower {
        let metrics = Metrics::register_follower(&Registry::new()).unwrap();
        let log: Arc<dyn Log> = Arc::new(self.log.clone());
        let storage = self.storage();
        Follower::open(patient(), log, &storage, clock(), metrics).await.unwrap()
    }

    /// Ingests all there is, commits it, and stops.
    pub(crate) async fn ingest(&self, config: IngestConfig) -> Metrics {
        let missing = self.missing().await;
        let running = self.start(config).await;
        running.has_read(missing).await;
        let metrics = running.metrics.clone();
        running.stop().await.unwrap();
        metrics
    }

    /// Everything stored, each row once as a line.
    pub(crate) async fn stored(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (def, columns) in TOLD {
            lines.extend(told(def, columns, &self.rows(def).await));
        }
        lines
    }

    /// Stored lines of one table.
    pub(crate) async fn stored_in(&self, name: &str) -> Vec<String> {
        let (def, columns) = TOLD.into_iter().find(|(def, _)| def.name == name).unwrap();
        told(def, columns, &self.rows(def).await)
    }

    async fn rows(&self, def: &'static TableDef) -> Vec<RecordBatch> {
        let table = self.storage().table(def).await.unwrap();
        let mut rows = Vec::new();
        for file in table.files().iter() {
            rows.extend(table.read(file).await.unwrap());
        }
        rows
    }

    /// What a reader of the view sees of one table: files and memory.
    pub(crate) async fn seen(&self, tables: &Tables, name: &str) -> Vec<String> {
        let view = tables.now();
        let seen = &view.tables[name];
        let table = self.storage().table(seen.def).await.unwrap();
        let mut rows = seen.memory.clone();
        for file in seen.files.iter() {
            rows.extend(table.read(file).await.unwrap());
        }
        let (def, columns) = TOLD.into_iter().find(|(def, _)| def.name == name).unwrap();
        told(def, columns, &rows)
    }

    pub(crate) async fn records_of(&self, topic: &str) -> Vec<Record> {
        let at = TopicPartition { topic: topic.to_owned(), partition: 0 };
        let of = self.log.incarnation(&at).await.unwrap();
        self.log.fetch(&at, of, 0, 64 << 20, Duration::ZERO).await.unwrap()
    }
}

/// Tables and the columns that make a row what it is.
const TOLD: [(&TableDef, &[&str]); 6] = [
    (&nilometer_store::SAMPLES, &["series", "at", "value"]),
    (&nilometer_ingest::EVENTS, &["at", "change", "resource", "topic", "partition", "offset"]),
    (&nilometer_ingest::GAPS, &["of_topic", "of_partition", "records", "reason"]),
    (&nilometer_ingest::DEAD_LETTERS, &["topic", "partition", "offset", "row", "reason"]),
    (&DECISION_TABLE, &["at", "id", "kind", "decision"]),
    (&AUDIT_TABLE, &["principal", "route", "status"]),
];

fn told(def: &TableDef, columns: &[&str], batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default();
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = columns
            .iter()
            .map(|name| {
                let column = batch.column_by_name(name).unwrap();
                ArrayFormatter::try_new(column.as_ref(), &options).unwrap()
            })
            .collect();
        for row in 0..batch.num_rows() {
            let texts: Vec<_> = columns.iter().map(|text| text.value(row).to_string()).collect();
            lines.push(format!("{} {}", def.name, texts.join(" ")));
        }
    }
    lines.sort();
    lines
}

/// An ingester at work.
pub(crate) struct Running {
    pub(crate) tables: Tables,
    pub(crate) metrics: Metrics,
    cancel: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), IngestError>>,
}

impl Running {
    pub(crate) fn ask_to_stop(&self) {
        self.cancel.cancel();
    }

    pub(crate) async fn stop(self) -> Result<(), IngestError> {
        self.ask_to_stop();
        self.task.await.unwrap()
    }

    /// Stops it at once, as a crash would.
    pub(crate) async fn kill(self) {
        self.task.abort();
        drop(self.task.await);
    }

    pub(crate) fn read(&self) -> u64 {
        let of = |topic| self.metrics.records.with_label_values(&[topic]).get();
        [SAMPLES, EVENTS, GAPS, DECISIONS, AUDIT].into_iter().map(of).sum()
    }

    pub(crate) async fn has_read(&self, records: u64) {
        eventually("all records are read", async || {
            assert!(!self.task.is_finished(), "the ingester works");
            self.read() >= records
        })
        .await;
    }
}

/// Waits for a condition that is bound to come.
pub(crate) async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    for _ in 0..6_000 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("in vain: {what}");
}

pub(crate) fn batch(samples: &[Sample<'_>]) -> SampleBatch {
    let mut batch = BatchBuilder::new("test");
    for &(meter, resource, second, value) in samples {
        let subject = batch.subject(subject(resource));
        batch.push_named(subject, meter, Timestamp::from_seconds(T0 + second), value);
    }
    batch.build()
}

fn subject(resource: &str) -> Subject {
    let mut resource = Resource::new(resource, ResourceKind::VM);
    (resource.project, resource.node) = ("p".to_owned(), "n".to_owned());
    Subject::from(&resource)
}

pub(crate) fn event(change: Change, resource: &str, second: i64) -> LifecycleEvent {
    let at = Timestamp::from_seconds(T0 + second);
    let resource = Resource::new(resource, ResourceKind::VM);
    LifecycleEvent { change, at, resource, source: "test".to_owned() }
}

/// The line of a stored sample.
pub(crate) fn line((meter, resource, second, value): Sample<'_>) -> String {
    let series = nilometer_store::Description {
        meter,
        resource,
        kind: "vm",
        project: "p",
        node: "n",
        source: "test",
        labels: "",
    };
    let at = Timestamp::from_seconds(T0 + second);
    format!("samples {} {at} {value:?}", series.id())
}

pub(crate) fn lines(samples: &[Sample<'_>]) -> Vec<String> {
    let mut lines: Vec<String> = samples.iter().copied().map(line).collect();
    lines.sort();
    lines
}

/// What an agent says that dropped something.
pub(crate) fn gap(reason: &str) -> Gap {
    Gap {
        kind: GapKind::Lost,
        agent: "agent".to_owned(),
        node: "n".to_owned(),
        sources: Vec::new(),
        topic: SAMPLES.to_owned(),
        partition: None,
        start: Timestamp::from_seconds(T0),
        end: Timestamp::from_seconds(T0 + 60),
        records: 6,
        samples: 12,
        reason: reason.to_owned(),
    }
}
