//! From log to durable table.
//!
//! CPU seconds are those of the whole process from the first fetch until the last sample is
//! committed: reading, checking, decoding, identity, sorting, encoding, committing. The records
//! are made before. Bytes are those of the files of `samples` after compaction.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use nilometer_contract::{MICROS_PER_HOUR, MICROS_PER_SECOND, Timestamp};
use nilometer_ingest::{Follower, IngestConfig, Ingester, Metrics};
use nilometer_log::Log;
use nilometer_simulated::Fleet;
use nilometer_source::{Clock, SystemClock};
use nilometer_sql::{Engine, Limits};
use nilometer_store::{CompactionPolicy, SAMPLES, Storage, compact};
use prometheus::Registry;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::load::{PARTITIONS, append_events, append_samples, fill, fleet, open_log};
use crate::spread::{Spread, cpu_seconds};

/// 2026-11-02T00:00:00Z
const START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);
const LIVE_RATE: usize = 50_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Samples of one run.
    #[arg(long, default_value_t = 10_000_000)]
    samples: u64,
    /// VMs and pods of the fleet; each has about ten series.
    #[arg(long, default_value_t = 2_000)]
    workloads: u32,
    /// Runs.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Seconds of live load for freshness; 0 leaves it out.
    #[arg(long, default_value_t = 20)]
    live_seconds: u32,
}

struct Running {
    metrics: Metrics,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), nilometer_ingest::IngestError>>,
}

async fn start(log: Arc<dyn Log>, storage: &Storage) -> anyhow::Result<Running> {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry)?;
    let config = IngestConfig { partitions: PARTITIONS, ..IngestConfig::default() };
    let ingester =
        Ingester::open(config, log, storage, Arc::new(SystemClock), metrics.clone()).await?;
    let cancel = CancellationToken::new();
    let task = tokio::spawn(ingester.run(cancel.clone()));
    Ok(Running { metrics, cancel, task })
}

impl Running {
    async fn wait_for(&self, samples: u64) {
        while self.metrics.samples.get() < samples {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.cancel.cancel();
        Ok(self.task.await??)
    }
}

/// Runs the bench and prints its figures.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let (mut rates, mut walls, mut sizes, mut raw) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut kept = None;
    for run in 1..=options.runs {
        let folder = tempfile::tempdir()?;
        let log: Arc<dyn Log> = Arc::new(open_log(&folder.path().join("log")).await?);
        let config = fleet(options.workloads, START);
        let (samples, last) = fill(log.as_ref(), &config, options.samples).await?;
        let storage = Storage::local(&folder.path().join("tables"))?;
        let (cpu, wall) = (cpu_seconds()?, Instant::now());
        let running = start(log.clone(), &storage).await?;
        running.wait_for(samples).await;
        running.stop().await?;
        let (cpu, wall) = (cpu_seconds()? - cpu, wall.elapsed().as_secs_f64());
        raw.push(bytes_per_sample(&storage).await?);
        compact_all(&storage).await?;
        sizes.push(bytes_per_sample(&storage).await?);
        println!(
            "run {run}: {samples} samples, {cpu:.1} CPU-s, {wall:.1} s, {:.0} samples/s/core",
            samples as f64 / cpu
        );
        rates.push(samples as f64 / cpu);
        walls.push(samples as f64 / wall);
        kept = Some((folder, log, storage, last));
    }
    let (_folder, log, storage, last) = kept.context("at least one run")?;
    let query = one_series(log, &storage, last).await?;
    println!("one series over an hour: {query} ms");
    if options.live_seconds > 0 {
        println!("{}", freshness(options.live_seconds).await?);
    }
    let (rates, sizes) = (Spread::of(rates), Spread::of(sizes));
    println!("samples/s (wall): {}", Spread::of(walls));
    println!("samples/s/core: {rates}");
    println!("B/sample as first written: {}; compacted: {sizes}", Spread::of(raw));
    println!("ingest: {:.0} samples/s/core, {:.2} B/sample", rates.median(), sizes.median());
    Ok(())
}

async fn bytes_per_sample(storage: &Storage) -> anyhow::Result<f64> {
    let table = storage.table(&SAMPLES).await?;
    let files = table.files();
    let (bytes, rows) =
        files.iter().fold((0, 0), |all, file| (all.0 + file.size, all.1 + file.rows));
    Ok(bytes as f64 / rows.max(1) as f64)
}

async fn compact_all(storage: &Storage) -> anyhow::Result<()> {
    let mut table = storage.table(&SAMPLES).await?;
    let policy = CompactionPolicy { fan_in: 2, ..CompactionPolicy::default() };
    while compact(&mut table, policy).await? > 0 {}
    Ok(())
}

/// The question of a dashboard's panel: one series over its last hour.
async fn one_series(
    log: Arc<dyn Log>,
    storage: &Storage,
    last: Timestamp,
) -> anyhow::Result<Spread> {
    let metrics = Metrics::register_follower(&Registry::new())?;
    let config = IngestConfig { partitions: PARTITIONS, ..IngestConfig::default() };
    let follower = Follower::open(config, log, storage, Arc::new(SystemClock), metrics).await?;
    let engine = Engine::new(storage, follower.tables(), Limits::default())?;
    let from = last.plus_micros(-MICROS_PER_HOUR);
    let some =
        engine.query("SELECT resource FROM resources WHERE kind = 'vm' ORDER BY resource LIMIT 1");
    let vm = nilometer_sql::render(&some.await?, nilometer_sql::Format::Csv)?;
    let vm = String::from_utf8(vm)?.lines().nth(1).unwrap_or_default().to_owned();
    let sql = format!(
        "SELECT at, value FROM samples WHERE meter = 'cpu.time' AND resource = '{vm}' AND at > '{from}' AND at <= '{last}'"
    );
    let mut times = Vec::new();
    for _ in 0..50 {
        let started = Instant::now();
        let rows = engine.query(&sql).await?;
        times.push(started.elapsed().as_secs_f64() * 1e3);
        let count: usize = rows.batches.iter().map(|batch| batch.num_rows()).sum();
        anyhow::ensure!(count > 0, "the series has rows in its last hour");
    }
    Ok(Spread::of(times))
}

/// From append to visibility under a steady load.
async fn freshness(seconds: u32) -> anyhow::Result<String> {
    let folder = tempfile::tempdir()?;
    let log: Arc<dyn Log> = Arc::new(open_log(&folder.path().join("log")).await?);
    let storage = Storage::local(&folder.path().join("tables"))?;
    let running = start(log.clone(), &storage).await?;
    // A fleet whose step has about a tenth of a second's samples, stepped ten times a second.
    let config = fleet(LIVE_RATE as u32 / 100, SystemClock.now().plus_micros(-MICROS_PER_HOUR));
    let mut fleet = Fleet::new(&config)?;
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    let (mut sent, started) = (0, Instant::now());
    for step in 0..u64::from(seconds) * 10 {
        ticks.tick().await;
        let seen = fleet.step(config.step_at(step));
        sent += seen.samples.len();
        append_events(log.as_ref(), &seen.events).await?;
        append_samples(log.as_ref(), seen.samples).await?;
    }
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    running.wait_for(sent as u64).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let histogram = running.metrics.freshness.clone();
    running.stop().await?;
    let (count, sum) = (histogram.get_sample_count(), histogram.get_sample_sum());
    Ok(format!(
        "freshness at {rate:.0} samples/s: mean {:.3} s, p99 within {} s, {count} records",
        sum / count.max(1) as f64,
        bucket_of(&histogram, 0.99)
    ))
}

/// Upper bound of the bucket that holds a quantile.
fn bucket_of(histogram: &prometheus::Histogram, part: f64) -> String {
    use prometheus::core::Metric;
    let metric = histogram.metric();
    let histogram = metric.get_histogram();
    let wanted = (histogram.get_sample_count() as f64 * part).ceil() as u64;
    let bucket = histogram.get_bucket().iter().find(|bucket| bucket.cumulative_count() >= wanted);
    bucket.map_or("more than 60".to_owned(), |bucket| bucket.upper_bound().to_string())
}
