//! Compaction: many small files become few large sorted ones.
//!
//! Files are merged within their partition, those of similar size together, so that a row is
//! rewritten a logarithmic number of times. A day that is over and quiet is merged to the end:
//! what is left of it are few files, however many commits it came in. Exactly one compactor per
//! table: it commits under its own application id, and the log rejects the second of two from the
//! same snapshot. Appends go on meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::Timestamp;

use crate::commit::CommitError;
use crate::files::DataFile;
use crate::merge::{MergeError, merge};
use crate::table::Table;

pub(crate) const WRITER: &str = "compactor";

/// When files are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// Files of similar size in one partition that make a merge worth it.
    pub fan_in: usize,
    /// Bytes of a file that a merge fills before it begins the next; one half as large is left as
    /// it is.
    pub full_bytes: u64,
    /// Most files in one merge; of each, one row group and a batch are in memory.
    pub most_files: usize,
    /// How long nothing must have been written to a day that is over until it is merged to the
    /// end.
    pub quiet: Duration,
    /// A day with no more files than this is left as it is.
    pub few_files: usize,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        CompactionPolicy {
            fan_in: 8,
            full_bytes: 128 << 20,
            most_files: 64,
            quiet: Duration::from_secs(2 * 3_600),
            few_files: 4,
        }
    }
}

impl CompactionPolicy {
    /// Whether a file is not left as it is.
    fn is_small(&self, file: &DataFile) -> bool {
        file.size < self.full_bytes / 2
    }

    /// As many of the files, smallest first, as one merge takes; none if it would not make fewer
    /// of them.
    fn bounded(&self, mut files: Vec<&Arc<DataFile>>) -> Vec<Arc<DataFile>> {
        files.sort_by(|a, b| (a.size, &a.path).cmp(&(b.size, &b.path)));
        let mut bytes = 0;
        let fits = files.into_iter().take(self.most_files).take_while(|file| {
            bytes += file.size;
            bytes <= 4 * self.full_bytes
        });
        let fits: Vec<Arc<DataFile>> = fits.cloned().collect();
        let bytes: u64 = fits.iter().map(|file| file.size).sum();
        match fits.len() as u64 > bytes.div_ceil(self.full_bytes.max(1)) {
            true => fits,
            false => Vec::new(),
        }
    }
}

/// Chooses files to merge next, smallest class first; empty when nothing is worth it.
pub fn pick(
    files: &[Arc<DataFile>],
    policy: CompactionPolicy,
    now: Timestamp,
) -> Vec<Arc<DataFile>> {
    let mut classes: BTreeMap<(u32, &str), Vec<&Arc<DataFile>>> = BTreeMap::new();
    for file in files.iter().filter(|file| policy.is_small(file)) {
        let class = (file.size.max(1).ilog2() / 3, file.partition.as_deref().unwrap_or(""));
        classes.entry(class).or_default().push(file);
    }
    let enough = classes.into_values().find(|class| class.len() >= policy.fan_in);
    let picked = policy.bounded(enough.unwrap_or_default());
    match picked.is_empty() {
        true => rest_of_a_day(files, policy, now),
        false => picked,
    }
}

/// All small files of a day that is over and quiet, if it has many files.
fn rest_of_a_day(
    files: &[Arc<DataFile>],
    policy: CompactionPolicy,
    now: Timestamp,
) -> Vec<Arc<DataFile>> {
    let today = now.to_datetime().format("%F").to_string();
    let quiet = i64::try_from(policy.quiet.as_millis()).unwrap_or(i64::MAX);
    let since = (now.0 / 1_000).saturating_sub(quiet);
    let mut days: BTreeMap<&str, Vec<&Arc<DataFile>>> = BTreeMap::new();
    for file in files {
        let day = file.partition.as_deref().filter(|&day| day < today.as_str());
        days.entry(day.unwrap_or_default()).or_default().push(file);
    }
    days.remove("");
    let many = |day: &Vec<&Arc<DataFile>>| {
        day.len() > policy.few_files && day.iter().all(|file| file.modified < since)
    };
    let small = days.into_values().filter(many).map(|day| {
        let small = day.into_iter().filter(|file| policy.is_small(file));
        policy.bounded(small.collect())
    });
    small.into_iter().find(|small| small.len() > 1).unwrap_or_default()
}

/// Does one merge, if there is one worth it; says how many files it merged.
///
/// Killed at any instruction, it leaves at most files that no version names. A file that cannot
/// be merged is left out from then on, until the table is opened again.
pub async fn compact(
    table: &mut Table,
    policy: CompactionPolicy,
    now: Timestamp,
) -> Result<usize, CommitError> {
    table.refresh().await.map_err(CommitError::Store)?;
    let files = table.files();
    let left: Vec<_> = files.iter().filter(|file| table.may_merge(&file.path)).cloned().collect();
    let picked = pick(&left, policy, now);
    if picked.len() < 2 {
        return Ok(0);
    }
    let adds = match merge(table, &picked, policy.full_bytes).await {
        Ok(adds) => adds,
        Err(MergeError::Input { file, cause }) => {
            table.suspects.note(table.def().name, &file.path, &cause);
            table.leave_out(&file.path);
            return Err(CommitError::Store(cause));
        }
        Err(MergeError::Output(cause)) => return Err(CommitError::Store(cause)),
    };
    table.replace(&picked, adds, WRITER).await?;
    Ok(picked.len())
}
