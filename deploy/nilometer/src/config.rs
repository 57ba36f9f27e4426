//! The configuration: one TOML file, every key documented, unknown keys refused.
//!
//! `nilometer.toml` beside this crate, after `node.toml` of `deploy/process`, is the documentation and
//! the defaults at once: both are parsed at start and the user's file is laid over them, so that they
//! cannot differ.

mod retention;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use nilometer_contract::Timestamp;
use nilometer_process::values::{duration, instant, size};
use nilometer_process::{
    Collect, Data, Kafka, Listen, Log, NODE_DEFAULTS, Settings, Simulated, layers,
};
use serde::Deserialize;

use self::retention::Retention;
use crate::listen::ClientSettings;

/// Every key that an agent has not, with its default, documented.
pub(crate) const OWN_DEFAULTS: &str = include_str!("../nilometer.toml");

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
pub(crate) struct CatalogueFiles {
    pub(crate) files: Vec<PathBuf>,
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
        layers::load(file, Self::parse)
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let defaults = [NODE_DEFAULTS, OWN_DEFAULTS].concat();
        let config: Config = layers::lay_over(&defaults, text.parse()?)?;
        config.check()?;
        Ok(config)
    }

    /// Those that an agent has too.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            listen: self.listen.clone(),
            data: self.data.clone(),
            kafka: self.kafka.clone(),
            log: self.log.clone(),
            collect: self.collect.clone(),
            simulated: self.simulated.clone(),
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        self.accounts.check()?;
        self.settings().check()?;
        if !(Duration::from_secs(1)..=Duration::from_secs(3_600)).contains(&self.store.lease.term) {
            bail!("store.lease.term is 1s to 1h, not {:?}", self.store.lease.term);
        }
        if self.ingest.memory_rows < self.ingest.commit_rows {
            bail!("ingest.memory_rows is less than ingest.commit_rows");
        }
        Ok(())
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
    fn an_agent_lets_be_what_is_for_others_alone() {
        let own: toml::Table = OWN_DEFAULTS.parse().unwrap();
        let own: Vec<&str> = own.keys().map(String::as_str).collect();
        assert_eq!(own, nilometer_process::OTHER_SECTIONS);
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
