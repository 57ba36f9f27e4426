//! The configuration: one TOML file, every key documented, unknown keys refused.
//!
//! `nilometer.toml` beside this crate is the documentation and the defaults at once: it is parsed
//! at start and the user's file is laid over it, so the two cannot differ.

mod retention;
mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use nilometer_contract::Timestamp;
use serde::Deserialize;

use self::retention::Retention;
use self::values::{duration, fsync, instant, size};

use crate::listen::{ClientSettings, Listen};

/// Every key with its default, documented.
pub(crate) const DEFAULTS: &str = include_str!("../nilometer.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) listen: Listen,
    pub(crate) accounts: nilometer_accounts::Config,
    pub(crate) client: ClientSettings,
    pub(crate) data: Data,
    pub(crate) catalogue: CatalogueFiles,
    pub(crate) kafka: Kafka,
    pub(crate) log: Log,
    pub(crate) store: Store,
    pub(crate) collect: Collect,
    pub(crate) simulated: Simulated,
    pub(crate) ingest: Ingest,
    pub(crate) query: Query,
    pub(crate) bill: Bill,
    pub(crate) schedule: Schedule,
    pub(crate) control: Control,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Data {
    pub(crate) dir: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CatalogueFiles {
    pub(crate) files: Vec<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kafka {
    pub(crate) bootstrap: String,
    pub(crate) replication: i32,
    #[serde(default)]
    pub(crate) security: nilometer_log::Security,
    #[serde(default)]
    pub(crate) extra: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Log {
    pub(crate) partitions: u32,
    #[serde(deserialize_with = "duration")]
    pub(crate) retention: Duration,
    #[serde(deserialize_with = "fsync")]
    pub(crate) fsync: nilometer_log::Fsync,
    #[serde(deserialize_with = "size")]
    pub(crate) segment: u64,
    #[serde(deserialize_with = "size")]
    pub(crate) max_size: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Store {
    pub(crate) location: String,
    pub(crate) options: std::collections::HashMap<String, String>,
    pub(crate) retention: Retention,
    pub(crate) lease: Lease,
}

/// How tables are owned by one process at a time.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lease {
    #[serde(deserialize_with = "duration")]
    pub(crate) term: Duration,
    pub(crate) second: Second,
}

/// What a second owner does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Second {
    Wait,
    Refuse,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Collect {
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
    pub(crate) node: String,
    pub(crate) sources: Vec<SourceName>,
    pub(crate) cri_sockets: Vec<PathBuf>,
    pub(crate) libvirt_sockets: Vec<PathBuf>,
    pub(crate) libvirt_state_dirs: Vec<PathBuf>,
    #[serde(deserialize_with = "size")]
    pub(crate) spool: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceName {
    Host,
    Cgroup,
    Cri,
    Libvirt,
    Simulated,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Simulated {
    pub(crate) seed: u64,
    pub(crate) nodes: u32,
    pub(crate) workloads: u32,
    pub(crate) projects: u32,
    #[serde(deserialize_with = "duration")]
    pub(crate) step: Duration,
    #[serde(deserialize_with = "instant")]
    pub(crate) start: Option<Timestamp>,
    #[serde(deserialize_with = "instant")]
    pub(crate) epoch: Option<Timestamp>,
    pub(crate) factor: u32,
    #[serde(deserialize_with = "instant")]
    pub(crate) end: Option<Timestamp>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ingest {
    #[serde(deserialize_with = "duration")]
    pub(crate) commit_interval: Duration,
    pub(crate) busy_rows: usize,
    #[serde(deserialize_with = "duration")]
    pub(crate) busy_interval: Duration,
    pub(crate) commit_rows: usize,
    pub(crate) memory_rows: usize,
    #[serde(deserialize_with = "duration")]
    pub(crate) ahead_max: Duration,
    #[serde(deserialize_with = "instant")]
    pub(crate) metering_start: Option<Timestamp>,
    #[serde(deserialize_with = "duration")]
    pub(crate) vacuum_after: Duration,
    pub(crate) bounds: nilometer_ingest::Bounds,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    #[serde(deserialize_with = "size")]
    pub(crate) max_memory: u64,
    #[serde(deserialize_with = "duration")]
    pub(crate) max_time: Duration,
    pub(crate) max_rows: usize,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bill {
    pub(crate) price_book: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Schedule {
    #[serde(deserialize_with = "duration")]
    pub(crate) look_back: Duration,
    #[serde(default)]
    pub(crate) policy: nilometer_placement::policy::Policy,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Control {
    #[serde(deserialize_with = "duration")]
    pub(crate) interval: Duration,
}

impl Config {
    /// The defaults with a file laid over them, checked.
    pub(crate) fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the configuration {}", path.display()))?,
            None => String::new(),
        };
        let name = file.map_or("the configuration".to_owned(), |path| path.display().to_string());
        Self::parse(&text).with_context(|| format!("{name} is refused"))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut table: toml::Table = DEFAULTS.parse().context("the built-in defaults")?;
        let user: toml::Table = text.parse()?;
        lay_over(&mut table, user);
        let config: Config = table.try_into().map_err(|error: toml::de::Error| {
            anyhow::anyhow!("{}", with_suggestion(error.message()))
        })?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> anyhow::Result<()> {
        self.accounts.check()?;
        self.listen.check()?;
        if !(1..=1_024).contains(&self.log.partitions) {
            bail!("log.partitions is 1 to 1024, not {}", self.log.partitions);
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&self.store.lease.term) {
            bail!("store.lease.term is 1s to 1h, not {:?}", self.store.lease.term);
        }
        if self.ingest.memory_rows < self.ingest.commit_rows {
            bail!("ingest.memory_rows is less than ingest.commit_rows");
        }
        Ok(())
    }

    /// Name of this node.
    pub(crate) fn node(&self) -> String {
        match self.collect.node.as_str() {
            "" => nilometer_host::node_name(),
            name => name.to_owned(),
        }
    }
}

/// Lays one table over another, key by key; what is no table replaces.
fn lay_over(under: &mut toml::Table, over: toml::Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => lay_over(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Adds the nearest known key to the message about an unknown one.
fn with_suggestion(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let Some((unknown, known)) = quoted.split_first() else { return message.to_owned() };
    if !message.starts_with("unknown ") {
        return message.to_owned();
    }
    let nearest = known.iter().min_by_key(|name| strsim::damerau_levenshtein(name, unknown));
    match nearest.filter(|name| strsim::damerau_levenshtein(name, unknown) <= 3) {
        Some(name) => format!("{message}; did you mean `{name}`?"),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parts::tables;

    fn refused(text: &str) -> String {
        format!("{:#}", Config::parse(text).unwrap_err())
    }

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.listen.http.port(), 8600);
        assert_eq!(config.collect.interval, Duration::from_secs(10));
        assert_eq!(config.log.segment, 64 << 20);
        let usual = nilometer_ingest::IngestConfig::default();
        let kept = config.ingest().unwrap().retention;
        for table in tables() {
            let days = kept.get(table.name).map_or(0, |kept| kept.as_secs() / 86_400);
            assert_eq!(days, u64::from(table.retention_days), "{}", table.name);
        }
        assert_eq!(config.ingest().unwrap().vacuum_after, usual.vacuum_after);
        assert_eq!(config.ingest().unwrap().commit_interval, usual.commit_interval);
        assert_eq!(config.ingest().unwrap().busy_interval, usual.busy_interval);
        assert_eq!(config.ingest().unwrap().busy_rows, usual.busy_rows);
        assert_eq!(config.lease(), usual.lease);
        assert_eq!(config.ingest().unwrap().bounds, usual.bounds);
    }

    #[test]
    fn a_file_changes_what_it_says_and_nothing_else() {
        let config = Config::parse("[collect]\ninterval = \"1s\"\n").unwrap();
        assert_eq!(config.collect.interval, Duration::from_secs(1));
        assert_eq!(config.collect.spool, 1 << 30);
    }

    #[test]
    fn mistakes_are_explained() {
        let unknown = refused("[collect]\nintervall = \"1s\"\n");
        assert!(unknown.contains("did you mean `interval`?"), "{unknown}");
        assert!(refused("[collect]\ninterval = \"soon\"\n").contains("no duration"));
        assert!(refused("[collect]\nspool = \"much\"\n").contains("no size"));
        assert!(refused("[store.retention]\nusage = \"1h\"\n").contains("no retention"));
        let unknown = refused("[store.retention]\nsample = \"90days\"\n");
        assert!(unknown.contains("did you mean `samples`?"), "{unknown}");
        let refused = refused("[accounts]\ncache_life = \"1h\"\n");
        assert!(refused.contains("accounts.cache_life is refused: it is 0s to 60s"), "{refused}");
    }

    #[test]
    fn secrets_are_not_shown() {
        let text =
            "[listen]\ntoken = \"hunter2\"\n[accounts]\ndatabase = \"postgres://a:hunter2@b/c\"\n";
        let config = Config::parse(text).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
