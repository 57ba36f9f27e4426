//! Our side: from the log into durable tables, compaction, one question.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nilometer_ingest::{Follower, IngestConfig, IngestError, Ingester, Metrics};
use nilometer_log::Log;
use nilometer_source::SystemClock;
use nilometer_sql::{Engine, Format, Limits, render, router};
use nilometer_store::{CompactionPolicy, SAMPLES, SERIES, Storage, TableDef, compact};
use prometheus::Registry;
use serde::de::IgnoredAny;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::figures::Figures;
use crate::folder::bytes_below;
use crate::load::{Load, PARTITIONS};
use crate::process::Process;
use crate::question::{Question, ask};

/// An ingester at work in this process.
pub(crate) struct Running {
    pub(crate) metrics: Metrics,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), IngestError>>,
}

impl Running {
    pub(crate) async fn start(log: Arc<dyn Log>, storage: &Storage) -> anyhow::Result<Self> {
        let metrics = Metrics::register(&Registry::new())?;
        let clock = Arc::new(SystemClock);
        let ingester = Ingester::open(config(), log, storage, clock, metrics.clone()).await?;
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ingester.run(cancel.clone()));
        Ok(Running { metrics, cancel, task })
    }

    /// Until so many samples were taken in; they may still be in memory alone.
    pub(crate) async fn wait_for(&self, samples: u64) {
        while self.metrics.samples.get() < samples {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Commits what was taken in, and ends.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.cancel.cancel();
        Ok(self.task.await??)
    }
}

fn config() -> IngestConfig {
    IngestConfig { partitions: PARTITIONS, ..IngestConfig::default() }
}

/// One run into a folder; also what was asked, and how many rows were the answer.
pub(crate) async fn run(load: &Load, folder: &Path) -> anyhow::Result<(Figures, Question, usize)> {
    let storage = Storage::local(folder)?;
    let this = Process::this();
    this.forget_peak()?;
    let (cpu, started) = (this.cpu_seconds()?, Instant::now());
    let running = Running::start(load.log.clone(), &storage).await?;
    running.wait_for(load.samples).await;
    running.stop().await?;
    let (durable_cpu, wall) = (this.cpu_seconds()?, started.elapsed());
    let peak_bytes = this.peak_bytes()?;
    let durable_bytes = file_bytes(&storage, &SAMPLES).await?;
    // Looking at the files in between is not part of it.
    let before_merge = this.cpu_seconds()?;
    compact_all(&storage).await?;
    let merge_cpu = this.cpu_seconds()? - before_merge;
    let merged_bytes = file_bytes(&storage, &SAMPLES).await?;
    let mut labelled_bytes = merged_bytes + file_bytes(&storage, &SERIES).await?;
    for table in [&SAMPLES, &SERIES] {
        labelled_bytes += bytes_below(&folder.join(table.name).join("_delta_log"))?;
    }
    let (question, question_millis, rows) = question(load, &storage).await?;
    let figures = Figures {
        samples: load.samples,
        cpu_seconds: durable_cpu - cpu,
        wall_seconds: wall.as_secs_f64(),
        merged_cpu_seconds: durable_cpu - cpu + merge_cpu,
        peak_bytes,
        durable_bytes,
        merged_bytes,
        labelled_bytes,
        question_millis,
    };
    Ok((figures, question, rows))
}

/// Bytes of the files that are in a table; those that compaction replaced are not.
async fn file_bytes(storage: &Storage, table: &'static TableDef) -> anyhow::Result<u64> {
    Ok(storage.table(table).await?.files().iter().map(|file| file.size).sum())
}

async fn compact_all(storage: &Storage) -> anyhow::Result<()> {
    let mut table = storage.table(&SAMPLES).await?;
    let policy = CompactionPolicy { fan_in: 2, ..CompactionPolicy::default() };
    while compact(&mut table, policy).await? > 0 {}
    Ok(())
}

/// Asks for one series in SQL over HTTP; with the milliseconds and rows of the answer.
async fn question(load: &Load, storage: &Storage) -> anyhow::Result<(Question, f64, usize)> {
    let metrics = Metrics::register_follower(&Registry::new())?;
    let clock = Arc::new(SystemClock);
    let follower = Follower::open(config(), load.log.clone(), storage, clock, metrics).await?;
    let engine = Engine::new(storage, follower.tables(), Limits::default())?;
    let question = Question::new(some_vm(&engine).await?, load.last);
    let Question { meter, resource, after, until } = &question;
    let sql = format!(
        "SELECT at, value FROM samples WHERE meter = '{meter}' AND resource = '{resource}' \
         AND at > '{after}' AND at <= '{until}'"
    );
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/v1/sql", listener.local_addr()?);
    let server = tokio::spawn(axum::serve(listener, router(engine)).into_future());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.post(url).json(&serde_json::json!({ "query": sql }));
    let rows = |answer: &[u8]| Ok(serde_json::from_slice::<Vec<IgnoredAny>>(answer)?.len());
    let asked = ask(request, rows).await;
    server.abort();
    let (millis, rows) = asked?;
    Ok((question, millis, rows))
}

async fn some_vm(engine: &Engine) -> anyhow::Result<String> {
    let sql = "SELECT resource FROM resources WHERE kind = 'vm' ORDER BY resource LIMIT 1";
    let csv = String::from_utf8(render(&engine.query(sql).await?, Format::Csv)?)?;
    Ok(csv.lines().nth(1).unwrap_or_default().to_owned())
}
