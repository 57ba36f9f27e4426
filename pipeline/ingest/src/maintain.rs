//! The one compactor: merges files, drops what retention lets go, deletes what no version needs.

use nilometer_contract::Timestamp;
use nilometer_store::{CommitError, STORED, Storage, StoreError, Table, compact, expire, vacuum};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::IngestConfig;
use crate::metrics::Metrics;

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
    // Listing all files costs, so it is done some times an age only.
    let vacuum_every = (config.vacuum_after / 8).max(config.maintenance_interval);
    let mut vacuumed = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(config.maintenance_interval) => {}
        }
        let due = vacuumed.elapsed() >= vacuum_every;
        for table in &mut tables {
            if cancel.is_cancelled() {
                return Ok(());
            }
            let mut done = maintain_table(table, &config, &metrics, now()).await;
            if due && done.is_ok() {
                let vacuumed = vacuum(table, config.vacuum_after).await;
                done = vacuumed.map(drop).map_err(CommitError::Store);
            }
            if let Err(error) = done {
                let name = table.def().name;
                warn!(table = name, error = &error as &dyn std::error::Error, "maintenance failed");
            }
        }
        if due {
            vacuumed = Instant::now();
        }
    }
}

async fn maintain_table(
    table: &mut Table,
    config: &IngestConfig,
    metrics: &Metrics,
    now: Timestamp,
) -> Result<(), CommitError> {
    loop {
        let merged = compact(table, config.compaction).await?;
        if merged == 0 {
            break;
        }
        metrics.compacted_files.inc_by(merged as u64);
        info!(table = table.def().name, files = merged, "compacted");
    }
    if let Some(kept) = config.retention.get(table.def().name) {
        let kept = i64::try_from(kept.as_micros()).unwrap_or(i64::MAX);
        let dropped = expire(table, Timestamp(now.0.saturating_sub(kept))).await?;
        if dropped > 0 {
            info!(table = table.def().name, files = dropped, "expired");
        }
    }
    Ok(())
}
