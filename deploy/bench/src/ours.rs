//! Our side: from the log into durable tables, compaction, one question.
//!
//! In a process of its own, like the peer, so that making the records is not in its figures.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use nilometer_clock::{Clock, SystemClock};
use nilometer_contract::TableDef;
use nilometer_contract::{Principal, Scope, Timestamp};
use nilometer_engine::{Engine, Limits};
use nilometer_http::{Format, Gate, render, surface};
use nilometer_ingest::{Follower, IngestConfig, IngestError, Ingester, Metrics};
use nilometer_log::Log;
use nilometer_store::{CompactionPolicy, SAMPLES, SERIES, Storage, compact};
use prometheus::Registry;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::figures::Figures;
use crate::folder::bytes_below;
use crate::load::{Load, PARTITIONS, open_log};
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
    // The load is of a date of its own.
    let (ahead_max, retention) = (std::time::Duration::MAX, std::collections::BTreeMap::new());
    IngestConfig { partitions: PARTITIONS, ahead_max, retention, ..IngestConfig::default() }
}

/// What the process of a run is told.
#[derive(Clone, Debug, Args)]
pub(crate) struct Job {
    /// Folder of the log.
    log: PathBuf,
    /// Folder of the tables.
    tables: PathBuf,
    /// Samples in the log.
    samples: u64,
    /// Instant of the last of them.
    last: Timestamp,
}

/// One run into a folder, in a process of its own; also what was asked.
pub(crate) async fn run(load: &Load, tables: &Path) -> anyhow::Result<(Figures, Question)> {
    let mut job = Command::new(std::env::current_exe()?);
    job.arg("ours").args([load.folder.as_path(), tables]);
    job.args([load.samples.to_string(), load.last.to_string()]);
    let done =
        job.stderr(Stdio::inherit()).kill_on_drop(true).output().await.context("start our side")?;
    ensure!(done.status.success(), "our side ended with {}", done.status);
    serde_json::from_slice(&done.stdout).context("read the figures of our side")
}

/// The process of a run: prints its figures and what it asked, as JSON.
pub(crate) async fn work(job: Job) -> anyhow::Result<()> {
    let (log, samples): (Arc<dyn Log>, _) = (Arc::new(open_log(&job.log)?), job.samples);
    let storage = Storage::local(&job.tables, Arc::new(SystemClock))?;
    let this = Process::this();
    let (cpu, started) = (this.cpu_seconds()?, Instant::now());
    let running = Running::start(log.clone(), &storage).await?;
    running.wait_for(samples).await;
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
        labelled_bytes += bytes_below(&job.tables.join(table.name).join("_delta_log"))?;
    }
    let (question, question_millis) = question(log, &storage, job.last).await?;
    let figures = Figures {
        samples,
        cpu_seconds: durable_cpu - cpu,
        wall_seconds: wall.as_secs_f64(),
        merged_cpu_seconds: durable_cpu - cpu + merge_cpu,
        peak_bytes,
        durable_bytes,
        merged_bytes,
        labelled_bytes,
        question_millis,
    };
    println!("{}", serde_json::to_string(&(figures, question))?);
    Ok(())
}

/// Bytes of the files that are in a table; those that compaction replaced are not.
async fn file_bytes(storage: &Storage, table: &'static TableDef) -> anyhow::Result<u64> {
    Ok(storage.table(table).await?.files().iter().map(|file| file.size).sum())
}

async fn compact_all(storage: &Storage) -> anyhow::Result<()> {
    let mut table = storage.table(&SAMPLES).await?;
    let policy = CompactionPolicy { fan_in: 2, ..CompactionPolicy::default() };
    let now = SystemClock.now();
    while compact(&mut table, policy, now).await? > 0 {}
    Ok(())
}

/// Asks for one series in SQL over HTTP; also the median milliseconds.
async fn question(
    log: Arc<dyn Log>,
    storage: &Storage,
    last: Timestamp,
) -> anyhow::Result<(Question, f64)> {
    let metrics = Metrics::register_follower(&Registry::new())?;
    let clock = Arc::new(SystemClock);
    let follower = Follower::open(config(), log, storage, clock, metrics).await?;
    let engine = Engine::new(storage, follower.tables(), Limits::default())?;
    let mut question = Question::new(some_vm(&engine).await?, last);
    let Question { meter, resource, after, until, .. } = &question;
    let sql = format!(
        "SELECT at, value FROM samples WHERE meter = '{meter}' AND resource = '{resource}' \
         AND at > '{after}' AND at <= '{until}'"
    );
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}/v1/sql", listener.local_addr()?);
    let gate = Gate::trusting(Principal::operator("bench"), Arc::new(SystemClock));
    let routes = surface(&engine).router(gate);
    let server = tokio::spawn(axum::serve(listener, routes).into_future());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let request = client.post(url).json(&serde_json::json!({ "query": sql }));
    let asked = ask(request, values).await;
    server.abort();
    let (millis, values) = asked?;
    question.values = values;
    Ok((question, millis))
}

/// Values of an answer: an array of rows.
fn values(answer: &[u8]) -> serde_json::Result<Vec<f64>> {
    #[derive(Deserialize)]
    struct Row {
        value: f64,
    }
    let rows: Vec<Row> = serde_json::from_slice(answer)?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

async fn some_vm(engine: &Engine) -> anyhow::Result<String> {
    let sql = "SELECT resource FROM resources WHERE kind = 'vm' ORDER BY resource LIMIT 1";
    let csv = String::from_utf8(render(&engine.query(&Scope::system(), sql).await?, Format::Csv)?)?;
    Ok(csv.lines().nth(1).unwrap_or_default().to_owned())
}
