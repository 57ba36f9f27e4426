//! The one compactor: merges files, drops what retention lets go, deletes what no version needs,
//! keeps the logs of the tables short, and sets aside what is damaged.
//!
//! Whatever goes, or is found to be gone, is a row of `gaps` first.

use std::time::Duration;

use nilometer_contract::{Timestamp, micros};
use nilometer_store::{
    CommitError, GAPS, SAMPLES, STORED, Storage, StoreError, Table, compact, horizon, vacuum,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::IngestConfig;
use crate::metrics::Metrics;
use crate::note::{note_expired, own_up_damaged, own_up_unread};

const DAY: Duration = Duration::from_secs(86_400);

/// All tables, under maintenance.
struct Upkeep {
    tables: Vec<Table>,
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
    now: impl Fn() -> Timestamp + Send + Sync,
    cancel: CancellationToken,
) -> Result<(), StoreError> {
    let mut tables = Vec::new();
    for def in STORED {
        tables.push(storage.table(def).await?);
    }
    let gaps = storage.table(&GAPS).await?;
    let mut upkeep = Upkeep { tables, gaps, config, metrics };
    // Listing all files costs, so it is done some times an age only.
    let interval = upkeep.config.maintenance_interval;
    let vacuum_every = (upkeep.config.vacuum_after / 8).max(interval);
    let (mut vacuumed, mut expired) = (Instant::now(), Instant::now());
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(interval) => {}
        }
        let vacuum_due = vacuumed.elapsed() >= vacuum_every;
        let expiry_due = expired.elapsed() >= upkeep.config.expiry_interval;
        for table in 0..upkeep.tables.len() {
            if cancel.is_cancelled() {
                return Ok(());
            }
            let done = upkeep.round(table, now(), expiry_due, vacuum_due).await;
            if let Err(error) = done {
                let name = upkeep.tables[table].def().name;
                warn!(table = name, error = &error as &dyn std::error::Error, "maintenance failed");
            }
        }
        let at = Instant::now();
        vacuumed = if vacuum_due { at } else { vacuumed };
        expired = if expiry_due { at } else { expired };
    }
}

impl Upkeep {
    async fn round(
        &mut self,
        table: usize,
        now: Timestamp,
        expiry_due: bool,
        vacuum_due: bool,
    ) -> Result<(), CommitError> {
        self.own_up(table).await?;
        self.merge(table, now).await?;
        if expiry_due {
            self.expire(table, now).await?;
        }
        let table = &mut self.tables[table];
        table.keep_short().await.map_err(CommitError::Store)?;
        if vacuum_due {
            vacuum(table, self.config.vacuum_after).await.map_err(CommitError::Store)?;
            table.clean_log().await.map_err(CommitError::Store)?;
        }
        Ok(())
    }

    /// Says what cannot be read, and goes on without it.
    async fn own_up(&mut self, table: usize) -> Result<(), CommitError> {
        let (table, gaps) = (&mut self.tables[table], &mut self.gaps);
        let name = table.def().name;
        own_up_unread(gaps, table, |unread| {
            warn!(table = name, version = unread.version, "a commit is unreadable");
        })
        .await?;
        own_up_damaged(gaps, table, |file, why| {
            self.metrics.set_aside.inc();
            warn!(table = name, file = file.path, rows = file.rows, why, "set aside");
        })
        .await
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

    async fn expire(&mut self, table: usize, now: Timestamp) -> Result<(), CommitError> {
        let name = self.tables[table].def().name;
        let Some(&kept) = self.config.retention.get(name) else { return Ok(()) };
        let samples = self.tables.iter().find(|table| table.def().name == SAMPLES.name);
        let horizon = samples.and_then(|samples| horizon(samples, now, micros(kept)));
        let Some(horizon) = horizon else { return Ok(()) };
        let table = &mut self.tables[table];
        let Some(expired) = table.expired(horizon, self.config.expiry_parts) else { return Ok(()) };
        let days = kept.as_secs() / DAY.as_secs();
        note_expired(&mut self.gaps, table, &expired, days).await?;
        table.drop_expired(&expired).await?;
        self.metrics.expired_rows.inc_by(expired.rows);
        let (first, last) = (expired.span.0.to_string(), expired.span.1.to_string());
        info!(table = name, files = expired.files(), rows = expired.rows, first, last, "expired");
        Ok(())
    }
}
