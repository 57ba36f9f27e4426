//! The one compactor: merges files, drops what retention lets go, deletes what no version needs,
//! keeps the logs of the tables short, and sets aside what is damaged.
//!
//! Whatever goes, or is found to be gone, is a row of `gaps` first.

use std::time::Duration;

use nilometer_clock::SharedClock;
use nilometer_contract::{Causes, Timestamp, micros};
use nilometer_store::{CommitError, SAMPLES, Storage, StoreError, Table, compact, horizon, vacuum};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::IngestConfig;
use crate::forget::{Forgetting, events_kept};
use crate::metrics::Metrics;
use crate::note::{note_expired, own_up};
use crate::tables::{EVENTS, GAPS};

const DAY: Duration = Duration::from_secs(86_400);

/// All tables, under maintenance.
struct Upkeep {
    tables: Vec<Table>,
    /// When rows of each were let expire last in this run.
    expired: Vec<Option<Instant>>,
    events: Forgetting,
    /// Another view of the table that takes what is said.
    gaps: Table,
    config: IngestConfig,
    metrics: Metrics,
}

/// Runs maintenance of all tables until cancelled.
pub async fn maintain(
    storage: Storage,
    config: IngestConfig,
    metrics: Metrics,
    clock: SharedClock,
    cancel: CancellationToken,
) -> Result<(), StoreError> {
    let mut tables = Vec::new();
    for def in config.tables() {
        tables.push(storage.table(def).await?);
    }
    let gaps = storage.table(&GAPS).await?;
    let events = Forgetting::new(config.catalogue.precedence().clone());
    let expired = vec![None; tables.len()];
    let mut upkeep = Upkeep { tables, expired, events, gaps, config, metrics };
    // Listing all files costs, so it is done some times an age only.
    let interval = upkeep.config.maintenance_interval;
    let vacuum_every = (upkeep.config.vacuum_after / 8).max(interval);
    let mut vacuumed = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
        let vacuum_due = vacuumed.elapsed() >= vacuum_every;
        for table in 0..upkeep.tables.len() {
            if cancel.is_cancelled() {
                return Ok(());
            }
            let done = upkeep.round(table, clock.now(), vacuum_due).await;
            if let Err(error) = done {
                let name = upkeep.tables[table].def().name;
                warn!(table = name, error = %Causes(&error), "maintenance failed");
            }
        }
        vacuumed = if vacuum_due { Instant::now() } else { vacuumed };
    }
}

impl Upkeep {
    async fn round(
        &mut self,
        table: usize,
        now: Timestamp,
        vacuum_due: bool,
    ) -> Result<(), CommitError> {
        self.own_up(table).await?;
        self.merge(table, now).await?;
        self.expire(table, now).await?;
        let table = &mut self.tables[table];
        table.keep_short().await.map_err(CommitError::Store)?;
        if vacuum_due {
            vacuum(table, self.config.vacuum_after).await.map_err(CommitError::Store)?;
            table.clean_log().await.map_err(CommitError::Store)?;
        }
        Ok(())
    }

    fn samples(&self) -> Option<&Table> {
        self.tables.iter().find(|table| table.def().name == SAMPLES.name)
    }

    /// Says what cannot be read, and goes on without it.
    async fn own_up(&mut self, table: usize) -> Result<(), CommitError> {
        let samples = self.samples().and_then(|samples| samples.files().extent());
        let (table, gaps) = (&mut self.tables[table], &mut self.gaps);
        own_up(gaps, table, samples, &self.metrics.set_aside).await.map(drop)
    }

    async fn merge(&mut self, table: usize, now: Timestamp) -> Result<(), CommitError> {
        let table = &mut self.tables[table];
        loop {
            let merged = compact(table, self.config.compaction, now).await?;
            if merged == 0 {
                return Ok(());
            }
            self.metrics.compacted_files.inc_by(merged as u64);
            info!(table = table.def().name, files = merged, "compacted");
        }
    }

    /// Lets a small part of a table expire, once in an interval by the table's own record, so that
    /// restarts change nothing, and by steady time, so that a clock that jumps about does not.
    async fn expire(&mut self, at: usize, now: Timestamp) -> Result<(), CommitError> {
        let name = self.tables[at].def().name;
        let kept = match name == EVENTS.name {
            true => events_kept(&self.config),
            false => self.config.retention.get(name).copied(),
        };
        let Some(kept) = kept else { return Ok(()) };
        let (table, interval) = (&mut self.tables[at], self.config.expiry_interval);
        let is_early = self.expired[at].is_some_and(|last| last.elapsed() < interval);
        if is_early || !table.may_expire(now, interval).await? {
            return Ok(());
        }
        self.expired[at] = Some(Instant::now());
        let horizon = self.samples().and_then(|samples| horizon(samples, now, micros(kept)));
        let Some(horizon) = horizon else { return Ok(()) };
        let (table, parts) = (&mut self.tables[at], self.config.expiry_parts);
        let picked = match name == EVENTS.name {
            true => self.events.pick(table, horizon, parts).await.map_err(CommitError::Store)?,
            false => table.expired(horizon, parts).map(|expired| (expired, Vec::new())),
        };
        let Some((expired, left)) = picked else { return Ok(()) };
        let days = kept.as_secs() / DAY.as_secs();
        note_expired(&mut self.gaps, table, &expired, days).await?;
        table.drop_expired(&expired, left, now).await?;
        self.metrics.expired_rows.inc_by(expired.rows);
        let (first, last) = (expired.span.0.to_string(), expired.span.1.to_string());
        info!(table = name, files = expired.files(), rows = expired.rows, first, last, "expired");
        Ok(())
    }
}
