//! A store after a year: what a commit, a start, an idle reader and a question cost, beside one
//! that is a month old; and what a million series cost.
//!
//! Each part runs in a process of its own, so that its CPU and memory are its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use nilometer_clock::SystemClock;
use nilometer_contract::{MICROS_PER_HOUR, Scope, Timestamp};
use nilometer_engine::{Engine, Limits};
use nilometer_http::{Format, render};
use nilometer_ingest::{Follower, IngestConfig, Ingester, Metrics};
use nilometer_store::{Position, SAMPLES, Storage, Table, write_samples};
use prometheus::Registry;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use crate::aged::{Age, END, rows_of_file, series, text_of};
use crate::load::{PARTITIONS, open_log};
use crate::process::Process;
use crate::spread::Spread;

const MONTH: i64 = 30;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Days of samples.
    #[arg(long, default_value_t = 365)]
    days: i64,
    /// Files, each of a commit of its own, none of them merged.
    #[arg(long, default_value_t = 50_000)]
    files: i64,
    /// Series of the part that has many.
    #[arg(long, default_value_t = 1_000_000)]
    series: usize,
    /// How often each thing is measured.
    #[arg(long, default_value_t = 7)]
    runs: usize,
}

/// What one process measures in one folder.
#[derive(Clone, Debug, Args)]
pub(crate) struct Job {
    folder: PathBuf,
    #[command(subcommand)]
    part: Part,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum Part {
    Commit,
    Start,
    Idle,
    Questions,
}

/// What a part came to, and what memory the process took.
#[derive(Debug, Serialize, Deserialize)]
struct Found {
    figures: Vec<f64>,
    peak_bytes: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (old, young) = (folder.path().join("old"), folder.path().join("young"));
    let many = folder.path().join("many");
    let Options { days, files, series: series_wanted, runs } = options;
    let a_day = (files / days).max(1);
    println!("store of {days} days in {files} files; beside it one of {MONTH} days");
    Age { days, files_a_day: a_day }.make(&old).await?;
    Age { days: MONTH, files_a_day: a_day }.make(&young).await?;
    series(&many, series_wanted).await?;
    for (name, part, unit) in [
        ("commit", Part::Commit, "ms"),
        ("start until ready", Part::Start, "s"),
        ("idle reader", Part::Idle, "% of a core"),
    ] {
        let (found, memory) =
            (measure(&old, part, runs).await?, measure(&young, part, runs).await?);
        let [now, then] = [&found, &memory].map(|it| Spread::of(it.figures.iter().copied()));
        let mib = found.peak_bytes >> 20;
        println!("{name:<20} {now} {unit}; of the young one {then}; {mib} MiB");
    }
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        let now = measure(&old, Part::Questions, 1).await?.figures;
        let then = measure(&young, Part::Questions, 1).await?.figures;
        for (n, ratios) in ratios.iter_mut().enumerate() {
            ratios.push((now[n], then[n]));
        }
    }
    for (name, pairs) in ["last hour", "30 days"].iter().zip(ratios) {
        let spread = |pick: fn(&(f64, f64)) -> f64| Spread::of(pairs.iter().map(pick));
        let (now, then) = (spread(|pair| pair.0), spread(|pair| pair.1));
        let ratio = spread(|pair| pair.0 / pair.1);
        println!("question, {name:<10} {now} ms; of the young one {then}; ratio {ratio}");
    }
    let found = measure(&many, Part::Start, runs).await?;
    let spread = Spread::of(found.figures);
    println!("{series_wanted} series: start {spread} s, {} MiB", found.peak_bytes >> 20);
    Ok(())
}

/// Each run in a process of its own.
async fn measure(folder: &Path, part: Part, runs: usize) -> anyhow::Result<Found> {
    let name = format!("{part:?}").to_lowercase();
    let mut all = Found { figures: Vec::new(), peak_bytes: 0 };
    for _ in 0..runs {
        let mut job = Command::new(std::env::current_exe()?);
        job.arg("aged").arg(folder).arg(&name).stderr(Stdio::inherit()).kill_on_drop(true);
        let done = job.output().await.context("start a part")?;
        ensure!(done.status.success(), "{name} ended with {}", done.status);
        let found: Found = serde_json::from_slice(&done.stdout).context("read its figures")?;
        all.figures.extend(found.figures);
        all.peak_bytes = all.peak_bytes.max(found.peak_bytes);
    }
    Ok(all)
}

/// The process of a part: prints what it found, as JSON.
pub(crate) async fn work(job: Job) -> anyhow::Result<()> {
    let figures = match job.part {
        Part::Commit => commit(&job.folder).await?,
        Part::Start => start(&job.folder).await?,
        Part::Idle => idle(&job.folder).await?,
        Part::Questions => questions(&job.folder).await?,
    };
    let peak_bytes = Process::this().peak_bytes()?;
    println!("{}", serde_json::to_string(&Found { figures, peak_bytes })?);
    Ok(())
}

fn config() -> IngestConfig {
    IngestConfig { partitions: PARTITIONS, ..IngestConfig::default() }
}

/// Milliseconds of a commit of a file, durable, without writing the file.
async fn commit(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let mut table: Table = Storage::local(folder, Arc::new(SystemClock))?.table(&SAMPLES).await?;
    let app = "bench".to_owned();
    let mut millis = Vec::new();
    for _ in 0..5 {
        let adds = write_samples(&table, rows_of_file(END)).await?;
        let from = table.position(&app).await?;
        let next = from.unwrap_or(0) + 1;
        // As in an ingester, whose readers still hold the version before.
        let _view = table.files();
        let started = Instant::now();
        table.append(adds, &[Position { app: app.clone(), from, next }]).await?;
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(millis)
}

/// Seconds until an ingester has its state and answers.
async fn start(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let log = Arc::new(open_log(&folder.with_extension("log"))?);
    let started = Instant::now();
    let storage = Storage::local(folder, Arc::new(SystemClock))?;
    let metrics = Metrics::register(&Registry::new())?;
    let clock = Arc::new(SystemClock);
    let ingester = Ingester::open(config(), log, &storage, clock, metrics).await?;
    Engine::new(&storage, ingester.tables(), Limits::default())?;
    Ok(vec![started.elapsed().as_secs_f64()])
}

async fn follower(folder: &Path) -> anyhow::Result<(Storage, Follower)> {
    let log = Arc::new(open_log(&folder.with_extension("log"))?);
    let storage = Storage::local(folder, Arc::new(SystemClock))?;
    let metrics = Metrics::register_follower(&Registry::new())?;
    let clock = Arc::new(SystemClock);
    let follower = Follower::open(config(), log, &storage, clock, metrics).await?;
    Ok((storage, follower))
}

/// Percent of a core that a reader takes of which nobody asks anything.
async fn idle(folder: &Path) -> anyhow::Result<Vec<f64>> {
    const WATCHED: Duration = Duration::from_secs(10);
    let (_, follower) = follower(folder).await?;
    let cancel = CancellationToken::new();
    let running = tokio::spawn(follower.run(cancel.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = Process::this().cpu_seconds()?;
    tokio::time::sleep(WATCHED).await;
    let used = Process::this().cpu_seconds()? - before;
    cancel.cancel();
    running.await??;
    Ok(vec![used / WATCHED.as_secs_f64() * 100.0])
}

/// Milliseconds of a question about the last hour and of one about 30 days: medians.
async fn questions(folder: &Path) -> anyhow::Result<Vec<f64>> {
    let (storage, follower) = follower(folder).await?;
    let engine = Engine::new(&storage, follower.tables(), Limits::default())?;
    let mut medians = Vec::new();
    for (hours, times) in [(1, 30), (24 * MONTH, 3)] {
        let since = Timestamp(END - hours * MICROS_PER_HOUR);
        let sql = format!(
            "SELECT resource, count(*), max(value) FROM samples WHERE meter = 'cpu.time' \
             AND at > '{since}' AND at <= '{}' GROUP BY resource ORDER BY 1",
            Timestamp(END)
        );
        let mut millis = Vec::new();
        for time in 0..=times {
            let started = Instant::now();
            let answer = render(&engine.query(&Scope::system(), &sql).await?, Format::Csv)?;
            ensure!(text_of(&answer)?.lines().count() > 1, "there are samples");
            // The first reads the footers of the files.
            if time > 0 {
                millis.push(started.elapsed().as_secs_f64() * 1e3);
            }
        }
        medians.push(Spread::of(millis).median());
    }
    Ok(medians)
}
