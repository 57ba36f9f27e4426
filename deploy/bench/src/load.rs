//! The load: a simulated fleet's records, made ahead of the measurement.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use nilometer_clock::SystemClock;
use nilometer_contract::{
    BatchBuilder, EVENTS, LifecycleEvent, MICROS_PER_SECOND, SAMPLES, Timestamp, encode,
    partition_of,
};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log, TopicConfig, TopicPartition};
use nilometer_simulated::{Fleet, FleetConfig};

pub(crate) const PARTITIONS: u32 = 4;
/// Samples that are said together; a large agent's or gateway's batch.
const GROUP_SAMPLES: usize = 100_000;

/// 2026-11-02T00:00:00Z
const START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);

/// A log that holds the records of one run.
pub(crate) struct Load {
    pub(crate) folder: PathBuf,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) samples: u64,
    /// Instant of the last step.
    pub(crate) last: Timestamp,
}

impl Load {
    /// Makes records of at least `wanted` samples in a folder.
    pub(crate) async fn make(folder: &Path, workloads: u32, wanted: u64) -> anyhow::Result<Self> {
        let log: Arc<dyn Log> = Arc::new(open_log(folder).await?);
        let (samples, last) = fill(log.as_ref(), &fleet(workloads, START), wanted).await?;
        Ok(Load { folder: folder.to_owned(), log, samples, last })
    }
}

/// A fleet for benches: no churn, so that runs are alike.
pub(crate) fn fleet(workloads: u32, start: Timestamp) -> FleetConfig {
    FleetConfig {
        nodes: (workloads / 20).max(1),
        vms_and_pods: workloads,
        start,
        step_micros: 10 * MICROS_PER_SECOND,
        ..FleetConfig::default()
    }
}

/// A log in a folder, without syncs: the disk is not what is measured.
pub(crate) async fn open_log(folder: &Path) -> anyhow::Result<EmbeddedLog> {
    let config = EmbeddedConfig {
        fsync: Fsync::Every(std::time::Duration::from_secs(3_600)),
        ..EmbeddedConfig::new(folder)
    };
    let log = EmbeddedLog::open(config, Arc::new(SystemClock))?;
    for name in [SAMPLES, EVENTS] {
        let retention = std::time::Duration::from_secs(86_400);
        let topic = TopicConfig { name: name.to_owned(), partitions: PARTITIONS, retention };
        log.ensure_topic(&topic).await?;
    }
    Ok(log)
}

/// Appends the fleet's first steps until there are `wanted` samples; says how many there are, and
/// the instant of the last step.
async fn fill(log: &dyn Log, fleet: &FleetConfig, wanted: u64) -> anyhow::Result<(u64, Timestamp)> {
    let mut samples = 0;
    let mut last = fleet.start;
    let mut group = BatchBuilder::new(nilometer_simulated::SOURCE);
    let end = fleet.start.plus_micros(30 * 86_400 * MICROS_PER_SECOND);
    for (at, seen) in Fleet::new(fleet)?.steps(end, fleet.step_micros) {
        append_events(log, &seen.events).await?;
        samples += seen.samples.len() as u64;
        last = at;
        group.append(seen.samples);
        let enough = samples >= wanted;
        if group.len() >= GROUP_SAMPLES || enough {
            let full =
                std::mem::replace(&mut group, BatchBuilder::new(nilometer_simulated::SOURCE));
            append_samples(log, full).await?;
        }
        if enough {
            break;
        }
    }
    Ok((samples, last))
}

/// Appends one batch, split by partition.
pub(crate) async fn append_samples(log: &dyn Log, batch: BatchBuilder) -> anyhow::Result<()> {
    for (partition, batch) in batch.build_partitioned(PARTITIONS) {
        let records = encode(&batch)?.into_iter().map(Bytes::from).collect();
        let to = TopicPartition { topic: SAMPLES.to_owned(), partition };
        log.append(&to, records).await?;
    }
    Ok(())
}

pub(crate) async fn append_events(log: &dyn Log, events: &[LifecycleEvent]) -> anyhow::Result<()> {
    for event in events {
        let partition = partition_of(&event.resource.id, PARTITIONS);
        let to = TopicPartition { topic: EVENTS.to_owned(), partition };
        log.append(&to, vec![event.encode()?.into()]).await?;
    }
    Ok(())
}
