//! The load: a simulated fleet's records, made ahead of the measurement.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nilometer_clock::SystemClock;
use nilometer_contract::{MICROS_PER_SECOND, Timestamp};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, Fsync, Log};
use nilometer_producer::{Producer, Topics};
use nilometer_simulated::{Fleet, FleetConfig};
use nilometer_source::Observation;

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
        let log: Arc<dyn Log> = Arc::new(open_log(folder)?);
        let (samples, last) =
            fill(&producer(&log).await?, &fleet(workloads, START), wanted).await?;
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
pub(crate) fn open_log(folder: &Path) -> anyhow::Result<EmbeddedLog> {
    let config = EmbeddedConfig {
        fsync: Fsync::Every(std::time::Duration::from_secs(3_600)),
        ..EmbeddedConfig::new(folder)
    };
    Ok(EmbeddedLog::open(config, Arc::new(SystemClock))?)
}

/// Makes sure of the topics.
pub(crate) async fn producer(log: &Arc<dyn Log>) -> anyhow::Result<Producer> {
    let retention = std::time::Duration::from_secs(86_400);
    Ok(Producer::open(log.clone(), Topics::new(PARTITIONS, retention)).await?)
}

/// Appends the fleet's first steps until there are `wanted` samples; says how many there are, and
/// the instant of the last step.
async fn fill(
    producer: &Producer,
    fleet: &FleetConfig,
    wanted: u64,
) -> anyhow::Result<(u64, Timestamp)> {
    let mut samples = 0;
    let mut last = fleet.start;
    let mut group = Observation::new(nilometer_simulated::SOURCE);
    let end = fleet.start.plus_micros(30 * 86_400 * MICROS_PER_SECOND);
    for (at, seen) in Fleet::new(fleet)?.steps(end, fleet.step_micros) {
        samples += seen.samples.len() as u64;
        last = at;
        group.events.extend(seen.events);
        group.samples.append(seen.samples);
        let enough = samples >= wanted;
        if group.samples.len() >= GROUP_SAMPLES || enough {
            let next = Observation::new(nilometer_simulated::SOURCE);
            let full = std::mem::replace(&mut group, next);
            producer.append(producer.produce(full).whole()?).await?;
        }
        if enough {
            break;
        }
    }
    Ok((samples, last))
}
