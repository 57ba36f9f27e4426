//! The settings of a node: what a process needs to observe it, write to the log and be asked.
//!
//! `node.toml` beside this crate is their documentation and their defaults at once: it is parsed at
//! start and the user's file is laid over it, so the two cannot differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nilometer_clock::SharedClock;
use nilometer_collect::AgentConfig;
use nilometer_contract::{EVENTS, GAPS, SAMPLES, Timestamp};
use nilometer_log::{EmbeddedConfig, EmbeddedLog, KafkaConfig, KafkaLog, TopicConfig};
use serde::Deserialize;

use crate::layers;
use crate::listen::Listen;
use crate::values::{duration, fsync, instant, size};

/// Every key of a node with its default, documented.
pub const NODE_DEFAULTS: &str = include_str!("../node.toml");

/// Sections of the same file that are for other processes.
pub const OTHER_SECTIONS: [&str; 9] =
    ["accounts", "bill", "catalogue", "client", "control", "ingest", "query", "schedule", "store"];

/// The settings of a node.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How it is asked.
    pub listen: Listen,
    /// What it keeps.
    pub data: Data,
    /// The log, where it is Kafka.
    pub kafka: Kafka,
    /// Topics, and the embedded log.
    pub log: Log,
    /// What it observes.
    pub collect: Collect,
    /// The simulated fleet.
    pub simulated: Simulated,
}

/// `[data]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The data folder.
    pub dir: PathBuf,
}

/// `[kafka]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    /// Brokers; empty is the embedded log.
    pub bootstrap: String,
    /// Replicas of topics that are created.
    pub replication: i32,
    /// TLS and SASL.
    #[serde(default)]
    pub security: nilometer_log::Security,
    /// Settings of librdkafka.
    #[serde(default)]
    pub extra: BTreeMap<String, String>,
}

/// `[log]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Partitions of a topic.
    pub partitions: u32,
    /// How long records are kept at least.
    #[serde(deserialize_with = "duration")]
    pub retention: Duration,
    /// When records are forced to disk.
    #[serde(deserialize_with = "fsync")]
    pub fsync: nilometer_log::Fsync,
    /// Bytes of a segment.
    #[serde(deserialize_with = "size")]
    pub segment: u64,
    /// Bytes of all segments.
    #[serde(deserialize_with = "size")]
    pub max_size: u64,
}

/// `[collect]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Time between two observations.
    #[serde(deserialize_with = "duration")]
    pub interval: Duration,
    /// Name of the node; empty is the hostname.
    pub node: String,
    /// Sources to look for.
    pub sources: Vec<SourceName>,
    /// Sockets of container runtimes; empty is the usual places.
    pub cri_sockets: Vec<PathBuf>,
    /// Sockets of libvirt; empty is the usual places.
    pub libvirt_sockets: Vec<PathBuf>,
    /// Folders with the state of libvirt; empty is the usual places.
    pub libvirt_state_dirs: Vec<PathBuf>,
    /// Most bytes kept while the log is away.
    #[serde(deserialize_with = "size")]
    pub spool: u64,
}

/// A source by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceName {
    /// This machine.
    Host,
    /// Its cgroups.
    Cgroup,
    /// A container runtime.
    Cri,
    /// Virtual machines.
    Libvirt,
    /// A simulated fleet.
    Simulated,
}

/// `[simulated]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Simulated {
    /// Seed of the fleet.
    pub seed: u64,
    /// Nodes.
    pub nodes: u32,
    /// VMs and pods.
    pub workloads: u32,
    /// Projects.
    pub projects: u32,
    /// Simulated time between two observations.
    #[serde(deserialize_with = "duration")]
    pub step: Duration,
    /// Simulated time at which it begins.
    #[serde(deserialize_with = "instant")]
    pub start: Option<Timestamp>,
    /// The real time of that.
    #[serde(deserialize_with = "instant")]
    pub epoch: Option<Timestamp>,
    /// Simulated seconds per second.
    pub factor: u32,
    /// Simulated time at which it stops.
    #[serde(deserialize_with = "instant")]
    pub end: Option<Timestamp>,
}

impl Settings {
    /// The defaults with a file laid over them, checked. Sections for other processes are let be:
    /// one file may serve all of them.
    ///
    /// # Errors
    ///
    /// If the file cannot be read or is refused.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        layers::load(file, |text| {
            let mut table: toml::Table = text.parse()?;
            table.retain(|name, _| !OTHER_SECTIONS.contains(&name));
            let settings: Settings = layers::lay_over(NODE_DEFAULTS, table)?;
            settings.check()?;
            Ok(settings)
        })
    }

    /// What no type says of them.
    ///
    /// # Errors
    ///
    /// If a setting is out of its bounds.
    pub fn check(&self) -> anyhow::Result<()> {
        self.listen.check()?;
        if !(1..=1_024).contains(&self.log.partitions) {
            bail!("log.partitions is 1 to 1024, not {}", self.log.partitions);
        }
        Ok(())
    }

    /// Name of this node.
    pub fn node(&self) -> String {
        match self.collect.node.as_str() {
            "" => nilometer_host::node_name(),
            name => name.to_owned(),
        }
    }

    /// The log: Kafka where brokers are named, else the embedded one.
    ///
    /// # Errors
    ///
    /// If it cannot be opened, or its settings are refused.
    pub fn open_log(&self, clock: SharedClock) -> anyhow::Result<Arc<dyn nilometer_log::Log>> {
        if self.kafka.bootstrap.is_empty() {
            let embedded = EmbeddedConfig {
                segment_bytes: self.log.segment,
                max_total_bytes: self.log.max_size,
                fsync: self.log.fsync,
                ..EmbeddedConfig::new(self.data.dir.join("log"))
            };
            let log = EmbeddedLog::open(embedded, clock);
            return Ok(Arc::new(log.context("the embedded log cannot be opened")?));
        }
        let kafka = KafkaConfig {
            security: self.kafka.security.clone(),
            replication: self.kafka.replication,
            extra: self.kafka.extra.clone(),
            ..KafkaConfig::new(self.kafka.bootstrap.clone())
        };
        let log = KafkaLog::connect(kafka).context("the settings of Kafka are refused")?;
        Ok(Arc::new(log))
    }

    /// What the log is, for people.
    pub fn log_name(&self) -> String {
        match self.kafka.bootstrap.as_str() {
            "" => format!("embedded, {}", self.data.dir.join("log").display()),
            brokers => format!("Kafka at {brokers}"),
        }
    }

    /// The agent's settings; `name` tells several agents of one process apart.
    pub fn agent(&self, name: &str) -> AgentConfig {
        let node = self.node();
        let mut agent = AgentConfig::new(node.clone(), self.data.dir.join("spool").join(name));
        if name != "node" {
            agent.agent = format!("{node}/{name}");
        }
        agent.interval = self.collect.interval;
        agent.spool_max_bytes = self.collect.spool;
        let topic = |topic: &str, partitions| TopicConfig {
            name: topic.to_owned(),
            partitions,
            retention: self.log.retention,
        };
        agent.samples = topic(SAMPLES, self.log.partitions);
        agent.events = topic(EVENTS, self.log.partitions);
        agent.gaps = topic(GAPS, 1);
        agent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> anyhow::Result<Settings> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Settings::load(Some(file.path()))
    }

    #[test]
    fn sections_for_others_are_let_be_and_unknown_ones_refused() {
        let settings = load("[collect]\nnode = \"n7\"\n[ingest]\nmemory_rows = 1\n").unwrap();
        assert_eq!(settings.node(), "n7");
        let refused = format!("{:#}", load("[colect]\nnode = \"n7\"\n").unwrap_err());
        assert!(refused.contains("did you mean `collect`?"), "{refused}");
        let refused = format!("{:#}", load("[log]\npartitions = 0\n").unwrap_err());
        assert!(refused.contains("log.partitions is 1 to 1024"), "{refused}");
    }
}
