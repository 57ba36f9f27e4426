//! The peer: VictoriaMetrics, one node, default settings, fed by Prometheus remote write.
//!
//! It is given the very records that our ingester read, one request each, over one connection.

mod binary;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nilometer_contract::{SAMPLES, decode};
use nilometer_log::{Log, ReadEvent, ReadPosition, Reader, TopicPartition};
use reqwest::Client;
use serde::Deserialize;

pub(crate) use binary::{VERSION, binary};

use crate::figures::Figures;
use crate::folder::bytes_below;
use crate::load::{Load, PARTITIONS};
use crate::process::Process;
use crate::question::{Question, ask};
use crate::remote_write;

/// How long it may take to start, to flush or to merge on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// It keeps values as decimals of about twelve digits, and cuts off what is more.
const DIGITS_KEPT: f64 = 1e-11;

/// A running peer; killed when dropped.
struct Peer {
    child: Child,
    folder: PathBuf,
    url: String,
    client: Client,
}

/// One run into a folder.
pub(crate) async fn run(
    binary: &Path,
    load: &Load,
    question: &Question,
    folder: &Path,
) -> anyhow::Result<Figures> {
    let peer = Peer::start(binary, folder).await?;
    let process = Process::of(peer.child.id());
    let (cpu, started) = (process.cpu_seconds()?, Instant::now());
    let samples = peer.write_all(&load.log).await?;
    ensure!(samples == load.samples, "the log has {samples} samples, not {}", load.samples);
    peer.flush().await?;
    let (durable_cpu, wall) = (process.cpu_seconds()?, started.elapsed());
    let peak_bytes = process.peak_bytes()?;
    let metrics = peer.metrics().await?;
    let kept = sum(&metrics, "vm_rows", "\"storage/");
    ensure!(kept == samples as f64, "the peer kept {kept} of {samples} samples; is the clock off?");
    let durable_bytes = sum(&metrics, "vm_data_size_bytes", "\"storage/") as u64;
    peer.merge().await?;
    let merged_cpu = process.cpu_seconds()?;
    let data = peer.data();
    let merged_bytes =
        bytes_below(&data.join("data/small"))? + bytes_below(&data.join("data/big"))?;
    let labelled_bytes = bytes_below(&data)?;
    let question_millis = peer.ask(question).await?;
    Ok(Figures {
        samples,
        cpu_seconds: durable_cpu - cpu,
        wall_seconds: wall.as_secs_f64(),
        merged_cpu_seconds: merged_cpu - cpu,
        peak_bytes,
        durable_bytes,
        merged_bytes,
        labelled_bytes,
        question_millis,
    })
}

impl Peer {
    /// Starts it on empty data, on loopback, and waits until it answers.
    async fn start(binary: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(folder)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let said = File::create(folder.join("log"))?;
        let mut command = Command::new(binary);
        command.arg(format!("-httpListenAddr={address}"));
        command.arg(format!("-storageDataPath={}", folder.join("data").display()));
        // By default it forgets what is older than a month, as the fleet's instants will be.
        command.arg("-retentionPeriod=100y");
        command.stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let child = command.spawn().context("start victoria-metrics")?;
        let client = Client::builder().no_proxy().timeout(PATIENCE).build()?;
        let url = format!("http://{address}");
        let mut peer = Peer { child, folder: folder.to_owned(), url, client };
        let started = Instant::now();
        while peer.get("/health").await.is_err() {
            let ended = peer.child.try_wait()?;
            if ended.is_some() || started.elapsed() > PATIENCE {
                bail!("victoria-metrics does not answer: {}", peer.said()?);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(peer)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// What it logged.
    fn said(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.folder.join("log"))?)
    }

    async fn get(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await?;
        Ok(answer.error_for_status()?.text().await?)
    }

    async fn metrics(&self) -> anyhow::Result<String> {
        self.get("/metrics").await
    }

    /// Sends each record of the log, the partitions by turns so that time goes forward; says how
    /// many samples there were.
    async fn write_all(&self, log: &Arc<dyn Log>) -> anyhow::Result<u64> {
        let mut readers = Vec::new();
        for partition in 0..PARTITIONS {
            let at = TopicPartition { topic: SAMPLES.to_owned(), partition };
            let from = ReadPosition::at(log.incarnation(&at).await?, 0);
            // At least one record, which is more than a byte.
            readers.push(Reader::new(log.clone(), at, from, 1).without_waiting());
        }
        let mut sent = 0;
        loop {
            let before = sent;
            for reader in &mut readers {
                let ReadEvent::Records(records) = reader.next().await? else { continue };
                for record in records {
                    let batch = decode(&record.payload)?;
                    self.write(remote_write::body(&batch)?).await?;
                    sent += batch.len() as u64;
                }
            }
            if sent == before {
                return Ok(sent);
            }
        }
    }

    async fn write(&self, body: Vec<u8>) -> anyhow::Result<()> {
        let request = self.client.post(format!("{}/api/v1/write", self.url)).body(body);
        let request = request
            .header("content-type", "application/x-protobuf")
            .header("content-encoding", "snappy")
            .header("x-prometheus-remote-write-version", "0.1.0");
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// Until all that it was sent is in files. Asking for a flush makes it visible; it writes what
    /// is in memory when its flush interval, 5 s by default, is over.
    async fn flush(&self) -> anyhow::Result<()> {
        self.get("/internal/force_flush").await?;
        let started = Instant::now();
        loop {
            let metrics = self.metrics().await?;
            let pending = sum(&metrics, "vm_pending_rows", "");
            if pending + sum(&metrics, "vm_parts", "/inmemory\"") == 0.0 {
                return Ok(());
            }
            ensure!(started.elapsed() < PATIENCE, "the peer does not flush: {}", self.said()?);
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// Merges all files, and waits until those that were merged are gone.
    async fn merge(&self) -> anyhow::Result<()> {
        self.get("/internal/force_merge").await?;
        let started = Instant::now();
        let mut before = None;
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let said = self.said()?;
            let done = said.lines().any(|line| {
                line.contains("forced merge for") && line.contains("successfully finished")
            });
            let bytes = done.then_some(bytes_below(&self.data())?);
            if done && bytes == before {
                return Ok(());
            }
            before = bytes;
            ensure!(started.elapsed() < PATIENCE, "the peer does not merge: {said}");
        }
    }

    /// Asks for one series as it is stored; the median milliseconds.
    async fn ask(&self, question: &Question) -> anyhow::Result<f64> {
        let Question { meter, resource, after, until, .. } = question;
        // In seconds; both bounds are inclusive, so the first is the millisecond past `after`.
        let seconds = |millis: i64| format!("{}.{:03}", millis / 1_000, millis % 1_000);
        let parameters = [
            ("match[]", format!("{{__name__=\"{meter}\",resource=\"{resource}\"}}")),
            ("start", seconds(remote_write::millis(*after) + 1)),
            ("end", seconds(remote_write::millis(*until))),
        ];
        let url = format!("{}/api/v1/export", self.url);
        let (millis, found) = ask(self.client.get(url).query(&parameters), values).await?;
        compare(&question.values, &found)?;
        Ok(millis)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("victoria-metrics was not killed: {error}");
        }
    }
}

/// Fails unless both sides answered the same, as far as the peer keeps it.
fn compare(ours: &[f64], peers: &[f64]) -> anyhow::Result<()> {
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= DIGITS_KEPT * a.abs();
    let same = ours.len() == peers.len() && ours.iter().zip(peers).all(near);
    ensure!(same, "ours answered {ours:?}, the peer {peers:?}");
    let changed = ours.iter().zip(peers).filter(|(ours, peers)| ours != peers).count();
    if changed > 0 {
        println!("victoria-metrics gave {changed} of {} values with fewer digits", ours.len());
    }
    Ok(())
}

/// Values of an export: a line of JSON a series.
fn values(answer: &[u8]) -> serde_json::Result<Vec<f64>> {
    #[derive(Deserialize)]
    struct Series {
        values: Vec<f64>,
    }
    let series = serde_json::Deserializer::from_slice(answer).into_iter::<Series>();
    let series: Vec<Series> = series.collect::<serde_json::Result<_>>()?;
    Ok(series.into_iter().flat_map(|series| series.values).collect())
}

/// Sum of a metric's series whose labels contain some text.
fn sum(metrics: &str, metric: &str, label: &str) -> f64 {
    let series = metrics.lines().filter_map(|line| line.rsplit_once(' '));
    let wanted =
        series.filter(|(name, _)| name.split('{').next() == Some(metric) && name.contains(label));
    wanted.filter_map(|(_, value)| value.parse::<f64>().ok()).sum()
}
