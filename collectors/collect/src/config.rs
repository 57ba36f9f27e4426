//! How an agent is set up.

use std::path::PathBuf;
use std::time::Duration;

use nilometer_contract::{EVENTS, GAPS, SAMPLES};
use nilometer_log::TopicConfig;

const DAY: Duration = Duration::from_secs(86_400);
/// Longest name of an agent, node or topic.
const MAX_NAME_BYTES: usize = 512;
const MIN_SPOOL_BYTES: u64 = 64 * 1024;

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// Name of the agent in gaps; unique over the estate, such as its node's name.
    pub agent: String,
    /// Id of the node on which it runs.
    pub node: String,
    /// Time between two observations; they fall on its multiples since the epoch.
    pub interval: Duration,
    /// Folder of its own for the spool and what it remembers.
    pub spool_dir: PathBuf,
    /// Most bytes of unsent records on disk; the oldest are dropped past it. An eighth is set
    /// aside for lifecycle events, which are small and dear.
    pub spool_max_bytes: u64,
    /// Most bytes of samples in memory; past it sources wait while partitions take records. Those
    /// in an attempt of a partition, or that a failing disk does not take, count as well: of them
    /// the oldest are dropped at twice the bound.
    pub memory_max_bytes: usize,
    /// Most bytes of records that the log refuses and that are kept on disk for people; the oldest
    /// go past it. Also at most 1,000 of them.
    pub dead_letters_max_bytes: u64,
    /// Longest time one attempt at the log may take before it counts as failed.
    pub append_timeout: Duration,
    /// Longest time from the order to stop until `run` returns.
    pub stop_deadline: Duration,
    /// Topic of samples, created where it is missing.
    pub samples: TopicConfig,
    /// Topic of lifecycle events, created where it is missing.
    pub events: TopicConfig,
    /// Topic of gaps, created where it is missing.
    pub gaps: TopicConfig,
}

/// Why a configuration cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The interval is out of range.
    #[error("the interval is 100 ms to 1 h, not {0:?}")]
    Interval(Duration),
    /// The spool could not hold a record.
    #[error("the spool needs at least {MIN_SPOOL_BYTES} bytes, not {0}")]
    Spool(u64),
    /// A name that no gap could carry.
    #[error("the name of the agent, of its node and of a topic has at most {MAX_NAME_BYTES} bytes")]
    Name,
    /// A topic without partitions.
    #[error("topic {0} needs at least one partition")]
    Partitions(String),
}

impl AgentConfig {
    /// The defaults for an agent on a node that keeps its files in a folder.
    pub fn new(node: impl Into<String>, spool_dir: impl Into<PathBuf>) -> Self {
        let node = node.into();
        let topic = |name: &str, partitions, days: u32| TopicConfig {
            name: name.to_owned(),
            partitions,
            retention: DAY * days,
        };
        AgentConfig {
            agent: node.clone(),
            node,
            interval: Duration::from_secs(10),
            spool_dir: spool_dir.into(),
            spool_max_bytes: 1 << 30,
            memory_max_bytes: 32 << 20,
            dead_letters_max_bytes: 16 << 20,
            append_timeout: Duration::from_secs(10),
            stop_deadline: Duration::from_secs(5),
            samples: topic(SAMPLES, 8, 7),
            events: topic(EVENTS, 8, 30),
            gaps: topic(GAPS, 1, 30),
        }
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(Duration::from_millis(100)..=Duration::from_secs(3_600)).contains(&self.interval) {
            return Err(ConfigError::Interval(self.interval));
        }
        if self.spool_max_bytes < MIN_SPOOL_BYTES {
            return Err(ConfigError::Spool(self.spool_max_bytes));
        }
        let topics = [&self.samples, &self.events, &self.gaps];
        let names = topics.iter().map(|topic| &topic.name).chain([&self.agent, &self.node]);
        if names.into_iter().any(|name| name.len() > MAX_NAME_BYTES) {
            return Err(ConfigError::Name);
        }
        match topics.into_iter().find(|topic| topic.partitions == 0) {
            Some(topic) => Err(ConfigError::Partitions(topic.name.clone())),
            None => Ok(()),
        }
    }
}
