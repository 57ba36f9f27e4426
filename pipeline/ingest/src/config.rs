//! How the ingester behaves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::{Catalogue, TableDef, Timestamp, catalogue};
use nilometer_store::{CompactionPolicy, LeaseConfig};

use crate::bounds::Bounds;
use crate::tables::TABLES;

const DAY: Duration = Duration::from_secs(86_400);

/// Settings of the ingester; checked values, not text.
#[derive(Clone, Debug)]
pub struct IngestConfig {
    /// Tables of others that are maintained, and fed where they have a topic.
    pub others: Vec<&'static TableDef>,
    /// Partitions of topics that are created.
    pub partitions: u32,
    /// How long the log keeps records at least.
    pub log_retention: Duration,
    /// Longest time a row waits in memory before it is committed, however few there are. Readers
    /// of ours see it within a second all the same; a start reads it from the log again.
    pub commit_interval: Duration,
    /// Shortest time between two commits that no bound demands.
    pub busy_interval: Duration,
    /// Rows in memory that are worth a commit after that time: a file of fewer costs as much as
    /// one of these.
    pub busy_rows: usize,
    /// Rows in memory that trigger a commit sooner.
    pub commit_rows: usize,
    /// Rows in memory at which fetching waits for the commit.
    pub memory_rows: usize,
    /// Longest time between a row's arrival and its visibility.
    pub publish_interval: Duration,
    /// Bytes asked of the log at once, per partition.
    pub fetch_bytes: usize,
    /// How far back identities are kept in memory at start; older samples are looked up.
    pub identity_window: Duration,
    /// How far a sample may lie ahead of the log's clock; beyond, it goes to the dead letters, as
    /// does one that is older than the retention of samples.
    pub ahead_max: Duration,
    /// The start of metering, see [`View::start`](crate::View::start); none is the hour of the
    /// first record of samples by the log's clock.
    pub metering_start: Option<Timestamp>,
    /// Meters and kinds that are declared.
    pub catalogue: Arc<Catalogue>,
    /// How much is kept at most.
    pub bounds: Bounds,
    /// How the tables are owned.
    pub lease: LeaseConfig,
    /// What this process runs as, by which others know it as the owner.
    pub role: &'static str,
    /// Longest time from the order to stop until the end. What is not committed stays in the log.
    pub stop_deadline: Duration,
    /// How often the tables are looked at for what others committed to them.
    pub refresh_interval: Duration,
    /// How long to wait before what failed is tried again.
    pub retry_pause: Duration,
    /// When files are merged.
    pub compaction: CompactionPolicy,
    /// How often compaction, retention and vacuum are considered.
    pub maintenance_interval: Duration,
    /// How long tables keep rows, by name; one that is not named keeps them for ever. Whole files
    /// go, once all of their rows are older.
    pub retention: BTreeMap<&'static str, Duration>,
    /// How often rows that are older are dropped, for the first time after it has passed once.
    pub expiry_interval: Duration,
    /// Each time one file, or as many as have at most one row in so many of the table.
    pub expiry_parts: u64,
    /// Age at which files that no version needs are deleted.
    pub vacuum_after: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        IngestConfig {
            others: Vec::new(),
            partitions: 8,
            log_retention: 7 * DAY,
            commit_interval: Duration::from_secs(15 * 60),
            busy_interval: Duration::from_secs(10),
            busy_rows: 100_000,
            commit_rows: 1 << 20,
            memory_rows: 4 << 20,
            publish_interval: Duration::from_millis(200),
            fetch_bytes: 4 << 20,
            identity_window: Duration::from_secs(6 * 3_600),
            ahead_max: Duration::from_secs(600),
            metering_start: None,
            catalogue: Arc::new(catalogue().clone()),
            bounds: Bounds::default(),
            lease: LeaseConfig::default(),
            role: "ingest",
            stop_deadline: Duration::from_secs(20),
            refresh_interval: Duration::from_secs(30),
            retry_pause: Duration::from_secs(1),
            compaction: CompactionPolicy::default(),
            maintenance_interval: Duration::from_secs(20),
            retention: usual_retention(),
            expiry_interval: Duration::from_secs(3_600),
            expiry_parts: 100,
            vacuum_after: DAY,
        }
    }
}

impl IngestConfig {
    /// All tables: the ingester's own, then those of others.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &'static TableDef> {
        TABLES.into_iter().chain(self.others.iter().copied())
    }
}

/// As the tables of the ingester are declared.
fn usual_retention() -> BTreeMap<&'static str, Duration> {
    let kept = TABLES.iter().filter(|def| def.retention_days > 0);
    kept.map(|def| (def.name, DAY * def.retention_days)).collect()
}
