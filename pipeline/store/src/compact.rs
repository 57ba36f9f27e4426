//! Compaction: many small files become few large sorted ones; old ones go.
//!
//! Files are merged within their partition, those of similar size together, so that a row is
//! rewritten a logarithmic number of times. Exactly one compactor per table: it commits under its
//! own application id, and Delta rejects the second of two from the same snapshot. Appends go on
//! meanwhile.

use std::collections::BTreeMap;

use deltalake_core::kernel::Add;
use nilometer_contract::Timestamp;

use crate::commit::CommitError;
use crate::file::DataFile;
use crate::samples::{rows_of, write_samples};
use crate::schema::SAMPLES;
use crate::table::{StoreError, Table};

const WRITER: &str = "compactor";

/// When files are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Files of similar size in one partition that make a merge worth it.
    pub fan_in: usize,
    /// Files with at least this many rows are left as they are; at most half of `most_rows`, so
    /// that any two others fit into one merge.
    pub full_rows: u64,
    /// Most rows in one merge: what must fit in memory, at about 60 bytes a row.
    pub most_rows: u64,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        CompactionPolicy { fan_in: 8, full_rows: 4 << 20, most_rows: 8 << 20 }
    }
}

/// Chooses files to merge next, smallest class first; empty when nothing is worth it.
pub fn pick(files: &[DataFile], policy: CompactionPolicy) -> Vec<DataFile> {
    let mut classes: BTreeMap<(u32, &str), Vec<&DataFile>> = BTreeMap::new();
    for file in files.iter().filter(|file| file.rows < policy.full_rows) {
        let class = (file.rows.max(1).ilog2() / 3, file.partition.as_deref().unwrap_or(""));
        classes.entry(class).or_default().push(file);
    }
    let enough = classes.into_values().find(|class| class.len() >= policy.fan_in);
    let mut picked = enough.unwrap_or_default();
    picked.sort_by(|a, b| (a.rows, &a.path).cmp(&(b.rows, &b.path)));
    let mut rows = 0;
    let fits = picked.into_iter().take_while(|file| {
        rows += file.rows;
        rows <= policy.most_rows
    });
    fits.cloned().collect()
}

/// Does one merge, if there is one worth it; says how many files it merged.
///
/// Killed at any instruction, it leaves at most a file that no version names.
pub async fn compact(table: &mut Table, policy: CompactionPolicy) -> Result<usize, CommitError> {
    table.refresh().await.map_err(CommitError::Store)?;
    let picked = pick(&table.files(), policy);
    if picked.len() < 2 {
        return Ok(0);
    }
    let adds = merged(table, &picked).await.map_err(CommitError::Store)?;
    table.replace(&picked, adds, WRITER).await?;
    Ok(picked.len())
}

async fn merged(table: &Table, picked: &[DataFile]) -> Result<Vec<Add>, StoreError> {
    if table.def().name == SAMPLES.name {
        // Numbers only: sorted in place, with no second copy of the batches.
        let mut rows = Vec::with_capacity(picked.iter().map(|file| file.rows as usize).sum());
        for file in picked {
            table.read(file).await?.iter().for_each(|batch| rows.extend(rows_of(batch)));
        }
        return write_samples(table, rows).await;
    }
    let mut batches = Vec::new();
    for file in picked {
        batches.extend(table.read(file).await?);
    }
    Ok(vec![table.write(&batches, picked[0].partition.as_deref()).await?])
}

/// Drops files that hold nothing at or after `horizon`; says how many.
pub async fn expire(table: &mut Table, horizon: Timestamp) -> Result<usize, CommitError> {
    table.refresh().await.map_err(CommitError::Store)?;
    let Some(time) = table.def().time else { return Ok(0) };
    let old = |file: &&DataFile| file.ranges.get(time).is_some_and(|range| range.1 < horizon.0);
    let files: Vec<DataFile> = table.files().iter().filter(old).cloned().collect();
    if !files.is_empty() {
        table.replace(&files, Vec::new(), WRITER).await?;
    }
    Ok(files.len())
}
