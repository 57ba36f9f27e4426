//! A label that gets a new value with every sample: refused at the bound, in flat memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Args;
use nilometer_clock::SystemClock;
use nilometer_contract::{
    BatchBuilder, Labels, Resource, ResourceKind, SAMPLES, Subject, Timestamp, encode,
};
use nilometer_log::{Log, TopicConfig, TopicPartition};
use nilometer_store::Storage;

use crate::load::{PARTITIONS, open_log};
use crate::ours::Running;
use crate::process::Process;

/// Samples of one record, before it is split by its size.
const BATCH: usize = 10_000;
const MIB: f64 = 1_048_576.0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How many values.
    #[arg(long, default_value_t = 1_000_000)]
    values: usize,
    /// After so many the memory is looked at for the first time.
    #[arg(long, default_value_t = 100_000)]
    first: usize,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let log = open_log(&folder.path().join("log"))?;
    let retention = Duration::from_secs(86_400);
    let topic = TopicConfig { name: SAMPLES.to_owned(), partitions: PARTITIONS, retention };
    log.ensure_topic(&topic).await?;
    let to = TopicPartition { topic: SAMPLES.to_owned(), partition: 0 };
    let storage = Storage::local(&folder.path().join("tables"), Arc::new(SystemClock))?;
    let running = Running::start(Arc::new(log.clone()), &storage).await?;
    let (this, started) = (Process::this(), Instant::now());
    let (mut sent, mut first) = (0, None);
    while sent < options.values {
        let upto = (sent + BATCH).min(options.values);
        let records = records(sent..upto)?.into_iter().map(Into::into).collect();
        log.append(&to, records).await?;
        sent = upto;
        let judged = || running.metrics.samples.get() + running.metrics.dead_letters.get();
        while judged() < sent as u64 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if first.is_none() && sent >= options.first {
            first = Some(this.resident_bytes()?);
        }
    }
    let (last, seconds) = (this.resident_bytes()?, started.elapsed().as_secs_f64());
    let (kept, refused) = (running.metrics.samples.get(), running.metrics.dead_letters.get());
    running.stop().await?;
    ensure!(kept + refused == options.values as u64, "{kept} kept and {refused} refused");
    let first = first.unwrap_or(last) as f64 / MIB;
    println!(
        "{} values of one label in {seconds:.1} s: {kept} kept, {refused} refused; resident {first:.0} \
         MiB after the first {}, {:.0} MiB at the end",
        options.values,
        options.first,
        last as f64 / MIB
    );
    Ok(())
}

fn records(values: std::ops::Range<usize>) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut builder = BatchBuilder::new("gateway");
    let mut resource = Resource::new("api", ResourceKind::SERVICE);
    resource.project = "acme".to_owned();
    for value in values {
        let labels = Labels::new([("request", value.to_string())])?;
        let subject = builder.subject(Subject::from(&resource).with_labels(labels));
        builder.push_named(subject, "requests", Timestamp::from_seconds(1_793_577_601), 1.0);
    }
    Ok(encode(&builder.build())?)
}
