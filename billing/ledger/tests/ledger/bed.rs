//! A log, tables, an ingester, an engine and a ledger in a temporary folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nilometer_clock::{Clock, SharedClock, SystemClock};
use nilometer_contract::{EVENTS, GAPS, MICROS_PER_HOUR, SAMPLES, Scope, TableDef, Timestamp};
use nilometer_engine::{Engine, Limits, Selection};
use nilometer_http::{Format, render};
use nilometer_ingest::{IngestConfig, IngestError, Ingester, Repaired, Tables, repair};
use nilometer_ledger::{CHARGES, INVOICES, Ledger, LedgerConfig};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, TopicConfig, TopicPartition};
use nilometer_rating::{Period, PriceBook};
use nilometer_store::Storage;
use nilometer_usage::{USAGE, UsageRow, Window};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::script::{Record, Topic};

pub(crate) const PARTITIONS: u32 = 3;
/// 2026-11-02T00:00:00Z, when fleets are founded.
pub(crate) const START: Timestamp = Timestamp(1_793_577_600_000_000);
const PATIENCE: Duration = Duration::from_secs(120);

/// Long after everything that happens.
pub(crate) struct Later;

impl Clock for Later {
    fn now(&self) -> Timestamp {
        hour(24 * 30)
    }
}

/// What a test says.
#[derive(Default)]
pub(crate) struct SetClock(AtomicI64);

impl SetClock {
    pub(crate) fn set(&self, now: Timestamp) {
        self.0.store(now.0, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp(self.0.load(Ordering::SeqCst))
    }
}

/// What outlives a process.
pub(crate) struct Bed {
    log: EmbeddedLog,
    folder: TempDir,
}

/// One process: an ingester at work, an engine and a ledger.
pub(crate) struct Site {
    pub(crate) engine: Engine,
    pub(crate) ledger: Ledger,
    pub(crate) tables: Tables,
    cancel: CancellationToken,
    ingester: JoinHandle<Result<(), IngestError>>,
}

/// An instant so many hours after the start.
pub(crate) fn hour(hours: i64) -> Timestamp {
    START.plus_micros(hours * MICROS_PER_HOUR)
}

/// An instant so many seconds after the start.
pub(crate) fn second(seconds: i64) -> Timestamp {
    START.plus_micros(seconds * 1_000_000)
}

/// Hours since the start as a window.
pub(crate) fn window(from: i64, upto: i64) -> Window {
    Window { start: hour(from), end: hour(upto) }
}

/// Hours since the start as a billing period.
pub(crate) fn period(from: i64, upto: i64) -> Period {
    Period::parse(&hour(from).to_string(), &hour(upto).to_string(), "UTC").unwrap()
}

/// How the processes of a bed ingest.
pub(crate) fn ingest_config() -> IngestConfig {
    IngestConfig {
        partitions: PARTITIONS,
        commit_interval: Duration::from_millis(50),
        publish_interval: Duration::from_millis(10),
        refresh_interval: Duration::from_millis(500),
        // Fleets live at a date of their own, whenever the tests run.
        ahead_max: Duration::MAX,
        retention: BTreeMap::new(),
        others: vec![&USAGE, &CHARGES, &INVOICES],
        ..IngestConfig::default()
    }
}

fn open_log(folder: &TempDir) -> EmbeddedLog {
    let mut config = EmbeddedConfig::new(folder.path().join("log"));
    config.fsync = Fsync::Every(Duration::from_secs(60));
    EmbeddedLog::open(config, Arc::new(|| START)).unwrap()
}

impl Bed {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Bed { log: open_log(&folder), folder }
    }

    /// The same tables after the folder of the log was deleted.
    pub(crate) fn with_another_log(self) -> Self {
        let Bed { log, folder } = self;
        drop(log);
        std::fs::remove_dir_all(folder.path().join("log")).unwrap();
        Bed { log: open_log(&folder), folder }
    }

    pub(crate) fn log(&self) -> Arc<dyn Log> {
        Arc::new(self.log.clone())
    }

    pub(crate) fn storage(&self) -> Storage {
        Storage::local(&self.folder.path().join("tables"), Arc::new(SystemClock)).unwrap()
    }

    /// A file below the folder of a table.
    pub(crate) fn path(&self, def: &TableDef, file: &str) -> PathBuf {
        self.folder.path().join("tables").join(def.name).join(file)
    }

    /// Files of a table as it is now, in the order in which they were written.
    pub(crate) async fn files(&self, def: &'static TableDef) -> Vec<PathBuf> {
        let table = self.storage().table(def).await.unwrap();
        let mut files: Vec<_> = table.files().iter().cloned().collect();
        files.sort_by_key(|file| file.range("known"));
        files.iter().map(|file| self.path(def, &file.path)).collect()
    }

    /// Deletes the files of a table, which its log still names.
    pub(crate) async fn lose_files(&self, def: &'static TableDef) {
        for file in self.files(def).await {
            std::fs::remove_file(file).unwrap();
        }
    }

    /// Restores from the log what the tables lost.
    pub(crate) async fn repair(&self) -> (Repaired, Vec<String>) {
        let (log, mut said) = (Arc::new(self.log.clone()), Vec::new());
        let done = repair(&self.storage(), log, &ingest_config(), |line| said.push(line)).await;
        (done.unwrap(), said)
    }

    /// Appends records in order.
    pub(crate) async fn append<'r>(&self, records: impl IntoIterator<Item = &'r Record>) {
        for (name, partitions) in [(SAMPLES, PARTITIONS), (EVENTS, PARTITIONS), (GAPS, 1)] {
            let retention = Duration::from_secs(86_400);
            let topic = TopicConfig { name: name.to_owned(), partitions, retention };
            self.log.ensure_topic(&topic).await.unwrap();
        }
        let mut parts: BTreeMap<(&str, u32), Vec<Bytes>> = Default::default();
        for record in records {
            let topic = match record.topic {
                Topic::Samples => SAMPLES,
                Topic::Events => EVENTS,
                Topic::Gaps => GAPS,
            };
            parts.entry((topic, record.partition)).or_default().push(record.payload.clone());
        }
        for ((topic, partition), payloads) in parts {
            let to = TopicPartition { topic: topic.to_owned(), partition };
            for some in payloads.chunks(256) {
                self.log.append(&to, some.to_vec()).await.unwrap();
            }
        }
    }

    /// Starts a process that bills by a book.
    pub(crate) async fn start(&self, book: &PriceBook) -> Site {
        self.start_at(book, Arc::new(Later)).await
    }

    /// Starts a process by a clock.
    pub(crate) async fn start_at(&self, book: &PriceBook, clock: SharedClock) -> Site {
        self.start_with(book, clock, ingest_config()).await
    }

    /// Starts a process that ingests with settings.
    pub(crate) async fn start_with(
        &self,
        book: &PriceBook,
        clock: SharedClock,
        config: IngestConfig,
    ) -> Site {
        let (storage, registry) = (self.storage(), Registry::new());
        let metrics = nilometer_ingest::Metrics::register(&registry).unwrap();
        let log: Arc<dyn Log> = Arc::new(self.log.clone());
        let ingester = Ingester::open(config, log, &storage, clock.clone(), metrics).await.unwrap();
        let tables = ingester.tables();
        let cancel = CancellationToken::new();
        let ingester = tokio::spawn(ingester.run(cancel.clone()));
        let engine = Engine::new(&storage, tables.clone(), Limits::default()).unwrap();
        let config = LedgerConfig {
            interval: Duration::from_millis(100),
            quiet: Duration::ZERO,
            batch_hours: 2,
            ..LedgerConfig::default()
        };
        let ledger =
            Ledger::open_with(config, engine.clone(), &storage, book.clone(), clock, &registry);
        let ledger = ledger.await.unwrap();
        Site { engine, ledger, tables, cancel, ingester }
    }
}

impl Site {
    /// A second ledger over the same tables, as by mistake.
    pub(crate) async fn rival(&self, bed: &Bed) -> Ledger {
        let config = LedgerConfig { quiet: Duration::ZERO, ..LedgerConfig::default() };
        let (book, clock, registry) = (PriceBook::built_in(), Arc::new(Later), Registry::new());
        let engine = self.engine.clone();
        Ledger::open_with(config, engine, &bed.storage(), book, clock, &registry).await.unwrap()
    }

    /// Waits until so many samples and events are in files, none of them in memory.
    pub(crate) async fn holds(&self, samples: u64, events: u64) {
        let began = Instant::now();
        loop {
            let view = self.tables.now();
            let held = |name: &str| {
                let table = &view.tables[name];
                let memory: usize = table.memory.iter().map(|batch| batch.num_rows()).sum();
                (table.files.rows(), memory)
            };
            let found = (held("samples"), held("events"));
            if found == ((samples, 0), (events, 0)) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{samples} and {events}, found {found:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for what is bound to come.
    pub(crate) async fn until(&self, what: &str, mut has_come: impl AsyncFnMut() -> bool) {
        let began = Instant::now();
        while !has_come().await {
            assert!(began.elapsed() < PATIENCE, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Settles what is due.
    pub(crate) async fn settle(&self) -> usize {
        self.ledger.settlement.settle(&CancellationToken::new()).await.unwrap()
    }

    /// Rows of a query as CSV.
    pub(crate) async fn csv(&self, sql: &str) -> String {
        let rows = self
            .engine
            .query(&Scope::system(), sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        String::from_utf8(render(&rows, Format::Csv).unwrap()).unwrap()
    }

    /// Rows of usage of some hours as the samples of this moment tell them.
    pub(crate) async fn true_usage(&self, of: Window) -> Vec<UsageRow> {
        self.engine
            .meter()
            .usage_by_state(&Scope::system(), of, &Selection::default())
            .await
            .unwrap()
    }

    /// Stops as a process does that is told to.
    pub(crate) async fn stop(self) {
        self.cancel.cancel();
        self.ingester.await.unwrap().unwrap();
    }
}
