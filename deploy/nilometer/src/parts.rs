//! The parts that roles share, built from the configuration.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use nilometer_clock::SharedClock;
use nilometer_contract::{Catalogue, Origin, TableDef, catalogue};
use nilometer_engine::Limits;
use nilometer_http::gate::AUDIT_TABLE;
use nilometer_ingest::{IngestConfig, TABLES};
use nilometer_ledger::{CHARGES, INVOICES};
use nilometer_placement::DECISION_TABLE;
use nilometer_rating::PriceBook;
use nilometer_store::{LeaseConfig, Storage, StorageConfig};
use nilometer_usage::USAGE;

use crate::config::{Config, Lease, Second};

/// Tables that others than the ingester declare; it maintains them, and feeds those with a topic.
const OTHERS: [&TableDef; 5] = [&USAGE, &CHARGES, &INVOICES, &DECISION_TABLE, &AUDIT_TABLE];

/// Every table that is stored.
pub(crate) fn tables() -> impl Iterator<Item = &'static TableDef> {
    TABLES.into_iter().chain(OTHERS)
}

impl Config {
    /// Where the tables are.
    pub(crate) fn open_storage(&self, clock: SharedClock) -> anyhow::Result<Storage> {
        let location = match self.store.location.as_str() {
            "" => self.data.dir.join("tables").display().to_string(),
            location => location.to_owned(),
        };
        let storage = StorageConfig { location, options: self.store.options.clone() };
        Storage::open(&storage, clock).context("the tables cannot be opened")
    }

    /// Meters and kinds that are declared: those of the program and of the operator's files.
    pub(crate) fn catalogue(&self) -> anyhow::Result<Arc<Catalogue>> {
        let mut all = catalogue().clone();
        for path in &self.catalogue.files {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read the catalogue {}", path.display()))?;
            all.add(&text, Origin::File(path.display().to_string().into()))
                .with_context(|| format!("the catalogue {} is refused", path.display()))?;
        }
        Ok(Arc::new(all))
    }

    /// The price book.
    pub(crate) fn price_book(&self) -> anyhow::Result<PriceBook> {
        if self.bill.price_book.is_empty() {
            return Ok(PriceBook::built_in());
        }
        let path = PathBuf::from(&self.bill.price_book);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("cannot read the price book {}", path.display()))?;
        PriceBook::parse_with(&text, self.catalogue()?.as_ref())
            .with_context(|| format!("{} is refused", path.display()))
    }

    /// The ingester's settings.
    pub(crate) fn ingest(&self) -> anyhow::Result<IngestConfig> {
        Ok(IngestConfig {
            catalogue: self.catalogue()?,
            partitions: self.log.partitions,
            log_retention: self.log.retention,
            commit_interval: self.ingest.commit_interval,
            busy_rows: self.ingest.busy_rows,
            busy_interval: self.ingest.busy_interval,
            commit_rows: self.ingest.commit_rows,
            memory_rows: self.ingest.memory_rows,
            ahead_max: self.ingest.ahead_max,
            metering_start: self.ingest.metering_start,
            vacuum_after: self.ingest.vacuum_after,
            others: OTHERS.to_vec(),
            retention: self.store.retention.kept(),
            lease: self.lease(),
            bounds: self.ingest.bounds,
            ..IngestConfig::default()
        })
    }

    /// How tables are owned.
    pub(crate) fn lease(&self) -> LeaseConfig {
        let Lease { term, second } = self.store.lease;
        LeaseConfig { term, wait: second == Second::Wait }
    }

    /// Limits of a query.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            memory_bytes: usize::try_from(self.query.max_memory).unwrap_or(usize::MAX),
            time: self.query.max_time,
            rows: self.query.max_rows,
        }
    }

    /// The scheduler's settings.
    pub(crate) fn scheduler(&self) -> nilometer_serve::Config {
        nilometer_serve::Config {
            samples_partitions: self.log.partitions,
            events_partitions: self.log.partitions,
            look_back_hours: (self.schedule.look_back.as_secs() / 3_600) as u32,
            policy: self.schedule.policy.clone(),
            ..nilometer_serve::Config::default()
        }
    }
}
