//! The one compactor: merges files, drops what retention lets go, deletes what no version needs.

use std::collections::HashSet;
use std::time::Duration;

use futures::TryStreamExt;
use nilometer_contract::Timestamp;
use nilometer_store::{CommitError, STORED, Storage, StoreError, Table, compact, expire};
use object_store::ObjectStoreExt;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::IngestConfig;
use crate::metrics::Metrics;

const MICROS_PER_DAY: i64 = 86_400_000_000;

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
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(config.maintenance_interval) => {}
        }
        for table in &mut tables {
            if cancel.is_cancelled() {
                return Ok(());
            }
            if let Err(error) = maintain_table(table, &config, &metrics, now()).await {
                let name = table.def().name;
                warn!(table = name, error = &error as &dyn std::error::Error, "maintenance failed");
            }
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
    let days = i64::from(table.def().retention_days);
    if days > 0 {
        let dropped = expire(table, now.plus_micros(-days * MICROS_PER_DAY)).await?;
        if dropped > 0 {
            info!(table = table.def().name, files = dropped, "expired");
        }
    }
    vacuum(table, config.vacuum_after).await.map_err(CommitError::Store)
}

/// Deletes data files that no version in force names and that are old enough for no reader or
/// writer to be using them.
async fn vacuum(table: &Table, age: Duration) -> Result<(), StoreError> {
    let refused = |cause| StoreError::Object { table: table.def().name, cause };
    let used: HashSet<String> = table.files().iter().map(|file| file.path.clone()).collect();
    let store = table.object_store();
    let horizon = chrono::Utc::now() - age;
    let old: Vec<_> = store
        .list(None)
        .try_filter(|object| {
            let path = object.location.as_ref();
            let data = path.ends_with(".parquet") && !path.starts_with("_delta_log");
            let unused = data && !used.contains(path) && object.last_modified < horizon;
            std::future::ready(unused)
        })
        .try_collect()
        .await
        .map_err(refused)?;
    for object in old {
        store.delete(&object.location).await.map_err(refused)?;
    }
    Ok(())
}
